"""Pyramidal neurons of BSD: a soma that spikes, and two dendrites that remember what arrived during a sample's window.

The basal dendrite drives the soma; the apical one listens and drives nothing. With tau the membrane's time constant the paper's
equations 1 to 3, for U_reset = 0, are

    H[t] = U[t-1] + (I[t] - U[t-1]) / tau;   S[t] = [H[t] >= thr];   U[t] = H[t] (1 - S[t])

where I is the basal input v. Here the soma holds V = tau H, which needs no division:

    V <- (1 - 1/tau) V + I;   S = [V >= tau thr];   V <- 0 where S

Both dendrites add up their inputs over the window, acc_b and acc_a, and the soma counts its spikes: what the local loss
compares and what a readout reads. Integers are those of Lava's LIF (`fixedpoint`), with >= in place of its >.

Populations at the ends of the two pathways are driven: a constant current reaches their basal dendrites, the stimulus that of
Type 1 in the first layer, the concept that of Type 2 in the last.

Source: Biologically Plausible Learning via Bidirectional Spike-Based Distillation (ICLR 2026), equations 1 to 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from array_api_compat import array_namespace

from lavasnn.dynamics.fixedpoint import ALIGN_BITS, DECAY_ONE, STATE_MAX, decay
from lavasnn.errors import RangeError

Array = Any
Drive = Literal["", "stimulus", "concept"]
INPUT_MAX = 2**15 - 1
"""What a dendrite takes in a step: 16 bits, sign included."""


@dataclass(frozen=True, eq=False)
class Pyramidal:
    """Real neurons.

    Args:
        tau: Time constant of the soma in steps, at least 1.
        threshold: Of H; finite and above 0.
        drive: What reaches the basal dendrites as a current from 0 to 1, "" for nothing.
        bias: Constant basal current: one number, or shape (neuron,).
        bias_apical: The same at the apical dendrites.

    Raises:
        RangeError: A parameter out of range.
    """

    MESSAGES: ClassVar[tuple[str, ...]] = ("s",)
    INPUTS: ClassVar[tuple[str, ...]] = ("basal", "apical")

    tau: float = 2.0
    threshold: float = 0.2
    drive: Drive = ""
    bias: Array = 0.0
    bias_apical: Array = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.tau < float("inf"):
            raise RangeError(f"Pyramidal: tau = {self.tau}; allowed is a finite number from 1")
        if not 0 < self.threshold < float("inf"):
            raise RangeError(f"Pyramidal: threshold = {self.threshold}; allowed is a finite number above 0")


@dataclass(frozen=True, eq=False)
class PyramidalInt:
    """The same in integers.

    Args:
        vth: Threshold of V in units of the summed input, 1..131071; V is compared with vth << 6.
        dv: Loss of V in a step, in 1/4096, 0..4095: 4096 / tau.
        drive: As of real neurons; a pixel, or 1 for the concept shown, is a current of itself << shift.
        shift: See `drive`, 0..15.
        bias: Constant basal current in units of the summed input, 16 bits: one number, or shape (neuron,).
        bias_apical: The same at the apical dendrites.

    Raises:
        RangeError: A number that the register cannot hold.
    """

    MESSAGES: ClassVar[tuple[str, ...]] = ("s",)
    INPUTS: ClassVar[tuple[str, ...]] = ("basal", "apical")

    vth: int
    dv: int = 2048
    drive: Drive = ""
    shift: int = 0
    bias: Array = 0
    bias_apical: Array = 0

    def __post_init__(self) -> None:
        for name, low, high in (("vth", 1, 131071), ("dv", 0, 4095), ("shift", 0, 15)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise RangeError(f"PyramidalInt: {name} is {value!r}; allowed are integers {low}..{high}")
        for name in ("bias", "bias_apical"):
            bias = np.asarray(getattr(self, name))
            if bias.dtype.kind not in "iu" or int(np.abs(bias).max(initial=0)) > INPUT_MAX:
                raise RangeError(f"PyramidalInt: {name} holds {bias.dtype}; allowed are integers within ±{INPUT_MAX:,}")


def integrate(params: Pyramidal | PyramidalInt, v: Array, basal: Array) -> Array:
    """V of a step before any spike; arguments as in `step`."""
    if isinstance(params, PyramidalInt):
        v = decay(v, DECAY_ONE - params.dv) + (basal << ALIGN_BITS)
        return array_namespace(v).clip(v, -STATE_MAX, STATE_MAX)
    return v * (1 - 1 / params.tau) + basal


def threshold(params: Pyramidal | PyramidalInt) -> float | int:
    """V at which a soma spikes."""
    return params.vth << ALIGN_BITS if isinstance(params, PyramidalInt) else params.tau * params.threshold


def fire(params: Pyramidal | PyramidalInt, v: Array) -> tuple[Array, Array]:
    """Spikes (bool) of somata at V, and V after them."""
    xp = array_namespace(v)
    s = v >= threshold(params)
    return s, xp.where(s, xp.zeros_like(v), v)


def step(params: Pyramidal | PyramidalInt, v: Array, basal: Array) -> tuple[Array, Array]:
    """One step of the soma.

    Args:
        params: Real or integer neurons.
        v: V before the step, shape (..., neuron); integers within ±(2**23 - 1).
        basal: What arrives at the basal dendrite, same shape; integers of 16 bits.

    Returns:
        Spikes (bool) and V after the step, same shape.
    """
    return fire(params, integrate(params, v, basal))


def check_input(a: Array, steps: int, who: str, sample: int, t: int) -> None:
    """Refuse what a dendrite does not hold: more than 16 bits in a step, or in all steps together more than 24.

    Args:
        a: Input of one or several samples, shape (neuron,) or (sample, neuron), integers.
        steps: Of a window.
        who: Named in the error.
        sample: Number of the first one, likewise.
        t: Step of the window, likewise.

    Raises:
        RangeError: Names sample, step and magnitude.
    """
    each = np.abs(a).reshape(-1, a.shape[-1]).max(axis=1)
    sample, largest = sample + int(each.argmax()), int(each.max())
    if largest > INPUT_MAX:
        raise RangeError(f"{who}: sample {sample}, step {t} brings {largest:,}, a dendrite holds ±{INPUT_MAX:,} (16 bits)")
    if largest * steps > STATE_MAX:
        raise RangeError(f"{who}: sample {sample}, step {t}: {steps} inputs of {largest:,} do not add up within 24 bits")


def currents(params: Pyramidal | PyramidalInt, values: Array, levels: int) -> Array:
    """Basal currents of a driven population.

    Args:
        params: Real or integer neurons.
        values: Pixels 0..levels, or 0 and 1 of concepts, shape (sample, neuron), integers.
        levels: What a real current of 1 is.

    Returns:
        float64, or int64 shifted as the parameters say, same shape.
    """
    if isinstance(params, PyramidalInt):
        return values.astype(np.int64) << params.shift
    return values.astype(np.float64) / levels
