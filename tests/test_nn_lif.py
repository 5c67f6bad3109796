"""The torch LIF layer against a plain float64 loop, its gradients against hand-derived ones."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavasnn.dynamics.lif import Lif
from lavasnn.errors import InputError, RangeError
from lavasnn.nn.lif import LIF
from lavasnn.nn.surrogate import SURROGATES, ATan, Sigmoid, Surrogate, Triangle, heaviside


def by_hand(x: list[list[float]], dv: float, du: float, vth: float) -> list[list[float]]:
    """One sample, x[time][neuron]."""
    u, v = [0.0] * len(x[0]), [0.0] * len(x[0])
    out: list[list[float]] = []
    for row in x:
        u = [i * (1 - du) + a for i, a in zip(u, row, strict=True)]
        v = [i * (1 - dv) + j for i, j in zip(v, u, strict=True)]
        out.append([float(i > vth) for i in v])
        v = [0.0 if i > vth else i for i in v]
    return out


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 3), st.integers(0, 2**31), st.sampled_from(sorted(SURROGATES)))
def test_forward_equals_a_plain_loop(dv: float, du: float, vth: float, seed: int, surrogate: str) -> None:
    x = torch.randn(3, 12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.3
    layer = LIF(dv=dv, du=du, vth=vth, surrogate=surrogate)
    assert layer(x).tolist() == [by_hand(sample, dv, du, vth) for sample in x.tolist()]
    assert layer(x.float()).dtype == torch.float32


def test_shapes_and_time() -> None:
    layer = LIF(dv=0.0, vth=1.0)
    x = torch.zeros(2, 5, 3, 4, 4)
    x[0, 2, 1] = 1.5
    s = layer(x)
    assert s.shape == x.shape
    assert torch.equal(s, (x > 0).to(s.dtype))  # in the step of the input, no later
    assert layer(x[:, :0]).shape == (2, 0, 3, 4, 4)


def closed_form(name: str, x: float, parameter: float) -> float:
    """Derivatives written out independently, in Python floats."""
    if name == "atan":
        return parameter / 2 / (1 + (math.pi * parameter * x / 2) ** 2)
    if name == "triangle":
        return max(0.0, parameter - abs(x)) / parameter**2
    return parameter / (2 + math.exp(parameter * x) + math.exp(-parameter * x))


@given(st.sampled_from(["atan", "triangle", "sigmoid"]), st.floats(0.1, 10), st.lists(st.floats(-8, 8), min_size=1))
def test_surrogate_gradient_is_the_analytic_one(name: str, parameter: float, points: list[float]) -> None:
    surrogate: Surrogate = {"atan": ATan, "triangle": Triangle, "sigmoid": Sigmoid}[name](parameter)
    x = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    s = heaviside(x, surrogate)
    assert s.tolist() == [float(p > 0) for p in points]
    scale = torch.arange(1.0, len(points) + 1, dtype=torch.float64)
    (s * scale).sum().backward()
    assert x.grad is not None
    expected = [closed_form(name, p, parameter) * (i + 1) for i, p in enumerate(points)]
    assert x.grad.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(
    ("surrogate", "smooth"),
    [
        (ATan(3.0), lambda x: torch.atan(math.pi / 2 * 3.0 * x) / math.pi + 0.5),
        (Sigmoid(3.0), lambda x: torch.sigmoid(3.0 * x)),
        (Triangle(2.0), lambda x: 0.5 + x / 2.0 - x.abs() * x / 8.0),  # within the width
    ],
)
def test_surrogate_is_the_derivative_of_a_smooth_step(surrogate: Surrogate, smooth: Any) -> None:
    x = torch.linspace(-1.9, 1.9, 41, dtype=torch.float64)
    h = 1e-5
    assert torch.allclose(surrogate.derivative(x), (smooth(x + h) - smooth(x - h)) / (2 * h), atol=1e-6)
    wide = torch.linspace(-4000, 4000, 8_000_001, dtype=torch.float64)
    assert torch.trapezoid(surrogate.derivative(wide), wide).item() == pytest.approx(1, abs=1e-3)


def test_spike_is_strict() -> None:
    assert heaviside(torch.tensor([0.0, -0.0, 5e-324, math.nan], dtype=torch.float64)).tolist() == [0, 0, 1, 0]
    assert LIF(dv=0.0, vth=1.0)(torch.ones(1, 3, 1)).flatten().tolist() == [0, 1, 0]


def gradient_by_hand(x: list[float], dv: float, du: float, vth: float, weights: list[float], f: Any) -> list[float]:
    """d(Σ weights·s)/dx of one neuron: s = θ(v − vth), θ' = f; where it spiked, nothing flows on from v."""
    u = v = 0.0
    voltages: list[float] = []
    for a in x:
        u = u * (1 - du) + a
        v = v * (1 - dv) + u
        voltages.append(v)
        v = 0.0 if v > vth else v
    out, to_u, to_v = [0.0] * len(x), 0.0, 0.0
    for t in reversed(range(len(x))):
        kept = 0.0 if voltages[t] > vth else to_v * (1 - dv)
        to_v = weights[t] * f(voltages[t] - vth) + kept
        to_u = to_v + to_u * (1 - du)
        out[t] = to_u
    return out


@pytest.mark.parametrize("name", ["atan", "triangle", "sigmoid"])
@pytest.mark.parametrize("du", [1.0, 0.3])
def test_gradient_through_time(name: str, du: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(1, 15, 1, dtype=torch.float64, generator=generator) + 0.5).requires_grad_()
    weights = torch.randn(15, dtype=torch.float64, generator=generator)
    s = LIF(dv=0.2, du=du, vth=0.8, surrogate=name)(x).flatten()
    assert 0 < s.sum() < 15
    (s * weights).sum().backward()
    parameter = {"atan": 2.0, "triangle": 1.0, "sigmoid": 4.0}[name]

    def slope(distance: float) -> float:
        return closed_form(name, distance, parameter)

    assert x.grad is not None
    expected = gradient_by_hand(x.detach().flatten().tolist(), 0.2, du, 0.8, weights.tolist(), slope)
    assert x.grad.flatten().tolist() == pytest.approx(expected, rel=1e-9)


def test_an_exporter_can_read_the_parameters() -> None:
    layer = LIF(dv=0.25, du=0.5, vth=2.0, surrogate="sigmoid")
    assert (layer.dv, layer.du, layer.vth, layer.reset, layer.surrogate) == (0.25, 0.5, 2.0, "hard", Sigmoid(4.0))
    assert layer.params == Lif(du=0.5, dv=0.25, vth=2.0)
    assert repr(layer) == "LIF(dv=0.25, du=0.5, vth=2.0, surrogate=Sigmoid(slope=4.0), reset='hard')"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"surrogate": "arctan"}, InputError, r"surrogate 'arctan'; allowed are atan, triangle, sigmoid"),
        ({"reset": "none"}, InputError, r"LIF: reset 'none'; allowed are 'hard', which Lava's LIF has, and 'soft'"),
        ({"dv": 1.5}, RangeError, r"Lif: dv = 1\.5; allowed is 0\.\.1"),
        ({"vth": math.nan}, InputError, r"Lif: vth is nan"),
    ],
)
def test_refusals(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LIF(**change)


@pytest.mark.parametrize("make", [ATan, Triangle, Sigmoid])
@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_surrogates_refuse(make: Any, bad: float) -> None:
    with pytest.raises(RangeError, match=rf"{make.__name__}: (slope|width) = {bad}; allowed is a finite number above 0"):
        make(bad)


def test_forward_refuses() -> None:
    with pytest.raises(InputError, match=r"input of shape \(3, 4\), torch\.float32; allowed is floating"):
        LIF()(torch.zeros(3, 4))
    with pytest.raises(InputError, match=r"input of shape \(1, 3, 4\), torch\.int64"):
        LIF()(torch.zeros(1, 3, 4, dtype=torch.int64))
