"""Bilinear synapses against plain loops over inputs and pairs, their gradients against finite differences."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lavasnn.errors import InputError, RangeError
from lavasnn.nn import DLIF, LIF, ConvDLIF, LowRankPairs, PairConv2d, PairPool, PrivatePairs
from lavasnn.nn.pairs import channel_pairs, field_pairs, random_pairs

Synapses = PairPool | PrivatePairs | LowRankPairs


def randomised(module: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return module.double()


def spikes(*shape: int, seed: int = 0) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.4).double()


def coefficients(module: Synapses) -> list[list[dict[tuple[int, int], float]]]:
    """k of each output by pair, written out from the parameters."""
    found: list[Any] = []
    for o in range(module.out_features):
        if isinstance(module, LowRankPairs):
            left, right = module.left[o].tolist(), module.right[o].tolist()
            n = range(module.in_features)
            found.append(
                {
                    (i, j): sum(a[i] * b[j] + a[j] * b[i] for a, b in zip(left, right, strict=True))
                    for i in n
                    for j in n
                    if i < j
                }
            )
        else:
            pairs = module.pairs if isinstance(module, PairPool) else module.pairs[o]
            found.append({(i, j): k for (i, j), k in zip(pairs.tolist(), module.k[o].tolist(), strict=True)})
    return found


def by_hand(module: Synapses, row: list[float]) -> list[float]:
    """Synaptic input of one step."""
    out = []
    for o, k in enumerate(coefficients(module)):
        total = float(module.bias[o]) if module.bias is not None else 0.0
        total += sum(w * s for w, s in zip(module.weight[o].tolist(), row, strict=True))
        out.append(total + sum(value * row[i] * row[j] for (i, j), value in k.items()))
    return out


KINDS: list[Callable[[bool], Synapses]] = [
    lambda bias: PairPool(6, 3, random_pairs(6, 8, 0), bias),
    lambda bias: PairPool(6, 3, random_pairs(6, 0, 0), bias),
    lambda bias: PrivatePairs(6, 3, 0.5, seed=1, bias=bias),
    lambda bias: PrivatePairs(6, 3, 1.0, bias=bias),
    lambda bias: LowRankPairs(6, 3, 2, bias),
    lambda bias: LowRankPairs(6, 3, 0, bias),
]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("bias", [False, True])
def test_synapses_equal_a_plain_loop(make: Callable[[bool], Synapses], bias: bool) -> None:
    module = randomised(make(bias), 1)
    assert (module.bias is not None) is bias
    x = spikes(2, 4, 6)
    # Values other than spikes as well: the diagonal of a low-rank K has to be out for them too.
    for given_x in (x, x * torch.linspace(-1, 2, 6)):
        expected = torch.tensor([[by_hand(module, row) for row in sample] for sample in given_x.tolist()])
        assert torch.allclose(module(given_x).float(), expected, atol=1e-5)
    assert module(x[0, 0]).shape == (3,) and torch.allclose(module(x[0, 0]), module(x)[0, 0])
    assert module(x[:0]).shape == (0, 4, 3)


@pytest.mark.parametrize("make", KINDS)
def test_every_kind_starts_as_its_linear_part_and_learns(make: Callable[[bool], Synapses]) -> None:
    module = make(True).double()
    x = spikes(40, 6)
    assert torch.equal(module(x), nn.functional.linear(x, module.weight, module.bias))
    module(x).square().sum().backward()
    if isinstance(module, LowRankPairs):
        assert module.right.grad is not None and bool((module.right.grad != 0).all())
    else:
        assert module.k.grad is not None and bool((module.k.grad != 0).all())


@pytest.mark.parametrize("make", KINDS)
def test_gradients_are_those_of_finite_differences(make: Callable[[bool], Synapses]) -> None:
    module = randomised(make(True), 2)
    x = (spikes(3, 6) + 0.1).requires_grad_()
    names = [n for n, _ in module.named_parameters()]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *(p.detach().clone().requires_grad_() for p in module.parameters())))


@pytest.mark.parametrize("make", KINDS[2:])
def test_matrices_are_symmetric_without_diagonal(make: Callable[[bool], Any]) -> None:
    module = randomised(make(False), 3)
    K = module.matrix()
    assert K.shape == (3, 6, 6) and torch.equal(K, K.transpose(1, 2)) and not K.diagonal(dim1=1, dim2=2).any()
    x = spikes(10, 6)
    bilinear = module(x) - x @ module.weight.T
    assert torch.allclose(bilinear, torch.einsum("bi,oij,bj->bo", x, K, x))
    for o, k in enumerate(coefficients(module)):
        assert {(i, j): 2 * float(K[o, i, j]) for i, j in k} == pytest.approx(k)


def test_private_masks_count_unordered_pairs() -> None:
    module = randomised(PrivatePairs(41, 4, 0.9, seed=0), 0)
    pairs = 41 * 40 // 2
    assert module.k.shape == (4, pairs // 10)
    assert (module.matrix() != 0).sum((1, 2)).tolist() == [2 * (pairs // 10)] * 4


def conv_by_hand(module: PairConv2d, image: Tensor) -> Tensor:
    """A convolution with pairs by loops, (channel, row, column)."""
    (sy, sx), (py, px), (dy, dx) = module.stride, module.padding, module.dilation
    kh, kw = module.kernel_size
    rows = (image.shape[1] + 2 * py - dy * (kh - 1) - 1) // sy + 1
    columns = (image.shape[2] + 2 * px - dx * (kw - 1) - 1) // sx + 1

    def at(y: int, x: int, channel: int, row: int, column: int) -> float:
        r, c = y * sy - py + row * dy, x * sx - px + column * dx
        inside = 0 <= r < image.shape[1] and 0 <= c < image.shape[2]
        return float(image[channel, r, c]) if inside else 0.0

    out = torch.zeros(module.out_channels, rows, columns, dtype=torch.float64)
    for o in range(module.out_channels):
        for y in range(rows):
            for x in range(columns):
                total = float(module.bias[o]) if module.bias is not None else 0.0
                for channel in range(module.in_channels):
                    for row in range(kh):
                        for column in range(kw):
                            total += float(module.weight[o, channel, row, column]) * at(y, x, channel, row, column)
                for k, pair in zip(module.k[o].tolist(), module.pairs.tolist(), strict=True):
                    total += k * at(y, x, *pair[:3]) * at(y, x, *pair[3:])
                out[o, y, x] = total
    return out


@pytest.mark.parametrize(
    ("pairs", "kernel", "options"),
    [
        (field_pairs(3, 3, 20, 0), 3, {}),
        (field_pairs(3, (2, 3), 12, 1), (2, 3), {"stride": (2, 1), "padding": (1, 2), "dilation": (2, 1), "bias": True}),
        (channel_pairs(3, 3, 0, at=(1, 1)), 3, {"padding": 1, "bias": True}),
        (channel_pairs(3, 2, 0), 1, {"stride": 2}),
        (field_pairs(3, 3, 0, 0), 3, {"padding": 1}),
    ],
)
def test_convolution_equals_a_plain_loop(pairs: Tensor, kernel: Any, options: dict[str, Any]) -> None:
    module = randomised(PairConv2d(3, 2, kernel, pairs, **options), 4)
    x = spikes(2, 2, 3, 6, 5)
    y = module(x)
    assert y.shape[:3] == (2, 2, 2)
    for b in range(2):
        for t in range(2):
            assert torch.allclose(y[b, t], conv_by_hand(module, x[b, t]))
    assert torch.allclose(module(x[0]), y[0]) and torch.allclose(module(x[0, 0]), y[0, 0])
    assert module(x[:0]).shape == (0, *y.shape[1:])


def test_convolution_gradients() -> None:
    module = randomised(PairConv2d(2, 2, 2, field_pairs(2, 2, 5, 0), padding=1, bias=True), 5)
    names = [n for n, _ in module.named_parameters()]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    x = (spikes(1, 2, 3, 3) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *(p.detach().clone().requires_grad_() for p in module.parameters())))


def test_saved_pairs_are_loaded_with_the_coefficients() -> None:
    x = spikes(2, 3, 6)
    for make in KINDS[:5]:
        saved = randomised(make(True), 6)
        other = make(True).double()
        if isinstance(other, PairPool | PrivatePairs):
            other.pairs = torch.stack((other.pairs[..., 0] * 0, other.pairs[..., 0] * 0 + 1), -1)
        other.load_state_dict(saved.state_dict())
        assert torch.equal(other(x), saved(x))
    # A convolution has to notice that the loaded pairs lie elsewhere in the kernel.
    images = spikes(2, 2, 3, 5, 5)
    saved = randomised(ConvDLIF(3, 2, 3, field_pairs(3, 3, 3, 0)), 7)
    other = ConvDLIF(3, 2, 3, channel_pairs(3, 3, 0)).double()
    other.load_state_dict(saved.state_dict())
    assert torch.equal(other.synapses(images), saved.synapses(images))
    assert torch.equal(copy.deepcopy(other)(images), saved(images))
    assert set(saved.state_dict()) == {"synapses.weight", "synapses.k", "synapses.pairs"}


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_neurons_stand_behind_the_synapses(reset: Any) -> None:
    settings_ = {"dv": 0.3, "du": 0.8, "vth": 0.7, "surrogate": "triangle", "reset": reset}
    layer = randomised(DLIF(6, 3, random_pairs(6, 8, 0), bias=True, **settings_), 8)
    x = spikes(4, 9, 6)
    assert torch.equal(layer(x), LIF(**settings_)(layer.synapses(x))) and 0 < layer(x).mean() < 1
    conv = randomised(ConvDLIF(3, 2, 3, field_pairs(3, 3, 9, 0), 2, 1, bias=True, **settings_), 9)
    images = spikes(2, 5, 3, 6, 5)
    assert torch.equal(conv(images), LIF(**settings_)(conv.synapses(images)))
    made = DLIF.of(PrivatePairs(6, 3), vth=0.4)
    assert isinstance(made.synapses, PrivatePairs) and made.neuron.vth == 0.4 and len(list(made.parameters())) == 2
    assert isinstance(ConvDLIF.of(conv.synapses, vth=2.0).synapses, PairConv2d)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 3), st.integers(0, 2**31))
@settings(max_examples=30)
def test_soft_reset_equals_a_plain_loop(dv: float, du: float, vth: float, seed: int) -> None:
    x = torch.randn(2, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.4
    expected = []
    for sample in x.tolist():
        u, v, out = [0.0] * 3, [0.0] * 3, []
        for row in sample:
            u = [i * (1 - du) + a for i, a in zip(u, row, strict=True)]
            v = [i * (1 - dv) + j for i, j in zip(v, u, strict=True)]
            out.append([float(i > vth) for i in v])
            v = [i - vth if i > vth else i for i in v]
        expected.append(out)
    layer = LIF(dv=dv, du=du, vth=vth, reset="soft")
    assert layer(x).tolist() == expected


def smooth(x: Tensor, dv: float, vth: float, reset: str) -> Tensor:
    """Voltages that reset as LIF does, read through a smooth step; differentiable all over."""
    v, out = torch.zeros_like(x[:, 0]), []
    for a in x.unbind(1):
        v = v * (1 - dv) + a
        out.append(torch.sigmoid(4 * (v - vth)))
        v = torch.where(v > vth, v - vth if reset == "soft" else torch.zeros_like(v), v)
    return torch.stack(out, 1)


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_gradient_of_a_neuron_is_that_of_a_smooth_one(reset: Any) -> None:
    synapses = randomised(PairPool(6, 3, random_pairs(6, 8, 0), bias=True), 10)
    x = spikes(2, 6, 6)
    scale = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def call(weight: Tensor, k: Tensor) -> Tensor:
        currents = torch.func.functional_call(synapses, {"weight": weight, "k": k}, (x,))
        return smooth(currents, 0.4, 0.8, reset)

    values = (synapses.weight, synapses.k)
    assert torch.autograd.gradcheck(call, values, eps=1e-7, atol=1e-6)
    expected = torch.autograd.grad((call(*values) * scale).sum(), values)
    layer = DLIF.of(synapses, dv=0.4, vth=0.8, surrogate="sigmoid", reset=reset)
    found = torch.autograd.grad((layer(x) * scale).sum(), values)
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["pool", "private", "low rank", "field", "channels"])
def test_modules_compile_as_a_whole(kind: str) -> None:
    """No break in the graph, so no Python decides on values; the eager backend needs no C++ compiler."""
    layer: Any = {
        "pool": lambda: DLIF(6, 3, random_pairs(6, 8, 0), bias=True),
        "private": lambda: DLIF.of(PrivatePairs(6, 3), surrogate="sigmoid"),
        "low rank": lambda: DLIF.of(LowRankPairs(6, 3, 2), surrogate="triangle", reset="soft"),
        "field": lambda: ConvDLIF(2, 3, 3, field_pairs(2, 3, 9, 0), padding=1),
        "channels": lambda: ConvDLIF(2, 3, 1, channel_pairs(2, 1, 0)),
    }[kind]()
    layer = randomised(layer, 11)
    x = spikes(2, 4, 2, 5, 5) if kind in ("field", "channels") else spikes(2, 4, 6)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    y = compiled(x)
    assert torch.equal(y, layer(x))
    y.sum().backward()
    found = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    layer(x).sum().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(found, layer.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["pool", "convolution"])
def test_pruning_keeps_the_largest(kind: str) -> None:
    pool: Any = PairPool(6, 3, random_pairs(6, 8, 0), True)
    x = spikes(5, 6)
    if kind == "convolution":
        pool, x = PairConv2d(2, 3, 2, field_pairs(2, 2, 8, 0), 2, 1, 1, True), spikes(5, 2, 6, 6)
    pool = randomised(pool, 12).eval()
    small = pool.pruned(3)
    keep = pool.k.norm(dim=0).sort(descending=True).indices[:3].sort().values
    assert torch.equal(small.pairs, pool.pairs[keep]) and not small.training and small.k.dtype == torch.float64
    with torch.no_grad():
        pool.k[:, [p for p in range(8) if p not in keep.tolist()]] = 0
    assert torch.allclose(small(x), pool(x))
    with pytest.raises(RangeError, match=r"kept_pairs: 9 pairs of a pool of 8 pairs"):
        pool.pruned(9)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: PairPool(0, 3, random_pairs(6, 8, 0)),
            RangeError,
            r"PairPool: in_features = 0; allowed is a whole number from 1",
        ),
        (lambda: PairPool(5, 3, random_pairs(6, 15, 0)), RangeError, r"PairPool: pairs name inputs 0\.\.5; allowed are 0\.\.4"),
        (lambda: PrivatePairs(6, 3, 1.5), RangeError, r"PrivatePairs: sparsity = 1\.5; allowed is 0\.\.1"),
        (lambda: PrivatePairs(6, -3), RangeError, r"PrivatePairs: out_features = -3"),
        (lambda: LowRankPairs(6, 3, -1), RangeError, r"LowRankPairs: rank = -1; allowed is a whole number from 0"),
        (lambda: PairConv2d(2, 3, 3, random_pairs(6, 8, 0)), InputError, r"PairConv2d: pairs of shape \(8, 2\)"),
        (lambda: PairConv2d(2, 3, (3, 0), field_pairs(2, 3, 1, 0)), RangeError, r"PairConv2d: kernel_size = 0"),
        (lambda: PairConv2d(2, 3, 3, field_pairs(2, 3, 1, 0), padding=-1), RangeError, r"PairConv2d: padding = -1; allowed"),
        (lambda: DLIF(6, 3, random_pairs(6, 8, 0), surrogate="no"), InputError, r"surrogate 'no'; allowed are"),
        (lambda: LIF(reset="soft").params, InputError, r"LIF: reset 'soft' has no counterpart in Lava's stock LIF"),
    ],
)
def test_refusals(make: Callable[[], Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_repr_names_the_sizes() -> None:
    assert repr(PairPool(6, 3, random_pairs(6, 8, 0))) == "PairPool(6, 3, pairs=8, bias=False)"
    assert repr(PrivatePairs(6, 3, 0.5, 0)) == "PrivatePairs(6, 3, sparsity=0.5, bias=False)"
    assert repr(LowRankPairs(6, 3, 2, bias=True)) == "LowRankPairs(6, 3, rank=2, bias=True)"
    conv = PairConv2d(2, 3, 3, field_pairs(2, 3, 7, 0), padding=(1, 0))
    assert repr(conv) == (
        "PairConv2d(2, 3, kernel_size=(3, 3), pairs=7, stride=(1, 1), padding=(1, 0), dilation=(1, 1), bias=False)"
    )
