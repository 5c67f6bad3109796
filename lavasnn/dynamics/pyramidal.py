"""Pyramidal neurons of BSD: a soma that spikes, and two dendrites that remember what arrived during a sample's window.

The basal dendrite drives the soma; the apical one listens and drives nothing. With tau the membrane's time constant the paper's
equations 1 to 3, for U_reset = 0, are

    H[t] = U[t-1] + (I[t] - U[t-1]) / tau;   S[t] = [H[t] >= thr];   U[t] = H[t] (1 - S[t])

where I is the basal input v. Here the soma holds V = tau H, which needs no division:

    V <- (1 - 1/tau) V + I;   S = [V >= tau thr];   V <- 0 where S

Both dendrites add up their inputs over the window, acc_b and acc_a, and the soma counts its spikes: what the local loss
compares and what a readout reads. Integers are those of Lava's LIF (`fixedpoint`), with >= in place of its >.

Source: Biologically Plausible Learning via Bidirectional Spike-Based Distillation (ICLR 2026), equations 1 to 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from array_api_compat import array_namespace

from lavasnn.dynamics.fixedpoint import ALIGN_BITS, DECAY_ONE, STATE_MAX, decay
from lavasnn.errors import RangeError

Array = Any


@dataclass(frozen=True)
class Pyramidal:
    """Real neurons.

    Args:
        tau: Time constant of the soma in steps, at least 1.
        threshold: Of H; finite and above 0.

    Raises:
        RangeError: A parameter out of range.
    """

    MESSAGES: ClassVar[tuple[str, ...]] = ("s",)
    INPUTS: ClassVar[tuple[str, ...]] = ("basal", "apical")

    tau: float = 2.0
    threshold: float = 0.2

    def __post_init__(self) -> None:
        if not 1 <= self.tau < float("inf"):
            raise RangeError(f"Pyramidal: tau = {self.tau}; allowed is a finite number from 1")
        if not 0 < self.threshold < float("inf"):
            raise RangeError(f"Pyramidal: threshold = {self.threshold}; allowed is a finite number above 0")


@dataclass(frozen=True)
class PyramidalInt:
    """The same in integers.

    Args:
        vth: Threshold of V in units of the summed input, 1..131071; V is compared with vth << 6.
        dv: Loss of V in a step, in 1/4096, 0..4095: 4096 / tau.

    Raises:
        RangeError: A number that the register cannot hold.
    """

    MESSAGES: ClassVar[tuple[str, ...]] = ("s",)
    INPUTS: ClassVar[tuple[str, ...]] = ("basal", "apical")

    vth: int
    dv: int = 2048

    def __post_init__(self) -> None:
        for name, low, high in (("vth", 1, 131071), ("dv", 0, 4095)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise RangeError(f"PyramidalInt: {name} is {value!r}; allowed are integers {low}..{high}")


def step(params: Pyramidal | PyramidalInt, v: Array, basal: Array) -> tuple[Array, Array]:
    """One step of the soma.

    Args:
        params: Real or integer neurons.
        v: V before the step, shape (..., neuron); integers within ±(2**23 - 1).
        basal: What arrives at the basal dendrite, same shape; integers of 16 bits.

    Returns:
        Spikes (bool) and V after the step, same shape.
    """
    xp = array_namespace(v)
    if isinstance(params, PyramidalInt):
        v = decay(v, DECAY_ONE - params.dv) + (basal << ALIGN_BITS)
        v = xp.clip(v, -STATE_MAX, STATE_MAX)
        s = v >= params.vth << ALIGN_BITS
    else:
        v = v * (1 - 1 / params.tau) + basal
        s = v >= params.tau * params.threshold
    return s, xp.where(s, xp.zeros_like(v), v)
