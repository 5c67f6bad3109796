"""Lower what stock processes lack to what they have: a bias of the current becomes an input that is always on.

Lava's LIF adds its bias to the voltage. Where the current has no memory (du 1) that comes to the same; elsewhere a population
of one neuron that spikes in every step brings the bias through a synapse. In a seamless graph its delay makes the first spike
arrive with the window's first step; if it has to do so in a population that nothing else leads into, all windows but the
input's open a step later. In others the bias starts a step late, as everything in them takes a step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from compile.passes.state import State
from lavasnn.dynamics.lif import Lif
from lavasnn.ir import Graph, Population, Projection
from lavasnn.synapses import Dense

ALWAYS = Lif(du=1.0, dv=1.0, vth=0.0, bias=1.0)
"""Spikes in every step, whatever arrives."""


@dataclass(frozen=True)
class Lower:
    """Replace biases of currents."""

    def apply(self, state: State) -> State:
        """See the module's text."""
        graph = lowered(state.graph)
        added = [p.name for p in graph.populations if p not in state.graph.populations and not graph.arriving(p.name)]
        return replace(state, graph=graph, report={**state.report, "lower": {"always_on": added}})


def lowered(graph: Graph) -> Graph:
    """The same network without biases of currents; the graph itself if it has none."""
    biased = [p for p in graph.populations if isinstance(p.dynamics, Lif) and np.any(p.dynamics.bias_u)]
    if not biased:
        return graph
    populations: dict[str, Population] = {}
    opens, needs_input = graph.offsets if graph.seamless else {}, False
    lone = {p.name for p in biased if opens.get(p.name) == 0 and isinstance(p.dynamics, Lif) and p.dynamics.du != 1}
    first = {p.name for p in graph.populations if not graph.arriving(p.name)} - lone if lone else set[str]()
    projections = [replace(q, delay=q.delay + 1) if q.source in first else q for q in graph.projections]
    taken = {p.name for p in graph.populations}
    name = next(n for n in ("on", *(f"on{i}" for i in range(len(taken)))) if n not in taken)
    for p in graph.populations:
        d = p.dynamics
        if p in biased and isinstance(d, Lif):
            if d.du == 1:
                d = replace(d, bias=np.asarray(d.bias) + np.asarray(d.bias_u), bias_u=0.0)
            else:
                needs_input = True
                weight = np.broadcast_to(np.asarray(d.bias_u, np.float64), (p.size,)).reshape(-1, 1)
                late = opens[p.name] + bool(lone) - 1 if opens else 0
                projections.append(Projection(f"{name}-{p.name}", name, p.name, Dense(weight.copy()), delay=late))
                d = replace(d, bias_u=0.0)
        populations[p.name] = replace(p, dynamics=d)
        if p is graph.source:
            populations[name] = Population(name, 1, ALWAYS)
    if not needs_input:
        del populations[name]
    return replace(graph, populations=tuple(populations.values()), projections=tuple(projections))
