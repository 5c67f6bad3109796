"""Cores on the mesh: never dearer than row by row, the best there is where all placements can be tried, always the same."""

from dataclasses import replace
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compile.passes import place
from compile.passes.links import Links
from compile.passes.place import Mesh, Place
from compile.passes.state import State
from compile.program import Slice
from compile.target import LOIHI2, Target
from lavasnn.dynamics.lif import LifInt
from lavasnn.encode import Encoding
from lavasnn.ir import Graph, Population, Source

Table = list[tuple[int, int, float]]
"""Sender, receiver, messages per sample."""
Spot = tuple[int, int, int]


def system(width: int, height: int, chips: int = 1, board: int = 1, crossing: int = 8) -> Target:
    sizes = {
        "cores": width * height,
        "mesh_width": width,
        "mesh_height": height,
        "chips": chips,
        "board_width": board,
        "chip_crossing": crossing,
    }
    return replace(LOIHI2, **{name: replace(getattr(LOIHI2, name), value=value) for name, value in sizes.items()})


def state(cores: int, table: Table, target: Target, axons: int = 1) -> State:
    """One slice a core; no more of the network than a placement looks at."""
    populations = (Population("in", 1, Source()), Population("p", cores, LifInt(du=4095, dv=0, vth=5)))
    graph = Graph(populations, (), Encoding("bernoulli", levels=16), "p", 4)
    slices = tuple(Slice(i, "p", i, i + 1, 1, 10) for i in range(cores))
    columns = [np.array([entry[k] for entry in table], np.int64) for k in (0, 1)]
    links = Links(*columns, np.full(len(table), axons), np.array([entry[2] for entry in table], np.float64))
    return State(graph, target, np.zeros((1, 1), np.uint8), np.zeros(1, np.int64), slices=slices, links=links)


def far(target: Target, a: Spot, b: Spot) -> int:
    """Links of the mesh, borders of chips at their price."""
    width, height, board = target.mesh_width.value, target.mesh_height.value, target.board_width.value
    (ca, xa, ya), (cb, xb, yb) = a, b
    borders = abs(ca % board - cb % board) + abs(ca // board - cb // board)
    columns = abs((ca % board) * width + xa - (cb % board) * width - xb)
    rows = abs((ca // board) * height + ya - (cb // board) * height - yb)
    return columns + rows - borders + borders * target.chip_crossing.value


def cost(target: Target, places: Any, table: Table) -> float:
    return sum(m * far(target, places[a], places[b]) for a, b, m in table)


def row_major(target: Target, cores: int) -> list[Spot]:
    width, each = target.mesh_width.value, target.cores.value
    return [(i // each, i % each % width, i % each // width) for i in range(cores)]


def tables(cores: int) -> st.SearchStrategy[Table]:
    link = st.tuples(st.integers(0, cores - 1), st.integers(0, cores - 1), st.integers(1, 100).map(float))
    return st.lists(link.filter(lambda e: e[0] != e[1]), min_size=1, max_size=4 * cores, unique_by=lambda e: e[:2])


@settings(max_examples=60)
@given(st.data(), st.integers(2, 14), st.integers(1, 4), st.integers(1, 4), st.integers(0, 12))
def test_each_core_has_its_place_and_none_is_dearer_than_row_by_row(
    data: st.DataObject, cores: int, width: int, height: int, crossing: int
) -> None:
    chips = -(-cores // (width * height))
    target = system(width, height, chips, max(1, chips // 2), crossing)
    table = data.draw(tables(cores))
    after = Place().apply(state(cores, table, target))
    assert len(after.places) == len(set(after.places)) == cores
    assert all(0 <= c < chips and 0 <= x < width and 0 <= y < height for c, x, y in after.places)
    found = after.report["place"]
    assert found["hops"] == pytest.approx(cost(target, after.places, table))
    assert found["hops_row_major"] == pytest.approx(cost(target, row_major(target, cores), table))
    assert found["hops"] <= found["hops_row_major"]
    assert Place().apply(state(cores, table, target)).places == after.places


@settings(max_examples=25)
@given(st.data(), st.integers(2, 6))
def test_six_cores_lie_as_well_as_they_can(data: st.DataObject, cores: int) -> None:
    """All placements of up to six cores on 3 x 2 places."""
    target, table = system(3, 2), data.draw(tables(cores))
    spots = row_major(target, 6)
    best = min(cost(target, placed, table) for placed in permutations(spots, cores))
    assert Place().apply(state(cores, table, target)).report["place"]["hops"] == pytest.approx(best)


@settings(max_examples=6)
@given(st.data())
def test_two_chips_share_cores_as_well_as_they_can(data: st.DataObject) -> None:
    """All placements of seven cores on two chips of 2 x 2, within a few percent."""
    target, table = system(2, 2, chips=2, board=2), data.draw(tables(7))
    best = min(cost(target, placed, table) for placed in permutations(row_major(target, 8), 7))
    assert Place().apply(state(7, table, target)).report["place"]["hops"] <= 1.05 * best


def test_a_chain_lies_along_neighbours() -> None:
    """120 cores in a shuffled chain: 119 links at least; row by row takes many times as much."""
    order = np.random.default_rng(0).permutation(120)
    table = [(int(a), int(b), 1.0) for a, b in pairwise(order)]
    found = Place().apply(state(120, table, LOIHI2)).report["place"]
    assert 119 <= found["hops"] < 1.5 * 119
    assert found["hops_row_major"] > 6 * 119


def test_borders_of_chips_are_avoided() -> None:
    """Two groups of four that talk among themselves, given alternately, on two chips of four."""
    table = [(a, b, 1.0) for a in range(8) for b in range(8) if a != b and a % 2 == b % 2]
    after = Place().apply(state(8, table, system(2, 2, 2, 2)))
    assert len({after.places[i][0] for i in (0, 2, 4, 6)}) == len({after.places[i][0] for i in (1, 3, 5, 7)}) == 1


def test_without_messages_axons_decide() -> None:
    target = system(4, 4)
    after = Place().apply(state(16, [(0, 15, 0.0)], target, axons=7))
    assert after.report["place"] == {"hops": 0.0, "hops_row_major": 0.0, "weighed_by": "axons"}
    assert far(target, after.places[0], after.places[15]) == 1


def test_large_networks_take_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """More cores than may be placed greedily: a grid of neighbours, given row by row of a wider grid."""
    monkeypatch.setattr(place, "GREEDY", 50)
    table = [(i, i + 1, 1.0) for i in range(239)]
    found = Place().apply(state(240, table, system(8, 15, 2, 2))).report["place"]
    assert found["hops"] < 1.2 * (238 + 8) < found["hops_row_major"]


def test_work_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "BUDGET", 100)
    table = [(a, b, float(a * b % 7 + 1)) for a in range(60) for b in range(60) if a != b]
    found = Place().apply(state(60, table, LOIHI2)).report["place"]
    assert found["hops"] <= found["hops_row_major"]


@pytest.mark.parametrize("side", [2, 4, 8, 16])
def test_the_curve_goes_from_neighbour_to_neighbour(side: int) -> None:
    mesh = Mesh.of(system(side, side), side * side)
    way = place._curve(mesh)
    assert sorted(way.tolist()) == list(range(side * side))
    steps = np.abs(np.diff(mesh.column[way])) + np.abs(np.diff(mesh.row[way]))
    assert set(steps.tolist()) == {1}


def test_no_cores_need_no_places() -> None:
    before = replace(state(1, [], LOIHI2), slices=())
    assert Place().apply(before) is before
