"""How long messages are under way in a graph, and delays that make all ways to a population equally long.

Elsewhere (in NIR, in most simulators) a layer hears what another one sends within the same step; here each hop to a neuron
takes one. Where all ways to a population have as many hops, that only makes its window open later. Where they have not, the
short ones need delays. Populations on a loop hear themselves and each other a step later in either world.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from graphlib import TopologicalSorter

import numpy as np
from numpy.typing import NDArray

from lavasnn.dynamics.lif import Lif
from lavasnn.ir import Graph, Instant, Population, Projection, Source, Through
from lavasnn.synapses import strengths


def loops(names: Sequence[str], wires: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Number the populations so that two have the same number just if each leads to the other, and numbers grow downstream.

    Args:
        names: Populations.
        wires: (source, target) of each projection.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    at = {name: i for i, name in enumerate(names)}
    rows, columns = [at[a] for a, _ in wires], [at[b] for _, b in wires]
    joined = coo_matrix((np.ones(len(wires)), (rows, columns)), shape=(len(names), len(names)))
    _, label = connected_components(joined, directed=True, connection="strong")
    before: dict[int, set[int]] = {int(k): set() for k in label}
    for a, b in zip(rows, columns, strict=True):
        if label[a] != label[b]:
            before[int(label[b])].add(int(label[a]))
    rank = {k: i for i, k in enumerate(TopologicalSorter(before).static_order())}
    return {name: rank[int(label[i])] for name, i in at.items()}


def in_order(populations: Sequence[Population], projections: Sequence[Projection]) -> tuple[Population, ...]:
    """Populations from the input downstream, those of a loop as they come."""
    rank = loops([p.name for p in populations], [(q.source, q.target) for q in projections])
    return tuple(sorted(populations, key=lambda p: (not isinstance(p.dynamics, Source), rank[p.name])))


def depths(graph: Graph, *, shortest: bool = False) -> dict[str, int]:
    """Hops to each population from the input, on the longest way; the neurons of a loop share one number.

    Args:
        graph: Its delays do not count as hops.
        shortest: Lower a number to the steps of the shortest way, delays included, where that is less.
    """
    rank, hop = loops_of(graph), _hops(graph)
    alive = {rank[p.name] for p in graph.populations if not isinstance(p.dynamics, Instant)}
    # What only passes on within a loop of neurons does so a step before them.
    early = {p.name: 1 - hop[p.name] if rank[p.name] in alive else 0 for p in graph.populations}
    found: dict[int, int] = {}
    for k in sorted(set(rank.values())):
        entering = [q for q in graph.projections if rank[q.target] == k and rank[q.source] != k]
        ways = [found[rank[q.source]] - early[q.source] + hop[q.target] + early[q.target] for q in entering]
        found[k] = max(ways, default=0)
        if shortest:
            found[k] = min([found[k], *(way + int(np.min(q.delay)) for way, q in zip(ways, entering, strict=True))])
    return {name: found[k] - early[name] for name, k in rank.items()}


def slack(graph: Graph, depth: Mapping[str, int]) -> dict[str, int]:
    """For each projection, 0 within a loop: steps by which its ends are further apart than its hop takes."""
    rank, hop = loops_of(graph), _hops(graph)
    return {
        q.name: depth[q.target] - depth[q.source] - hop[q.target] if rank[q.source] != rank[q.target] else 0
        for q in graph.projections
    }


def loops_of(graph: Graph) -> dict[str, int]:
    """`loops` of a graph's populations."""
    return loops([p.name for p in graph.populations], [(q.source, q.target) for q in graph.projections])


def _hops(graph: Graph) -> dict[str, int]:
    """Steps that a message takes into each population."""
    return {p.name: 0 if isinstance(p.dynamics, Instant) else 1 for p in graph.populations}


def aligned(graph: Graph) -> Graph:
    """The graph with further delays, so that all ways from the input to a population have equally many steps.

    Delays that are already there count as meant and stay on top. Projections within a loop stay as they are.
    """
    late = slack(graph, depths(graph))
    return replace(
        graph, projections=tuple(replace(q, delay=q.delay + late[q.name]) if late[q.name] else q for q in graph.projections)
    )


def reach(graph: Graph, name: str) -> float:
    """A bound on the magnitude of a LIF population's voltage within a window, if it never spikes."""
    sends: dict[str, float] = {}

    def arriving(target: str) -> NDArray[np.float64]:
        total = np.zeros(graph.population(target).size)
        for q in graph.arriving(target):
            total = total + strengths(graph.synapses(q)) * sends.get(q.source, 1.0)
        return total

    for p in graph.populations:
        if isinstance(p.dynamics, Through):
            sends[p.name] = float((np.abs(p.dynamics.scale) * arriving(p.name) + np.abs(p.dynamics.bias)).max())
        elif isinstance(p.dynamics, Source):
            sends[p.name] = float(graph.encoding.levels) if graph.encoding.graded else 1.0
    d = graph.population(name).dynamics
    assert isinstance(d, Lif)
    constant = float(np.abs(d.bias_u).max())
    current = (float(arriving(name).max()) + constant) * min(1 / d.du if d.du else np.inf, graph.steps)
    return (current + float(np.abs(d.bias).max())) * min(1 / d.dv if d.dv else np.inf, graph.steps)
