"""BSD in torch against the paper's equations, written out as loops and as losses that autograd differentiates."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from lavasnn.config import RunConfig, parse
from lavasnn.data import Images, load
from lavasnn.dynamics.fixedpoint import STATE_MAX
from lavasnn.dynamics.pyramidal import Pyramidal, PyramidalInt, step
from lavasnn.errors import ConfigError, InputError, RangeError
from lavasnn.learning.bsd import bsd, likeness, local_gradients
from lavasnn.learning.model import dump, load_model
from lavasnn.learning.rules import Batch
from lavasnn.learning.trainer import Trainer, outputs
from lavasnn.nn.bsd import BSDNet, fired, traced
from lavasnn.sections import BSDSection

LOSSES = [(loss, negatives) for loss in ("reco", "infonce", "mse") for negatives in ("literal", "other_class")]


# Neurons


@given(st.floats(1, 5), st.floats(0.05, 2), st.lists(st.floats(-3, 3), min_size=1, max_size=12))
def test_the_soma_is_that_of_equations_1_to_3(tau: float, threshold: float, inputs: list[float]) -> None:
    v, U = torch.zeros(1, dtype=torch.float64), 0.0
    for current in inputs:
        H = U + (current - U) / tau
        if abs(H - threshold) < 1e-9:
            return  # a tie that rounding decides
        S = H >= threshold
        U = 0.0 if S else H
        s, v = step(Pyramidal(tau, threshold), v, torch.tensor([current], dtype=torch.float64))
        assert bool(s) == S
        assert float(v) == pytest.approx(tau * U, abs=1e-9)


@given(st.integers(1, 131071), st.integers(0, 4095), st.lists(st.integers(-32768, 32767), min_size=1, max_size=12))
def test_integers_are_those_of_a_loop(vth: int, dv: int, inputs: list[int]) -> None:
    v, V = np.zeros(1, np.int32), 0
    for current in inputs:
        V = int(math.copysign((abs(V) * (4096 - dv)) >> 12, V)) + (current << 6)
        V = max(-STATE_MAX, min(STATE_MAX, V))
        S = V >= vth << 6
        s, v = step(PyramidalInt(vth, dv), v, np.array([current], np.int32))
        assert bool(s[0]) == S
        V = 0 if S else V
        assert int(v[0]) == V


def test_what_no_register_holds() -> None:
    for make, message in (
        (lambda: Pyramidal(0.5), "tau = 0.5"),
        (lambda: Pyramidal(2, 0), "threshold = 0"),
        (lambda: PyramidalInt(0), "vth is 0"),
        (lambda: PyramidalInt(3, 4096), "dv is 4096"),
        (lambda: PyramidalInt(True), "vth is True"),
    ):
        with pytest.raises(RangeError, match=message):
            make()


# Pathways


def network(seed: int = 0, sizes: tuple[int, ...] = (6, 9, 7, 4), steps: int = 5) -> BSDNet:
    net = BSDNet(sizes, steps, 2.0, (0.2, 0.1), torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2).add_(0.05)
    return net


def by_hand(weights: list[Tensor], current: Tensor, steps: int, threshold: float) -> tuple[list[Tensor], list[Tensor]]:
    """Mean voltages and spike trains (step, sample, neuron), a step and a layer at a time, by equations 1 to 5."""
    trains: list[Tensor] = []
    voltages: list[Tensor] = []
    for weight in (None, *weights):
        U, sent, heard = None, [], []
        for t in range(steps):
            a = current if weight is None else torch.stack([weight @ s for s in trains[-1][t]])
            U = torch.zeros_like(a) if U is None else U
            H = U + (a - U) / 2.0
            s = (H >= threshold).double()
            U = H * (1 - s)
            sent.append(s)
            heard.append(a)
        trains.append(torch.stack(sent))
        voltages.append(torch.stack(heard).mean(0))
    return voltages, trains


def test_both_pathways_step_by_step() -> None:
    net, x = network(), torch.rand(8, 6, generator=torch.Generator().manual_seed(1)).double()
    concept = torch.eye(4).double()
    up, down = net.perceive(x), net.recall(concept)
    v, s = by_hand(list(net.W), x, 5, 0.2)
    u, z = by_hand(list(net.Theta)[::-1], concept, 5, 0.1)
    for found, wanted in ((up.v, v), (up.r, [t.mean(0) for t in s]), (down.v, u[::-1]), (down.r, [t.mean(0) for t in z[::-1]])):
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert torch.equal(up.spikes, s[-1].transpose(0, 1)) and torch.equal(down.spikes, z[-1].transpose(0, 1))
    assert all(0 < t.mean() < 1 for t in (s[1], s[2], z[1], z[2]))


# Gradients


def losses(v: Tensor, w: Tensor, labels: Tensor, section: BSDSection) -> Tensor:
    """Equation 7 (or InfoNCE, or the squared distance) over a batch: v learns, w is what it is compared with, row by row."""
    total = v.new_zeros(())
    if section.loss == "mse":
        return sum(((v[k] - w[k]) ** 2).sum() for k in range(len(v)))  # type: ignore[return-value]
    for k in range(len(v)):
        cosines = torch.stack([v[k] @ w[j] / (v[k].norm() * w[j].norm()) for j in range(len(w))])
        others = [j for j in range(len(w)) if j != k and (section.negatives == "literal" or labels[j] != labels[k])]
        if section.loss == "reco":
            total = total + (1 - cosines[k]) ** 2 + section.penalty * sum(cosines[j].clamp(min=0) ** 2 for j in others)
        else:
            total = total - torch.log_softmax(cosines[[k, *others]] / section.temperature, 0)[0]
    return total


@pytest.mark.parametrize(("loss", "negatives"), LOSSES)
def test_closed_form_gradients_are_those_of_autograd(loss: Any, negatives: Any) -> None:
    section = BSDSection(loss=loss, negatives=negatives, penalty=0.6, temperature=0.2)
    net, labels = network(3), torch.tensor([0, 1, 1, 3, 0, 1, 2, 2, 1])
    x = torch.rand(9, 6, generator=torch.Generator().manual_seed(2)).double()
    net_grad = network(3)
    seen = bsd(net, Batch(x, torch.eye(4).double()[labels], [], []), section)
    up, down = net.perceive(x), net.recall(torch.eye(4).double()[labels])  # Type 2 sample by sample, as the paper has it
    for i in range(3):
        below, above = up.r[i - 1], down.r[i + 1]
        for which, parameter in (("W", net_grad.W[i - 1]), ("Theta", net_grad.Theta[i])):
            if which == "W" and i == 0:
                continue
            source, other = (below, down.v[i]) if which == "W" else (above, up.v[i])
            parameter.grad = None
            losses(source.detach() @ parameter.T, other.detach(), labels, section).backward()
            mine = (net.W[i - 1] if which == "W" else net.Theta[i]).grad
            assert float(mine.abs().max()) > 1e-3
            torch.testing.assert_close(mine, parameter.grad, rtol=1e-9, atol=1e-11)
    F.cross_entropy(up.r[2] @ net_grad.W[2].T, labels, reduction="sum").backward()
    torch.testing.assert_close(net.W[2].grad, net_grad.W[2].grad, rtol=1e-9, atol=1e-11)
    assert torch.equal(seen.output, up.v[3])


def test_reco_is_equation_8_term_by_term() -> None:
    random = torch.Generator().manual_seed(5)
    v, u = torch.randn(7, 5, generator=random).double(), torch.randn(3, 5, generator=random).double()
    labels, lam = torch.tensor([0, 0, 1, 2, 1, 1, 2]), 0.6
    found, _ = local_gradients(v, u, labels, BSDSection(penalty=lam))
    for k in range(7):
        n = v[k].norm()
        total = torch.zeros(5).double()
        for j in range(7):
            w = u[labels[j]]
            C = v[k] @ w / (n * w.norm())
            slope = (w / w.norm() - C * v[k] / n) / n
            total += -2 * (1 - C) * slope if j == k else 2 * lam * max(0.0, float(C)) * slope
        torch.testing.assert_close(found[k], total, rtol=1e-12, atol=1e-13)


def test_what_is_silent_learns_nothing() -> None:
    v, u = torch.zeros(4, 5), torch.zeros(2, 5)
    for loss, negatives in LOSSES:
        for gradient in local_gradients(v, u, torch.tensor([0, 1, 1, 0]), BSDSection(loss=loss, negatives=negatives)):
            assert bool(torch.isfinite(gradient).all()) and float(gradient.abs().max()) == 0.0


# The five criteria


def test_weights_of_the_two_pathways_are_their_own() -> None:
    """C1: neither is the other's transpose, at the start or by the update."""
    net = network()
    for w, theta in zip(net.W, net.Theta, strict=True):
        assert w.shape == theta.T.shape and not torch.allclose(w, theta.T)
        assert w.data_ptr() != theta.data_ptr()


def test_a_synapse_learns_from_its_own_two_neurons_alone() -> None:
    """C2, C3: a gradient is the sum over samples of what its neuron holds (both voltages) times what its input sent; weights
    elsewhere matter through spikes alone, and no derivative of theirs is ever formed."""
    net, labels = network(1), torch.tensor([0, 1, 2, 3, 0])
    x = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)).double()
    section = BSDSection()
    bsd(net, Batch(x, torch.eye(4).double()[labels], [], []), section)
    up, down = net.perceive(x), net.recall(torch.eye(4).double())
    for i in (1, 2):
        dv, du = local_gradients(up.v[i], down.v[i], labels, section)
        torch.testing.assert_close(net.W[i - 1].grad, sum(torch.outer(d, r) for d, r in zip(dv, up.r[i - 1], strict=True)))
        torch.testing.assert_close(net.Theta[i].grad, sum(torch.outer(d, r) for d, r in zip(du, down.r[i + 1], strict=True)))
    assert not any(t.requires_grad for t in (*up.v, *up.r, *down.v, *down.r))
    assert all(p.grad is not None and p.grad.grad_fn is None for p in net.parameters())


def test_neurons_exchange_zeros_and_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """C4, C5: whatever a population sends, of either type and in training too, is 0 or 1."""
    from lavasnn.nn import bsd as module

    sent: list[Tensor] = []
    real = module.fired
    monkeypatch.setattr(module, "fired", lambda *a: sent.append(real(*a)) or sent[-1])
    net, labels = network(2), torch.tensor([0, 1, 2])
    bsd(net, Batch(torch.rand(3, 6).double(), torch.eye(4).double()[labels], [], []), BSDSection())
    assert len(sent) == 8  # four layers, two types
    assert all(set(s.unique().tolist()) <= {0.0, 1.0} for s in sent) and any(s.any() for s in sent)


# Training


def config(**section: Any) -> RunConfig:
    return parse(
        {
            "network": {"neuron": "pyramidal", "hidden": [120, 60]},
            "training": {"epochs": 12, "batch": 32, "learning_rate": 2e-3, "clip_norm": 0.3},
            "bsd": section,
        },
        "here",
    )


@pytest.fixture(scope="module")
def digits() -> tuple[Images, Images]:
    return load("digits:train"), load("digits:test")


@pytest.mark.parametrize(("loss", "negatives"), [("reco", "literal"), ("reco", "other_class"), ("infonce", "other_class")])
def test_it_learns_digits(digits: tuple[Images, Images], loss: str, negatives: str) -> None:
    trainer = Trainer(config(loss=loss, negatives=negatives), digits[0], seed=0)
    trainer.run()
    assert trainer.evaluate(digits[1]) > 0.85


def test_squared_distances_fail(digits: tuple[Images, Images]) -> None:
    """The paper's ablation: voltages shrink towards 0 until nothing spikes any more."""
    rates: dict[str, float] = {}
    accuracy: dict[str, float] = {}
    for loss in ("reco", "mse"):
        trainer = Trainer(config(loss=loss), digits[0], seed=0)
        trainer.run()
        x = torch.from_numpy(digits[1].pixels / 16).float()
        rates[loss] = float(trainer.net.perceive(x).r[2].mean())
        accuracy[loss] = trainer.evaluate(digits[1])
    assert accuracy["mse"] < accuracy["reco"] - 0.3
    assert rates["mse"] < rates["reco"] / 2


def test_readouts(digits: tuple[Images, Images]) -> None:
    """The most similar label by the cosine of spike trains is the one with the most spikes; voltages decide among equals."""
    trainer = Trainer(config(), digits[0], seed=0)
    trainer.run_epoch()
    x = torch.from_numpy(digits[1].pixels / 16).float()
    seen = trainer.net.perceive(x)
    code = torch.zeros(10, 4, 10)
    for c in range(10):
        code[c, :, c] = 1
    cosine = F.cosine_similarity(seen.spikes.flatten(1)[:, None], code.flatten(1)[None], dim=2)
    by_spikes = outputs(trainer.net, x, trainer.config.with_bsd(readout="spikes"))
    sure = (cosine == cosine.max(1, keepdim=True).values).sum(1) == 1
    assert 0.1 < sure.float().mean() < 1
    assert torch.equal(by_spikes.argmax(1)[sure], cosine.argmax(1)[sure])
    best = seen.spikes.sum(1) == seen.spikes.sum(1).max(1, keepdim=True).values
    assert torch.equal(by_spikes.argmax(1), torch.where(best, seen.v[-1], -math.inf).argmax(1))
    assert torch.equal(outputs(trainer.net, x, trainer.config), seen.v[-1])


def test_models_and_checkpoints(digits: tuple[Images, Images], tmp_path: Path) -> None:
    trainer = Trainer(config(), digits[0], seed=3)
    trainer.run_epoch()
    trainer.save_checkpoint(tmp_path / "c")
    trainer.run_epoch()
    trainer.save_model(tmp_path / "m")
    model = load_model(tmp_path / "m")
    assert dump(model.config) == dump(trainer.config) and "bsd" in dump(model.config) and "spiking" not in dump(model.config)
    for (name, a), (_, b) in zip(model.net.state_dict().items(), trainer.net.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    resumed = Trainer(config(), digits[0], seed=3)
    resumed.resume(tmp_path / "c")
    resumed.run_epoch()
    assert all(torch.equal(a, b) for a, b in zip(resumed.net.parameters(), trainer.net.parameters(), strict=True))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"network": {"neuron": "pyramidal", "hidden": []}}, "network.hidden is empty; a network of pyramidal neurons needs"),
        ({"network": {"neuron": "pyramidal"}, "training": {"method": "bptt"}}, "allowed is 'bsd'"),
        (
            {"network": {"neuron": "pyramidal"}, "spiking": {}},
            "there is a section spiking, which neuron 'pyramidal' does not have",
        ),
        (
            {"network": {"neuron": "pyramidal"}, "training": {"dropout": 0.1}},
            "training.dropout is 0.1, with neuron 'pyramidal'",
        ),
        ({"network": {"neuron": "lif"}, "bsd": {}}, "there is a section bsd, which neuron 'lif' does not have"),
        ({"bsd": {"steps": 3}}, "there is a section bsd, which neuron 'diffpc' does not have"),
        ({"network": {"neuron": "pyramidal"}, "bsd": {"tau": 0.5}}, "bsd.tau is 0.5"),
    ],
)
def test_what_a_configuration_cannot_say(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(entries, "here")


def test_a_network_needs_a_hidden_layer() -> None:
    with pytest.raises(InputError, match=r"BSDNet: sizes \(5, 4\), 4 steps; needed are three layers"):
        BSDNet((5, 4))


def test_likeness_of_the_two_pathways() -> None:
    net, labels = network().float(), np.array([0, 3, 1])
    x = torch.rand(3, 6, generator=torch.Generator().manual_seed(0))
    _, s = by_hand([w.double() for w in net.W], x.double(), 5, 0.2)
    _, z = by_hand([w.double() for w in net.Theta][::-1], torch.eye(4).double()[torch.from_numpy(labels)], 5, 0.1)
    for found, a, b in zip(likeness(net, x, torch.from_numpy(labels)), s, z[::-1], strict=True):
        assert found["hamming"] == pytest.approx(float((a == b).double().mean()))
        assert (found["rate"], found["rate_recall"]) == pytest.approx((float(a.mean()), float(b.mean())), abs=1e-6)
        assert -1 <= found["cosine"] <= 1


@pytest.mark.parametrize("tau", [1.0, 2.0, 3.0, 7.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_firing_in_place_is_the_step_of_the_soma(tau: float, dtype: torch.dtype) -> None:
    """`fired` and `traced` against `lavasnn.dynamics.pyramidal.step`, which says what the neuron is, bit for bit."""
    neuron, generator = Pyramidal(tau, 0.2), torch.Generator().manual_seed(3)
    basal = torch.randn(9, 20, 50, generator=generator, dtype=dtype)
    v, spikes = torch.zeros_like(basal[0]), []
    for a in basal:
        s, v = step(neuron, v, a)
        spikes.append(s.to(dtype))
    assert 0 < torch.stack(spikes).mean() < 1
    for found in (fired(neuron, basal), traced(neuron, basal)):
        assert torch.equal(found, torch.stack(spikes))
