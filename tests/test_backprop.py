"""Backpropagation through time against a loop over single neurons; what is shown, which pairs are chosen, how runs go on."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compile.backends import exact
from lavasnn.architecture import layers
from lavasnn.cli import main
from lavasnn.cli.common import open_network
from lavasnn.config import RunConfig, parse
from lavasnn.data import Images, load
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.files import read_tensors
from lavasnn.learning import spiking as networks
from lavasnn.learning.backprop import bptt, deployed, drawn, presented
from lavasnn.learning.model import dump, load_model
from lavasnn.learning.rules import Batch
from lavasnn.learning.spiking import SpikingNet, choose_pairs, widened
from lavasnn.learning.trainer import Trainer, predict
from lavasnn.nn.dlif import PairPool
from lavasnn.report.tables import results as diffpc_table
from lavasnn.report.tables import spiking as spiking_table
from lavasnn.sections import SpikingSection, TrainingSection


@pytest.fixture(scope="module")
def digits() -> Images:
    return load("digits:train").take(300)


def config(neuron: str = "dlif", hidden: tuple[int, ...] = (20,), training: Any = None, **spiking: Any) -> RunConfig:
    entries = {
        "network": {"neuron": neuron, "hidden": list(hidden)},
        "training": {"epochs": 2, "batch": 16, "learning_rate": 3e-3, **(training or {})},
        "spiking": {"steps": 4, "pairs": 30, **spiking},
    }
    return parse(entries, "here")


def build(
    spiking: SpikingSection, sizes: tuple[int, ...], pairs: list[Tensor | None], *generator: torch.Generator
) -> SpikingNet:
    return networks.build(spiking, sizes[:1], layers(sizes[:1], sizes[1:-1], sizes[-1]), pairs, *generator)


def pair_numbers(run: RunConfig, sizes: tuple[int, ...]) -> list[int]:
    return networks.pair_numbers(run, layers(sizes[:1], sizes[1:-1], sizes[-1]))


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.net.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# The rule


def smooth(x: Tensor) -> Tensor:
    """The step whose slope the ATan surrogate is."""
    return torch.atan(math.pi * x) / math.pi + 0.5


def loss_by_hand(layers: list[dict[str, Any]], s: SpikingSection, x: Tensor, labels: list[int]) -> tuple[Tensor, Tensor]:
    """Cross-entropy and mean output spikes, one neuron and step at a time; a spike is 0 or 1 with the slope of `smooth`."""
    losses: list[Tensor] = []
    rates: list[Tensor] = []
    for sample, label in zip(x, labels, strict=True):
        spikes = [list(step) for step in sample]
        for layer in layers:
            m = len(layer["weight"])
            u, v = [torch.zeros(()).double()] * m, [torch.zeros(()).double()] * m
            sent: list[list[Tensor]] = []
            for step in spikes:
                now: list[Tensor] = []
                for o in range(m):
                    a = sum((layer["weight"][o, i] * value for i, value in enumerate(step)), start=layer["bias"][o])
                    for p, (i, j) in enumerate(layer["pairs"]):
                        a = a + layer["k"][o, p] * step[i] * step[j]
                    u[o] = u[o] * (1 - s.du) + a
                    v[o] = v[o] * (1 - s.dv) + u[o]
                    bump = smooth(v[o] - s.vth)
                    fired = float(v[o]) > s.vth
                    now.append(bump - bump.detach() + float(fired))
                    v[o] = torch.zeros(()).double() if fired else v[o]
                sent.append(now)
            spikes = sent
        mean = [sum((step[o] for step in spikes), start=torch.zeros(()).double()) / len(spikes) for o in range(len(spikes[0]))]
        rates.append(torch.stack(mean).detach())
        losses.append(torch.log(sum((torch.exp(r) for r in mean), start=torch.zeros(()).double())) - mean[label])
    return sum(losses, start=torch.zeros(()).double()) / len(losses), torch.stack(rates)


@pytest.mark.parametrize(("du", "vth"), [(1.0, 0.4), (0.5, 0.7)])
def test_gradients_are_those_of_a_loop_over_neurons(du: float, vth: float) -> None:
    random = torch.Generator().manual_seed(4)
    spiking = SpikingSection(steps=4, dv=0.25, du=du, vth=vth, bias=True)
    pairs = [torch.tensor([[0, 1], [0, 4], [2, 3]]), None]
    net = build(spiking, (5, 4, 3), pairs, random).double()
    with torch.no_grad():
        for p in net.parameters():
            p.uniform_(-0.5, 0.6, generator=random)
    x = (torch.rand(6, 4, 5, generator=random) < 0.5).double()
    labels = [0, 1, 2, 2, 1, 0]
    target = torch.eye(3).double()[labels]
    seen = bptt(net, Batch(x, target, [], []), TrainingSection())
    layers: list[dict[str, Any]] = []
    for synapses in net.synapses:
        layer: dict[str, Any] = {
            "pairs": [],
            **{n: p.detach().clone().requires_grad_() for n, p in synapses.named_parameters()},
        }
        layers.append(layer | ({"pairs": synapses.pairs.tolist()} if isinstance(synapses, PairPool) else {}))
    loss, rates = loss_by_hand(layers, spiking, x, labels)
    loss.backward()
    assert 0 < float(rates.mean()) < 1
    torch.testing.assert_close(seen.output, rates, rtol=0, atol=1e-12)
    for synapses, layer in zip(net.synapses, layers, strict=True):
        for name, p in synapses.named_parameters():
            assert float(p.grad.abs().max()) > 1e-4
            torch.testing.assert_close(p.grad, layer[name].grad, rtol=1e-9, atol=1e-12)


def test_gradients_do_not_pile_up() -> None:
    net = build(SpikingSection(), (5, 3), [None], torch.Generator().manual_seed(1))
    batch = Batch(torch.ones(2, 4, 5), torch.eye(3)[:2], [], [])
    bptt(net, batch, TrainingSection())
    first = net.synapses[0].weight.grad.clone()
    bptt(net, batch, TrainingSection())
    assert torch.equal(net.synapses[0].weight.grad, first)


def test_an_untrained_dlif_network_is_the_lif_network_of_its_seed(digits: Images) -> None:
    dlif, lif = (Trainer(config(neuron), digits, seed=3) for neuron in ("dlif", "lif"))
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (5, 4, 64))).float()
    assert torch.equal(dlif.net(x), lif.net(x))
    assert {name for name, _ in dlif.net.named_parameters()} == {"0.weight", "0.k", "2.weight", "2.k"}


# What is shown


def test_training_draws_anew_and_at_the_right_rate() -> None:
    pixels = torch.arange(17, dtype=torch.uint8).repeat(2000, 1)
    code = Encoding("bernoulli", levels=16, seed=5)
    draws = [drawn(pixels, code, 4, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].shape == (2000, 4, 17)
    assert set(draws[0].unique().tolist()) == {0.0, 1.0}
    assert not draws[0][:, :, 0].any()
    assert draws[0][:, :, 16].all()
    for pixel, rate in enumerate(draws[0].mean((0, 1)).tolist()):
        assert abs(rate - pixel / 16) <= 6 * math.sqrt(pixel / 16 * (1 - pixel / 16) / 8000)


@pytest.mark.parametrize("kind", ["latency", "direct"])
def test_other_codes_show_the_same_in_training_as_in_evaluation(digits: Images, kind: Any) -> None:
    code = Encoding(kind, levels=16)
    few = digits.pixels[:20]
    shown = drawn(torch.from_numpy(few), code, 5, torch.Generator())
    assert torch.equal(shown, presented(few, code, np.arange(20), 5))
    assert float(shown.max()) == 1.0
    expected = code.messages(few, range(20), 5) / (16 if kind == "direct" else 1)
    assert np.array_equal(shown.numpy(), expected)


def test_every_batch_is_shown_with_its_own_spikes(digits: Images) -> None:
    trainer = Trainer(config(), digits, seed=2)
    first, other, again = (trainer._prepare(torch.arange(8), 0, batch).x for batch in (0, 1, 0))
    assert first.shape == (8, 4, 64)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# Pairs


def test_pairs_of_each_layer() -> None:
    assert pair_numbers(config(pairs=30), (64, 20, 10)) == [30, 30]
    assert pair_numbers(config(pairs=[30, 0]), (64, 20, 10)) == [30, 0]
    assert pair_numbers(config(pairs=30, code="direct"), (64, 20, 10)) == [0, 30]
    assert pair_numbers(config("lif"), (64, 20, 10)) == [0, 0]
    with pytest.raises(InputError, match=r"spiking.pairs: 191 for layer 2, its 20 inputs have 190"):
        pair_numbers(config(pairs=191), (64, 20, 10))


def test_pairs_are_chosen_by_the_training_images_and_the_seed(digits: Images) -> None:
    code = Encoding("bernoulli", levels=16)
    chosen: dict[str, set[tuple[int, int]]] = {}
    for choice in ("covariance", "random", "active"):
        run = config(pair_choice=choice, pairs=100)
        first, second = choose_pairs(run, digits, code, 1)
        assert first is not None and second is not None
        again, other = choose_pairs(run, digits, code, 1)[0], choose_pairs(run, digits, code, 2)[0]
        assert again is not None and other is not None
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert (first.shape, second.shape) == ((100, 2), (100, 2))
        assert int(second.max()) < 20
        chosen[choice] = {(i, j) for i, j in first.tolist()}
    dark = set(np.flatnonzero(digits.pixels.max(0) == 0).tolist())
    assert dark
    assert any(dark & set(pair) for pair in chosen["random"])
    for choice in ("covariance", "active"):
        assert not any(dark & set(pair) for pair in chosen[choice])
    # Covariances of classes, straight from the probabilities of single spikes: E[s_i s_j] = mean of p_i p_j.
    p = digits.pixels / 16
    classes = [np.cov(p[digits.labels == c].T, bias=True) for c in range(10)]
    score = np.var(classes, axis=0)
    means = {name: np.mean([score[i, j] for i, j in pairs]) for name, pairs in chosen.items()}
    best = sorted((score[i, j] for i, j in combinations(range(64), 2)), reverse=True)[:400]
    assert means["covariance"] > 0.8 * np.mean(best) > 1.5 * means["active"] > 1.5 * means["random"]


def test_the_widened_network_has_the_next_number_of_parameters() -> None:
    def count(run: RunConfig, sizes: tuple[int, ...]) -> int:
        numbers = pair_numbers(run, sizes)
        pairs = [torch.tensor(list(combinations(range(n), 2))[:p]) if p else None for n, p in zip(sizes, numbers, strict=False)]
        return sum(p.numel() for p in build(run.spiking, sizes, pairs).parameters())

    for hidden, bias in (((20,), False), ((20,), True), ((20, 10), True)):
        run = config(hidden=hidden, bias=bias)
        wide = widened(run, (8, 8), 10)
        wanted = count(run, (64, *hidden, 10))
        w = wide.network.hidden[0]
        narrower = wide.with_lif(tuple(round(h * (w - 1) / 20) for h in hidden))
        assert wide.network.neuron == "lif"
        assert wide.network.hidden == tuple(round(h * w / 20) for h in hidden)
        assert count(narrower, (64, *narrower.network.hidden, 10)) < wanted <= count(wide, (64, *wide.network.hidden, 10))
    with pytest.raises(InputError, match=r"baseline 'lif-wide': network\.hidden is empty, so there is no layer to widen"):
        widened(config(hidden=()), (64,), 10)


# Runs


@pytest.mark.parametrize(
    ("neuron", "spiking"),
    [("lif", {}), ("dlif", {}), ("dlif", {"code": "latency", "du": 0.5, "bias": True}), ("dlif", {"code": "direct"})],
)
def test_networks_learn_digits(digits: Images, neuron: str, spiking: dict[str, Any]) -> None:
    run = config(neuron, training={"epochs": 8, "batch": 30, "learning_rate": 1e-2}, **spiking)
    trainer = Trainer(run, digits, digits, seed=0)
    rates = {when: torch.zeros(0) for when in ("before", "after")}
    x = presented(digits.pixels, trainer.encoding, np.arange(300), 4)
    target = torch.from_numpy(digits.labels)
    losses: list[float] = []
    for when in rates:
        if when == "after":
            reports = trainer.run()
            assert reports[-1].validation_accuracy == trainer.evaluate(digits) > 0.6
            assert reports[-1].train_accuracy > reports[0].train_accuracy
            assert reports[-1].error_spikes == []
        with torch.no_grad():
            losses.append(float(torch.nn.functional.cross_entropy(trainer.net(x).mean(1), target)))
    assert losses[1] < losses[0] - 0.3


@pytest.mark.parametrize(
    ("neuron", "training"),
    [("dlif", {"shift": 1, "flip": True}), ("lif", {"optimizer": "sgd", "learning_rate": 0.05})],
)
def test_a_resumed_run_is_the_same_run(digits: Images, tmp_path: Path, neuron: str, training: dict[str, Any]) -> None:
    run = config(neuron, training={"batch": 12, **training})

    def stop_at_20(done: int, _: int) -> None:
        if done == 20:
            signal.raise_signal(signal.SIGINT)

    straight = Trainer(run, digits, digits.take(50), seed=4)
    straight.run()
    stopped = Trainer(run, digits, digits.take(50), seed=4)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(on_batch=stop_at_20, checkpoint=tmp_path / "c")
    resumed = Trainer(run, digits, digits.take(50), seed=4)
    with torch.no_grad():
        for value in resumed.net.state_dict().values():
            value.zero_()
    resumed.resume(tmp_path / "c")
    resumed.run()
    assert same(weights(straight), weights(resumed))
    assert [replace(r, seconds=0.0) for r in straight.progress.history] == [
        replace(r, seconds=0.0) for r in resumed.progress.history
    ]
    with pytest.raises(InputError, match="a checkpoint of another run, its config differs from this one's"):
        Trainer(config(neuron, training={"batch": 12, **training}, steps=5), digits, seed=4).resume(tmp_path / "c")


def test_the_seed_decides_everything(digits: Images) -> None:
    trainers = [Trainer(config(training={"epochs": 1}), digits, seed=seed) for seed in (1, 1, 2)]
    starts = [weights(t) for t in trainers]
    for trainer in trainers:
        trainer.run()
    ends = [weights(t) for t in trainers]
    assert same(starts[0], starts[1])
    assert same(ends[0], ends[1])
    for name in ("0.weight", "0.pairs"):
        assert not torch.equal(starts[0][name], starts[2][name])
    assert not torch.equal(starts[0]["0.k"], ends[0]["0.k"])
    assert torch.equal(starts[0]["0.pairs"], ends[0]["0.pairs"])
    assert [t.encoding.seed for t in trainers] == [1, 1, 2]


@pytest.mark.parametrize(("neuron", "spiking"), [("lif", {"bias": True}), ("dlif", {"pairs": [30, 0]})])
def test_models_are_read_as_written(digits: Images, tmp_path: Path, neuron: str, spiking: dict[str, Any]) -> None:
    trainer = Trainer(config(neuron, training={"epochs": 1}, **spiking), digits, seed=3)
    trainer.run()
    trainer.save_model(tmp_path / "m")
    model = load_model(tmp_path / "m")
    assert isinstance(model.net, SpikingNet)
    assert same(weights(trainer), model.net.state_dict())
    assert (model.seed, dump(model.config), model.history) == (3, dump(trainer.config), trainer.progress.history)
    assert model.encoding == Encoding("bernoulli", 0, 16, 3)
    assert float(np.mean(predict(model.net, digits, model.encoding, model.config) == digits.labels)) == trainer.evaluate(digits)
    again = Trainer(trainer.config, digits, seed=3)
    assert again.difference(tmp_path / "m") is None
    again.adopt(tmp_path / "m")
    assert same(weights(again), weights(trainer))
    assert Trainer(config(neuron), digits, seed=3).difference(tmp_path / "m") == "config"
    assert Trainer(trainer.config, digits, seed=4).difference(tmp_path / "m") == "seed"


def test_configurations_of_diffpc_are_written_as_before() -> None:
    entries = dump(RunConfig())
    assert "spiking" not in entries
    assert entries["network"] == {"hidden": [400]}
    assert "timing" in entries
    spiking = dump(config())
    assert "timing" not in spiking
    assert parse(spiking, "here") == config()


# To the chip


@pytest.mark.parametrize(
    ("neuron", "spiking"),
    [
        ("lif", {"bias": True}),
        ("lif", {"code": "direct"}),
        ("dlif", {}),
        ("dlif", {"code": "latency"}),
        ("dlif", {"code": "direct"}),
    ],
)
def test_the_exported_network_answers_as_torch_does(
    digits: Images, tmp_path: Path, neuron: str, spiking: dict[str, Any]
) -> None:
    trainer = Trainer(config(neuron, training={"epochs": 3}, **spiking), digits, seed=1)
    trainer.run()
    trainer.save_model(tmp_path / "m")
    network = open_network(tmp_path / "m")
    assert network.trained_on == "digits"
    result = exact.run(network.as_precision("float"), digits.pixels, digits.labels, record=True)
    x = presented(digits.pixels, trainer.encoding, np.arange(300), 4)
    with torch.no_grad():
        double = trainer.net.double()(x.double()).sum(1).numpy()
    assert np.array_equal(result.outputs, double)
    assert result.accuracy == pytest.approx(trainer.net.float() and np.mean(double.argmax(1) == digits.labels))
    assert 0 < double.mean() < 4


def test_payloads_are_taken_as_integers_by_the_first_weights() -> None:
    net = build(SpikingSection(bias=True, code="direct"), (5, 4, 3), [None, None], torch.Generator().manual_seed(0))
    code = Encoding("direct", levels=255)
    pixels = np.array([[0, 1, 100, 254, 255]], np.uint8)
    integers = torch.from_numpy(code.messages(pixels, [0], 3)).float()
    shown = presented(pixels, code, np.arange(1), 3)
    assert torch.equal(shown, integers / 256)
    assert torch.equal(deployed(net, code)[0](integers), net[0](shown))
    assert deployed(net, Encoding("latency")) is net


CONFIG = """name = "tiny"
seeds = [0, 1]
{baselines}
[data]
name = "digits"
limit = 400
[network]
neuron = "{neuron}"
hidden = [12]
[training]
epochs = 2
batch = 32
learning_rate = 5e-3
[spiking]
pairs = 20
"""


def done(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments), "--json", "-q"])
    found = capsys.readouterr()
    assert stop.value.code in (0, None), found.err
    return json.loads(found.out)


@pytest.mark.parametrize("neuron", ["lif", "dlif"])
def test_from_the_command_line_to_a_program(capsys: pytest.CaptureFixture[str], tmp_path: Path, neuron: str) -> None:
    (tmp_path / "c.toml").write_text(CONFIG.format(neuron=neuron, baselines=""))
    trained = done(capsys, "train", tmp_path / "c.toml", "-o", tmp_path / "m")
    assert (trained["neuron"], trained["method"], trained["form"]) == (neuron, "bptt", None)
    assert trained["bits_per_neuron"]["error_phase"] is None
    exported = done(capsys, "export", tmp_path / "m", "-o", tmp_path / "g")
    assert exported["populations"]["output"] == 10
    assert exported["weights"] >= 64 * 12 + 12 * 10
    assert done(capsys, "run", tmp_path / "m")["accuracy"] == pytest.approx(trained["accuracy"]["test"], abs=0.006)
    done(capsys, "compile", tmp_path / "m", "-o", tmp_path / "p")
    ran = done(capsys, "run", tmp_path / "p")
    assert (ran["precision"], ran["data"], ran["samples"]) == ("fixed", "digits:test", 360)
    assert abs(ran["accuracy"] - trained["accuracy"]["test"]) < 0.1
    assert done(capsys, "bits", tmp_path / "p", "--samples", 20)["error_phase"] is None
    cost = done(capsys, "cost", tmp_path / "p", "--samples", 20)
    assert cost["counts"]["per_sample"]["syn_ops"] > 0


def test_a_summary_compares_with_lif_and_with_wider_lif(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(CONFIG.format(neuron="dlif", baselines='baselines = ["lif", "lif-wide"]'))
    summary = done(capsys, "train", "s.toml", "--summary", "summaries/s.json")
    assert list(summary["results"]) == ["dlif", "lif", "lif-wide"]
    rows = {label: found["seeds"] for label, found in summary["results"].items()}
    for label, found in rows.items():
        assert [row["seed"] for row in found] == [0, 1]
        mean = summary["results"][label]["mean"]
        for key in ("test_float", "test_int8", "syn_ops_per_sample"):
            assert mean[key] == pytest.approx((found[0][key] + found[1][key]) / 2, abs=1e-6)
        _, _, tensors = read_tensors(tmp_path / "runs" / f"tiny-{label}-s1.safetensors")
        assert found[1]["parameters"] == sum(v.size for name, v in tensors.items() if not name.endswith("pairs"))
    assert [rows[label][0]["parameters"] for label in rows] == [12 * 84 + 10 * 32, 12 * 64 + 10 * 12, 18 * 74]
    assert [rows[label][0]["hidden"] for label in rows] == [[12], [12], [18]]
    assert rows["lif"][0]["neurons"] == 22
    assert rows["dlif"][0]["neurons"] >= 22 + 2 * 20
    assert rows["dlif"][0]["latency_steps"] > rows["lif"][0]["latency_steps"]
    table = spiking_table(tmp_path / "summaries").splitlines()
    assert len(table) == 5  # and a configuration without a summary was not run
    (tmp_path / "other.toml").write_text(CONFIG.format(neuron="lif", baselines=""))
    assert spiking_table(tmp_path / "summaries").splitlines()[2].startswith("| `other` | digits 64-12-10 | lif | *not run* |")
    lif = summary["results"]["lif"]
    spread = 100 * lif["deviation"]["test_int8"]
    assert table[3].startswith("| `s`, 2 epochs, 2 seeds | digits 64-12-10 | lif | 888 | ")
    assert f"| {100 * lif['mean']['test_int8']:.2f} ± {spread:.2f} | {lif['mean']['syn_ops_per_sample']:,.0f} |  |" in table[3]
    assert len(diffpc_table(tmp_path / "summaries").splitlines()) == 2  # its head alone
    assert done(capsys, "train", "s.toml", "--summary", "t.json")["results"] == summary["results"]  # taken over


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments), "-q"])
    found = capsys.readouterr()
    assert (stop.value.code, found.out, found.err.count("\n")) == (2, "", 1)
    return found.err


def test_what_a_network_cannot_have_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(CONFIG.format(neuron="dlif", baselines="").replace("pairs = 20", "pairs = 67"))
    err = refused(capsys, "train", path, "-o", tmp_path / "m")
    assert err == "error: spiking.pairs: 67 for layer 2, its 12 inputs have 66\n"
    err = refused(capsys, "train", path, "-o", tmp_path / "m", "--method", "backprop")
    assert err == "error: training.method is 'backprop', with neuron 'dlif' allowed is 'bptt'\n"
    path.write_text(
        CONFIG.format(neuron="dlif", baselines="").replace("20", '2000\npair_choice = "active"').replace("[12]", "[80]")
    )
    assert "active_pairs: 2000 pairs of " in refused(capsys, "train", path, "-o", tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.lava
@pytest.mark.parametrize(("code", "pairs"), [("bernoulli", "20"), ("latency", "[20, 0]"), ("direct", "[0, 20]")])
def test_lava_runs_trained_networks(capsys: pytest.CaptureFixture[str], tmp_path: Path, code: str, pairs: str) -> None:
    text = CONFIG.format(neuron="dlif", baselines="").replace("pairs = 20", f'pairs = {pairs}\ncode = "{code}"')
    (tmp_path / "c.toml").write_text(text)
    done(capsys, "train", tmp_path / "c.toml", "-o", tmp_path / "m")
    done(capsys, "compile", tmp_path / "m", "-o", tmp_path / "p")
    values = done(capsys, "verify", tmp_path / "p", "--reference", tmp_path / "m", "--samples", 5)
    assert values["mismatches"] == 0
    assert values["populations"] == (5 if code == "bernoulli" else 4)
    assert values["agreement"]["predictions"] >= 0.6
