"""Leaky integrate-and-fire neurons, as Lava's stock LIF process has them.

Real-valued (`Lif`), with a the synaptic input of the step and s the spikes sent in it:

    u ← u·(1 − du) + a + bias_u;    v ← v·(1 − dv) + u + bias;    s = v > vth;    v[s] ← 0

A ternary neuron also sends s = −1 where v < vth_lo, and v ← 0 there too.

On the chip's integers (`LifInt`), where trunc(x >> 12) = sign(x)·(|x| >> 12):

    u ← wrap24(trunc(u·(4096 − (du + 1)) >> 12) + (a << 6))
    v ← saturate24(trunc(v·(4096 − dv) >> 12) + u + (bias_mant << bias_exp))
    s = v > vth << 6;    v[s] ← 0

`step` is the definition of both. `run_layer` and `count_layer` are a compiled form of the integer step together with
the dense synapse in front of it, for a whole window at once.

Source: lava-nc 0.10.0, lava/proc/lif/models.py, PyLifModelFloat, PyLifModelBitAcc and PyTernLifModelFixed;
lava/proc/dense/models.py.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from math import isnan
from numbers import Integral, Real
from sys import float_info
from typing import Any, ClassVar

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from lavasnn.dynamics.fixedpoint import (
    ALIGN_BITS,
    DECAY_ONE,
    Array,
    decay,
    saturate24,
    wrap24,
)
from lavasnn.errors import InputError, RangeError


@dataclass(frozen=True, eq=False)
class Lif:
    """Real-valued LIF neurons, one set of decays and one threshold for a whole population.

    Args:
        du: Share of the current that leaks away in a step, 0..1; 1 makes the neuron memoryless in u.
        dv: Share of the voltage that leaks away in a step, 0..1.
        vth: Threshold, finite and not negative; a neuron spikes where v is strictly above it.
        vth_lo: Lower threshold of a ternary neuron, finite and not positive; it sends -1 where v is strictly below it.
            None for neurons that send +1 alone.
        bias_u: Added to u in every step, as `bias` to v; the compiler replaces it.
        bias: Added to v in every step: one number, or an array of the neurons' shape.

    Raises:
        InputError: Something that is not a number (NaN is none).
        RangeError: A number outside the range above.
    """

    MESSAGES: ClassVar[tuple[str, ...]] = ("s",)
    INPUTS: ClassVar[tuple[str, ...]] = ("a",)

    du: float
    dv: float
    vth: float
    bias: float | NDArray[np.floating[Any]] = 0.0
    vth_lo: float | None = None
    bias_u: float | NDArray[np.floating[Any]] = 0.0

    def __post_init__(self) -> None:
        most = float_info.max
        for name, low, high, allowed in (
            ("du", 0.0, 1.0, "0..1"),
            ("dv", 0.0, 1.0, "0..1"),
            ("vth", 0.0, most, "a finite number from 0"),
            ("vth_lo", -most, 0.0, "a finite number up to 0"),
        ):
            value = getattr(self, name)
            if value is None and name == "vth_lo":
                continue
            if isinstance(value, bool) or not isinstance(value, Real) or isnan(value):
                raise InputError(f"Lif: {name} is {value!r}; allowed is one real number")
            if not low <= float(value) <= high:
                raise RangeError(f"Lif: {name} = {value}; allowed is {allowed}")
            object.__setattr__(self, name, float(value))
        for name in ("bias", "bias_u"):
            bias = np.asarray(getattr(self, name))
            if bias.dtype.kind not in "fiu" or not np.isfinite(bias).all():
                raise InputError(f"Lif: {name} holds {_first_bad(bias)}; allowed are finite real numbers")
            object.__setattr__(self, name, _frozen(bias.astype(np.float64)))

    def __eq__(self, other: object) -> bool:
        return _same(self, other)


@dataclass(frozen=True, eq=False)
class LifInt:
    """LIF neurons as the registers of the stock fixed-point model hold them.

    Lava checks none of these ranges. Its simulator would also take dv = 4096 (a voltage without memory), which the
    chip's 12-bit register cannot hold: 4095 is the largest, and keeps |v| >> 12.

    Args:
        du: Current decay, −1..4095. Lava adds one, so the current loses (du + 1)/4096 in a step; −1 means no leak,
            4095 no memory.
        dv: Voltage decay in 1/4096, 0..4095.
        vth: Threshold mantissa, 0..131071 (17 bits); v is compared with vth << 6.
        bias_mant: Bias mantissa, −4096..4095 (13 bits): one number, or an array of the neurons' shape.
        bias_exp: Left shift of the bias mantissa, 0..7 (3 bits).
        vth_lo: Lower threshold mantissa of a ternary neuron (Lava's TernaryLIF), -131071..0: it sends -1 where v is below
            vth_lo << 6. None for neurons that send +1 alone.

    Raises:
        InputError: A register that is not an integer.
        RangeError: A number that the register cannot hold.
    """

    MESSAGES: ClassVar[tuple[str, ...]] = ("s",)
    INPUTS: ClassVar[tuple[str, ...]] = ("a",)
    RANGES: ClassVar[dict[str, tuple[int, int]]] = {
        "du": (-1, 4095),
        "dv": (0, 4095),
        "vth": (0, 131071),
        "bias_mant": (-4096, 4095),
        "bias_exp": (0, 7),
        "vth_lo": (-131071, 0),
    }

    du: int
    dv: int
    vth: int
    bias_mant: int | NDArray[np.signedinteger[Any]] = 0
    bias_exp: int = 0
    vth_lo: int | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in self.RANGES.items():
            value: Any = getattr(self, name)
            if value is None and name == "vth_lo":
                continue
            if name == "bias_mant" and isinstance(value, np.ndarray):
                if value.dtype.kind not in "iu":
                    raise InputError(f"LifInt: bias_mant has dtype {value.dtype}; allowed are integers")
            elif isinstance(value, bool) or not isinstance(value, Integral):
                raise InputError(f"LifInt: {name} is {value!r}; allowed is an integer")
            values = np.asarray(value)
            outside = values[(values < low) | (values > high)]
            if outside.size:
                raise RangeError(f"LifInt: {name} = {outside.flat[0]}; allowed is {low}..{high}")
            object.__setattr__(self, name, _frozen(values.astype(np.int32)))

    def __eq__(self, other: object) -> bool:
        return _same(self, other)

    @property
    def bias(self) -> int | NDArray[np.int32]:
        """What is added to v in every step: bias_mant << bias_exp."""
        return self.bias_mant << self.bias_exp  # type: ignore[return-value]


@dataclass(frozen=True)
class LifState:
    """State of a population between two steps.

    Args:
        u: Current, shape (..., neuron); int32 (24-bit range) or floating point.
        v: Voltage, same shape and dtype as `u`.
    """

    u: Array
    v: Array


def _constant(value: Any, like: Array) -> Any:
    """A parameter as a number, or as an array of the namespace, dtype and device of `like`."""
    if not isinstance(value, np.ndarray):
        return value
    xp = array_api_compat.array_namespace(like)
    return xp.asarray(value.copy(), dtype=like.dtype, device=array_api_compat.device(like))


def _frozen(value: NDArray[Any]) -> Any:
    """A Python number for a zero-dimensional array, else the array made read-only (it has to be a copy)."""
    if value.ndim == 0:
        return value.item()
    value.setflags(write=False)
    return value


def _first_bad(values: NDArray[Any]) -> object:
    return values[~np.isfinite(values)].flat[0] if values.dtype.kind == "f" else f"dtype {values.dtype}"


def _same(one: Lif | LifInt, other: object) -> bool:
    return type(one) is type(other) and all(np.array_equal(value, getattr(other, k)) for k, value in vars(one).items())


def initial(params: Lif | LifInt, shape: tuple[int, ...], like: Array | None = None) -> LifState:
    """State at rest: u = v = 0.

    Args:
        params: Which model; `LifInt` gives int32 states, `Lif` floating ones.
        shape: Shape of the state, (..., neuron).
        like: Array whose namespace, device and (for `Lif`, if it is floating) dtype to take; default numpy, float64.
    """
    model: Array = np.zeros(()) if like is None else like
    xp = array_api_compat.array_namespace(model)
    dtype = model.dtype if xp.isdtype(model.dtype, "real floating") else xp.float64
    dtype = xp.int32 if isinstance(params, LifInt) else dtype
    zeros = xp.zeros(shape, dtype=dtype, device=array_api_compat.device(model))
    return LifState(zeros, zeros)


def step(
    params: Lif | LifInt, state: LifState, a: Array, spike: Callable[[Array, Any], Array] = operator.gt
) -> tuple[Array, LifState]:
    """One time step: integrate `a`, spike, reset.

    Args:
        params: `LifInt` for the chip's integers, equal to Lava's fixed_pt model bit for bit; `Lif` for its float model.
        state: u, v of shape (..., neuron), numpy or torch. For integers u is any int32 whose magnitude a step can leave
            (below 2³¹ − 2²⁴), v lies within ±(2²³ − 1).
        a: Synaptic input that arrives in this step, same shape. For integers any integer dtype; it counts modulo 2²⁶,
            which is where Lava's int32 current loses its upper bits.
        spike: (v, threshold) -> spikes; the default is v > threshold. Training puts a function with a surrogate
            gradient here; v is reset wherever its result is not zero, and no gradient passes through that choice.

    Returns:
        Spikes of shape (..., neuron), bool with the default `spike` (int8 in -1..1 with a lower threshold, which `spike` is
        asked about as (-v, -threshold)), and the next state. Inputs stay unchanged.

    Raises:
        InputError: An integer model was given input that is not integer.
    """
    xp = array_api_compat.array_namespace(state.u, state.v, a)
    bias = _constant(params.bias, state.v)
    if isinstance(params, LifInt):
        if not xp.isdtype(a.dtype, "integral"):
            raise InputError(f"LifInt step: input a has dtype {a.dtype}; allowed are integers")
        current = decay(state.u, DECAY_ONE - 1 - params.du) + (xp.astype(a, xp.int64) << ALIGN_BITS)
        u = wrap24(xp.astype(current, xp.int32))
        v = saturate24(decay(state.v, DECAY_ONE - params.dv) + u + bias)
        unit = 1 << ALIGN_BITS
    else:
        u = state.u * (1 - params.du) + a + _constant(params.bias_u, state.v)
        v = state.v * (1 - params.dv) + u + bias
        unit = 1
    spikes = spike(v, params.vth * unit)
    if params.vth_lo is not None:
        below = spike(-v, -params.vth_lo * unit)
        if xp.isdtype(spikes.dtype, "bool"):
            spikes, below = xp.astype(spikes, xp.int8), xp.astype(below, xp.int8)
        spikes = spikes - below
    fired = spikes if xp.isdtype(spikes.dtype, "bool") else spikes != 0
    return spikes, LifState(u, xp.where(fired, xp.zeros_like(v), v))
