"""Swapping LIF for DLIF in a spiking ResNet, a spiking Transformer block and in what cannot be swapped."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lavasnn.errors import InputError, RangeError
from lavasnn.nn import DLIF, LIF, PairConv2d, PairPool, replace_lif
from lavasnn.nn.pairs import covariance_pairs, in_field, random_pairs, sites
from lavasnn.nn.replace import Kept, Replaced, inputs_of


class Steps(nn.Module):
    """Layers that know no time, applied to each step of (batch, time, ...)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(0, 1)).unflatten(0, (x.shape[0], x.shape[1]))


def convolution(before: int, after: int, **options: Any) -> Steps:
    return Steps(nn.Conv2d(before, after, 3, padding=1, bias=False, **options), nn.BatchNorm2d(after))


class Residual(nn.Module):
    """conv, LIF, conv, added to the block's input, LIF."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.lif1 = convolution(channels, channels), LIF(vth=0.3)
        self.conv2, self.lif2 = convolution(channels, channels), LIF(vth=0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.lif2(self.conv2(self.lif1(self.conv1(x))) + x)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.lif = convolution(2, 6), LIF(vth=0.3)
        self.blocks = nn.Sequential(Residual(6), Residual(6))
        self.hidden = nn.Sequential(
            Steps(nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(6 * 3 * 3, 12)), LIF(vth=0.2)
        )
        self.pool = Steps(nn.AvgPool2d(2))
        self.side, self.lif_side = nn.Linear(54, 8), LIF(vth=0.1)
        self.out, self.lif_out = nn.Linear(20, 5), LIF(vth=0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(self.lif(self.stem(x)))
        side = self.lif_side(self.side(self.pool(y).flatten(2)))
        return self.lif_out(self.out(torch.cat((self.hidden(y), side), -1)))


class Attention(nn.Module):
    """Spiking self-attention: q kᵀ v of spikes, without softmax."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.lif_q, self.lif_k, self.lif_v, self.lif_a, self.lif_p = (LIF(vth=0.2) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.lif_q(self.q(x)), self.lif_k(self.k(x)), self.lif_v(self.v(x))
        return self.lif_p(self.proj(self.lif_a((q @ k.transpose(-2, -1)) @ v)))


class Transformer(nn.Module):
    """A block on (batch, time, token, feature)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Attention(width)
        self.wide, self.lif_wide = nn.Linear(width, 2 * width), LIF(vth=0.2)
        self.back, self.lif_back = nn.Linear(2 * width, width), LIF(vth=0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.lif_back(self.back(self.lif_wide(self.wide(x))))


def spikes(*shape: int, seed: int = 0) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def same_function(model: nn.Module, changed: nn.Module, x: Tensor) -> None:
    """Both compute the same; and once coefficients are set, they do not."""
    before = model.eval()(x)
    assert 0 < before.mean() and torch.equal(changed.eval()(x), before)
    with torch.no_grad():
        for module in changed.modules():
            if isinstance(module, PairPool | PairConv2d):
                module.k.add_(0.5)
    assert not torch.equal(changed(x), before) and torch.equal(model(x), before)


def test_resnet() -> None:
    torch.manual_seed(0)
    model = ResNet()
    model(spikes(4, 3, 2, 6, 6, seed=1))  # running statistics other than the first ones
    changed, report = replace_lif(model)
    assert report.replaced == (
        Replaced("lif", "stem.layers.0", "PairConv2d", 18),
        Replaced("blocks.0.lif1", "blocks.0.conv1.layers.0", "PairConv2d", 54),
        Replaced("blocks.1.lif1", "blocks.1.conv1.layers.0", "PairConv2d", 54),
        Replaced("hidden.1", "hidden.0.layers.3", "PairPool", 54),
        Replaced("lif_out", "out", "PairPool", 20),
    )
    assert report.kept == (
        Kept("blocks.0.lif2", "several inputs are added in front of it (unflatten, LIF 'lif')"),
        Kept("blocks.1.lif2", "several inputs are added in front of it (unflatten, LIF 'blocks.0.lif2')"),
        Kept("lif_side", "the input of 'side' is pooled (AvgPool2d 'pool.layers.0'), not 0 and 1"),
    )
    assert str(report).splitlines()[0] == "lif: stem.layers.0 is now a PairConv2d with 18 pairs"
    assert str(report).splitlines()[-1].startswith("lif_side: stays, the input of 'side' is pooled")
    assert not any(isinstance(m, PairPool | PairConv2d) for m in model.modules())
    assert set(model.state_dict()) < set(changed.state_dict())  # names stay, k and pairs come
    same_function(model, changed, spikes(2, 4, 2, 6, 6))


def test_transformer_block() -> None:
    torch.manual_seed(0)
    model = Transformer(8).double()
    changed, report = replace_lif(model, pairs=5)
    a = "attention"
    assert report.replaced == (
        *(Replaced(f"{a}.lif_{n}", f"{a}.{n}", "PairPool", 5) for n in "qkv"),
        Replaced(f"{a}.lif_p", f"{a}.proj", "PairPool", 5),
        Replaced("lif_back", "back", "PairPool", 5),
    )
    assert report.kept == (
        Kept(f"{a}.lif_a", "a product of two activities, as in attention, is in front of it"),
        Kept("lif_wide", f"the input of 'wide' is a sum (the input 'x', LIF '{a}.lif_p'), not 0 and 1"),
    )
    assert not torch.equal(changed.attention.q.pairs, changed.attention.k.pairs)  # type: ignore[union-attr]
    assert changed.back.k.dtype == torch.float64  # type: ignore[union-attr]
    same_function(model, changed, spikes(2, 4, 3, 8).double())


def sequential(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


class Calls(nn.Module):
    """Layers by name and a forward of one line."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.call = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def loop(m: Any, x: Tensor) -> Tensor:
    return torch.cat([m.n(m.a(x[:, t : t + 1])) for t in range(x.shape[1])], 1)


@pytest.mark.parametrize(
    ("model", "reasons"),
    [
        (sequential(LIF()), {"0": "no Linear or Conv2d is in front of it"}),
        (sequential(nn.Linear(4, 4), nn.ReLU(), LIF()), {"2": "no Linear or Conv2d is in front of it, but ReLU '1'"}),
        (sequential(nn.Linear(4, 4), nn.AvgPool1d(2), LIF()), {"2": "a pooled value is in front of it (AvgPool1d '1')"}),
        (sequential(nn.Linear(1, 4), LIF()), {"1": "'0' in front of it has a single input, so no pairs"}),
        (
            sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), LIF()),
            {"1": "no Linear or Conv2d is in front of it, but ParametrizedLinear '0'"},
        ),
        (
            sequential(Steps(nn.Conv2d(2, 4, 3, groups=2)), LIF()),
            {"1": "'0.layers.0' in front of it has groups or padding other than numbers of zeros"},
        ),
        (
            sequential(Steps(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3)), LIF()),
            {"1": "the input of '0.layers.1' is normalised (BatchNorm2d '0.layers.0'), not 0 and 1"},
        ),
        (sequential(DLIF(4, 4, random_pairs(4, 3, 0)), nn.Linear(4, 4), LIF()), {}),
        (
            sequential(PairPool(4, 4, random_pairs(4, 3, 0)), LIF()),
            {"1": "PairPool '0' in front of it is of lavasnn.nn already"},
        ),
        (Calls(lambda m, x: m.n(m.a(x.relu())), a=nn.Linear(4, 4), n=LIF()), {"n": "'a' comes from relu, which need not"}),
        (
            Calls(lambda m, x: m.n(m.a(m.f(x) * 0.5)), f=LIF(), a=nn.Linear(4, 4), n=LIF()),
            {"f": "no Linear", "n": "'a' is scaled (mul)"},
        ),
        (
            sequential(nn.utils.spectral_norm(nn.Linear(4, 4)), LIF()),
            {"1": "'0' in front of it has hooks, such as those of a weight norm"},
        ),
        (Calls(lambda m, x: m.n(m.a(x @ x.mT)), a=nn.Linear(4, 4), n=LIF()), {"n": "the input of 'a' is a product of two"}),
        (
            Calls(lambda m, x: m.n(y := m.a(x)) + y, a=nn.Linear(4, 4), n=LIF()),
            {"n": "what Linear 'a' gives also goes elsewhere (LIF 'n', add)"},
        ),
        (
            Calls(lambda m, x: m.n(m.a(x)) + m.a(x).relu(), a=nn.Linear(4, 4), n=LIF()),
            {"n": "'a' in front of it also serves elsewhere"},
        ),
        (Calls(lambda m, x: x, n=LIF()), {"n": "no forward that torch.fx can follow calls it"}),
        (Calls(loop, a=nn.Linear(4, 4), n=LIF()), {"n": "torch.fx cannot follow the model ("}),
        (LIF(), {"the model": "it is called by code that torch.fx cannot follow"}),
        (
            Calls(lambda m, x: torch.cat([m.b(x) for _ in range(len(x))]), b=sequential(nn.Linear(4, 4), LIF())),
            {"b.1": "whether the input of 'b.0' is spikes is unknown, as torch.fx cannot follow the model ("},
        ),
    ],
)
def test_what_stays_is_named_with_the_reason(model: nn.Module, reasons: dict[str, str]) -> None:
    changed, report = replace_lif(model)
    found = {k.neuron: k.reason for k in report.kept}
    assert found.keys() == reasons.keys(), str(report)
    for name, reason in reasons.items():
        assert reason in found[name]
    swapped = sum(isinstance(m, PairPool | PairConv2d) for m in changed.modules())
    assert swapped - sum(isinstance(m, PairPool) for m in model.modules()) == len(report.replaced)


def test_a_model_that_takes_values() -> None:
    model = sequential(nn.Linear(6, 5), LIF(vth=0.1), nn.Linear(5, 4), nn.BatchNorm1d(3), LIF(vth=0.1))
    changed, report = replace_lif(model, inputs="values")
    assert [r.synapses for r in report.replaced] == ["2"]
    assert report.kept == (Kept("1", "the input of '0' is that of the model, which is values"),)
    assert isinstance(changed[2], PairPool) and changed[2].k.shape == (4, 5)  # type: ignore[index]


def test_a_part_of_a_model_that_cannot_be_followed_is_looked_at_alone() -> None:
    inner = sequential(nn.Linear(4, 6), LIF(vth=0.1), nn.Linear(6, 4), LIF(vth=0.1))
    model = Calls(lambda m, x: m.b(x) if bool(x.sum() > 0) else x, b=inner)
    changed, report = replace_lif(model)
    assert [r.synapses for r in report.replaced] == ["b.2"] and report.kept[0].neuron == "b.1"
    same_function(model, changed, spikes(2, 4, 4))


def test_a_layer_with_two_names_is_swapped_under_both() -> None:
    shared, neuron = nn.Linear(4, 4), LIF(vth=0.1)
    model = sequential(shared, neuron, shared, neuron)
    changed, report = replace_lif(model)
    assert report.replaced == (Replaced("1", "0", "PairPool", 4),)
    assert isinstance(changed[0], PairPool) and changed[0] is changed[2]  # type: ignore[index]
    same_function(model, changed, spikes(2, 5, 4))


def test_pairs_chosen_from_what_a_layer_gets() -> None:
    torch.manual_seed(0)
    model = sequential(Steps(nn.Conv2d(2, 4, 3, padding=1, stride=2)), LIF(vth=0.1), nn.Flatten(2), nn.Linear(36, 5), LIF())
    x, labels = spikes(20, 3, 2, 6, 6), torch.arange(20) % 2

    def choose(name: str, layer: nn.Linear | nn.Conv2d, count: int) -> Tensor:
        rows = inputs_of(model, name, x)
        assert rows.dtype == torch.uint8 and rows.shape[1] == count == layer.weight[0].numel()
        pairs = covariance_pairs(rows, labels.repeat_interleave(len(rows) // len(x)), count, 0)
        return in_field(pairs, (3, 3)) if isinstance(layer, nn.Conv2d) else pairs

    changed, report = replace_lif(model, choose=choose)
    assert [r.kind for r in report.replaced] == ["PairConv2d", "PairPool"]
    conv, pool = changed[0].layers[0], changed[3]  # type: ignore[index]
    # Rows are what the pairs see: their products are the coincidences that the layer forms.
    rows = inputs_of(model, "0.layers.0", x)
    assert rows.shape == (20 * 3 * 9, 18)
    i, j = sites(conv.pairs, (3, 3)).T
    maps = conv.coincidences(x.flatten(0, 1)).flatten(2).transpose(1, 2).flatten(0, 1)
    assert torch.equal((rows[:, i] * rows[:, j]).float(), maps)
    assert torch.equal(inputs_of(model, "3", x).float(), model[:3](x).flatten(0, 1)) and pool.pairs.shape == (36, 2)
    assert model.training


def test_refusals() -> None:
    model = sequential(nn.Linear(4, 3), LIF(), nn.Linear(3, 3))
    with pytest.raises(InputError, match=r"replace_lif: the model, a Linear, has no lavasnn\.nn\.LIF"):
        replace_lif(nn.Linear(3, 3))
    with pytest.raises(InputError, match=r"replace_lif: inputs 'pixels'; allowed are 'spikes' and 'values'"):
        replace_lif(model, inputs="pixels")  # type: ignore[arg-type]
    with pytest.raises(RangeError, match=r"random_pairs: 7 pairs of 4 inputs; allowed are 0\.\.6"):
        replace_lif(model, pairs=7)
    with pytest.raises(InputError, match=r"inputs_of: '1' is a LIF; allowed are Linear and Conv2d"):
        inputs_of(model, "1", spikes(2, 3, 4))
    with pytest.raises(InputError, match=r"inputs_of: '0' is given -1\.\.2; pairs need 0 and 1 alone"):
        inputs_of(model, "0", torch.tensor([[[-1.0, 0.0, 1.0, 2.0]]]))
    with pytest.raises(InputError, match=r"inputs_of: the model did not call 'a'"):
        inputs_of(Calls(lambda m, x: m.n(x), a=nn.Linear(4, 4), n=LIF()), "a", spikes(2, 3, 4))


def test_a_model_that_is_looked_into_keeps_the_mode_of_each_part() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    model.train()
    model[1].eval()  # frozen statistics
    inputs_of(model, "0", torch.ones(2, 4))
    assert [m.training for m in model] == [True, False, True]
    assert model.training
