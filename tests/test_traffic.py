"""Message counts by hand, and the same from the executors' own message streams."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compile.backends import exact
from lavasnn.dynamics.graded import GradedInt
from lavasnn.dynamics.lif import LifInt
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.export import to_graph
from lavasnn.ir import Graph, Phase, Population, Projection, Source
from lavasnn.measure import traffic
from lavasnn.nn.diffpc import DiffPCNet
from lavasnn.nn.run import run as torch_run
from lavasnn.results import RunResult
from lavasnn.synapses import Dense, Grid


def tiny() -> RunResult:
    """Two samples of a 4-3-2 network, windows of 2 + 2 + 1 steps, with these numbers of messages."""
    messages = {
        "input.s_A": [[4, 2, 0, 0, 0], [2, 0, 0, 0, 0]],
        "input.s_e": [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
        "hidden1.s_A": [[0, 3, 1, 0, 0], [0, 1, 1, 2, 0]],
        "hidden1.s_e": [[0, 0, 1, 2, 0], [0, 0, 0, 2, 0]],
        "output.s_A": [[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
        "output.s_e": [[0, 0, 2, 1, 0], [0, 0, 1, 0, 0]],
    }
    return RunResult(
        backend="exact",
        precision="fixed",
        phases=(Phase("init", 0, 2), Phase("settle", 2, 4), Phase("drain", 4, 5)),
        sizes={"input": 4, "hidden1": 3, "output": 2},
        outputs=np.zeros((2, 2), np.int64),
        labels=np.zeros(2, np.int64),
        messages={key: np.array(value, np.int32) for key, value in messages.items()},
        unheard=("input.s_e", "hidden1.s_e", "output.s_A"),
    )


def test_error_phase_bits() -> None:
    assert traffic.error_phase_bits([0.0, 10.25], 410) == 0.05  # 2 bits * 10.25 spikes / 410 neurons
    assert traffic.error_phase_bits([400 * 0.04, 10 * 0.04], 410) == pytest.approx(0.08)  # the paper's 0.04 spikes
    assert traffic.error_phase_bits([], 10) == 0


def test_bits_of_messages() -> None:
    assert [traffic.bits_of(kind) for kind in ("s", "s_A", "s_e")] == [1, 2, 2]
    assert traffic.predictive_coding_bits(15) == 960  # the paper's table
    assert traffic.BACKPROP_BITS == 32


def test_summary_by_hand() -> None:
    summary = traffic.summary(tiny(), iterations=10)
    assert summary["samples"] == 2
    assert summary["neurons"] == {"all": 9, "non_input": 5}
    # Error spikes a sample: hidden1 (3 + 2) / 2, output (3 + 1) / 2; 2 bits each, over 5 neurons.
    assert summary["error_phase"] == pytest.approx(2 * (2.5 + 2.0) / 5)
    assert summary["error_phase_heard"] == pytest.approx(2 * 2.0 / 5)
    assert summary["error_spikes_per_neuron"] == pytest.approx(4.5 / 5)
    # First phase: input (6 + 2) / 2, hidden1 (3 + 1) / 2, output 1 / 2; second: hidden1 (1 + 3) / 2 and the errors.
    assert summary["by_phase"] == pytest.approx({"init": 2 * 6.5 / 9, "settle": 2 * (2.0 + 4.5) / 9})
    assert summary["total"] == pytest.approx(2 * 13.0 / 9)
    assert summary["total_heard"] == pytest.approx(2 * (13.0 - 0.5 - 2.5) / 9)
    # Addresses: 2 bits among 4 or 3 neurons, 1 bit among 2.
    assert summary["total_with_address"] == pytest.approx((2 * 13.0 + 2 * 4.0 + 2 * (2.0 + 2.0 + 2.5) + 0.5 + 2.0) / 9)
    assert summary["compared_with"] == {"backpropagation": 32, "float_predictive_coding": 640, "iterations": 10}
    assert {
        "phase": "settle",
        "population": "hidden1",
        "kind": "s_e",
        "spikes_per_sample": 2.5,
        "spikes_per_neuron": pytest.approx(2.5 / 3),
        "bits_per_neuron": pytest.approx(5 / 3),
        "heard": False,
    } in summary["rows"]


def test_rows_leave_out_what_cannot_be() -> None:
    rows = traffic.rows(tiny())
    assert not any(row.phase == "drain" or (row.phase == "init" and row.kind == "s_e") for row in rows)
    assert len(rows) == 3 + 6  # first phase: activity of three populations; second: both kinds
    row = next(r for r in rows if (r.phase, r.population, r.kind) == ("init", "input", "s_A"))
    assert (row.spikes, row.bits, row.address_bits, row.spikes_per_neuron, row.heard) == (4.0, 8.0, 8.0, 1.0, True)


def test_inference_alone_has_no_error_phase() -> None:
    result = tiny()
    short = RunResult(**{**vars(result), "phases": (Phase("init", 0, 2), Phase("drain", 2, 3))})
    summary = traffic.summary(short)
    assert summary["error_phase"] is None
    assert summary["error_phase_heard"] is None
    assert summary["total"] == pytest.approx(2 * 6.5 / 9)


def test_training_summary() -> None:
    epochs = [[6.0, 2.0], [3.0, 1.0]]  # spikes a sample of the hidden and the output layer
    assert traffic.training_summary(epochs, 10) == pytest.approx(
        {"error_phase": (1.6 + 0.8) / 2, "last_epoch": 0.8, "error_phase_heard": (0.4 + 0.2) / 2}
    )
    assert traffic.training_summary([], 10) is None
    assert traffic.training_summary([[], []], 10) is None


def test_executors_count_the_same_messages(plain: SimpleNamespace) -> None:
    timing = Timing(m=2, n=5, m_error=0, init_cycles=2, settle_cycles=3)
    net = DiffPCNet((6, 4, 3), timing).double()
    random = np.random.default_rng(1)
    with torch.no_grad():
        for layer in net.linears:
            layer.weight.copy_(torch.from_numpy(random.integers(-30, 31, layer.weight.shape) / 32))
    graph = to_graph(net, Encoding("value", -2, 16))
    pixels, labels = random.integers(0, 17, (3, 6)).astype(np.uint8), np.array([0, 2, 1])
    one = exact.run(graph, pixels, labels, settle=True)
    other = torch_run(graph, pixels, labels, settle=True)
    assert one.messages.keys() == other.messages.keys()
    assert one.unheard == ("input.s_e", "hidden1.s_e", "output.s_A")
    assert set(one.unheard) == set(other.unheard)
    weights = [layer.weight.tolist() for layer in net.linears]
    zero = [[0.0] * len(w) for w in weights]
    for i in range(3):
        truth = plain.network(timing, weights, zero, (pixels[i] / 4).tolist(), np.eye(3)[labels[i]].tolist())
        for l, name in enumerate(("input", "hidden1", "output")):
            for kind in ("s_A", "s_e"):
                counts = [sum(map(abs, getattr(record, kind)[l])) for record in truth]
                assert one.messages[f"{name}.{kind}"][i].tolist() == counts
                assert other.messages[f"{name}.{kind}"][i].tolist() == counts
    mine, theirs = traffic.summary(one), traffic.summary(other)
    assert mine["error_phase"] > 0
    assert {**mine, "backend": ""} == {**theirs, "backend": ""}


def test_messages_of_stock_neurons_carry_what_their_kind_needs() -> None:
    """A spike 1 bit, a ternary one 2, a graded one 24, from any executor."""
    kinds = {"binary": LifInt(4095, 0, 3), "ternary": LifInt(4095, 0, 3, vth_lo=-3), "graded": GradedInt(1)}
    populations = (Population("input", 3, Source()), *(Population(name, 3, d) for name, d in kinds.items()))
    weight = np.array([[4, -4, 6], [-8, 2, 4], [-4, 6, -8]], np.int16)
    projections = tuple(Projection(name, "input", name, Dense(weight, Grid())) for name in kinds)
    graph = Graph(populations, projections, Encoding("given", levels=1), "binary", 6)
    shown = (np.random.default_rng(0).random((5, 6, 3)) < 0.5).astype(np.int8)
    for run in (exact.run, torch_run):
        result = run(graph, shown)
        rows = {r.population: r for r in traffic.rows(result)}
        for name, bits in {"input": 1, "binary": 1, "ternary": 2, "graded": 24}.items():
            assert rows[name].spikes > 0
            assert rows[name].bits == pytest.approx(bits * int(result.messages[f"{name}.s"].sum()) / 5)
