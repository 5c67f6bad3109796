"""Lower what stock processes lack to what they have.

**Pairs of spikes** become neurons: LIF without memory that receive 2 from each of two senders and spike above 3, so both
have to spike. That takes a step, so everything else on the way is delayed by one; what arrived together still does.

**A bias of the current** becomes an input that is always on. Lava's LIF adds its bias to the voltage. Where the current has
no memory (du 1) that comes to the same; elsewhere a population of one neuron that spikes in every step brings the bias
through a synapse. In a seamless graph its delay makes the first spike arrive with the window's first step; if it has to do so
in a population that nothing else leads into, all windows but the input's open a step later. In others the bias starts a step
late, as everything in them takes a step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from compile.passes.state import State
from lavasnn.dynamics.lif import Lif
from lavasnn.errors import InputError
from lavasnn.ir import Coincidence, Graph, Population, Projection
from lavasnn.paths import depths, slack
from lavasnn.synapses import Dense, with_weight

ALWAYS = Lif(du=1.0, dv=1.0, vth=0.0, bias=1.0)
"""Spikes in every step, whatever arrives."""
PAIR = Lif(du=1.0, dv=1.0, vth=3.0)
"""Spikes where two spikes of weight `PAIR_WEIGHT` arrive, and keeps nothing of one."""
PAIR_WEIGHT = 2.0


@dataclass(frozen=True)
class Lower:
    """Replace pairs of spikes and biases of currents."""

    def apply(self, state: State) -> State:
        """See the module's text.

        Raises:
            InputError: Calibration samples with spikes of -1 before pairs of spikes.
        """
        graph = lowered(state.graph)
        before = {p.name for p in state.graph.populations}
        added = [p.name for p in graph.populations if p.name not in before]
        pairs = [p.name for p in state.graph.populations if isinstance(p.dynamics, Coincidence)]
        heard = {q.source for name in pairs for q in graph.arriving(name)}
        if graph.source.name in heard and graph.encoding.kind == "given" and np.min(state.pixels) < 0:
            raise InputError(f"lower: the samples hold spikes of -1, and {pairs[0]!r} joins pairs of spikes 0 or 1")
        later = depths(graph)[graph.output] - depths(state.graph)[graph.output]
        found = {"always_on": added, "pairs": pairs, "delayed": _delayed(state.graph, graph), "extra_steps": later}
        return replace(state, graph=graph, report={**state.report, "lower": found})


def lowered(graph: Graph) -> Graph:
    """The same network of stock neurons alone; the graph itself if it is one."""
    return _without_current_biases(_without_coincidences(graph))


def _delayed(before: Graph, after: Graph) -> dict[str, int]:
    """Steps by which projections were delayed."""
    late = {q.name: int(np.max(q.delay)) for q in before.projections}
    more = {q.name: int(np.max(q.delay)) - late[q.name] for q in after.projections if q.name in late}
    return {name: steps for name, steps in more.items() if steps}


def _without_coincidences(graph: Graph) -> Graph:
    """Pairs as neurons, and delays for what now arrives before them."""
    pairs = {p.name for p in graph.populations if isinstance(p.dynamics, Coincidence)}
    if not pairs:
        return graph
    projections: list[Projection] = []
    for q in graph.projections:
        s = graph.synapses(q)
        projections.append(replace(q, synapses=with_weight(s, s.weight * PAIR_WEIGHT)) if q.target in pairs else q)
    populations = tuple(replace(p, dynamics=PAIR) if p.name in pairs else p for p in graph.populations)
    lower = replace(graph, populations=populations, projections=tuple(projections))
    was, now = slack(graph, depths(graph)), slack(lower, depths(lower))
    return replace(lower, projections=tuple(replace(q, delay=q.delay + now[q.name] - was[q.name]) for q in lower.projections))


def _without_current_biases(graph: Graph) -> Graph:
    """Biases of the voltage where that comes to the same, an input that is always on elsewhere."""
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
