"""Cores onto the mesh, so that messages cross few links.

The cost is the sum over pairs of cores of messages per sample times their distance: links of the mesh between them, and
`Target.chip_crossing` for each border of chips. Without measured messages, axons stand for them.

Starting from several placements (row by row, along a space-filling curve, greedily; small networks also from shuffled ones) two
cores, or a core and an empty place, change places while that lowers the cost; the best end is taken. So it is never dearer than
row by row. Everything is deterministic; the work has a bound that is counted in steps, not in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from compile.passes.state import State
from compile.target import Target

Ints = NDArray[np.int64]

GREEDY = 2000
"""Cores up to which placements are built greedily and, after near ones, any two may change places; beyond, only near ones."""
SHUFFLED = 64
"""Cores up to which shuffled placements are tried too."""
SHUFFLES = 16
REACH = 3
"""Rows and columns between near cores."""
BUDGET = 400_000_000
"""Steps (links looked at) of all descents together: seconds."""


@dataclass(frozen=True)
class Place:
    """Set chip, column and row of every core."""

    def apply(self, state: State) -> State:
        """See the module's text."""
        count = 1 + max((s.core for s in state.slices), default=-1)
        if not count:
            return state
        mesh = Mesh.of(state.target, count)
        weight, measured = _between(state, count)
        row_major = np.arange(count)
        best, least = row_major, mesh.cost(weight, row_major)
        starts, budget = list(_starts(weight, mesh, count)), BUDGET
        for i, at in enumerate(starts):
            found, spent = _descended(weight, mesh, at, budget // (len(starts) - i))
            budget -= spent
            if (cost := mesh.cost(weight, found)) < least * (1 - 1e-9):
                best, least = found, cost
        places = tuple((int(mesh.chip[p]), int(mesh.column[p]), int(mesh.row[p])) for p in best)
        unit = 1.0 if measured else 0.0
        summary = {
            "hops": least * unit,
            "hops_row_major": mesh.cost(weight, row_major) * unit,
            "weighed_by": "messages" if measured else "axons",
        }
        return replace(state, places=places, report={**state.report, "place": summary})


@dataclass(frozen=True, eq=False)
class Mesh:
    """Places of cores, those of one chip row by row, then those of the next; each array has shape (place,).

    Args:
        chip: Index of the chip.
        column: On the chip.
        row: On the chip.
        across: Column and row of the chip on its board.
        size: Columns and rows of a chip.
        crossing: Hops that a border between chips counts for.
    """

    chip: Ints
    column: Ints
    row: Ints
    across: tuple[Ints, Ints]
    size: tuple[int, int]
    crossing: int

    @staticmethod
    def of(target: Target, count: int) -> Mesh:
        """The places of as many chips as `count` cores need."""
        per_chip = target.cores.value
        place = np.arange(-(-count // per_chip) * per_chip)
        chip, inside = place // per_chip, place % per_chip
        width, board = target.mesh_width.value, target.board_width.value
        return Mesh(
            chip,
            inside % width,
            inside // width,
            (chip % board, chip // board),
            (width, target.mesh_height.value),
            target.chip_crossing.value,
        )

    def distance(self, a: Any, b: Any) -> tuple[Any, Any]:
        """Links within chips, and borders of chips, between places; arrays or single ones."""
        wide, high = self.size
        (x, y), (column, row) = self.across, (self.column, self.row)
        borders = np.abs(x[a] - x[b]) + np.abs(y[a] - y[b])
        links = np.abs(x[a] * wide + column[a] - x[b] * wide - column[b])
        links = links + np.abs(y[a] * high + row[a] - y[b] * high - row[b])
        return links - borders, borders

    def prices(self, partners: Ints, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weighted distance of every place from some, shape (place,); columns and rows add up, so each is summed alone."""
        (x, y), (wide, high) = self.across, self.size
        total = np.zeros(len(self.chip))
        for axis, times in (
            (x * wide + self.column, 1),
            (y * high + self.row, 1),
            (x, self.crossing - 1),
            (y, self.crossing - 1),
        ):
            span = np.arange(axis.max() + 1)
            there = np.bincount(axis[partners], weight, len(span))
            total += times * (np.abs(span[:, None] - span) @ there)[axis]
        return total

    def cost(self, weight: csr_matrix, at: Ints) -> float:
        """Weighted distance of all pairs of cores, each once."""
        pairs = weight.tocoo()
        hops, borders = self.distance(at[pairs.row], at[pairs.col])
        return float((pairs.data * (hops + self.crossing * borders)).sum() / 2)


def _between(state: State, count: int) -> tuple[csr_matrix, bool]:
    """Symmetric weights of pairs of cores, shape (core, core), and whether they are measured messages."""
    core = np.array([s.core for s in state.slices])
    links = state.links
    measured = bool(links.messages.any())
    values = links.messages if measured else links.axons.astype(np.float64)
    one = csr_matrix((values, (core[links.source], core[links.target])), shape=(count, count))
    both = (one + one.T).tolil()
    both.setdiag(0)
    weight = both.tocsr()
    weight.eliminate_zeros()
    weight.sort_indices()
    return weight, measured


def _starts(weight: csr_matrix, mesh: Mesh, count: int) -> Iterator[Ints]:
    """Placements to improve on: the place of each core."""
    yield np.arange(count)
    yield _curve(mesh)[:count]
    if count <= GREEDY:
        yield _greedy(weight, mesh)
    if count <= SHUFFLED:
        random = np.random.default_rng(0)
        for _ in range(SHUFFLES):
            yield random.permutation(len(mesh.chip))[:count]


def _curve(mesh: Mesh) -> Ints:
    """Places along a Hilbert curve over each chip, chips along one over their board."""

    def along(x: Ints, y: Ints) -> Ints:
        side = 1 << int(max(x.max(), y.max(), 1)).bit_length()
        x, y, way = x.copy(), y.copy(), np.zeros(len(x), np.int64)
        while side > 1:
            side //= 2
            right, up = (x & side) > 0, (y & side) > 0
            way += side * side * ((3 * right) ^ up)
            x, y = x & (side - 1), y & (side - 1)
            turned = right & ~up
            x, y = np.where(turned, side - 1 - x, x), np.where(turned, side - 1 - y, y)
            x, y = np.where(up, x, y), np.where(up, y, x)
        return way

    return np.lexsort((along(mesh.column, mesh.row), along(*mesh.across)))


def _greedy(weight: csr_matrix, mesh: Mesh) -> Ints:
    """Cores in order of their ties to those placed already, each at the cheapest free place."""
    count = len(weight.indptr) - 1
    at, free = np.full(count, -1), np.ones(len(mesh.chip), np.bool_)
    ties = np.zeros(count)
    waiting = np.ones(count, np.bool_)
    start, partner, values = _rows(weight)
    total = np.asarray(weight.sum(axis=1)).reshape(-1)
    to_middle = mesh.prices(np.array([len(mesh.chip) // 2]), np.ones(1))
    for _ in range(count):
        core = int(np.lexsort((-total, -ties, ~waiting))[0])
        span = slice(start[core], start[core + 1])
        partners, ws = partner[span], values[span]
        known = at[partners] >= 0
        price = mesh.prices(at[partners[known]], ws[known]) if known.any() else to_middle
        spot = int(np.argmin(np.where(free, price, np.inf)))
        at[core], free[spot], waiting[core] = spot, False, False
        ties[partners] += ws
    return at


def _rows(weight: Any) -> tuple[Ints, Ints, NDArray[np.float64]]:
    """Compressed rows: where each core's partners start, the partners, and the weights."""
    return weight.indptr.astype(np.int64), weight.indices.astype(np.int64), weight.data.astype(np.float64)


def _descended(weight: csr_matrix, mesh: Mesh, at: Ints, budget: int) -> tuple[Ints, int]:
    """The placement after exchanges that each lower the cost, near ones first, and the steps it took."""
    wide, high = mesh.size
    x = mesh.across[0] * wide + mesh.column
    y = mesh.across[1] * high + mesh.row
    lookup = np.full((x.max() + 1, y.max() + 1), -1, np.int64)
    lookup[x, y] = np.arange(len(x))
    spots, left = at.astype(np.int64), budget
    where = np.stack([x, y, *mesh.across]).astype(np.int64)
    start, partner, values = _rows(weight)
    for reach in (REACH, max(lookup.shape)) if len(at) <= GREEDY else (REACH,):
        left = _descend(start, partner, values, spots, where, lookup, reach, mesh.crossing, left)
    return spots, budget - left


@njit(nogil=True, cache=True)
def _far(where: Any, a: Any, b: Any, crossing: Any) -> Any:
    borders = abs(where[2, a] - where[2, b]) + abs(where[3, a] - where[3, b])
    return abs(where[0, a] - where[0, b]) + abs(where[1, a] - where[1, b]) + (crossing - 1) * borders


@njit(nogil=True, cache=True)
def _moved(start: Any, partner: Any, weight: Any, at: Any, where: Any, core: Any, other: Any, to: Any, crossing: Any) -> Any:
    """Change of cost if `core` goes to the place `to`, but for its link with `other`."""
    change = 0.0
    for k in range(start[core], start[core + 1]):
        if partner[k] != other:
            there = at[partner[k]]
            change += weight[k] * (_far(where, to, there, crossing) - _far(where, at[core], there, crossing))
    return change


@njit(nogil=True, cache=True)
def _descend(
    start: Any, partner: Any, weight: Any, at: Any, where: Any, lookup: Any, reach: Any, crossing: Any, budget: Any
) -> Any:
    """Move each core in turn to where it lowers the cost most, with whoever is there taking its place; until none can.

    Changes `at`; returns what is left of the budget.
    """
    holds = np.full(where.shape[1], -1, np.int64)
    for core in range(len(at)):
        holds[at[core]] = core
    worth = 1e-9 * weight.sum() / max(1, len(weight))
    better = True
    while better and budget > 0:
        better = False
        for core in range(len(at)):
            x, y = where[0, at[core]], where[1, at[core]]
            best, least = -1, -worth
            for i in range(max(0, x - reach), min(lookup.shape[0], x + reach + 1)):
                for j in range(max(0, y - reach), min(lookup.shape[1], y + reach + 1)):
                    to = lookup[i, j]
                    if to < 0 or to == at[core]:
                        continue
                    other = holds[to]
                    change = _moved(start, partner, weight, at, where, core, other, to, crossing)
                    budget -= start[core + 1] - start[core] + 1
                    if other >= 0:
                        change += _moved(start, partner, weight, at, where, other, core, at[core], crossing)
                        budget -= start[other + 1] - start[other]
                    if change < least:
                        best, least = to, change
            if best >= 0:
                other, here = holds[best], at[core]
                at[core], holds[best], holds[here] = best, core, other
                if other >= 0:
                    at[other] = here
                better = True
            if budget <= 0:
                return 0
    return budget
