"""Integer arithmetic of a Loihi neuron, written once for numpy arrays and torch tensors.

State variables are signed 24-bit numbers, decays are 12-bit fractions, and both the synaptic sum and the threshold are
shifted left by 6 bits to line up with the state. Every helper takes and returns an integer array of any shape and keeps
its dtype; int32 is enough for all of them.

Source: lava-nc 0.10.0, lava/proc/lif/models.py, AbstractPyLifModelFixed.
"""

from typing import Any

from array_api_compat import array_namespace

Array = Any
"""A numpy array or a torch tensor (any namespace of the array API)."""

STATE_BITS = 24
"""Width of `u` and `v`, sign included."""
STATE_MAX = 2 ** (STATE_BITS - 1) - 1
"""Largest voltage: `v` saturates at plus and minus this."""
STATE_WRAP = 2 ** (STATE_BITS - 1)
"""Largest current: `u` wraps above this and at or below its negative."""
DECAY_BITS = 12
"""Fraction bits of a decay."""
DECAY_ONE = 2**DECAY_BITS
"""The decay factor 1.0."""
ALIGN_BITS = 6
"""Left shift of the synaptic sum and of the threshold mantissa."""


def decay(v: Array, keep: int) -> Array:
    """Scale `v` by keep / 4096, rounding toward zero: sign(v) · ((|v| · keep) >> 12).

    The product is formed in two parts, high bits and low 12 bits, so that it needs no wider type than `v` has.

    Args:
        v: Integers, any shape; in int32 exact for every value but −2³¹.
        keep: What is left of `v` after one step, in units of 1/4096, 0..4096.

    Returns:
        New array, same shape and dtype.

    Source: lava-nc 0.10.0, proc/lif/models.py, subthr_dynamics (`decayed_curr`, `decayed_volt`).
    """
    xp = array_namespace(v)
    size = xp.abs(v)
    return xp.sign(v) * ((size >> DECAY_BITS) * keep + (((size & (DECAY_ONE - 1)) * keep) >> DECAY_BITS))


def wrap24(x: Array) -> Array:
    """Wrap `x` once into 24 bits, as Lava wraps the current: the result of a sum in range lies in (−2²³, 2²³].

    Two habits of Lava's are kept on purpose. The upper comparison is strict and the lower is not, so +2²³ stays and
    −2²³ becomes +2²³ (two's complement would do the opposite). And 2²⁴ is taken off or added once only, so the result
    is a 24-bit number for |x| ≤ 3·2²³ and a wider one beyond that.

    Args:
        x: Integers, any shape; int32 is exact over its whole range, −2³¹..2³¹−1. Lava forms the sum itself modulo 2³²:
            reduce a wider sum to int32 before the call.

    Returns:
        New array, same shape and dtype.

    Source: lava-nc 0.10.0, proc/lif/models.py, subthr_dynamics (`wrapped_curr`).
    """
    xp = array_namespace(x)
    return xp.where(x > STATE_WRAP, x - 2 * STATE_WRAP, xp.where(x <= -STATE_WRAP, x + 2 * STATE_WRAP, x))


def saturate24(x: Array) -> Array:
    """Clip `x` to ±(2²³ − 1), as Lava clips the voltage.

    Args:
        x: Integers, any shape.

    Returns:
        New array, same shape and dtype.

    Source: lava-nc 0.10.0, proc/lif/models.py, subthr_dynamics (`neg_voltage_limit`, `pos_voltage_limit`).
    """
    return array_namespace(x).clip(x, -STATE_MAX, STATE_MAX)
