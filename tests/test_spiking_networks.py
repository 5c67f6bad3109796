"""Convolutional networks and networks on events: what torch trains is what the chip's integers and Lava run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compile.backends import exact, lava
from compile.cost import count, operations
from compile.fit import pair_costs
from compile.pipeline import compile_graph
from compile.program import Program
from compile.verify import compare
from lavasnn import architecture
from lavasnn.cli import main
from lavasnn.cli.common import open_network
from lavasnn.config import RunConfig, parse
from lavasnn.data import Images
from lavasnn.dynamics.lif import Lif
from lavasnn.encode import Encoding
from lavasnn.errors import ConfigError, InputError
from lavasnn.export import to_graph
from lavasnn.files import read_tensors, write_tensors
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.learning.backprop import presented
from lavasnn.learning.model import load_model
from lavasnn.learning.spiking import SpikingNet, pair_numbers, planned, silenced, widened
from lavasnn.learning.trainer import Trainer
from lavasnn.nn import LIF, ConvDLIF, PairConv2d, PairPool
from lavasnn.nn.pairs import field_pairs
from lavasnn.report.tables import sweep
from lavasnn.synapses import Dense

CONVOLUTION: dict[str, Any] = {
    "data": {"name": "cifar10"},
    "network": {"neuron": "dlif", "hidden": ["4c3s2", "6c3s2", 12]},
    "training": {"epochs": 15, "batch": 12, "learning_rate": 5e-3},
    "spiking": {"steps": 3, "code": "direct", "norm": True, "pairs": [0, 5, 40, 20]},
}
EVENTS: dict[str, Any] = {
    "data": {"name": "nmnist_small"},
    "network": {"neuron": "dlif", "hidden": [15]},
    "training": {"epochs": 3, "batch": 8, "learning_rate": 5e-3},
    "spiking": {"steps": 5, "code": "events", "pairs": [60, 20]},
}


def coloured(n: int = 60, seed: int = 0) -> Images:
    """Three classes of noisy pictures, one bright channel each."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    pixels = random.integers(0, 120, (n, 3, 32, 32))
    pixels[np.arange(n), labels] += 130
    return Images("cifar10", "train", pixels.reshape(n, -1).astype(np.uint8), labels.astype(np.int64), (3, 32, 32), 255, 10)


def events(n: int = 40, seed: int = 0) -> Images:
    """Two classes of random events that differ in their rows."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    rate = np.where((np.arange(34) < 17)[:, None] == labels[:, None, None, None, None].astype(bool), 0.2, 0.02)
    pixels = random.random((n, 5, 2, 34, 34)) < rate
    return Images(
        "nmnist_small", "train", pixels.reshape(n, 5, -1).astype(np.uint8), labels.astype(np.int64), (2, 34, 34), 1, 10
    )


def run(entries: dict[str, Any], **changes: dict[str, Any]) -> RunConfig:
    return parse({k: v | changes.get(k, {}) for k, v in entries.items()}, "here")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Trainer, Images, Path]]:
    found = {}
    for name, entries, images in (("convolution", CONVOLUTION, coloured()), ("events", EVENTS, events())):
        trainer = Trainer(run(entries), images, seed=1)
        trainer.run()
        path = tmp_path_factory.mktemp("models") / name
        trainer.save_model(path)
        found[name] = trainer, images, path
    return found


def test_layers_are_as_configured() -> None:
    trainer = Trainer(run(CONVOLUTION), coloured(), seed=0)
    kinds = [type(m) for m in trainer.net]
    conv = [nn.Conv2d, nn.BatchNorm2d, LIF, PairConv2d, nn.BatchNorm2d, LIF]
    assert kinds == [*conv, nn.Flatten, PairPool, nn.BatchNorm1d, LIF, PairPool, LIF]
    assert isinstance(trainer.net, SpikingNet) and trainer.net.image == (3, 32, 32)
    assert [s.pairs.shape for s in trainer.net.synapses[1:]] == [(5, 6), (40, 2), (20, 2)]
    centre = trainer.net.synapses[1].pairs[:, [1, 2, 4, 5]]
    assert (centre == 1).all()
    field = Trainer(run(CONVOLUTION, spiking={"pair_field": "kernel", "pairs": [0, 50, 40, 20]}), coloured(), seed=0)
    assert field.net.synapses[1].pairs[:, 1:3].unique().numel() == 3


def test_inputs_that_do_not_change_are_weighed_once_and_count_in_every_step() -> None:
    trainer = Trainer(run(CONVOLUTION), coloured(), seed=0)
    net = trainer.net.eval()
    x = presented(coloured().pixels[:4], trainer.encoding, np.arange(4), 3)
    assert x.stride(1) == 0
    seen: list[int] = []
    net.synapses[0].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    with torch.no_grad():
        assert torch.equal(net(x), net(x.contiguous()))
    assert seen == [4, 12]


@pytest.mark.parametrize("name", ["convolution", "events"])
def test_it_learns_and_is_read_as_written(trained: dict[str, tuple[Trainer, Images, Path]], name: str) -> None:
    trainer, images, path = trained[name]
    assert trainer.evaluate(images) > 0.6
    again = Trainer(trainer.config, images, seed=1)
    assert not torch.equal(again.net.synapses[0].weight, trainer.net.synapses[0].weight)
    assert again.difference(path) is None
    again.adopt(path)
    for key, value in trainer.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["convolution", "events"])
def test_the_real_network_answers_as_torch_does(trained: dict[str, tuple[Trainer, Images, Path]], name: str) -> None:
    trainer, images, path = trained[name]
    steps = trainer.config.spiking.steps
    result = exact.run(open_network(path).as_precision("float"), images.pixels, images.labels)
    x = presented(images.pixels, trainer.encoding, np.arange(len(images)), steps)
    net = trainer.net.eval().double()
    with torch.no_grad():
        wanted = net(x.double()).sum(1).numpy()
    trainer.net.float()
    assert wanted.any()
    assert np.mean(result.outputs == wanted) > 0.99  # batch norm folded rounds a little otherwise


@pytest.mark.lava
@pytest.mark.parametrize("name", ["convolution", "events"])
def test_its_program_is_equal_in_torch_exact_and_lava(
    trained: dict[str, tuple[Trainer, Images, Path]], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, images, path = trained[name]
    network = open_network(path)
    program = compile_graph(network.graph, images.pixels, images.labels)
    program.save(tmp_path / "p")
    given = images.pixels[:3]
    if name == "convolution":
        np.savez(tmp_path / "x.npz", x=given, labels=images.labels[:3])
    else:
        np.savez(tmp_path / "x.npz", x=given.astype(np.int8), labels=images.labels[:3])
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(tmp_path / "p"), "--input", str(tmp_path / "x.npz"), "--reference", str(path), "--json", "-q"])
    found = capsys.readouterr()
    assert stop.value.code in (0, None), found.err
    values = json.loads(found.out)
    assert values["mismatches"] == 0 and values["compared"] > 3000
    assert all(layer["equal"] > 0.9 for layer in values["agreement"]["layers"])


def test_pixels_keep_the_weights_fine(trained: dict[str, tuple[Trainer, Images, Path]]) -> None:
    """Sums of payloads need a coarse unit to fit 16 bits; the weights in front of them use their whole grid all the same."""
    _, images, path = trained["convolution"]
    program = compile_graph(open_network(path).graph, images.pixels, images.labels)
    first = program.graph.arriving("hidden1")[0]
    synapses = program.graph.synapses(first)
    assert synapses.grid is not None and synapses.grid.exponent < 0
    assert np.abs(synapses.weight).max() > 127
    assert program.report["calibrate"]["populations"]["hidden1"]["largest_input"] <= 32767


def program_of(trained: dict[str, tuple[Trainer, Images, Path]], name: str) -> tuple[Program, Images]:
    _, images, path = trained[name]
    return compile_graph(open_network(path).graph, images.pixels, images.labels), images


@pytest.mark.parametrize("name", ["convolution", "events"])
def test_the_fit_report_tells_what_pairs_cost(trained: dict[str, tuple[Trainer, Images, Path]], name: str) -> None:
    """Against messages counted neuron by neuron: each spike visits the pairs it is in, and each pair all it tells."""
    program, images = program_of(trained, name)
    traces = exact.run(program.graph, images.pixels, record=True).traces
    costs = {c.population: c for c in pair_costs(program)}
    assert list(costs) == program.report["lower"]["pairs"] != []
    graph, pairs_ops = program.graph, 0.0
    for population, cost in costs.items():
        (into,) = graph.arriving(population)
        (outof,) = [p for p in graph.projections if p.source == population]
        ops = sum(
            (traces[f"{p.source}.s"].sum((0, 1)) * reach).sum()
            for p, reach in ((into, (graph.weight(into) != 0).sum(0)), (outof, _stored(graph, outof)))
        )
        assert cost.syn_ops == pytest.approx(ops / len(images), abs=0.01)
        assert cost.neurons == graph.population(population).size
        pairs_ops += cost.syn_ops
    total = count(program, exact.run(graph, images.pixels, measure=True)).total("syn_ops") / len(images)
    assert sum(c.share for c in costs.values()) == pytest.approx(pairs_ops / (total - pairs_ops), rel=1e-4)


def _stored(graph: Any, projection: Any) -> np.ndarray:
    """Synapses that each sender has, zeros included: all neurons, or the channels at its position."""
    weight = graph.synapses(projection).weight
    return np.full(graph.synapses(projection).shape[1], weight.shape[0])


@pytest.mark.lava
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (2, 2)])
def test_pairs_at_the_border_of_an_image(kernel: int, stride: int) -> None:
    """Beyond the image nothing spikes: a pair there has one sender or none, and is silent on Lava too."""
    torch.manual_seed(0)
    pairs = field_pairs(2, kernel, 12, 0)
    net = nn.Sequential(
        ConvDLIF(2, 3, kernel, pairs, stride, 1, vth=0.4),
        nn.Flatten(),
        nn.Linear(3 * 16 if stride == 2 else 3 * 36, 4),
        LIF(vth=0.3),
    )
    with torch.no_grad():
        net[0].synapses.k.normal_(0, 0.5)
    graph = to_graph(net, Encoding("given", levels=1), 5, (2, 6, 6))
    x = (np.random.default_rng(1).random((4, 5, 72)) < 0.5).astype(np.int8)
    program = compile_graph(graph, x, np.zeros(4, np.int64))
    fan = np.diff(program.graph.synapses(program.graph.arriving("pairs1")[0]).start)
    assert {1, 2} <= set(fan.tolist()) <= {0, 1, 2}
    mine = exact.run(program.graph, x, record=True)
    assert mine.traces["pairs1.s"].any() and not mine.traces["pairs1.s"][:, :, fan < 2].any()
    found = compare(program.graph, mine, lava.run(program.graph, x, record=True))
    assert found.equal, found.first


def test_integers_behind_payloads_stay_as_they_are() -> None:
    weight = np.array([[2.0, 4.0], [6.0, -2.0]])
    for delay in (0, np.array([0, 1])):
        graph = Graph(
            (Population("input", 2, Source()), Population("output", 2, Lif(1.0, 0.5, 40.0))),
            (Projection("w", "input", "output", Dense(weight), delay=delay),),
            Encoding("direct", levels=255),
            "output",
            4,
        )
        program = compile_graph(graph, np.array([[200, 100]], np.uint8), np.zeros(1, np.int64))
        synapses = program.graph.synapses(program.graph.projection("w"))
        assert np.array_equal(synapses.weight, weight) and synapses.grid.exponent == 0


def test_several_delays_behind_payloads_compile() -> None:
    random = np.random.default_rng(0)
    graph = Graph(
        (Population("input", 30, Source()), Population("output", 3, Lif(1.0, 0.5, 1.0))),
        (Projection("w", "input", "output", Dense(random.normal(0, 0.01, (3, 30))), delay=np.arange(30) % 2),),
        Encoding("direct", levels=255),
        "output",
        4,
    )
    program = compile_graph(graph, random.integers(0, 256, (5, 30)).astype(np.uint8), np.zeros(5, np.int64))
    assert program.graph.synapses(program.graph.projection("w")).grid.exponent == 0


def test_operations_add_up(trained: dict[str, tuple[Trainer, Images, Path]]) -> None:
    program, images = program_of(trained, "events")
    result = exact.run(program.graph, images.pixels, measure=True)
    each = operations(program.graph, result.by_neuron)
    assert sum(each.values()) == count(program, result).total("syn_ops")


def test_without_their_coefficients_pairs_say_nothing(trained: dict[str, tuple[Trainer, Images, Path]]) -> None:
    trainer, images, _ = trained["events"]
    before = [p.k.detach().clone() for p in trainer.net.synapses]
    with silenced(trainer.net):
        assert all(not p.k.any() for p in trainer.net.synapses)
        trainer.evaluate(images)
    assert all(torch.equal(p.k, k) for p, k in zip(trainer.net.synapses, before, strict=True))
    assert all(k.any() for k in before)


def test_sparsity_is_of_unordered_pairs() -> None:
    entries = {"data": {"name": "digits"}, "network": {"neuron": "dlif", "hidden": [20]}}
    for sparsity, numbers in ((0.0, [2016, 190]), (0.9, [202, 19]), (1.0, [0, 0])):
        config = parse({**entries, "spiking": {"sparsity": sparsity}}, "here")
        assert pair_numbers(config, planned(config, (8, 8), 10)) == numbers
    bare = {**CONVOLUTION, "spiking": {k: v for k, v in CONVOLUTION["spiking"].items() if k != "pairs"}}
    pixel = run(bare, spiking={"sparsity": 0.5})
    kernel = run(bare, spiking={"sparsity": 0.5, "pair_field": "kernel"})
    assert pair_numbers(pixel, planned(pixel, (3, 32, 32), 10))[:2] == [0, 3]
    assert pair_numbers(kernel, planned(kernel, (3, 32, 32), 10))[:2] == [0, 315]


def test_the_widened_convolutions_have_the_next_number_of_parameters() -> None:
    config = run(CONVOLUTION)
    wide = widened(config, (3, 32, 32), 10)
    numbers = []
    for other in (config, wide):
        numbers.append(sum(p.numel() for p in Trainer(other, coloured(), seed=0).net.parameters()))
    first = str(wide.network.hidden[0])
    less = architecture.widened(config.network.hidden, int(first[: first.index("c")]) - 1)
    assert wide.network.neuron == "lif" and first.endswith("c3s2")
    narrower = Trainer(config.with_lif(less), coloured(), seed=0).net
    assert sum(p.numel() for p in narrower.parameters()) < numbers[0] <= numbers[1]


def test_moved_samples_move_with_all_their_channels_and_steps() -> None:
    from lavasnn.learning.trainer import augmented

    random = torch.Generator().manual_seed(0)
    plane = torch.randint(0, 255, (6, 1, 4, 5), generator=random, dtype=torch.uint8)
    several = plane.expand(-1, 3, -1, -1).reshape(6, 60)
    one = augmented(plane.reshape(6, 20), (4, 5), 1, True, torch.Generator().manual_seed(1))
    assert torch.equal(
        augmented(several, (3, 4, 5), 1, True, torch.Generator().manual_seed(1)).view(6, 3, 20), one[:, None].expand(-1, 3, -1)
    )
    assert torch.equal(
        augmented(several.view(6, 3, 20), (4, 5), 1, True, torch.Generator().manual_seed(1)), one[:, None].expand(-1, 3, -1)
    )


@pytest.mark.parametrize(
    ("entries", "changes", "message"),
    [
        (
            EVENTS,
            {"spiking": {"code": "bernoulli"}},
            "spiking.code is 'bernoulli', with data 'nmnist_small' allowed is 'events'",
        ),
        (CONVOLUTION, {"spiking": {"code": "events"}}, "spiking.code is 'events', with data 'cifar10' allowed is 'bernoulli',"),
        (
            EVENTS,
            {"network": {"neuron": "diffpc"}, "spiking": {}},
            "data.name is 'nmnist_small', events; neuron 'diffpc' takes",
        ),
        (
            CONVOLUTION,
            {"network": {"neuron": "diffpc"}, "spiking": {}},
            "network.hidden has convolutions, which neuron 'diffpc'",
        ),
        (CONVOLUTION, {"network": {"hidden": [10, "4c3"]}}, "a convolution follows images or convolutions alone"),
        (CONVOLUTION, {"network": {"hidden": ["4x3"]}}, "allowed is a number of neurons, or a convolution such as '32c3s2'"),
        (CONVOLUTION, {"spiking": {"sparsity": 1.5}}, "spiking.sparsity is 1.5"),
        (CONVOLUTION, {"spiking": {"sparsity": 0.5}}, "spiking has pairs and sparsity"),
        (
            CONVOLUTION,
            {"network": {"hidden": ["99999c99", "4c3", 3]}},
            "layer 1 has 2,940,270,597 weights and 102,398,976 neurons",
        ),
        (
            EVENTS,
            {"network": {"hidden": []}, "spiking": {"norm": True, "pairs": 3}},
            "spiking.norm is true and network.hidden is",
        ),
        (EVENTS, {"sweep": {"spiking": [{"steps": 4}]}}, "changes steps, into which events are binned once"),
        (EVENTS, {"sweep": {"spiking": [{}]}}, "which changes nothing or stands there twice"),
        (EVENTS, {"sweep": {"spiking": [{"pairs": 3}, {"pairs": 3}]}}, "which changes nothing or stands there twice"),
    ],
)
def test_what_does_not_fit_together_is_refused(entries: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    merged = {k: entries.get(k, {}) | changes.get(k, {}) for k in {**entries, **changes}}
    if merged["network"]["neuron"] == "diffpc":
        del merged["spiking"]
        merged["training"] = {}
    with pytest.raises(ConfigError, match=message):
        parse(merged, "here")


def test_a_sweep_changes_entries_of_spiking() -> None:
    base = {"network": {"neuron": "dlif", "hidden": [4]}, "spiking": {"pairs": 5}}
    config = parse({**base, "sweep": {"spiking": [{"sparsity": 0.5}]}}, "here")
    assert config.with_spiking(**config.sweep.spiking[0]).spiking.sparsity == 0.5
    again = config.with_spiking(sparsity=0.5).with_spiking(pairs=7).spiking
    assert (again.sparsity, again.pairs) == (None, 7)  # one replaces the other
    for entry, message in (
        ({"sparsty": 1}, "unknown entry sparsty"),
        ({"steps": 0}, "steps is 0"),
        ({"code": "events"}, "code is 'events'"),
    ):
        with pytest.raises(ConfigError, match=rf"here: sweep.spiking\[0\]: .*{message}"):
            parse({**base, "sweep": {"spiking": [entry]}}, "here")
    with pytest.raises(ConfigError, match=r"sweep\.spiking has entries, with neuron 'diffpc' allowed are none"):
        parse({"sweep": {"spiking": [{"steps": 3}]}}, "here")


def test_batch_norm_refuses_a_batch_of_one() -> None:
    with pytest.raises(InputError, match=r"training.batch is 12, which leaves 1 of 25 samples for the last batch; batch norm"):
        Trainer(run(CONVOLUTION), coloured(25), seed=0)


def test_a_model_file_that_lost_its_pairs_is_refused(trained: dict[str, tuple[Trainer, Images, Path]], tmp_path: Path) -> None:
    _, header, tensors = read_tensors(trained["convolution"][2], "model")
    for change, lost, message in (
        ({}, "3.pairs", "the file holds 3.k, which the network does not have"),
        ({"shape": 5}, "", "shape 5, needed are lists of positive integers"),
        ({"shape": ["a", 3, 3]}, "", "needed are lists of positive integers"),
        ({"sizes": []}, "", "needed are lists of positive integers"),
    ):
        write_tensors(tmp_path / "m", "model", header | change, {k: v for k, v in tensors.items() if k != lost})
        with pytest.raises(InputError, match=message):
            load_model(tmp_path / "m")
    assert not load_model(trained["convolution"][2]).net.training


def test_evaluation_holds_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs at all positions count, whatever the layer sends."""
    from lavasnn.learning import trainer as module

    trainer = Trainer(run(CONVOLUTION), coloured(), seed=0)
    seen: list[int] = []
    trainer.net.synapses[0].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    monkeypatch.setattr(module, "EVALUATED", 3 * 3072 * 3)
    trainer.evaluate(coloured())
    assert max(seen) * 3 * 3072 <= 3 * 3072 * 3  # images x steps x the widest layer, which is the input


def test_a_network_too_wide_for_a_core_is_refused_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.toml").write_text(
        'name = "s"\n[data]\nname = "digits"\n[network]\nneuron = "dlif"\nhidden = [128]\n[spiking]\npairs = [30, 5000]\n'
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["train", "s.toml", "--summary", "s.json", "-q"])
    assert stop.value.code == 2
    assert "s: layer 2 has 128 inputs and 5,000 pairs, a core takes 4,096 axons" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_summary_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.toml").write_text(
        'name = "s"\nseeds = [0, 1]\n[data]\nname = "digits"\nlimit = 200\n[network]\nneuron = "dlif"\nhidden = [8]\n'
        "[training]\nepochs = 1\n[spiking]\npairs = 20\n[sweep]\nspiking = [{pairs = [10, 0]}, {sparsity = 1.0}]\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["train", "s.toml", "--summary", "s.json", "-q"])
    assert stop.value.code in (0, None), capsys.readouterr().err
    results = json.loads((tmp_path / "s.json").read_text())["results"]
    assert list(results) == ["dlif", "pairs [10, 0]", "sparsity 1.0"]
    assert [results[label]["seeds"][0]["pairs"] for label in results] == [[20, 20], [10], []]
    rows = {label: found["seeds"] for label, found in results.items()}
    for row in [*rows["dlif"], *rows["pairs [10, 0]"]]:
        assert 0 < row["syn_ops_of_pairs_per_sample"] < row["syn_ops_per_sample"]
        assert 0 <= row["test_float_without_pairs"] <= 1
    assert "test_float_without_pairs" not in rows["sparsity 1.0"][0]
    assert [results[label].get("changes") for label in results] == [None, {"pairs": [10, 0]}, {"sparsity": 1.0}]
    table = sweep(tmp_path / "s.json").splitlines()
    assert [line.split("|")[3].strip() for line in table[2:]] == ["40", "10", "0"]
    assert table[3].split("|")[2].strip() == f"{1 - 10 / (2016 + 28):.1%}"
    for found in rows.values():
        assert all(0 < row["dynamic_energy_uj"] < row["static_energy_uj"] for row in found)
