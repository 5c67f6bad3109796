"""Convolutional BSD networks against plain loops, against autograd of the losses written out, and in training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lavasnn.architecture import Convolution, Layer, layers
from lavasnn.config import RunConfig, parse
from lavasnn.data import Images, load
from lavasnn.errors import ConfigError, InputError
from lavasnn.learning.augment import randaugmented
from lavasnn.learning.bsd import bsd, likeness, local_gradients
from lavasnn.learning.model import dump, load_model
from lavasnn.learning.rules import Batch
from lavasnn.learning.trainer import Trainer, predict
from lavasnn.nn.bsd import BSDNet
from lavasnn.nn.bsd_layers import Link
from lavasnn.sections import BSDSection

T, ENTRY, FIRST, SECOND, EPSILON = 5, 0.3, 0.4, 0.35, 1e-5
SHAPES = {  # image and hidden layers: odd sizes, strides 1 and 2, several channels
    "7 to 4 to 2": ((2, 7, 7), ["3c3s2", "4c3s2"]),
    "stride 1 and oblong": ((1, 5, 4), ["2c3", "3c3s2", 6]),
    "stride 3, kernel 5": ((2, 7, 5), ["3c5s3", "2c1"]),
}


def network(name: str, seed: int = 0, norm: bool = True) -> BSDNet:
    image, hidden = SHAPES[name]
    plan = layers(image, hidden, 4)
    net = BSDNet(plan, T, 2.0, (FIRST, SECOND), torch.Generator().manual_seed(seed), entry=ENTRY, norm=norm).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2).add_(0.05 if norm else 0.2)  # enough for every class to be heard in all layers
    return net


def stimuli(net: BSDNet, samples: int = 9, seed: int = 1) -> Tensor:
    return torch.rand(samples, net.sizes[0], generator=torch.Generator().manual_seed(seed)).double()


def arrived(layer: Layer, down: bool, weight: np.ndarray, spikes: np.ndarray) -> np.ndarray:
    """What one layer's spikes, shape (neuron,), add up to in the other, each synapse by itself."""
    if not isinstance(layer, Convolution):
        return np.array([sum(w * s for w, s in zip(row, spikes, strict=True)) for row in weight])
    low, high = layer.image, layer.image_out
    half, stride = layer.kernel // 2, 1 if down else layer.stride
    post, pre = (low, high) if down else (high, low)
    found, sent = np.zeros(post), spikes.reshape(pre)
    for channel, row, column in np.ndindex(*post):
        for source, i, j in np.ndindex(pre[0], layer.kernel, layer.kernel):
            y, x = row * stride + i - half, column * stride + j - half
            if not (0 <= y < low[1] and 0 <= x < low[2]):
                continue  # silence around the image below, and around its upsampled size
            if down:
                y, x = y // layer.stride, x // layer.stride
            found[channel, row, column] += weight[channel, source, i, j] * sent[source, y, x]
    return found.reshape(-1)


def by_hand(net: BSDNet, current: Tensor, down: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Voltages and spikes, shape (step, sample, neuron), of a pathway in its order, by the batch's statistics."""
    weights = [w.detach().numpy() for w in (net.Theta if down else net.W)]
    order = list(zip(net.plan, weights, strict=True))
    drives = [np.repeat(current.numpy()[None], T, 0)]
    trains: list[np.ndarray] = []
    for place, part in enumerate([None, *(order[::-1] if down else order)]):
        if part is not None:
            layer, weight = part
            basal = np.array([[arrived(layer, down, weight, s) for s in step] for step in trains[-1]])
            if place < len(order):
                channels = weight.shape[0]
                cells = basal.reshape(T, len(current), channels, -1)
                for c in range(channels):
                    every = cells[:, :, c].ravel()
                    mean = sum(every) / len(every)
                    var = sum((every - mean) ** 2) / len(every)
                    cells[:, :, c] = (cells[:, :, c] - mean) / np.sqrt(var + EPSILON)
                basal = cells.reshape(T, len(current), -1)
            drives.append(basal)
        threshold = ENTRY if part is None else SECOND if down else FIRST
        U, sent = np.zeros(drives[-1].shape[1:]), []
        for a in drives[-1]:
            H = U + (a - U) / 2.0
            sent.append((H >= threshold).astype(float))
            U = H * (1 - sent[-1])
        trains.append(np.array(sent))
    return drives, trains


@pytest.mark.parametrize("name", SHAPES)
def test_both_pathways_synapse_by_synapse(name: str) -> None:
    net = network(name).train()
    x, concept = stimuli(net, 3), torch.eye(4).double()
    for found, current, down in ((net.perceive(x, every=True), x, False), (net.recall(concept, every=True), concept, True)):
        drives, trains = by_hand(net, current, down)
        order = slice(None, None, -1) if down else slice(None)
        for v, wanted in zip(found.v[order], drives, strict=True):
            np.testing.assert_allclose(v, wanted.mean(0), rtol=0, atol=1e-9)
        for s, r, wanted in zip(found.trains[order], found.r[order], trains, strict=True):
            assert np.array_equal(s, wanted)
            np.testing.assert_allclose(r, wanted.mean(0), rtol=0, atol=1e-12)
        assert all(0 < s.mean() < 1 for s in trains[:-1])


def test_both_types_of_a_layer_are_equally_many() -> None:
    for name in SHAPES:
        net = network(name)
        assert [len(v[0]) for v in net.perceive(stimuli(net, 1)).v] == list(net.sizes)
        assert [len(u[0]) for u in net.recall(torch.eye(4).double()).v] == list(net.sizes)


# Gradients


def sums(layer: Layer, down: bool, weight: Tensor, r: Tensor) -> Tensor:
    """Rates through synapses, by torch's own layers."""
    if not isinstance(layer, Convolution):
        return r @ weight.T
    if not down:
        return F.conv2d(r.view(-1, *layer.image), weight, None, layer.stride, layer.padding).flatten(1)
    _, rows, columns = layer.image
    wide = F.interpolate(r.view(-1, *layer.image_out), scale_factor=layer.stride, mode="nearest")[..., :rows, :columns]
    return F.conv2d(wide, weight, None, 1, layer.padding).flatten(1)


def reco(v: Tensor, w: Tensor, labels: Tensor, section: BSDSection) -> Tensor:
    """Equation 7 over a batch: v learns, w is what it is compared with, row by row."""
    total = v.new_zeros(())
    for k in range(len(v)):
        cosines = torch.stack([v[k] @ w[j] / (v[k].norm() * w[j].norm()) for j in range(len(w))])
        others = [j for j in range(len(w)) if j != k and (section.negatives == "literal" or labels[j] != labels[k])]
        total = total + (1 - cosines[k]) ** 2 + section.penalty * sum(cosines[j].clamp(min=0) ** 2 for j in others)
    return total


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("negatives", ["literal", "other_class"])
@pytest.mark.parametrize("name", SHAPES)
def test_closed_form_gradients_are_those_of_autograd(name: str, negatives: Any, norm: bool) -> None:
    """Of the losses sample by sample, with spikes and batch variances as given numbers."""
    section, labels = BSDSection(negatives=negatives), torch.tensor([0, 1, 1, 3, 0, 1, 2, 2, 1])
    net, same = network(name, 7, norm), network(name, 7, norm)
    x, target = stimuli(net), torch.eye(4).double()[labels]
    seen = bsd(net, Batch(x, target, [], []), section)
    up, down = same.train().perceive(x, every=True), same.recall(torch.eye(4).double(), every=True)
    top = len(net.plan) - 1

    def voltages(place: int, downward: bool) -> Tensor:
        """Means over time, which autograd follows back to the weights."""
        weight, layer = (same.Theta if downward else same.W)[place], net.plan[place]
        trains = down.trains[place + 1] if downward else up.trains[place]
        every = sums(layer, downward, weight, trains.flatten(0, 1)).unflatten(0, (T, -1))
        if norm and (place > 0 if downward else place < top):
            cells = every.view(*every.shape[:2], len(weight), -1)
            var, mean = torch.var_mean(cells, (0, 1, 3), correction=0, keepdim=True)
            every = ((cells - mean) / (var.detach() + EPSILON).sqrt()).flatten(2)
        return every.mean(0)

    for place in range(top + 1):
        for downward, mine in ((False, net.W[place].grad), (True, net.Theta[place].grad)):
            v = voltages(place, downward)
            torch.testing.assert_close(v, down.v[place] if downward else up.v[place + 1], rtol=0, atol=1e-9)
            if downward:
                loss = reco(v[labels], up.v[place], labels, section)
            elif place < top:
                loss = reco(v, down.v[place + 1][labels], labels, section)
            else:
                loss = F.cross_entropy(v, labels, reduction="sum")
            parameter = (same.Theta if downward else same.W)[place]
            parameter.grad = None
            loss.backward()
            assert float(mine.abs().max()) > 1e-3
            torch.testing.assert_close(mine, parameter.grad, rtol=1e-7, atol=1e-9)
    assert torch.equal(seen.output, up.v[-1])


def test_a_layer_learns_from_what_its_neurons_hold_alone() -> None:
    """Other weights matter through spikes and voltages alone; a kernel adds up its places, pair of neurons by pair."""
    net, labels, section = network("7 to 4 to 2"), torch.tensor([0, 1, 2, 3, 0]), BSDSection()
    x = stimuli(net, 5)
    bsd(net, Batch(x, torch.eye(4).double()[labels], [], []), section)
    up, down = net.perceive(x), net.recall(torch.eye(4).double())
    dv, du = local_gradients(up.v[1], down.v[1], labels, section)
    gain, gain_recall = up.gain[1], down.gain[1]
    assert gain is not None and gain_recall is not None
    for link, d, r, found in (
        (net.up[0], dv * gain, up.r[0], net.W[0].grad),
        (net.down[1], du * gain_recall, down.r[2], net.Theta[1].grad),
    ):
        d = d.view(len(d), link.channels, -1)
        d = (d - d.mean((0, 2), keepdim=True)).flatten(1)  # the channel's own mean, as batch norm takes it
        post, pre = (link.layer.image, link.layer.image_out) if link.down else (link.layer.image_out, link.layer.image)
        wanted = np.zeros(link.shape)
        for place in np.ndindex(*link.shape):
            one = np.zeros(link.shape)
            one[place] = 1.0  # which synapses share this weight
            heard = np.array([arrived(link.layer, link.down, one, row.numpy()) for row in r])
            wanted[place] = (d.numpy() * heard).sum()
        assert wanted.shape[:2] == (post[0], pre[0])
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)
    assert all(p.grad is not None and p.grad.grad_fn is None for p in net.parameters())
    assert not any(t.requires_grad for t in (*up.v, *up.r, *down.v, *down.r))


# Batch norm


def test_running_statistics_follow_the_batches() -> None:
    net = network("stride 1 and oblong").train()
    x = stimuli(net)
    spikes = net.perceive(x, every=True).trains[0]
    sums_of_first = np.array(
        [[arrived(net.plan[0], False, net.W[0].detach().numpy(), s) for s in step] for step in spikes.numpy()]
    )
    cells = sums_of_first.reshape(T, len(x), 2, -1)
    state = net.state_dict()
    np.testing.assert_allclose(state["norm_up.0.mean"], 0.1 * cells.mean((0, 1, 3)), atol=1e-12)
    np.testing.assert_allclose(state["norm_up.0.var"], 0.9 + 0.1 * cells.var((0, 1, 3)), atol=1e-12)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.eval().perceive(x)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_ends_have_no_norm() -> None:
    names = network("7 to 4 to 2").state_dict()
    assert {n.rpartition(".")[0] for n in names if "norm" in n} == {"norm_up.0", "norm_up.1", "norm_down.1", "norm_down.2"}


@pytest.mark.parametrize("name", SHAPES)
def test_folded_synapses_give_the_voltages_of_evaluation(name: str) -> None:
    net = network(name).train()
    for seed in range(20):
        net.perceive(stimuli(net, seed=seed))
        net.recall(torch.eye(4).double())
    net.eval()
    up, down = net.folded()
    x, concept = stimuli(net, 3), torch.eye(4).double()
    for found, parts, downward in ((net.perceive(x, every=True), up, False), (net.recall(concept, every=True), down, True)):
        for i, part in enumerate(parts):
            source, post = (i + 1, i) if downward else (i, i + 1)
            assert part.link.down == downward and part.bias.shape == (part.link.channels,)
            mean = sum(part.voltages(s) for s in found.trains[source]) / T
            torch.testing.assert_close(mean, found.v[post], rtol=0, atol=1e-12)
            bias = np.repeat(part.bias.numpy(), net.sizes[post] // len(part.bias))
            first = arrived(part.link.layer, downward, part.weight.numpy(), found.trains[source][0, 0].numpy()) + bias
            np.testing.assert_allclose(part.voltages(found.trains[source][0])[0], first, rtol=0, atol=1e-12)
    assert any(float(part.bias.abs().max()) > 0.1 for part in up) and any(float(part.bias.abs().max()) > 0.1 for part in down)
    assert float(up[-1].bias.abs().max()) == 0 == float(down[0].bias.abs().max())


# Training


def config(data: str = "digits", hidden: tuple[int | str, ...] = ("16c3s2", "32c3s2", 64), **training: Any) -> RunConfig:
    return parse(
        {
            "data": {"name": data},
            "network": {"neuron": "pyramidal", "hidden": list(hidden)},
            "training": {"epochs": 12, "batch": 32, "learning_rate": 2e-3, **training},
            "bsd": {
                "norm": True,
                "threshold": 0.4,
                "threshold_recall": 0.4,
                "threshold_entry": 0.2,
                "negatives": "other_class",
            },
        },
        "here",
    )


@pytest.fixture(scope="module")
def digits() -> tuple[Images, Images]:
    return load("digits:train"), load("digits:test")


def test_it_learns_digits(digits: tuple[Images, Images]) -> None:
    trainer = Trainer(config(), digits[0], seed=0)
    trainer.run()
    assert trainer.evaluate(digits[1]) > 0.85
    x = torch.from_numpy(digits[1].pixels / 16).float()
    rows = likeness(trainer.net, x, torch.from_numpy(digits[1].labels))
    assert len(rows) == 5 and rows[3]["cosine"] > 0.3 and all(0 < row["rate"] < 1 for row in rows)


def test_models_and_checkpoints(digits: tuple[Images, Images], tmp_path: Path) -> None:
    trainer = Trainer(config(epochs=2, shift=1), digits[0], seed=3)
    trainer.run_epoch()
    trainer.save_checkpoint(tmp_path / "c")
    trainer.run_epoch()
    trainer.save_model(tmp_path / "m")
    model = load_model(tmp_path / "m")
    assert dump(model.config) == dump(trainer.config)
    answers = [predict(net, digits[1], model.encoding, model.config) for net in (model.net, trainer.net)]
    assert np.array_equal(*answers)
    resumed = Trainer(config(epochs=2, shift=1), digits[0], seed=3)
    resumed.resume(tmp_path / "c")
    resumed.run_epoch()
    for net in (resumed.net, model.net):
        for (name, a), (_, b) in zip(net.state_dict().items(), trainer.net.state_dict().items(), strict=True):
            assert torch.equal(a, b), name


def test_entries_of_later_versions_are_written_where_they_say_something() -> None:
    plain = dump(parse({"network": {"neuron": "pyramidal"}}, "here"))
    assert not {"norm", "threshold_entry"} & set(plain["bsd"]) and "randaugment" not in plain["training"]
    ours = dump(config("mnist", randaugment=4))
    assert ours["bsd"]["norm"] is True and ours["bsd"]["threshold_entry"] == 0.2 and ours["training"]["randaugment"] == 4
    assert dump(parse(ours, "here")) == ours


# RandAugment


def coloured(n: int = 48) -> Images:
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (n, 3, 4, 4), np.uint8).repeat(8, 2).repeat(8, 3)
    return Images("cifar10", "train", blocks.reshape(n, -1), random.integers(0, 10, n), (3, 32, 32), 255, 10)


def test_randaugment_draws_from_its_generator_alone() -> None:
    pixels = torch.from_numpy(coloured().pixels)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    once, again, other = (randaugmented(pixels, (3, 32, 32), 9, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert once.dtype == torch.uint8 and once.shape == pixels.shape
    assert torch.equal(once, again) and not torch.equal(once, other)
    changed = (once != pixels).any(1)
    assert 0.5 < changed.double().mean()
    one = randaugmented(pixels[:1].expand(20, -1), (3, 32, 32), 9, torch.Generator().manual_seed(1))
    assert len(one.unique(dim=0)) > 5  # each image has draws of its own


def test_randaugment_resumes_exactly(tmp_path: Path) -> None:
    run = config("cifar10", ("4c3s2", 8), randaugment=4, epochs=2, batch=16)
    trainer = Trainer(run, coloured(), seed=1)
    trainer.run_epoch()
    trainer.save_checkpoint(tmp_path / "c")
    trainer.run_epoch()
    resumed = Trainer(run, coloured(), seed=1)
    resumed.resume(tmp_path / "c")
    torch.rand(7)
    resumed.run_epoch()
    assert all(torch.equal(a, b) for a, b in zip(resumed.net.parameters(), trainer.net.parameters(), strict=True))


def test_randaugment_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    with pytest.raises(InputError, match=r"training.randaugment needs torchvision, which is not installed .*; pip install"):
        Trainer(config("cifar10", randaugment=4), coloured())


# What is refused


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"network": {"neuron": "pyramidal", "hidden": ["8c4"]}},
            r"network.hidden\[0\] has a kernel of 4; with neuron 'pyramid",
        ),
        ({"network": {"neuron": "pyramidal", "hidden": [9, "8c3"]}}, "a convolution follows images"),
        ({"network": {"hidden": ["8c3"]}}, "network.hidden has convolutions, which neuron 'diffpc' does not have"),
        (
            {"training": {"randaugment": 4}},
            "training.randaugment is 4, with data 'digits' allowed is 0; it is for images of 8 bits",
        ),
        ({"data": {"name": "mnist"}, "training": {"randaugment": 31}}, "training.randaugment is 31"),
        ({"network": {"neuron": "pyramidal"}, "bsd": {"threshold_entry": 0.0}}, "bsd.threshold_entry is 0.0"),
    ],
)
def test_what_a_configuration_cannot_say(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(entries, "here")


def test_what_a_network_cannot_be(digits: tuple[Images, Images]) -> None:
    with pytest.raises(InputError, match="a convolution with a kernel of 2; allowed are odd ones"):
        Link(Convolution((1, 5, 5), 3, 2))
    with pytest.raises(InputError, match=r"BSDNet: sizes \(64, 10\), 4 steps; needed are three layers"):
        BSDNet(layers((8, 8), [], 10))
    with pytest.raises(InputError, match="which leaves 1 of 33 samples for the last batch; batch norm needs more"):
        Trainer(config(), digits[0].take(33))
