"""Graded neurons: send what they receive as a payload, if it is large enough; Lava's GradedVec and GradedReluVec.

    s = a where |a| > vth (relu: where a > vth), else nothing

Real-valued (`Graded`) or in the integers of the chip (`GradedInt`, payloads of up to 24 bits). No state is kept.

Source: lava-nc 0.10.0, lava/proc/graded/models.py, AbstractGradedVecModel and AbstractGradedReluVecModel.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real
from typing import Any, ClassVar

from array_api_compat import array_namespace

from lavasnn.dynamics.fixedpoint import STATE_MAX
from lavasnn.errors import InputError, RangeError


@dataclass(frozen=True)
class Graded:
    """Real-valued graded neurons.

    Args:
        vth: What a payload has to exceed, finite and not negative.
        relu: Send positive payloads alone.

    Raises:
        InputError: Something that is not a number.
        RangeError: A threshold below 0 or not finite.
    """

    MESSAGES: ClassVar[tuple[str, ...]] = ("s",)
    INPUTS: ClassVar[tuple[str, ...]] = ("a",)

    vth: float
    relu: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.vth, bool) or not isinstance(self.vth, Real):
            raise InputError(f"Graded: vth is {self.vth!r}; allowed is one real number")
        if not isfinite(self.vth) or self.vth < 0:
            raise RangeError(f"Graded: vth = {self.vth}; allowed is a finite number from 0")


@dataclass(frozen=True)
class GradedInt:
    """Graded neurons as the simulator's registers hold them.

    Args:
        vth: What a payload has to exceed, 0..2^23 - 1.
        relu: Send positive payloads alone.

    Raises:
        InputError: A threshold that is not an integer.
        RangeError: A threshold that the register cannot hold.
    """

    MESSAGES: ClassVar[tuple[str, ...]] = ("s",)
    INPUTS: ClassVar[tuple[str, ...]] = ("a",)

    vth: int
    relu: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.vth, bool) or not isinstance(self.vth, Integral):
            raise InputError(f"GradedInt: vth is {self.vth!r}; allowed is an integer")
        if not 0 <= self.vth <= STATE_MAX:
            raise RangeError(f"GradedInt: vth = {self.vth}; allowed is 0..{STATE_MAX}")


def check_payloads(sent: Any, who: str, t: int) -> None:
    """Refuse integer payloads beyond signed 24 bits.

    Args:
        sent: Payloads, shape (sample, neuron).
        who: Name of the population.
        t: Step within the window.

    Raises:
        RangeError: Names population, neuron, value and step.
    """
    xp = array_namespace(sent)
    if int(xp.max(sent)) > STATE_MAX or int(xp.min(sent)) < -STATE_MAX:
        flat = xp.reshape(sent, (-1,))
        index = int(xp.argmax(xp.abs(flat)))
        raise RangeError(
            f"population {who!r}: neuron {index % sent.shape[-1]} sends {int(flat[index]):,} at step {t}, payloads of signed "
            f"24 bits allow -{STATE_MAX:,}..{STATE_MAX:,}; smaller weights or inputs help"
        )


def step(params: Graded | GradedInt, a: Any) -> Any:
    """Payloads sent for what arrives in this step, shape (..., neuron), numpy or torch, dtype of `a`."""
    xp = array_namespace(a)
    return xp.where((a if params.relu else xp.abs(a)) > params.vth, a, xp.zeros_like(a))
