"""DiffPC networks in torch: the step loop against single neurons in plain numbers, whole cycles against the step loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import lavasnn.dynamics.diffpc as dynamics
import lavasnn.nn.diffpc as nn_diffpc
from compile.backends import exact
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt, State
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.export import to_graph
from lavasnn.nn.diffpc import DiffPCNet, announce, collapsed, literal

FINE = 2.0**-5
"""Weights, biases and targets are multiples of this, so that float64 rounds nothing."""


@dataclass(frozen=True)
class Case:
    """A network with dyadic numbers and what is shown to it."""

    net: DiffPCNet
    x: Tensor
    target: Tensor
    alive: list[Tensor | None]
    scale: list[float]

    @property
    def weights(self) -> list[Tensor]:
        return [layer.weight * s for layer, s in zip(self.net.linears, self.scale, strict=True)]

    @property
    def populations(self) -> list[DiffPC]:
        L, timing = len(self.net.linears), self.net.timing
        biases = [layer.bias for layer in self.net.linears]
        above = [DiffPC("output" if l == L else "hidden", l, timing, b) for l, b in enumerate(biases, start=1)]
        return [DiffPC("input", 0, timing), *above]


@torch.no_grad()
def build(
    timing: Timing, depth: int, seed: int, *, dropout: bool = False, loud: float = 1.0, silent: bool = False, samples: int = 6
) -> Case:
    """A random network of `depth` weight layers.

    Args:
        timing: Thresholds and phases.
        depth: 1..4.
        seed: Of everything.
        dropout: Drop half of the input and of the hidden neurons, double the weights of the others.
        loud: Factor on the input, to leave the range of one cycle.
        silent: Every other sample's target is what the network answers anyhow.
        samples: How many.
    """
    random = np.random.default_rng(seed)
    sizes = (*(7, 6, 5, 4)[:depth], 3)
    net = DiffPCNet(sizes, timing).double()
    for layer in net.linears:
        for values in (layer.weight, layer.bias):
            values.copy_(torch.from_numpy(random.integers(-30, 31, values.shape) * FINE))
    x = torch.from_numpy(random.integers(0, 17, (samples, 7)) * (random.random((samples, 7)) < 0.7) / 8.0) * loud
    alive: list[Tensor | None] = [None] * depth
    if dropout:
        alive = [torch.from_numpy((random.random((samples, size)) < 0.5).astype(float)) for size in sizes[:depth]]
    scale = [2.0 if dropout else 1.0] * depth
    case = Case(net, x, torch.zeros((samples, 3), dtype=torch.float64), alive, scale)
    target = torch.from_numpy(np.eye(3)[random.integers(0, 3, samples)])
    if silent:
        answer = literal(case.populations, case.weights, x, alive=alive)[1][-1].x_F
        target[::2] = answer[::2]
    return replace(case, target=target)


def steps(case: Case) -> tuple[list[State], list[State], dict[str, Tensor], dict[str, Tensor]]:
    """Both phases by the step loop, all traces kept."""
    return literal(case.populations, case.weights, case.x, case.target, alive=case.alive, record=True)


def timings() -> st.SearchStrategy[Timing]:
    """What the collapsed form can do, deep enough for 4 weight layers."""
    return st.builds(
        Timing,
        m=st.integers(0, 6),
        n=st.integers(1, 9),
        m_error=st.sampled_from([None, -2]),
        init_cycles=st.integers(4, 5),
        settle_cycles=st.integers(1, 4),
        schedule=st.sampled_from(["cyclic", "cyclic", "cyclic-decay", "constant"]),
        final=st.sampled_from([0.25, 1.0]),
        gamma=st.sampled_from([1.0, 0.5, 0.25]),
        comparator=st.sampled_from([">=", ">"]),
        update_activity=st.sampled_from(["initial", "settled"]),
    )


# The step loop


@given(
    timing=timings(),
    targets=st.sampled_from(["latched", "live"]),
    gate=st.sampled_from([">=", ">"]),
    depth=st.integers(1, 3),
    dropout=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@torch.no_grad()
def test_literal_is_every_neuron_by_itself(
    plain: SimpleNamespace, timing: Timing, targets: Any, gate: Any, depth: int, dropout: bool, seed: int
) -> None:
    timing = replace(timing, n=min(timing.n, 3), targets=targets, gate=gate)
    case = build(timing, depth, seed, dropout=dropout, samples=2)
    started, ended, counts, traces = steps(case)
    weights = [w.tolist() for w in case.weights]
    biases = [layer.bias.tolist() for layer in case.net.linears]
    for i in range(2):
        alive = [None if mask is None else mask[i].tolist() for mask in case.alive]
        records = plain.network(timing, weights, biases, case.x[i].tolist(), case.target[i].tolist(), alive=alive)
        for t, record in enumerate(records):
            for l in range(depth + 1):
                assert traces[f"{l}.s_A"][i, t].tolist() == record.s_A[l], f"layer {l}, step {t}"
                assert traces[f"{l}.s_e"][i, t].tolist() == record.s_e[l], f"layer {l}, step {t}"
                assert int(counts[f"{l}.s_e"][i, t]) == sum(map(abs, record.s_e[l]))
                assert int(counts[f"{l}.s_A"][i, t]) == sum(map(abs, record.s_A[l]))
                for name in ("x_A", "x_F", "e_A"):
                    assert traces[f"{l}.{name}"][i, t].tolist() == [getattr(s, name) for s in record.states[l]]
        for l in range(depth + 1):
            for name in ("x_F", "x_T", "x_A", "e_in", "e_T", "e_A"):
                assert getattr(ended[l], name)[i].tolist() == [getattr(s, name) for s in records[-1].states[l]], name
            # At the end of the first phase: x_A after its last step, x_F with the arrivals of one step later.
            assert started[l].x_A[i].tolist() == [s.x_A for s in records[timing.init_steps - 1].states[l]]
            assert started[l].x_F[i].tolist() == [s.x_F for s in records[timing.init_steps].states[l]]


class Spy:
    """Stands in for `step` and keeps what it returns, by population and step."""

    def __init__(self) -> None:
        self.states: dict[int, list[State]] = {}

    def __call__(self, p: Any, now: Any, *rest: Any) -> Any:
        result = dynamics.step(p, now, *rest)
        self.states.setdefault(p.depth, []).append(result[0])
        return result


def check_invariants(spy: Spy, weights: Sequence[Any], biases: Sequence[Any], up: Sequence[Any], down: Sequence[Any]) -> None:
    """x_F = b + W x_A(t - 1) and e_in = W^T e_A(t - 1); `up` and `down` turn announced values into sums."""
    L, window = len(weights), len(spy.states[0])
    for t in range(1, window):
        for l in range(1, L + 1):
            expected = biases[l - 1] + up[l - 1](np.asarray(spy.states[l - 1][t - 1].x_A) @ weights[l - 1].T)
            assert np.array_equal(np.asarray(spy.states[l][t].x_F), expected), f"x_F of layer {l}, step {t}"
        for l in range(L):
            expected = down[l](np.asarray(spy.states[l + 1][t - 1].e_A) @ weights[l])
            # The input hears no errors, in the step loop it may: nothing depends on them.
            if l > 0:
                assert np.array_equal(np.asarray(spy.states[l][t].e_in), expected), f"e_in of layer {l}, step {t}"


INVARIANT_TIMINGS = [
    Timing(m=2, n=5, init_cycles=3, settle_cycles=4),
    Timing(m=2, n=4, m_error=0, init_cycles=3, settle_cycles=4, gamma=0.5, targets="live", comparator=">", gate=">"),
    Timing(m=1, n=3, init_cycles=4, settle_cycles=4, schedule="cyclic-decay", final=0.25, update_activity="settled"),
    Timing(m=-1, n=3, m_error=-4, init_cycles=4, settle_cycles=3, schedule="constant", targets="live"),
]


def same(value: Any) -> Any:
    return value


@pytest.mark.parametrize("timing", INVARIANT_TIMINGS)
@torch.no_grad()
def test_invariants_in_the_step_loop(monkeypatch: pytest.MonkeyPatch, timing: Timing) -> None:
    case, spy = build(timing, 3, 5), Spy()
    monkeypatch.setattr(nn_diffpc, "step", spy)
    _, ended, _, _ = steps(case)
    weights = [w.numpy() for w in case.weights]
    check_invariants(spy, weights, [layer.bias.numpy() for layer in case.net.linears], [same] * 3, [same] * 3)
    assert all(bool((s.e_A != 0).any()) for s in ended[1:]), "nothing was tested"


def integer_network(timing: Timing, seed: int) -> tuple[list[Any], list[Any], list[DiffPCInt], list[tuple[int, int]], int]:
    """Even 8-bit weights in units of 2**-7, integer biases, populations, shifts, and their fractional bits."""
    random = np.random.default_rng(seed)
    fraction = 7
    point = fraction - min(timing.lowest("activity"), timing.lowest("error")) + 4
    shapes = [(6, 7), (5, 6), (3, 5)]
    weights = [2 * random.integers(-100, 101, shape) for shape in shapes]
    biases = [random.integers(-(1 << point), (1 << point) + 1, post) for post, _ in shapes]
    up, down = (point + timing.lowest(kind) - fraction for kind in ("activity", "error"))
    populations = [DiffPCInt("input", 0, timing, 0, point)]
    populations += [DiffPCInt("output" if l == 3 else "hidden", l, timing, b, point) for l, b in enumerate(biases, start=1)]
    return weights, biases, populations, [(up, down)] * 3, point


@pytest.mark.parametrize("timing", INVARIANT_TIMINGS)
def test_integers_equal_float64_with_the_same_weights(
    plain: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, timing: Timing
) -> None:
    weights, biases, populations, shifts, point = integer_network(timing, 3)
    random = np.random.default_rng(4)
    x, labels = random.integers(0, 5, (3, 7)), random.integers(0, 3, 3)
    spy = Spy()
    monkeypatch.setattr(nn_diffpc, "step", spy)
    whole = literal(
        populations,
        [torch.from_numpy(w) for w in weights],
        torch.from_numpy(x << point),
        torch.from_numpy(np.eye(3, dtype=np.int64)[labels] << point),
        shifts=shifts,
        record=True,
    )[3]
    monkeypatch.undo()
    fraction = 7
    check_invariants(
        spy, weights, biases, [lambda v: v >> fraction] * 3, [lambda v: v >> fraction] * 3
    )  # states carry 2**-point, weights 2**-7: products lose exactly the weights' bits
    real = [DiffPC(p.role, p.depth, timing, np.asarray(p.bias) / 2.0**point) for p in populations]
    floats = literal(
        real,
        [torch.from_numpy(w / 2.0**fraction) for w in weights],
        torch.from_numpy(x.astype(float)),
        torch.from_numpy(np.eye(3)[labels]),
        record=True,
    )[3]
    assert whole.keys() == floats.keys()
    for key, values in whole.items():
        unit = 1.0 if ".s_" in key else 2.0**point
        assert np.array_equal(values.numpy() / unit, floats[key].numpy()), key
    assert any(bool((whole[f"{l}.s_e"] != 0).any()) for l in (1, 2, 3))
    for i in range(len(x)):
        records = plain.network(
            timing,
            [w.tolist() for w in weights],
            [b.tolist() for b in biases],
            (x[i] << point).tolist(),
            [int(k == labels[i]) << point for k in range(3)],
            point=point,
            shifts=shifts,
        )
        for t, record in enumerate(records):
            for l in range(4):
                assert whole[f"{l}.s_A"][i, t].tolist() == record.s_A[l], f"layer {l}, step {t}"
                assert whole[f"{l}.s_e"][i, t].tolist() == record.s_e[l], f"layer {l}, step {t}"
                assert whole[f"{l}.x_F"][i, t].tolist() == [s.x_F for s in record.states[l]], f"layer {l}, step {t}"


@pytest.mark.parametrize("timing", INVARIANT_TIMINGS)
def test_invariants_in_the_exact_executor(monkeypatch: pytest.MonkeyPatch, timing: Timing) -> None:
    case, spy = build(timing, 3, 11), Spy()
    graph = to_graph(case.net, Encoding("value", -4, 64))
    fake = SimpleNamespace(**{**vars(dynamics), "step": spy})
    monkeypatch.setattr(exact, "diffpc", fake)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 65, (4, 7)).astype(np.uint8)
    result = exact.run(graph, pixels, np.array([0, 1, 2, 0]), settle=True, record=True)
    weights = [w.detach().numpy() for w in case.weights]
    check_invariants(spy, weights, [layer.bias.detach().numpy() for layer in case.net.linears], [same] * 3, [same] * 3)
    assert np.array_equal(result.outputs, np.asarray(spy.states[3][timing.init_steps].x_F))
    assert all(result.messages[f"{name}.s_e"].any() for name in ("hidden1", "hidden2", "output"))


# Whole cycles


def check_collapsed(case: Case) -> None:
    """Outputs, activities, errors, masks' effects and spike counts of `collapsed` and `literal`, bit for bit."""
    net, L = case.net, len(case.net.linears)
    with torch.no_grad():
        ours = collapsed(net, case.x, case.target, case.alive, case.scale)
        started, ended, counts, _ = steps(case)
        before = collapsed(net, case.x, None, case.alive, case.scale)
    assert torch.equal(ours.output, started[L].x_F)
    assert torch.equal(before.output, started[L].x_F)
    states = started if net.timing.update_activity == "initial" else ended
    for l in range(L):
        assert torch.equal(ours.activity[l], states[l].x_A), f"activity of layer {l}"
        assert torch.equal(before.activity[l], started[l].x_A), f"first-phase activity of layer {l}"
    assert torch.equal(ours.error[L - 1], ended[L].e_T)
    for l in range(1, L):
        error = ours.error[l - 1]
        if ours.rows is not None:
            error = torch.zeros_like(ended[l].e_T).index_copy(0, ours.rows, error)
        assert torch.equal(error, ended[l].e_T), f"error of layer {l}"
        assert float(ours.peak[l - 1]) == float(started[l].x_T.max()), f"peak of layer {l}"
    assert ours.error_spikes == [int(counts[f"{l}.s_e"].sum()) for l in range(1, L + 1)]


@given(
    timing=timings(),
    depth=st.integers(1, 4),
    dropout=st.booleans(),
    loud=st.sampled_from([1.0, 1.0, 4.0]),
    silent=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=80, deadline=None)
@example(timing=Timing(m=2, n=6, init_cycles=3, settle_cycles=4), depth=3, dropout=True, loud=1.0, silent=True, seed=1)
def test_collapsed_is_literal(timing: Timing, depth: int, dropout: bool, loud: float, silent: bool, seed: int) -> None:
    check_collapsed(build(timing, depth, seed, dropout=dropout, loud=loud, silent=silent))


@pytest.mark.parametrize("update_activity", ["initial", "settled"])
@pytest.mark.parametrize("comparator", [">=", ">"])
@pytest.mark.parametrize("gamma", [1.0, 0.5])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_collapsed_is_literal_where_all_shortcuts_are_taken(
    depth: int, gamma: float, comparator: Any, update_activity: Any
) -> None:
    """Activities within one cycle's reach, some samples silent: hidden layers are computed for a part of the rows."""
    timing = Timing(
        m=9,
        n=16,
        m_error=5,
        init_cycles=depth,
        settle_cycles=depth + 1,
        gamma=gamma,
        comparator=comparator,
        update_activity=update_activity,
    )
    case = build(timing, depth, depth, silent=True, dropout=depth % 2 == 0)
    with torch.no_grad():
        settled = collapsed(case.net, case.x, case.target, case.alive, case.scale)
    assert settled.rows is not None
    assert settled.rows.tolist() == [1, 3, 5]
    check_collapsed(case)


@pytest.mark.parametrize("init_cycles", [2, 3, 6])
def test_collapsed_is_literal_beyond_one_cycles_range(init_cycles: int) -> None:
    """Inputs up to 8 at m = 0, where a cycle moves by less than 2."""
    timing = Timing(m=0, n=4, init_cycles=init_cycles, settle_cycles=3)
    case = build(timing, 2, 2, loud=4.0)
    with torch.no_grad():
        activity = collapsed(case.net, case.x).activity[0]
    assert float(activity.max()) == min(float(case.x.max()), init_cycles * (2 - 2.0**-3))
    check_collapsed(case)


def test_announce_reaches_a_target_in_as_many_cycles_as_it_takes() -> None:
    timing = Timing(m=0, n=3, init_cycles=3)  # at most 1.75 a cycle, in quarters
    x = torch.tensor([[-1.0, 0.0, 0.3, 1.75, 2.0, 5.0, 9.0]])
    assert announce(x, timing).tolist() == [[0.0, 0.0, 0.25, 1.75, 2.0, 5.0, 5.25]]


# What is refused


@pytest.mark.parametrize(
    ("timing", "message"),
    [
        (Timing(gate=">"), "timing: the collapsed form needs gate '>='; with '>' use form 'literal'"),
        (Timing(targets="live"), "timing: the collapsed form needs latched targets; with live ones use form 'literal'"),
        (
            Timing(schedule="cyclic-decay", decay="linear", final=0.5),
            r"thresholds decay within a cycle \(decay 'linear'\); use decay 'binary' or form 'literal'",
        ),
    ],
)
def test_collapsed_refuses(timing: Timing, message: str) -> None:
    with pytest.raises(InputError, match=message):
        collapsed(DiffPCNet((2, 2), timing), torch.zeros(1, 2))


def test_networks_are_checked() -> None:
    with pytest.raises(InputError, match="network: 1 layers given, needed are at least an input and an output"):
        DiffPCNet((2,), Timing())
    with pytest.raises(InputError, match="network: layer 1 has 0 neurons, at least 1 is needed"):
        DiffPCNet((2, 0, 2), Timing())
    with pytest.raises(InputError, match="timing: init_cycles is 2, a network of 3 weight layers needs at least 3"):
        DiffPCNet((2, 2, 2, 2), Timing(init_cycles=2))
    assert len(DiffPCNet((2, 2, 2, 2), Timing(init_cycles=1, targets="live")).linears) == 3


def test_weights_come_from_the_generator() -> None:
    one, again, other = (DiffPCNet((5, 4, 3), Timing(), torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    for a, b, c in zip(one.linears, again.linears, other.linears, strict=True):
        assert torch.equal(a.weight, b.weight)
        assert not torch.equal(a.weight, c.weight)
        assert float(a.weight.detach().abs().max()) <= a.in_features**-0.5
        assert not a.bias.any()


def test_forward_is_the_first_phase() -> None:
    case = build(Timing(m=2, n=8, init_cycles=3), 3, 9)
    with torch.no_grad():
        assert torch.equal(case.net(case.x), literal(case.populations, case.weights, case.x)[1][-1].x_F)


@pytest.mark.parametrize("depth", [1, 3])
def test_other_devices_go_without_the_kernel_and_come_to_the_same(monkeypatch: pytest.MonkeyPatch, depth: int) -> None:
    """Array operations, as a GPU runs them, in the place of the compiled kernel."""
    monkeypatch.setattr(nn_diffpc, "fused", lambda target: False)
    check_collapsed(build(Timing(m=1, n=5, init_cycles=depth, settle_cycles=depth + 1), depth, 3, silent=True))


def test_blocks_of_zeros_stay_zero() -> None:
    case = build(Timing(m=1, n=5, init_cycles=2, settle_cycles=3), 2, 4)
    check_collapsed(case)
    assert nn_diffpc._ZEROS
    assert not any(block.any() for block in nn_diffpc._ZEROS.values())
