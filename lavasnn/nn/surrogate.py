"""Spikes that can be trained: a step forward, a bump of finite slope backward.

`heaviside(x, surrogate)` is 1 where x > 0 and 0 elsewhere (0 at x = 0 and at NaN); its gradient is taken to be
`surrogate.derivative(x)`. Each derivative below is that of a smooth step from 0 to 1, so its integral over x is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, pi
from typing import Any

import torch
from torch import Tensor

from lavasnn.errors import InputError, RangeError


def _check(owner: object, name: str, value: float) -> None:
    if not (isfinite(value) and value > 0):
        raise RangeError(f"{type(owner).__name__}: {name} = {value}; allowed is a finite number above 0")


@dataclass(frozen=True)
class ATan:
    """Derivative of arctan(π/2 · slope · x)/π + 1/2: slope/2 / (1 + (π/2 · slope · x)²).

    Args:
        slope: Twice the derivative at 0, above 0.

    Source: Fang et al., Incorporating Learnable Membrane Time Constant (ICCV 2021), eq. 11 and 12, where slope = 2.
    """

    slope: float = 2.0

    def __post_init__(self) -> None:
        _check(self, "slope", self.slope)

    def derivative(self, x: Tensor) -> Tensor:
        """The derivative at `x`, same shape."""
        return self.slope / 2 / (1 + (pi / 2 * self.slope * x) ** 2)


@dataclass(frozen=True)
class Triangle:
    """A triangle of area 1 around 0: max(0, 1 − |x|/width)/width.

    Args:
        width: Distance from 0 at which the derivative has fallen to 0, above 0.

    Source: Bellec et al., Long short-term memory and learning-to-learn in networks of spiking neurons (NeurIPS 2018).
    """

    width: float = 1.0

    def __post_init__(self) -> None:
        _check(self, "width", self.width)

    def derivative(self, x: Tensor) -> Tensor:
        """The derivative at `x`, same shape."""
        return (1 - x.abs() / self.width).clamp(min=0) / self.width


@dataclass(frozen=True)
class Sigmoid:
    """Derivative of the logistic function σ(slope · x): slope · σ · (1 − σ).

    Args:
        slope: Four times the derivative at 0, above 0.
    """

    slope: float = 4.0

    def __post_init__(self) -> None:
        _check(self, "slope", self.slope)

    def derivative(self, x: Tensor) -> Tensor:
        """The derivative at `x`, same shape."""
        # σ(−z) stands for 1 − σ(z), which would lose all its digits far above 0.
        return self.slope * torch.sigmoid(self.slope * x) * torch.sigmoid(-self.slope * x)


Surrogate = ATan | Triangle | Sigmoid

SURROGATES: dict[str, Surrogate] = {"atan": ATan(), "triangle": Triangle(), "sigmoid": Sigmoid()}
"""The surrogates by name, with their usual slopes."""


def named(surrogate: str | Surrogate) -> Surrogate:
    """The surrogate of that name, or the one given.

    Raises:
        InputError: A name that is not in `SURROGATES`.
    """
    if not isinstance(surrogate, str):
        return surrogate
    if surrogate not in SURROGATES:
        raise InputError(f"surrogate {surrogate!r}; allowed are {', '.join(SURROGATES)}")
    return SURROGATES[surrogate]


class _Heaviside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: Surrogate) -> Tensor:  # type: ignore[override]
        ctx.surrogate = surrogate
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad_outputs[0] * ctx.surrogate.derivative(x), None


def heaviside(x: Tensor, surrogate: str | Surrogate = "atan") -> Tensor:
    """1 where x > 0, else 0, with the surrogate's derivative as gradient.

    Args:
        x: Distance of the voltage from the threshold, floating point, any shape.
        surrogate: A surrogate, or its name.

    Returns:
        Tensor of x's shape and dtype.
    """
    return _Heaviside.apply(x, named(surrogate))  # type: ignore[return-value]
