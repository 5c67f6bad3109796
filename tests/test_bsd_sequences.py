"""BSD on sequences against appendix C written out as loops, autograd with detach, and counts by hand."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error
from torch import Tensor
from torch.nn import functional as F

from lavasnn.cli.common import open_network
from lavasnn.data import sequences
from lavasnn.errors import ConfigError, DataError, InputError, RangeError
from lavasnn.learning.bsd import local_gradients, pair_gradients
from lavasnn.learning.bsd_rnn import bptt, bsd, readout
from lavasnn.learning.sequences import SequenceLoop, SequenceTask, dump, load_task, parse, predict, references, scores
from lavasnn.nn.bsd_rnn import BSDRNN
from lavasnn.sections import BSDSection

ROOT = Path(__file__).resolve().parents[1]
LOSSES = [(loss, negatives) for loss in ("reco", "infonce", "mse") for negatives in ("literal", "other_class")]
TYPE1, TYPE2 = ("W_ih", "W_hh", "W_ho"), ("Theta_oh", "Theta_hh", "Theta_hi")


# The network


def network(seed: int = 0, inputs: int = 5, outputs: int = 5) -> BSDRNN:
    net = BSDRNN(inputs, 9, outputs, 3, 2.0, (0.2, 0.1), torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.5).add_(0.03)
    return net


def characters(seed: int = 0, positions: int = 6, samples: int = 8) -> tuple[Tensor, Tensor]:
    """One-hot inputs and targets, shape (position, sample, 5)."""
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.eye(5).double()[torch.randint(5, (positions, samples), generator=random)] for _ in range(2))  # type: ignore[return-value]


def numbers(seed: int = 0, outputs: int = 1) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(6, 8, size, generator=random).double() for size in (5, outputs))  # type: ignore[return-value]


def by_hand(outside: Tensor, w_in: Tensor, w: Tensor, threshold: float, steps: int) -> tuple[Tensor, Tensor]:
    """Equation 11 for one sample, a position and a step at a time: h (position, neuron), spikes (position, step, neuron)."""
    before = torch.zeros(steps, len(w)).double()
    h, trains = [], []
    for x in outside:
        U, heard, sent = torch.zeros(len(w)).double(), [], []
        for t in range(steps):
            I = w_in @ x + w @ before[t]
            H = U + (I - U) / 2.0
            s = (H >= threshold).double()
            U = H * (1 - s)
            heard.append(I)
            sent.append(s)
        h.append(torch.stack(heard).mean(0))
        before = torch.stack(sent)
        trains.append(before)
    return torch.stack(h), torch.stack(trains)


def test_both_types_are_appendix_c() -> None:
    net, (x, y) = network(), numbers(outputs=5)
    up, down = net.perceive(x, every=True), net.recall(y, every=True)
    assert up.trains is not None and down.trains is not None
    for k in range(8):
        h, s = by_hand(x[:, k], net.W_ih, net.W_hh, 0.2, 3)
        g, z = by_hand(y[:, k].flip(0), net.Theta_oh, net.Theta_hh, 0.1, 3)  # the last position is the first one recalled
        for found, a, b, w in ((up, h, s, net.W_ho), (down, g.flip(0), z.flip(0), net.Theta_hi)):
            torch.testing.assert_close(found.h[:, k], a, rtol=0, atol=1e-12)
            assert torch.equal(found.trains[:, :, k], b)
            torch.testing.assert_close(found.r[:, k], b.mean(1), rtol=0, atol=1e-12)
            torch.testing.assert_close(found.out[:, k], torch.stack([w @ v for v in a]), rtol=0, atol=1e-12)
    assert all(0.05 < found.r.mean() < 0.95 for found in (up, down))


def test_positions_reach_each_other_by_spikes_in_one_direction() -> None:
    """What comes later leaves perception alone, what came earlier recall."""
    net, (x, y) = network(), numbers(outputs=5)
    for run, shown, kept, changed in ((net.perceive, x, slice(0, 3), slice(4, 6)), (net.recall, y, slice(3, 6), slice(0, 2))):
        other = shown.clone()
        other[changed] += 1.0
        assert torch.equal(run(shown).h[kept], run(other).h[kept])
        moved = shown.clone()
        moved[kept] += 1.0
        assert not torch.equal(run(shown).h[changed], run(moved).h[changed])


def test_a_network_needs_one_of_each() -> None:
    with pytest.raises(InputError, match="BSDRNN: 3 inputs, 0 hidden neurons, 1 outputs and 4 steps; allowed is 1 or more"):
        BSDRNN(3, 0, 1)
    with pytest.raises(RangeError, match="tau = 0"):
        BSDRNN(3, 4, 1, tau=0.5)


# Local gradients


def local_loss(v: Tensor, w: Tensor, kinds: Tensor, section: BSDSection) -> Tensor:
    """Equations 6 and 7 (or InfoNCE, or the squared distance) of one position: v learns, w is compared with, row by row."""
    if section.loss == "mse":
        return ((v - w) ** 2).sum()
    total = v.new_zeros(())
    for k in range(len(v)):
        cosines = torch.stack([v[k] @ w[j] / (v[k].norm() * w[j].norm()) for j in range(len(w))])
        others = [j for j in range(len(w)) if j != k and (section.negatives == "literal" or kinds[j] != kinds[k])]
        if section.loss == "reco":
            total = total + (1 - cosines[k]) ** 2 + section.penalty * sum(cosines[j].clamp(min=0) ** 2 for j in others)
        else:
            total = total - torch.log_softmax(cosines[[k, *others]] / section.temperature, 0)[0]
    return total


@pytest.mark.parametrize(("loss", "negatives"), LOSSES)
def test_gradients_are_those_of_autograd_that_stops_at_every_dendrite(loss: Any, negatives: Any) -> None:
    """C2: within a position, from its voltage to its own synapses; spikes, and so time and layers, are constants."""
    section = BSDSection(loss=loss, negatives=negatives, penalty=0.6, temperature=0.2)
    net, free, (x, y) = network(3), network(3), characters(4)
    bsd(net, x, y, section, characters=True)
    up, down, kinds = net.perceive(x), net.recall(y), y.argmax(-1)
    nothing = torch.zeros_like(up.r[0])
    for i in range(len(x)):
        before = up.r[i - 1] if i else nothing
        after = down.r[i + 1] if i + 1 < len(x) else nothing
        h = x[i] @ free.W_ih.T + before @ free.W_hh.T
        g = y[i] @ free.Theta_oh.T + after @ free.Theta_hh.T
        local_loss(h, g.detach(), kinds[i], section).backward()
        local_loss(g, h.detach(), kinds[i], section).backward()
        F.cross_entropy(h.detach() @ free.W_ho.T, kinds[i], reduction="sum").backward()
        F.cross_entropy(g.detach() @ free.Theta_hi.T, x[i].argmax(-1), reduction="sum").backward()
    for name in (*TYPE1, *TYPE2):
        mine, wanted = getattr(net, name).grad, getattr(free, name).grad
        assert float(wanted.abs().max()) > 1e-3
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-11)
    assert not any(t.requires_grad for t in (up.h, up.r, up.out, down.h, down.r, down.out))


def test_numbers_learn_by_squared_errors() -> None:
    net, (x, y) = network(1, outputs=1), numbers(2)
    out = bsd(net, x, y, BSDSection(), characters=False)
    up, down = net.perceive(x), net.recall(y)
    assert torch.equal(out, up.out)
    for h, target, weight in ((up.h, y, net.W_ho), (down.h, x, net.Theta_hi)):
        free = weight.detach().clone().requires_grad_()
        ((h @ free.T - target) ** 2).sum().backward()
        torch.testing.assert_close(weight.grad, free.grad, rtol=1e-10, atol=1e-12)


def test_reco_is_equation_8_term_by_term() -> None:
    random, lam = torch.Generator().manual_seed(5), 0.6
    v, u = (torch.randn(2, 7, 5, generator=random).double() for _ in range(2))
    dv, du = pair_gradients(v, u, BSDSection(penalty=lam))
    for mine, theirs, found in ((v, u, dv), (u, v, du)):
        for i in range(2):
            for k in range(7):
                n, total = mine[i, k].norm(), torch.zeros(5).double()
                for j in range(7):
                    w = theirs[i, j]
                    C = mine[i, k] @ w / (n * w.norm())
                    slope = (w / w.norm() - C * mine[i, k] / n) / n
                    total += -2 * (1 - C) * slope if j == k else 2 * lam * max(0.0, float(C)) * slope
                torch.testing.assert_close(found[i, k], total, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("loss", ["reco", "infonce", "mse"])
def test_pairs_are_classes_of_one_sample_each(loss: Any) -> None:
    random, section = torch.Generator().manual_seed(6), BSDSection(loss=loss)
    v, u = (torch.randn(4, 7, 5, generator=random).double() for _ in range(2))
    found = pair_gradients(v, u, section)
    for i in range(4):
        for mine, wanted in zip(found, local_gradients(v[i], u[i], torch.arange(7), section), strict=True):
            torch.testing.assert_close(mine[i], wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("loss", "negatives"), LOSSES)
def test_what_is_silent_learns_nothing(loss: Any, negatives: Any) -> None:
    v, section = torch.zeros(2, 4, 5), BSDSection(loss=loss, negatives=negatives)
    for gradient in pair_gradients(v, v.clone(), section, torch.tensor([0, 1, 1, 0])):
        assert bool(torch.isfinite(gradient).all()) and float(gradient.abs().max()) == 0.0


# The other criteria, and the methods that are compared


def test_weights_of_the_two_types_are_their_own() -> None:
    """C1: neither is the other or its transpose, at the start or by the update."""
    net, (x, y) = network(), characters()
    bsd(net, x, y, BSDSection(), characters=True)
    for a, b in (("W_ih", "Theta_hi"), ("W_hh", "Theta_hh"), ("W_ho", "Theta_oh")):
        w, theta = getattr(net, a), getattr(net, b)
        for first, second in ((w, theta), (w.grad, theta.grad)):
            assert first.shape == second.T.shape and not torch.allclose(first, second.T)
            assert first.shape != second.shape or not torch.allclose(first, second)


def test_neurons_exchange_zeros_and_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """C4, C5: whatever either type sends, in training, is 0 or 1; C3: both types run once, and neither waits for the other."""
    from lavasnn.nn import bsd_rnn as module

    sent: list[Tensor] = []
    real = module.fired
    monkeypatch.setattr(module, "fired", lambda *a: sent.append(real(*a)) or sent[-1])
    net, (x, y) = network(2), characters()
    bsd(net, x, y, BSDSection(), characters=True)
    assert len(sent) == 2 * len(x)
    assert all(set(s.unique().tolist()) <= {0.0, 1.0} for s in sent) and any(s.any() for s in sent)


def test_backpropagation_goes_through_time_and_spikes() -> None:
    """Against a network that holds H and U, with arctan's own derivative in place of the step's."""
    net, free, (x, y) = network(7), network(7), characters(8)
    seen = bptt(net, x, y, characters=True)
    before, total = torch.zeros(3, 8, 9).double(), torch.zeros(()).double()
    for i in range(len(x)):
        U, heard, sent = torch.zeros(8, 9).double(), [], []
        for t in range(3):
            I = x[i] @ free.W_ih.T + before[t] @ free.W_hh.T
            H = U + (I - U) / 2.0
            smooth = torch.arctan(torch.pi * (H - 0.2)) / torch.pi
            s = smooth + ((H >= 0.2).double() - smooth).detach()
            U = H * (1 - s.detach())
            heard.append(I)
            sent.append(s)
        before = torch.stack(sent)
        out = torch.stack(heard).mean(0) @ free.W_ho.T
        torch.testing.assert_close(seen[i], out, rtol=0, atol=1e-12)
        total = total + F.cross_entropy(out, y[i].argmax(-1), reduction="sum")
    total.backward()
    for name in TYPE1:
        torch.testing.assert_close(getattr(net, name).grad, getattr(free, name).grad, rtol=1e-9, atol=1e-11)
    assert all(getattr(net, name).grad is None for name in TYPE2)
    torch.testing.assert_close(seen, net.perceive(x).out, rtol=0, atol=1e-12)


def test_a_readout_leaves_the_hidden_layer_alone() -> None:
    net, other, (x, y) = network(), network(), characters()
    readout(net, x, y, characters=True)
    bsd(other, x, y, BSDSection(), characters=True)
    assert torch.equal(net.W_ho.grad, other.W_ho.grad)
    assert all(p.grad is None for name, p in net.named_parameters() if name != "W_ho")


# Data


@given(st.text("ab \n\t", min_size=12, max_size=60).map(lambda s: "ab" + s + "ba" * 8))
def test_texts_are_split_in_time(words: str) -> None:
    found = sequences.text("t", words, 0.25)
    plain = re.sub(r"\s+", " ", words)
    n = len(plain) - round(0.25 * len(plain))
    for part, wanted in ((found.train, plain[:n]), (found.test, plain[n:])):
        assert "".join(found.symbols[i] for i in part.x) == wanted[:-1]
        assert "".join(found.symbols[i] for i in part.y) == wanted[1:]
    assert found.sizes == (len(set(plain)),) * 2


def table(rows: int = 50, columns: int = 4) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(rows, columns)).cumsum(0) * [1, 10, 0.1, 3][:columns] + 7
    values[:, 0] = 2.0  # says nothing
    return values


@pytest.mark.parametrize("own", [True, False])
def test_series_are_scaled_by_their_training_part(own: bool) -> None:
    values = table()
    found = sequences.series("s", values, ("a", "b", "c", "d"), 0.2, own=own)
    mean, spread = values[:40, 1:].mean(0), values[:40, 1:].std(0)
    scaled = np.column_stack([np.zeros(50), (values[:, 1:] - mean) / spread])
    inputs = scaled if own else scaled[:, :3]
    for part, rows in ((found.train, range(40)), (found.test, range(40, 50))):
        np.testing.assert_allclose(part.x, inputs[rows][:-1], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(part.y[:, 0], scaled[rows, 3][1:], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(part.now, scaled[rows, 3][:-1], rtol=1e-5, atol=1e-6)
    later = values.copy()
    later[40:] *= 3.0
    again = sequences.series("s", later, ("a", "b", "c", "d"), 0.2, own=own)
    assert np.array_equal(again.train.x, found.train.x) and np.array_equal(again.train.y, found.train.y)
    assert again.checksum != found.checksum


def test_holding_out_never_reads_the_test_part() -> None:
    found = sequences.series("s", table(), ("a", "b", "c", "d"), 0.2)
    aside = found.held_out(0.25)
    n = len(aside.train)  # and a pair between them whose target is the first input held out
    assert n + 1 + len(aside.test) == len(found.train)
    for of, whole in ((lambda part: part.x, found.train.x), (lambda part: part.y, found.train.y)):
        assert np.array_equal(of(aside.train), whole[:n]) and np.array_equal(of(aside.test), whole[n + 1 :])
    with pytest.raises(DataError, match=r"s: 0\.999 of 39 training steps held out leaves none on one side"):
        found.held_out(0.999)


def test_what_is_no_sequence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sequence 'poems' is unknown, allowed are tinyshakespeare, los_speed"):
        sequences.load("poems", tmp_path)
    with pytest.raises(DataError, match=r"etth1: a share of 1\.5 for testing; allowed is above 0 and below 1"):
        sequences.load("etth1", tmp_path, test=1.5)
    with pytest.raises(DataError, match=r"los_speed: no file .*los_speed\.npz"):
        sequences.load("los_speed", tmp_path)
    (tmp_path / "timeseries").mkdir()
    (tmp_path / "timeseries" / "los_speed.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="los_speed: cannot be read from"):
        sequences.load("los_speed", tmp_path)
    (tmp_path / "timeseries" / "ETTh1.csv").write_text("date,a,b\n1,2,3\n2,x,4\n")
    with pytest.raises(DataError, match="etth1: cannot be read from"):
        sequences.load("etth1", tmp_path)
    for values, own, message in (
        (np.full((9, 2), np.nan), True, r"an array of shape \(9, 2\); needed is \(time, column\) of finite numbers"),
        (np.ones((9, 1)), False, "1 columns; the target is the last one, so none is left"),
        (np.ones((3, 2)), True, "3 steps, of which 1 are for testing; each part needs 2"),
    ):
        with pytest.raises(DataError, match=message):
            sequences.series("s", values, (), 0.25, own=own)


@pytest.mark.data("timeseries")
def test_published_series(stored: Path) -> None:
    for name, own, rows, sizes in (
        ("los_speed", False, 2016, (206, 1)),
        ("exchange_rate", True, 7588, (8, 1)),
        ("etth1", True, 17420, (7, 1)),
    ):
        found = sequences.load(name, stored.parent, test=0.2, own=own)
        assert found.sizes == sizes and len(found.train) + len(found.test) == rows - 2
        np.testing.assert_allclose(found.train.x.mean(0), 0, atol=2e-2)
    assert found.columns[-1] == "OT"


@pytest.mark.data("tinyshakespeare.txt")
def test_published_text(stored: Path) -> None:
    found = sequences.load("tinyshakespeare", stored.parent)
    assert found.sizes == (64, 64) and "\n" not in found.symbols
    assert "".join(found.symbols[i] for i in found.train.x[:32]) == "First Citizen: Before we proceed"


# What costs no training


def test_guesses_by_context_are_counts() -> None:
    words = "".join(np.random.default_rng(1).choice(list("abc "), 400)) + "abcabd"
    found = sequences.text("t", re.sub(r" +", " ", words), 0.25)
    train, test = ("".join(found.symbols[i] for i in part.x) for part in (found.train, found.test))
    follow = train[1:] + found.symbols[found.train.y[-1]]

    def best(counts: Counter[str]) -> str:
        return min(counts, key=lambda c: (-counts[c], c))

    for context in (0, 1, 2):
        for t, guess in enumerate(sequences.by_context(found, context)):
            for length in range(min(context, t + 1), -1, -1):
                seen = test[t + 1 - length : t + 1]
                places = [i for i in range(len(train)) if not length or train[max(0, i + 1 - length) : i + 1] == seen]
                counts = Counter(follow[i] for i in places)
                if counts:
                    assert found.symbols[guess] == best(counts)
                    break


def test_references_of_series() -> None:
    found = sequences.series("s", table(400), ("a", "b", "c", "d"), 0.25)
    n = len(found.test) // 8 * 8
    y = found.test.y[:n].astype(np.float64)
    fit = LinearRegression().fit(found.train.x.astype(np.float64), found.train.y.astype(np.float64))
    for name, guess in (
        ("mean", np.zeros((n, 1))),
        ("no_change", found.test.x[:n, -1:]),
        ("linear", fit.predict(found.test.x[:n].astype(np.float64))),
    ):
        row = references(found, 8)[name]
        assert row["mse"] == pytest.approx(mean_squared_error(y, guess), rel=1e-4)
        assert row["mae"] == pytest.approx(mean_absolute_error(y, guess), rel=1e-4)


# Training


def config(**sections: dict[str, Any]) -> Any:
    entries = {
        "data": {"name": "tinyshakespeare"},
        "network": {"hidden": 60},
        "training": {"epochs": 20, "length": 12, "batch": 16, "learning_rate": 4e-3},
        "bsd": {"threshold": 0.1, "negatives": "other_class"},
    }
    return parse({key: {**entries.get(key, {}), **sections.get(key, {})} for key in {*entries, *sections}}, "here")


WORDS = sequences.text("aab", "aab" * 700, 0.2)
"""After an a comes an a or a b: one character of context predicts two of three, two predict all."""


@pytest.mark.parametrize("label", ["reco", "infonce", "bptt"])
def test_it_learns_what_needs_memory(label: str) -> None:
    run = config(baselines={name: {} for name in ("infonce", "bptt")})
    task = SequenceTask(run).variants()[label]
    assert references(WORDS, 12)["after_one"]["accuracy"] == pytest.approx(2 / 3, abs=0.02)
    loop = task.loop(WORDS, 0, "cpu")
    loop.run()
    assert task.measure(loop, WORDS)["accuracy"] > 0.8  # the first position of a window has one character of context


def test_runs_repeat_themselves_and_go_on_from_checkpoints(tmp_path: Path) -> None:
    task = SequenceTask(config(training={"epochs": 2}))
    whole, half = (SequenceLoop(task.config, WORDS, 5) for _ in range(2))
    whole.run()
    half.run_batch()
    half.save_checkpoint(tmp_path / "c")
    resumed = SequenceLoop(task.config, WORDS, 5)
    resumed.resume(tmp_path / "c")
    resumed.run()
    assert all(torch.equal(a, b) for a, b in zip(whole.net.parameters(), resumed.net.parameters(), strict=True))
    more = task.config.model_copy(update={"seeds": (5, 6), "baselines": {"bptt": {}}})  # say nothing of this run
    SequenceLoop(more, WORDS, 5).resume(tmp_path / "c")
    with pytest.raises(InputError, match="a checkpoint of another run, its config differs"):
        SequenceLoop(task.config.model_copy(update={"name": "other"}), WORDS, 5).resume(tmp_path / "c")


@pytest.mark.parametrize(("length", "stride"), [(12, 0), (12, 1), (7, 5)])
def test_windows_lie_within_the_training_part(length: int, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from lavasnn.learning import sequences as module

    run = config(training={"length": length, "stride": stride, "batch": 32, "method": "readout"})
    series = sequences.series("s", np.arange(200.0)[:, None], (), 0.3)
    loop, seen = SequenceLoop(run, series), []
    monkeypatch.setattr(module, "readout", lambda net, x, y, characters: seen.append((x, y)) or torch.zeros_like(y))
    starts = set()
    for epoch in range(3):
        seen.clear()
        for batch in range(loop.batches):
            loop.learn(epoch, batch)
        x, y = (torch.cat(parts, 1)[..., 0] for parts in zip(*seen, strict=True))
        spread = float(np.std(np.arange(140)))
        assert x.shape == (length, loop.windows)
        torch.testing.assert_close(y - x, torch.full_like(x, 1 / spread), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(x[1:] - x[:-1], torch.full_like(x[1:], 1 / spread), rtol=1e-3, atol=1e-4)
        starts.add(round(float(x[0].min()), 4))
        gaps = x[0].sort().values.diff() * spread
        torch.testing.assert_close(gaps, torch.full_like(gaps, stride or length), rtol=1e-3, atol=1e-3)
    assert (len(starts) > 1) == (stride != 1)


def test_a_training_part_holds_a_window() -> None:
    with pytest.raises(InputError, match="aab: 1,679 training steps; windows of 1000, one in 1000 steps, need 1,999"):
        SequenceLoop(config(training={"length": 1000}), WORDS)
    with pytest.raises(InputError, match="aab: 419 steps for testing; a window has 500"):
        SequenceLoop(config(training={"length": 500}), WORDS)


# Evaluation


def test_outputs_are_those_of_windows_from_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    from lavasnn.learning import sequences as module

    net = BSDRNN(3, 8, 1, 3, 2.0, (0.2, 0.1), torch.Generator().manual_seed(0))
    part = sequences.series("s", table(60), (), 0.5, own=False).test
    wanted = [net.perceive(torch.from_numpy(part.x[i : i + 6])[:, None]).out[:, 0] for i in (0, 6, 12, 18)]
    down = [net.recall(torch.from_numpy(part.y[i : i + 6])[:, None]) for i in (0, 6, 12, 18)]
    for held in (1, 10**9):  # a window at a time, all at once
        monkeypatch.setattr(module, "HELD", held)
        out, likeness = predict(net, part, 6, 0)
        torch.testing.assert_close(out, torch.cat(wanted))
        inputs = torch.from_numpy(part.x[:24]).view(4, 6, 3)
        recalled = np.mean([float((d.out[:, 0] - x).square().mean()) for d, x in zip(down, inputs, strict=True)])
        assert likeness["recalled"] == pytest.approx(recalled, rel=1e-5)
        assert likeness["rate_recall"] == pytest.approx(np.mean([float(d.r.mean()) for d in down]), rel=1e-5)
    with pytest.raises(InputError, match="evaluation: 29 steps; a window has 30"):
        predict(net, part, 30, 0)


def test_likeness_is_counted_spike_by_spike() -> None:
    net, part = BSDRNN(2, 8, 2, 3, 2.0, (0.1, 0.05), torch.Generator().manual_seed(0)), WORDS.test.take(slice(0, 20))
    _, found = predict(net, part, 5, 2)
    equal, cosines = [], []
    for i in range(0, 20, 5):
        x, y = (torch.eye(2)[torch.from_numpy(a[i : i + 5])][:, None] for a in (part.x, part.y))
        up, down = net.perceive(x, every=True), net.recall(y, every=True)
        equal += [float(a == b) for a, b in zip(up.trains.flatten(), down.trains.flatten(), strict=True)]  # type: ignore[union-attr]
        cosines += [float(a @ b / (a.norm() * b.norm())) for a, b in zip(up.h[:, 0], down.h[:, 0], strict=True)]
    assert found["hamming"] == pytest.approx(np.mean(equal), rel=1e-5)
    assert found["cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)


def test_scores() -> None:
    random = torch.Generator().manual_seed(0)
    part, out = WORDS.test.take(slice(0, 50)), torch.randn(40, 2, generator=random)
    found = scores(out, part, True)
    assert found["accuracy"] == pytest.approx(np.mean(out.argmax(1).numpy() == part.y[:40]))
    assert found["nats"] == pytest.approx(log_loss(part.y[:40], torch.softmax(out.double(), 1).numpy()), rel=1e-5)


# Configurations


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"name": "poems"}}, "here: data.name is 'poems': input should be 'tinyshakespeare', 'los_speed'"),
        ({"training": {"dropout": 0.1}}, "unknown entry training.dropout; allowed are epochs, batch, optimizer"),
        ({"network": {"hidden": 0}}, "network.hidden is 0: input should be greater than or equal to 1"),
        ({"bsd": {"norm": True}}, "there is an entry bsd.norm, which a sequence's network does not have"),
        ({"bsd": {"loss": "cosine"}}, "bsd.loss is 'cosine'"),
        ({"baselines": {"reco": {}}}, "baselines.reco is what the run does itself"),
        ({"baselines": {"dll": {}}}, "baselines.dll"),
        ({"baselines": {"bptt": {"rate": 1}}}, "here: baselines.bptt: unknown entry rate; allowed are epochs, batch"),
        ({"data": {"name": "etth1"}}, "bsd.negatives is 'other_class', with numbers allowed is 'literal'"),
        ({"data": {"own": False}}, "data.own is false, which says nothing of a text"),
    ],
)
def test_what_a_configuration_cannot_say(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(**sections)


def test_variants_change_what_they_say_alone() -> None:
    task = SequenceTask(config(baselines={"mse": {}, "bptt": {"learning_rate": 0.5}}))
    found = task.variants()
    assert list(found) == ["reco", "mse", "bptt"] == [variant.config.label for variant in found.values()]
    assert found["mse"].config.bsd.loss == "mse" and found["mse"].config.training == task.config.training
    assert found["bptt"].config.training.learning_rate == 0.5
    assert task.with_epochs(3).config.training.epochs == 3
    assert json.loads(json.dumps(task.dump())) == task.dump() == dump(task.config)
    assert "norm" not in task.dump()["bsd"]


def test_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('task = "sequence"\nname = "x"\n[data]\nname = "tinyshakespeare"\n')
    assert load_task(path).config.name == "x"
    path.write_text('task = "sequence"\nname = "x"\n')
    with pytest.raises(ConfigError, match="data is"):
        load_task(path)


def test_the_command_line_trains_measures_and_sums_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lavasnn.cli import main

    monkeypatch.chdir(tmp_path)
    Path("tinyshakespeare.txt").write_text("aab" * 200)
    Path("c.toml").write_text(
        'task = "sequence"\nname = "small"\nseeds = [0, 1]\n[data]\nname = "tinyshakespeare"\ntest = 0.2\n'
        "[network]\nhidden = 8\n[training]\nepochs = 1\nlength = 8\n[baselines.bptt]\nlearning_rate = 2e-3\n"
    )
    with pytest.raises(SystemExit) as stop:
        main(["train", "c.toml", "--data-dir", ".", "--summary", "s.json", "--quiet"])
    assert stop.value.code == 0
    found = json.loads(Path("s.json").read_text())
    assert found["config"] == load_task(Path("c.toml")).dump()
    assert list(found["results"]) == ["reco", "bptt"]
    for rows in found["results"].values():
        assert [row["seed"] for row in rows["seeds"]] == [0, 1]
        assert rows["mean"]["accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in rows["seeds"]]), abs=1e-6)
    assert found["references"]["after_two"]["accuracy"] == 1.0
    assert (tmp_path / "runs" / "small-bptt-s1.safetensors").is_file()
    capsys.readouterr()


def test_a_model_of_a_sequence_is_no_network_to_compile(tmp_path: Path) -> None:
    SequenceLoop(config(), WORDS).save_model(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="a model of task 'sequence'; needed is one that tells classes apart"):
        open_network(tmp_path / "m.safetensors")
