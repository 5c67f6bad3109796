"""Pyramidal neurons in the exact executor: both pathways of a BSD network, layer by layer over all steps at once.

Time is that of each dendrite's own window. A spike sent at step t of its population's window arrives at step t of every window
that hears it, as the windows of a pathway open one step after the other; nothing that arrives at apical dendrites comes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.backends.sums import Synapse, synapse
from lavasnn.dynamics import pyramidal
from lavasnn.dynamics.pyramidal import Pyramidal, PyramidalInt
from lavasnn.ir import Graph, Population
from lavasnn.synapses import Shared

Array = NDArray[Any]

STEP_BYTES = 40
"""Of sums and traces of a neuron, sample and step."""


@dataclass
class Record:
    """What a run leaves behind; arrays are (sample, step, neuron).

    Args:
        spikes: By population.
        basal: What its basal dendrites added up so far.
        apical: The same of its apical ones; with `record` alone.
        margins: Real numbers only: each step's smallest distance of a V from its threshold, (sample, step, 1).
        peaks: Largest magnitudes met, by "population.a" (basal input) and ".v" (V before any reset).
    """

    spikes: dict[str, Array] = field(default_factory=dict)
    basal: dict[str, Array] = field(default_factory=dict)
    apical: dict[str, Array] = field(default_factory=dict)
    margins: dict[str, Array] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)


Wires = Mapping[str, Synapse]


def wires(graph: Graph) -> Wires:
    """Synapses by name of their owners, ready to sum; nothing is lost by preparing them once for several batches."""
    return {q.name: synapse(graph, q) for q in graph.projections if not isinstance(q.synapses, Shared)}


def run_pyramidal(graph: Graph, shown: Mapping[str, Array], ready: Wires, *, record: bool = False, first: int = 0) -> Record:
    """Run a network of pyramidal neurons.

    Args:
        graph: The network, real or in integers.
        shown: What `driven` gives.
        ready: What `wires` made of the graph.
        record: Add up what apical dendrites hear, too.
        first: Number of the first sample, for errors.

    Raises:
        RangeError: An input beyond 16 bits; names population, sample and step.
    """
    return _Run(graph, shown, ready, first).all(record)


class _Run:
    """The populations of one batch, one after the other."""

    def __init__(self, graph: Graph, shown: Mapping[str, Array], ready: Wires, first: int) -> None:
        self.graph, self.shown, self.ready, self.first = graph, shown, ready, first
        self.samples = len(shown[graph.source.name])
        self.kind: Any = np.int64 if graph.integer else np.float64
        self.sums: dict[str, Array] = {}
        self.found = Record()

    def all(self, record: bool) -> Record:
        for p in self.graph.populations:
            self._soma(p)
        for p in self.graph.populations if record or self.graph.integer else ():
            d = p.dynamics
            assert isinstance(d, Pyramidal | PyramidalInt)
            apical = self._arriving(p, "apical") + d.bias_apical
            self._check(p, apical)
            if record:
                self.found.apical[p.name] = np.cumsum(apical, axis=1)
        return self.found

    def _check(self, p: Population, a: Array) -> None:
        """Refuse what no dendrite holds; a is (sample, step, neuron)."""
        for t in range(a.shape[1] if self.graph.integer else 0):
            pyramidal.check_input(a[:, t], self.graph.steps, f"population {p.name!r}", self.first, t)

    def _arriving(self, p: Population, into: str) -> Array:
        """Weighted sums at the dendrites of a population, formed once for all that share them."""
        total = np.zeros((self.samples, self.graph.steps, p.size), self.kind)
        for q in self.graph.arriving(p.name):
            if q.into != into:
                continue
            owner = q.synapses.of if isinstance(q.synapses, Shared) else q.name
            if owner not in self.sums:
                sent = self.found.spikes[q.source]
                self.sums[owner] = self.ready[owner](sent.reshape(-1, sent.shape[2])).reshape(total.shape)
            total += self.sums[owner]
        return total

    def _soma(self, p: Population) -> None:
        """All steps of a population's somata."""
        d, found = p.dynamics, self.found
        assert isinstance(d, Pyramidal | PyramidalInt)
        basal = self._arriving(p, "basal") + d.bias
        if p.name in self.shown:
            basal += self.shown[p.name][:, None]
        self._check(p, basal)
        v, peak, ceiling = np.zeros_like(basal[:, 0]), 0.0, pyramidal.threshold(d)
        spikes = found.spikes[p.name] = np.zeros(basal.shape, np.bool_)
        margin = np.full((*basal.shape[:2], 1), np.inf)
        for t in range(self.graph.steps):
            before = pyramidal.integrate(d, v, basal[:, t])
            spikes[:, t], v = pyramidal.fire(d, before)
            peak = max(peak, float(np.abs(before).max()))
            if self.kind is np.float64:
                away = np.where(before == 0, np.inf, np.abs(before - ceiling))  # at rest nothing was added or rounded
                margin[:, t, 0] = away.min(axis=1)
        found.basal[p.name] = np.cumsum(basal, axis=1)
        found.peaks |= {f"{p.name}.a": float(np.abs(basal).max()), f"{p.name}.v": peak}
        # Currents and biases are added in one order only, so what they decide is exact.
        if self.kind is np.float64 and any(q.into == "basal" for q in self.graph.arriving(p.name)):
            found.margins[f"{p.name}.margin"] = margin


def window_traces(
    graph: Graph, spikes: Mapping[str, Array], basal: Mapping[str, Array], apical: Mapping[str, Array]
) -> dict[str, Array]:
    """Traces by "population.s", ".cnt", ".acc_b" and ".acc_a" of arrays (sample, step, neuron)."""
    found: dict[str, Array] = {}
    for name, s in spikes.items():
        found[f"{name}.s"], found[f"{name}.cnt"] = s.astype(np.int8), np.cumsum(s, axis=1, dtype=np.int32)
        for key, sums in (("acc_b", basal), ("acc_a", apical)):
            found[f"{name}.{key}"] = sums[name].astype(np.int32 if graph.integer else np.float64)
    return found
