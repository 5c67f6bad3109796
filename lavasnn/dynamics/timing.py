"""Thresholds and phases of DiffPC networks: when they listen, what they compare with, how long a sample takes.

Source: Difference Predictive Coding (ICLR 2026), cyclic and cyclic decay threshold schedules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lavasnn.errors import InputError


@dataclass(frozen=True)
class Timing:
    """Thresholds and phases of a DiffPC network; one value shared by all its populations.

    Args:
        m: Exponent of the largest activity threshold, 2**m. Activities up to 2**(m+1) are reached within one cycle.
        n: Steps per cycle, 1..20.
        m_error: Exponent of the largest error threshold; None means `m`. A lower value gives errors a finer grid.
        init_cycles: Cycles of the first phase; at least the number of weight layers when `targets` is "latched".
        settle_cycles: Cycles of the second phase; an error needs one for each layer it goes down.
        schedule: "cyclic" (theta halves every step of a cycle), "cyclic-decay" (times d(t)), "constant" (2**m always).
        final: d at the end of the window, in (0, 1]; d falls linearly from 1 (paper: d(t) = 1 - (1 - a) t / T).
        decay: "linear" as in the paper (real arithmetic only), or "binary": d at the cycle's first step, rounded to a
            power of two, so that a chip can shift.
        gamma: Step size of the targets in the second phase, in (0, 1].
        targets: "latched" holds x_T and e_T from the first step of a cycle to its last and lets a layer speak only when
            its input is complete; "live" follows the inputs in every step, as the paper writes it.
        comparator: ">=" or the paper's ">" between |d| and theta.
        gate: ">=" or the paper's ">" between x_A + theta s_A and 0; ">" cannot bring x_A back to 0.
        update_activity: "initial" takes activity and ReLU mask of the weight update from the end of the first phase;
            "settled" from the end of the second, as the paper reads.

    Raises:
        InputError: A value outside its range.
    """

    m: int = 4
    n: int = 9
    m_error: int | None = None
    init_cycles: int = 2
    settle_cycles: int = 2
    schedule: Literal["cyclic", "cyclic-decay", "constant"] = "cyclic"
    final: float = 1.0
    decay: Literal["linear", "binary"] = "binary"
    gamma: float = 1.0
    targets: Literal["latched", "live"] = "latched"
    comparator: Literal[">=", ">"] = ">="
    gate: Literal[">=", ">"] = ">="
    update_activity: Literal["initial", "settled"] = "initial"

    def __post_init__(self) -> None:
        limits = {
            "m": (-20, 20),
            "n": (1, 20),
            "m_error": (-20, 20),
            "init_cycles": (1, 1000),
            "settle_cycles": (0, 1000),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is None and name == "m_error":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise InputError(f"timing: {name} is {value!r}, allowed are whole numbers {low}..{high}")
        for name in ("final", "gamma"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0.0 < value <= 1.0:
                raise InputError(f"timing: {name} is {value!r}, allowed is more than 0 up to 1")
        choices = {
            "schedule": ("cyclic", "cyclic-decay", "constant"),
            "decay": ("linear", "binary"),
            "targets": ("latched", "live"),
            "comparator": (">=", ">"),
            "gate": (">=", ">"),
            "update_activity": ("initial", "settled"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"timing: {name} is {getattr(self, name)!r}, allowed are {', '.join(map(repr, allowed))}")

    @property
    def init_steps(self) -> int:
        """Steps of the first phase."""
        return self.n * self.init_cycles

    @property
    def settle_steps(self) -> int:
        """Steps of the second phase."""
        return self.n * self.settle_cycles

    def window(self, settle: bool) -> int:
        """Steps a sample takes, the closing receive-only step included."""
        return self.init_steps + (self.settle_steps if settle else 0) + 1

    def thresholds(self, kind: Literal["activity", "error"]) -> NDArray[np.float64]:
        """theta of every step of the full window, shape (step,)."""
        m = self.m if kind == "activity" or self.m_error is None else self.m_error
        t = np.arange(self.window(True))
        if self.schedule == "constant":
            return np.full(t.shape, 2.0**m)
        cyclic = 2.0 ** (m - t % self.n)
        return cyclic * self._decay(t) if self.schedule == "cyclic-decay" else cyclic

    def _decay(self, t: NDArray[np.int64]) -> NDArray[np.float64]:
        last = self.init_steps + self.settle_steps
        if self.decay == "linear":
            return 1.0 - (1.0 - self.final) * t / last
        start = t - t % self.n
        return 2.0 ** np.round(np.log2(1.0 - (1.0 - self.final) * start / last))

    def exponents(self, kind: Literal["activity", "error"]) -> NDArray[np.int64]:
        """log2 of the thresholds, shape (step,).

        Raises:
            InputError: A threshold is no power of two (linear decay), so no shift on a chip can produce it.
        """
        theta = self.thresholds(kind)
        exponents = np.round(np.log2(theta)).astype(np.int64)
        if not np.array_equal(2.0**exponents, theta):
            raise InputError("timing: thresholds with decay 'linear' are no powers of two; integers need decay 'binary'")
        return exponents

    def lowest(self, kind: Literal["activity", "error"]) -> int:
        """Exponent of the smallest threshold: announced states are multiples of 2**lowest."""
        return int(self.exponents(kind).min())

    @property
    def gamma_shift(self) -> int:
        """g with gamma = 2**-g.

        Raises:
            InputError: gamma is no power of two.
        """
        shift = round(-np.log2(self.gamma))
        if 2.0**-shift != self.gamma:
            raise InputError(f"timing: gamma is {self.gamma}; integers need a power of two: 1, 0.5, 0.25, ...")
        return shift
