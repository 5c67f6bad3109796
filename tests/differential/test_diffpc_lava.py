"""DiffPC spike for spike: torch, the exact executor and Lava give the same value for every state and message."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compile.backends import exact, lava
from compile.passes.quantize import real
from compile.pipeline import compile_graph
from compile.verify import compare, dyadic
from lavasnn.config import RunConfig
from lavasnn.data import load
from lavasnn.dynamics.diffpc import DiffPCInt
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.errors import InputError, RangeError
from lavasnn.export import to_graph
from lavasnn.ir import Graph, Population, Projection
from lavasnn.learning.trainer import Trainer
from lavasnn.nn.diffpc import DiffPCNet
from lavasnn.nn.run import run as torch_run
from lavasnn.results import RunResult
from lavasnn.sections import NetworkSection, TrainingSection
from lavasnn.synapses import Dense, Grid, Transposed

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "diffpc_in_lava.py"
CODE = Encoding("value", -2, 16)
LATCHED = Timing(m=3, n=7, m_error=1, init_cycles=3, settle_cycles=4)
LIVE = Timing(
    m=3,
    n=6,
    m_error=-2,
    init_cycles=4,
    settle_cycles=4,
    gamma=0.5,
    targets="live",
    comparator=">",
    gate=">",
    update_activity="settled",
)
OTHERS = {
    "latched, strict": replace(LATCHED, comparator=">", update_activity="settled", gamma=0.5),
    "live": replace(LIVE, comparator=">=", gate=">="),
    "constant": Timing(m=-1, n=8, m_error=-5, init_cycles=4, settle_cycles=4, schedule="constant"),
    "decay": replace(LATCHED, schedule="cyclic-decay", final=0.125, m_error=None),
    "inference": replace(LATCHED, settle_cycles=0),
}


@pytest.fixture(scope="module")
def net() -> DiffPCNet:
    """64-24-16-10, trained on digits for a moment."""
    training = TrainingSection(epochs=4, batch=32, learning_rate=3e-3)
    config = RunConfig(network=NetworkSection(hidden=(24, 16)), training=training, timing=LATCHED)
    trainer = Trainer(config, load("digits:train"), seed=0)
    trainer.run()
    return trainer.net


def graph_of(net: DiffPCNet, timing: Timing) -> Graph:
    """The same weights under another timing."""
    other = DiffPCNet(net.sizes, timing)
    other.load_state_dict(net.state_dict())
    return to_graph(other, CODE)


Three = tuple[Graph, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def compiled(net: DiffPCNet) -> Callable[[Timing], Three]:
    """From a timing the compiled network, three images and their labels."""
    images = load("digits:test")

    def build(timing: Timing) -> Three:
        program = compile_graph(graph_of(net, timing), images.pixels[:64], images.labels[:64])
        return program.graph, images.pixels[:3], images.labels[:3]

    return build


def check_equal(graph: Graph, one: RunResult, other: RunResult) -> None:
    """Every trace of every population, compared here and by `compare`."""
    assert one.backend != other.backend
    kinds = ("s_A", "s_e", "x_A", "x_F", "e_A")
    expected = {f"{p.name}.{kind}" for p in graph.populations for kind in kinds}
    for run in (one, other):
        assert {key for key in run.traces if not key.endswith(".margin")} == expected
    for key in expected:
        assert np.array_equal(one.traces[key], other.traces[key]), key
    assert np.array_equal(one.outputs, other.outputs)
    for key in one.messages:
        assert np.array_equal(one.messages[key], other.messages[key]), key
    found = compare(graph, one, other)
    size = sum(p.size for p in graph.populations)
    assert found.equal
    assert found.first is None
    assert found.compared == one.samples * one.steps * size * len(kinds) + one.outputs.size
    assert found.populations == tuple(p.name for p in graph.populations)


def check_three(graph: Graph, pixels: np.ndarray, labels: np.ndarray, settle: bool = True) -> None:
    """Torch, exact and Lava."""
    one = exact.run(graph, pixels, labels, settle=settle, record=True)
    check_equal(graph, one, torch_run(graph, pixels, labels, settle=settle, record=True))
    check_equal(graph, one, lava.run(graph, pixels, labels, settle=settle, record=True, timeout_s=60))
    assert all(one.traces[f"{p.name}.s_A"].any() for p in graph.populations[:-1])
    if settle:
        assert all(one.traces[f"{p.name}.s_e"].any() for p in graph.populations[1:])


@pytest.mark.lava
@pytest.mark.parametrize("timing", [LATCHED, LIVE], ids=["latched", "live"])
def test_integers_are_equal_everywhere(compiled: Callable[[Timing], Three], timing: Timing) -> None:
    graph, pixels, labels = compiled(timing)
    assert graph.integer
    check_three(graph, pixels, labels)


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize("name", list(OTHERS))
def test_integers_are_equal_everywhere_under_other_timings(compiled: Callable[[Timing], Three], name: str) -> None:
    graph, pixels, labels = compiled(OTHERS[name])
    check_three(graph, pixels, labels, settle=name != "inference")


@pytest.mark.lava
@pytest.mark.parametrize("timing", [LATCHED, pytest.param(LIVE, marks=pytest.mark.slow)], ids=["latched", "live"])
def test_float64_with_dyadic_weights_is_equal_everywhere(compiled: Callable[[Timing], Three], timing: Timing) -> None:
    integers, pixels, labels = compiled(timing)
    graph = real(integers)
    assert not graph.integer
    assert dyadic(graph)
    check_three(graph, pixels, labels)


@pytest.mark.parametrize("timing", [LATCHED, LIVE, *OTHERS.values()])
def test_integers_are_the_float64_network(compiled: Callable[[Timing], Three], timing: Timing) -> None:
    """Quantised weights without further rounding: both arithmetics go through the same states."""
    graph, pixels, labels = compiled(timing)
    point = graph.source.dynamics.point if isinstance(graph.source.dynamics, DiffPCInt) else -1
    settle = timing.settle_cycles > 0
    whole = exact.run(graph, pixels, labels, settle=settle, record=True)
    floats = exact.run(real(graph), pixels, labels, settle=settle, record=True)
    for key, values in whole.traces.items():
        unit = 1.0 if ".s_" in key else 2.0**point
        assert np.array_equal(values / unit, floats.traces[key]), key


@pytest.mark.lava
def test_arbitrary_float64_weights_are_equal_up_to_ties(net: DiffPCNet) -> None:
    random = np.random.default_rng(1)
    graph = graph_of(net, LATCHED)
    noisy = tuple(
        replace(p, synapses=Dense(p.synapses.weight * random.uniform(0.9, 1.1, p.synapses.weight.shape)))
        if isinstance(p.synapses, Dense)
        else p
        for p in graph.projections
    )
    graph = replace(graph, projections=noisy)
    assert not dyadic(graph)
    images = load("digits:test").take(3)
    one = exact.run(graph, images.pixels, images.labels, settle=True, record=True)
    for other in (
        torch_run(graph, images.pixels, images.labels, settle=True, record=True),
        lava.run(graph, images.pixels, images.labels, settle=True, record=True, timeout_s=60),
    ):
        found = compare(graph, one, other)
        assert found.equal, str(found.first)
        whole = one.samples * one.steps * sum(p.size for p in graph.populations) * 5
        assert found.compared > 0.9 * whole


# What `compare` sees


@pytest.fixture(scope="module")
def pair(compiled: Callable[[Timing], Three]) -> tuple[Graph, RunResult, RunResult]:
    """An exact and a torch run of the same integers."""
    graph, pixels, labels = compiled(LATCHED)
    runs = (f(graph, pixels, labels, settle=True, record=True) for f in (exact.run, torch_run))
    return graph, *runs  # type: ignore[return-value]


def changed(run: RunResult, key: str, place: tuple[int, ...], by: float) -> RunResult:
    values = run.traces[key].copy()
    values[place] += by
    return replace(run, traces={**run.traces, key: values})


def test_a_flipped_spike_is_found(pair: tuple[Graph, RunResult, RunResult]) -> None:
    graph, one, other = pair
    sample, step, neuron = (int(i) for i in np.argwhere(one.traces["hidden2.s_A"] == 1)[7])
    found = compare(graph, one, changed(other, "hidden2.s_A", (sample, step, neuron), -1))
    assert not found.equal
    assert found.mismatches == 1
    assert found.first is not None
    assert str(found.first) == (
        f"population 'hidden2', s_A of neuron {neuron}, sample {sample}, step {step}: exact 1, torch 0 "
        "(likely cause: threshold or an input that is not recorded: the recorded states agree)"
    )
    assert found.to_json()["first"] == str(found.first)


@pytest.mark.parametrize(
    ("by", "cause"),
    [(1, "rounding: the values differ in the last bits"), (1000, "decay or accumulation: states differ although")],
)
def test_a_changed_state_is_found(pair: tuple[Graph, RunResult, RunResult], by: int, cause: str) -> None:
    graph, one, other = pair
    found = compare(graph, one, changed(other, "output.e_A", (1, 30, 4), by)).first
    assert found is not None
    assert (found.population, found.variable, found.sample, found.step, found.neuron) == ("output", "e_A", 1, 30, 4)
    assert found.values["torch"] - found.values["exact"] == by
    assert found.cause.startswith(cause)


def test_the_first_of_several_differences_is_named(pair: tuple[Graph, RunResult, RunResult]) -> None:
    graph, one, other = pair
    places = [("output.x_F", (1, 20, 3)), ("hidden1.x_A", (1, 21, 0)), ("input.x_A", (2, 0, 0)), ("hidden2.x_F", (1, 20, 9))]
    for key, place in places:
        other = changed(other, key, place, 5)
    found = compare(graph, one, other)
    assert found.mismatches == 4
    assert found.first is not None
    assert (found.first.population, found.first.step, found.first.neuron) == ("hidden2", 20, 9)


def test_saturation_and_order_are_told_apart(pair: tuple[Graph, RunResult, RunResult]) -> None:
    graph, one, other = pair
    top = replace(one, traces={k: v.copy() for k, v in one.traces.items()})
    top.traces["hidden1.x_F"][0, 9, 2] = 2**23 - 1
    found = compare(graph, top, changed(other, "hidden1.x_F", (0, 9, 2), 3)).first
    assert found is not None
    assert found.cause == "saturation: a value at the end of its register"
    mine = {k for k in other.traces if k.startswith("output.")}
    late = {k: np.concatenate([v[:, :1], v[:, :-1]], axis=1) if k in mine else v for k, v in other.traces.items()}
    found = compare(graph, one, replace(other, traces=late)).first
    assert found is not None
    assert found.population == "output"
    assert found.cause == "ordering: torch is 1 step behind"
    early = {k: np.concatenate([v[:, 1:], v[:, -1:]], axis=1) if k in mine else v for k, v in other.traces.items()}
    found = compare(graph, one, replace(other, traces=early)).first
    assert found is not None
    assert found.cause == "ordering: torch is 1 step ahead"


def test_changed_outputs_are_counted(pair: tuple[Graph, RunResult, RunResult]) -> None:
    graph, one, other = pair
    outputs = other.outputs.copy()
    outputs[2, 1] += 1
    assert compare(graph, one, replace(other, outputs=outputs)).mismatches == 1


def test_runs_that_cannot_be_compared_are_refused(pair: tuple[Graph, RunResult, RunResult]) -> None:
    graph, one, other = pair
    less = {k: v for k, v in other.traces.items() if k != "hidden1.e_A"}
    with pytest.raises(InputError, match=r"verify: exact and torch did not record the same; differing: hidden1\.e_A"):
        compare(graph, one, replace(other, traces=less))
    with pytest.raises(InputError, match="verify: exact and torch did not record the same; differing: all traces"):
        compare(graph, replace(one, traces={}), replace(other, traces={}))
    fewer = {k: v[:2] for k, v in other.traces.items()}
    with pytest.raises(InputError, match=r"verify: \w+\.\w+ has shape \(3, 50, \d+\) and \(2, 50, \d+\)"):
        compare(graph, one, replace(other, traces=fewer))


def test_float_runs_are_compared_up_to_their_first_tie(net: DiffPCNet) -> None:
    graph = graph_of(net, LATCHED)
    weights = tuple(
        replace(p, synapses=Dense(p.synapses.weight / 3)) if isinstance(p.synapses, Dense) else p for p in graph.projections
    )
    graph = replace(graph, projections=weights)
    images = load("digits:test").take(2)
    one = exact.run(graph, images.pixels, images.labels, settle=True, record=True)
    other = torch_run(graph, images.pixels, images.labels, settle=True, record=True)
    before = compare(graph, one, other)
    assert before.equal
    assert before.ties == 0
    margins = {k: np.full_like(v, 1.0) if k.endswith(".margin") else v for k, v in one.traces.items()}
    margins["hidden1.margin"][1, 25] = 1e-10  # sample 1 is undecided from step 25 on
    tied = replace(one, traces=margins)
    assert compare(graph, tied, changed(other, "output.x_F", (1, 25, 0), 1.0)).equal
    found = compare(graph, tied, changed(other, "output.x_F", (1, 24, 0), 1.0))
    assert found.ties == 1
    assert found.mismatches == 1
    assert not compare(graph, tied, changed(other, "output.x_F", (0, 25, 0), 1e-8)).equal
    assert compare(graph, tied, changed(other, "output.x_F", (0, 25, 0), 1e-10)).equal


# 24 bits


def overflowing() -> Graph:
    """A 3-2-2 network whose states grow past 24 bits, with 16 fractional bits and weights up to 16."""
    timing = Timing(m=4, n=5, init_cycles=2, settle_cycles=2)
    point, fraction = 16, 4
    shift = point + timing.lowest("activity") - fraction
    w1, w2 = np.array([[40, 64, -20], [254, 120, 90]]), np.array([[10, 6], [-30, 100]])
    populations = (
        Population("input", 3, DiffPCInt("input", 0, timing, 0, point)),
        Population("hidden1", 2, DiffPCInt("hidden", 1, timing, 0, point)),
        Population("output", 2, DiffPCInt("output", 2, timing, 0, point)),
    )
    projections = (
        Projection("w1", "input", "hidden1", Dense(w1.astype(np.int16), Grid(shift, "mixed", 1 / 16)), "s_A", "a_x"),
        Projection("w2", "hidden1", "output", Dense(w2.astype(np.int16), Grid(shift, "mixed", 1 / 16)), "s_A", "a_x"),
        Projection("w2t", "output", "hidden1", Transposed("w2", shift), "s_e", "a_e"),
    )
    return Graph(populations, projections, Encoding("value", 0, 16), "output")


def first_overflow(plain: SimpleNamespace, graph: Graph, pixels: np.ndarray, label: int) -> tuple[str, str, int, int, int]:
    """Population, state, neuron, value and step where unbounded integers first leave signed 24 bits."""
    point = 16
    forward = [graph.weight(graph.projection(name)).tolist() for name in ("w1", "w2")]
    records = plain.network(
        graph.timing,
        forward,
        [[0, 0], [0, 0]],
        [int(v) << point for v in pixels],
        [int(k == label) << point for k in range(2)],
        point=point,
        shifts=[(12, 12), (12, 12)],
    )
    for t, record in enumerate(records):
        for p, states in zip(graph.populations, record.states, strict=True):
            for name in ("x_F", "x_T", "x_A", "e_in", "e_T", "e_A"):
                values = [getattr(s, name) for s in states]
                worst = max(range(len(values)), key=lambda j: abs(values[j]))
                if abs(values[worst]) >= 2**23:
                    return p.name, name, worst, values[worst], t
    raise AssertionError("nothing overflows")


@pytest.mark.lava
def test_a_run_that_leaves_24_bits_stops_in_both_executors(plain: SimpleNamespace) -> None:
    graph, pixels = overflowing(), np.array([[7, 1, 2]], np.uint8)
    population, state, neuron, value, step = first_overflow(plain, graph, pixels[0], 1)
    assert (population, state, neuron) == ("hidden1", "x_F", 1)
    assert 0 < step < 10
    message = f"{state} of neuron {neuron}{{}} is {value:,} at step {step}, signed 24 bits hold up to +-8,388,607"
    with pytest.raises(RangeError) as caught:
        exact.run(graph, pixels, np.array([1]), settle=True)
    assert str(caught.value) == f"population {population!r}: " + message.format(" of row 0")
    with pytest.raises(RangeError) as caught:
        lava.run(graph, pixels, np.array([1]), settle=True, timeout_s=60)
    assert str(caught.value) == f"population {population!r}: " + message.format("")
    assert exact.run(graph, pixels // 4, np.array([1])).samples == 1  # a quieter image stays inside


# Wired by hand


@pytest.mark.lava
def test_the_hand_wired_example_sends_the_same_spikes(plain: SimpleNamespace) -> None:
    spec = importlib.util.spec_from_file_location("diffpc_in_lava", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    names, timing, point = ("input", "hidden", "output"), example.TIMING, example.POINT
    roles = ("input", "hidden", "output")
    populations = tuple(
        Population(name, size, DiffPCInt(role, depth, timing, 0, point))  # type: ignore[arg-type]
        for depth, (name, role, size) in enumerate(zip(names, roles, (4, 3, 2), strict=True))
    )
    projections = (
        Projection("w1", "input", "hidden", Dense(example.W1, Grid(example.SHIFT)), "s_A", "a_x"),
        Projection("w2", "hidden", "output", Dense(example.W2, Grid(example.SHIFT)), "s_A", "a_x"),
        Projection("w2t", "output", "hidden", Transposed("w2", example.SHIFT), "s_e", "a_e"),
    )
    graph = Graph(populations, projections, Encoding("value", -2, 16), "output")
    pixels = (example.X * 4 // 2**point).astype(np.uint8)
    run = exact.run(graph, pixels, example.LABEL.argmax(1), settle=True, record=True)
    weights = [(w / 2**example.FRACTION).tolist() for w in (example.W1, example.W2)]
    truth = plain.network(timing, weights, [[0.0] * 3, [0.0] * 2], example.X[0] / 2**point, example.LABEL[0] / 2**point)
    lines: list[str] = []
    for l, name in enumerate(names):
        for kind in ("s_A", "s_e"):
            spikes = np.array([getattr(record, kind)[l] for record in truth])
            assert np.array_equal(run.traces[f"{name}.{kind}"][0], spikes)
            lines += [
                f"{name:6} {kind} {neuron}  " + "".join({0: ".", 1: "+", -1: "-"}[int(s)] for s in train)
                for neuron, train in enumerate(spikes.T)
                if train.any()
            ]
    lines.append(f"class {run.predictions[0]}")
    command = [sys.executable, str(EXAMPLE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == lines
    assert sum("s_e" in line for line in lines) >= 3
