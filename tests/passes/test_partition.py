"""Neurons onto cores: everything once, nothing over a limit, and a clear word where that cannot be."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compile.passes.partition import Partition
from compile.passes.schedule import Schedule
from compile.passes.state import State
from compile.program import Slice
from compile.target import LOIHI2, Target
from lavasnn.dynamics.diffpc import DiffPCInt
from lavasnn.dynamics.lif import LifInt
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.errors import LimitError
from lavasnn.ir import DenseInt, Graph, Population, Projection, Source, Transposed


def lif(sizes: list[int]) -> Graph:
    names = [f"p{i}" for i in range(len(sizes))]
    neuron = LifInt(du=4095, dv=0, vth=5)
    populations = [Population(n, s, Source() if i == 0 else neuron) for i, (n, s) in enumerate(zip(names, sizes, strict=True))]
    projections = [
        Projection(f"w{i}", names[i - 1], names[i], DenseInt(np.zeros((sizes[i], sizes[i - 1]), np.int16)))
        for i in range(1, len(sizes))
    ]
    return Graph(tuple(populations), tuple(projections), Encoding("bernoulli", levels=16), names[-1], 4)


def diffpc(sizes: list[int]) -> Graph:
    names = [f"p{i}" for i in range(len(sizes))]
    timing = Timing(m=2, n=3, init_cycles=len(sizes))
    populations: list[Population] = []
    projections: list[Projection] = []
    for i, size in enumerate(sizes):
        role = "input" if i == 0 else "output" if i == len(sizes) - 1 else "hidden"
        populations.append(Population(names[i], size, DiffPCInt(role, i, timing, point=4)))
        if i:
            weight = np.zeros((size, sizes[i - 1]), np.int16)
            projections.append(Projection(f"w{i}", names[i - 1], names[i], DenseInt(weight), "s_A", "a_x"))
        if i > 1:
            projections.append(Projection(f"w{i}t", names[i], names[i - 1], Transposed(f"w{i}"), "s_e", "a_e"))
    return Graph(tuple(populations), tuple(projections), Encoding("value", -2, 16), names[-1])


def small(**limits: int) -> Target:
    """Loihi 2 with other limits."""
    return replace(LOIHI2, **{name: replace(getattr(LOIHI2, name), value=value) for name, value in limits.items()})


def state(graph: Graph, target: Target = LOIHI2) -> State:
    return State(graph, target, np.zeros((1, graph.source.size), np.uint8), np.zeros(1, np.int64))


def sources(graph: Graph, name: str) -> int:
    """Weights of one neuron of a population: one for each neuron it hears."""
    sizes = {p.name: p.size for p in graph.populations}
    return sum(sizes[p.source] for p in graph.projections if p.target == name)


def memory(graph: Graph, piece: Slice) -> int:
    """A byte a weight, 3 bytes a state (6 of DiffPC and its mask, 2 of LIF and of a DiffPC input), 4 bytes an axon."""
    pre = sources(graph, piece.population)
    states = 6 if graph.timing is None or piece.population == graph.source.name else 19
    return (piece.stop - piece.start) * (pre + states) + 4 * pre


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=2, max_size=4),
    st.booleans(),
    st.integers(1, 40),
    st.integers(400, 4000),
)
def test_every_neuron_sits_once_and_no_core_is_overfull(sizes: list[int], stock: bool, neurons: int, memory_bytes: int) -> None:
    graph = lif(sizes) if stock else diffpc(sizes)
    target = small(neurons_per_core=neurons, memory_per_core=memory_bytes, cores=10_000)
    most = max(sources(graph, p.name) * 5 + 21 for p in graph.populations)
    if most > memory_bytes:
        return
    slices = Partition().apply(state(graph, target)).slices
    assert [s.core for s in slices] == list(range(len(slices)))
    found = [(s.population, i) for s in slices for i in range(s.start, s.stop)]
    wanted = [(p.name, i) for p in graph.populations if not isinstance(p.dynamics, Source) for i in range(p.size)]
    assert sorted(found) == sorted(wanted)
    assert len(set(found)) == len(found)
    for s in slices:
        assert 1 <= s.stop - s.start <= neurons
        assert s.memory_bytes == memory(graph, s) <= memory_bytes
        assert s.synapses == (s.stop - s.start) * sources(graph, s.population)


def test_as_few_cores_as_the_limits_allow() -> None:
    """100 neurons of 64 + 6 bytes over cores with 256 bytes of axons and room for 20: five cores of 20."""
    target = small(memory_per_core=4 * 64 + 20 * 70)
    slices = Partition().apply(state(lif([64, 100]), target)).slices
    assert [(s.start, s.stop) for s in slices] == [(0, 20), (20, 40), (40, 60), (60, 80), (80, 100)]
    assert {s.memory_bytes for s in slices} == {4 * 64 + 20 * 70}


def refusal(graph: Graph, target: Target) -> LimitError:
    with pytest.raises(LimitError) as caught:
        Partition().apply(state(graph, target))
    assert caught.value.exit_code == 1
    return caught.value


@pytest.mark.parametrize(
    "graph, target, expected",
    [
        (lif([64, 10]), small(fan_in_per_core=63), ("population 'p1'", "input axons", 64, 63)),
        (diffpc([4, 8, 9]), small(fan_in_per_core=12), ("population 'p1'", "input axons", 13, 12)),
        (lif([64, 10]), small(memory_per_core=325), ("population 'p1'", "bytes for one neuron and its axons", 326, 325)),
        (lif([8, 50]), small(neurons_per_core=7, cores=7), ("the network on loihi2", "cores", 8, 7)),
    ],
    ids=["fan-in", "fan-in with errors", "memory", "cores"],
)
def test_what_does_not_fit_is_named_with_need_and_limit(graph: Graph, target: Target, expected: tuple[Any, ...]) -> None:
    error = refusal(graph, target)
    assert (error.who, error.resource, error.needed, error.limit) == expected
    assert str(error).startswith(f"{expected[0]}: needs {expected[2]} {expected[1]}, the target has {expected[3]}; ")


def test_too_many_cores_names_the_population_that_takes_most() -> None:
    error = refusal(lif([8, 50, 20]), small(neurons_per_core=10, cores=6))
    assert (error.needed, error.limit) == (7, 6)
    assert "population 'p1' alone takes 5" in error.hint


def test_loihi2_takes_a_network_of_the_examples_size() -> None:
    after = Partition().apply(state(diffpc([784, 400, 10])))
    assert after.report["partition"]["cores"] == [len(after.slices), 120]
    assert sum(s.stop - s.start for s in after.slices) == 1194


def test_the_state_given_stays_as_it_is() -> None:
    before = replace(state(diffpc([6, 5, 4])), report={"earlier": 1})
    copy = deepcopy(before)
    for step in (Partition(), Schedule()):
        after = step.apply(before)
        assert after.report["earlier"] == 1
        assert after.graph is before.graph
        assert (before.slices, before.offsets, before.report) == (copy.slices, copy.offsets, copy.report)


def test_windows_of_feed_forward_layers_open_one_step_apart() -> None:
    assert Schedule().apply(state(lif([6, 5, 4, 3]))).offsets == {"p0": 0, "p1": 1, "p2": 2, "p3": 3}
    assert Schedule().apply(state(diffpc([6, 5, 4]))).offsets == {"p0": 0, "p1": 0, "p2": 0}
