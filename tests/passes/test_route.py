"""Routes: distances, axons and messages of a placed network, counted by hand."""

from dataclasses import replace

import numpy as np
import pytest

from compile.passes.partition import Partition
from compile.passes.place import Place
from compile.passes.route import Route
from compile.passes.state import State
from compile.program import Route as Way
from compile.target import LOIHI2, Target
from lavasnn.dynamics.lif import LifInt
from lavasnn.encode import Encoding
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.synapses import Dense, Grid

NEURON = LifInt(du=4095, dv=0, vth=5)


def small(**limits: int) -> Target:
    return replace(LOIHI2, **{name: replace(getattr(LOIHI2, name), value=value) for name, value in limits.items()})


BOARD = small(neurons_per_core=2, cores=2, mesh_width=2, mesh_height=1, chips=6, board_width=2)
"""Six chips, two in a row, each of two cores side by side, each of two neurons."""


def weight(post: int, pre: int) -> Dense:
    return Dense(np.full((post, pre), 2, np.int16), Grid())


@pytest.fixture
def partitioned() -> State:
    """Three inputs, 4 neurons on cores 0 and 1, 3 neurons on cores 2 and 3, which lead back to the 4."""
    populations = (Population("in", 3, Source()), Population("a", 4, NEURON), Population("b", 3, NEURON))
    projections = (
        Projection("w", "in", "a", weight(4, 3)),
        Projection("v", "a", "b", weight(3, 4)),
        Projection("back", "b", "a", weight(4, 3)),
    )
    graph = Graph(populations, projections, Encoding("bernoulli", levels=16), "b", 4)
    before = State(graph, BOARD, np.zeros((1, 3), np.uint8), np.zeros(1, np.int64))
    traffic = {"in.s": np.array([9.0, 9.0, 9.0]), "a.s": np.array([1.0, 2.0, 4.0, 8.0]), "b.s": np.array([0.5, 0.0, 0.25])}
    return Partition().apply(replace(before, traffic=traffic))


def test_routes_hold_axons_messages_and_the_way(partitioned: State) -> None:
    """Cores 0 and 1 on chip 0, core 2 on the right of chip 1 beside it, core 3 on the left of chip 4, two rows below chip 0."""
    assert [s.core for s in partitioned.slices] == [0, 1, 2, 3]
    after = Route().apply(replace(partitioned, places=((0, 0, 0), (0, 1, 0), (1, 1, 0), (4, 0, 0))))
    assert after.routes == (
        Way(0, 2, 2, 3.0, 2, 1),  # column 0 to column 3, one of the three links a border
        Way(0, 3, 2, 3.0, 0, 2),  # straight down over two borders
        Way(1, 2, 2, 12.0, 1, 1),
        Way(1, 3, 2, 12.0, 1, 2),
        Way(2, 0, 2, 0.5, 2, 1),
        Way(2, 1, 2, 0.5, 1, 1),
        Way(3, 0, 1, 0.25, 0, 2),
        Way(3, 1, 1, 0.25, 1, 2),
    )
    found = after.report["route"]
    assert found["messages_by_hops"] == {"0": 3.25, "1": 24.75, "2": 3.5}
    assert (found["messages_between_cores"], found["messages_between_chips"]) == (31.5, 31.5)
    assert (found["largest_axons_out"], found["largest_axons_in"]) == (4, 6)
    assert found["fan_out"] == {"a": {"mean": 2.0, "most": 2}, "b": {"mean": 2.0, "most": 2}}
    assert found["routes"] == 8


def test_messages_on_one_core_and_one_chip_cross_nothing() -> None:
    populations = (Population("in", 3, Source()), Population("a", 4, NEURON), Population("b", 3, NEURON))
    projections = (Projection("w", "in", "a", weight(4, 3)), Projection("v", "a", "b", weight(3, 4)))
    graph = Graph(populations, projections, Encoding("bernoulli", levels=16), "b", 4)
    after = State(graph, LOIHI2, np.zeros((1, 3), np.uint8), np.zeros(1, np.int64), traffic={"a.s": np.ones(4)})
    for step in (Partition(), Place(), Route()):
        after = step.apply(after)
    assert after.routes == (Way(0, 1, 4, 4.0, 0, 0),)
    assert after.report["route"]["messages_between_cores"] == 0.0


def test_messages_times_hops_are_what_the_placement_says(partitioned: State) -> None:
    placed = Place().apply(partitioned)
    after = Route().apply(placed)
    crossing = BOARD.chip_crossing.value
    assert sum(r.messages * (r.hops + crossing * r.chips) for r in after.routes) == pytest.approx(
        placed.report["place"]["hops"]
    )
    assert after.report["place"] == placed.report["place"]
    assert placed.routes == ()


def test_the_state_given_stays_as_it_is(partitioned: State) -> None:
    slices, links = partitioned.slices, partitioned.links
    placed = Place().apply(partitioned)
    Route().apply(placed)
    assert (partitioned.slices, partitioned.links, partitioned.places) == (slices, links, ())
