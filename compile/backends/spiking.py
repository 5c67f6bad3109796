"""Stock neurons in the exact executor: LIF and graded populations, any synapses, delays and loops.

Time is that of each population's window. In a seamless graph (see `Graph.seamless`) a message sent at step t of its
population's window arrives at step t of the receiver's, so populations run one after the other over all steps; in others
it arrives at t + 1 + delay, and all populations take each step together. In both, windows open at rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.backends.sums import synapse
from lavasnn.dynamics import graded, lif, lif_kernel
from lavasnn.dynamics.graded import Graded, GradedInt
from lavasnn.dynamics.lif import Lif, LifInt, LifState
from lavasnn.errors import InputError
from lavasnn.ir import Graph, Population, Source
from lavasnn.synapses import Dense

Array = NDArray[Any]


@dataclass
class Record:
    """What a run of stock neurons leaves behind; arrays are (sample, step, neuron).

    Args:
        sent: Messages by population.
        voltages: Voltages after each step, of the populations asked for.
        margins: Real numbers only: each step's smallest distance of a voltage from its threshold, (sample, step, 1).
        peaks: Largest magnitudes met, by "population.a" (summed input), ".u" and ".v" (before any reset); by ".least" and
            ".most" the smallest and largest summed input.
    """

    sent: dict[str, Array]
    voltages: dict[str, Array] = field(default_factory=dict)
    margins: dict[str, Array] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)

    def note(self, key: str, values: Array) -> None:
        """Remember the largest magnitude."""
        self.peaks[key] = max(self.peaks.get(key, 0.0), float(values.max(initial=0)), -float(values.min(initial=0)))

    def note_range(self, name: str, values: Array) -> None:
        """Remember the smallest and the largest input."""
        least, most = float(values.min()), float(values.max())
        self.peaks[f"{name}.least"] = min(self.peaks.get(f"{name}.least", least), least)
        self.peaks[f"{name}.most"] = max(self.peaks.get(f"{name}.most", most), most)


def run_spiking(graph: Graph, shown: Array, *, measure: bool = False, voltages: tuple[str, ...] = ()) -> Record:
    """Run a network of stock neurons.

    Args:
        graph: The network, real or in integers.
        shown: Messages of its input, shape (sample, step, neuron).
        measure: Note the largest inputs and states met, too.
        voltages: LIF populations whose voltages to keep.

    Raises:
        InputError: A population that no executor runs (see `compile.passes.fold`).
        RangeError: A payload beyond signed 24 bits.
    """
    record = Record({graph.source.name: shown})
    runners: dict[str, _Runner] = {}
    for p in graph.populations[1:]:
        if _fits_kernel(graph, p) and not measure and p.name not in voltages:
            record.sent[p.name] = _fast(graph, p, record.sent)
            continue
        runners[p.name] = _Runner(graph, p, record, measure, p.name in voltages)
        if graph.seamless:
            for t in range(shown.shape[1]):
                runners[p.name].step(t)
    if not graph.seamless:
        for t in range(shown.shape[1]):
            for runner in runners.values():
                runner.step(t)
    return record


def run_population(graph: Graph, name: str, sent: dict[str, Array]) -> Array:
    """Messages of one population upon given ones of all others, shape (sample, step, neuron); a loop hears its own."""
    record = Record(dict(sent))
    p = graph.population(name)
    if _fits_kernel(graph, p):
        return _fast(graph, p, sent)
    runner = _Runner(graph, p, record, False, False)
    for t in range(sent[graph.source.name].shape[1]):
        runner.step(t)
    return runner.sent


def _fits_kernel(graph: Graph, p: Population) -> bool:
    """Whether the compiled kernel takes a population: binary LIF in integers behind one all-to-all projection of spikes."""
    d, arriving = p.dynamics, graph.arriving(p.name)
    return (
        graph.seamless
        and isinstance(d, LifInt)
        and len(arriving) == 1
        and isinstance(graph.synapses(arriving[0]), Dense)
        and not graph.graded(arriving[0].source)
    )


def _fast(graph: Graph, p: Population, sent: dict[str, Array]) -> Array:
    (q,) = graph.arriving(p.name)
    s = graph.synapses(q)
    assert isinstance(p.dynamics, LifInt) and isinstance(s, Dense)
    shift = s.grid.exponent if s.grid is not None else 0
    return lif_kernel.run_layer(p.dynamics, np.ascontiguousarray(s.weight.T), sent[q.source], exponent=shift, arrive=0)


class _Runner:
    """One population, step by step."""

    def __init__(self, graph: Graph, p: Population, record: Record, measure: bool, keep_voltage: bool) -> None:
        self.name, self.dynamics, self.record, self.measure = p.name, p.dynamics, record, measure
        self.wires = [synapse(graph, q) for q in graph.arriving(p.name)]
        shown = record.sent[graph.source.name]
        n, steps = shown.shape[:2]
        whole = isinstance(p.dynamics, LifInt | GradedInt)
        self.kind: Any = np.int64 if whole else np.float64
        self.state: LifState | None = None
        self.current = np.zeros((n, p.size) if measure else 0)  # u without its wrap, to see whether there was one
        match p.dynamics:
            case Lif() | LifInt() as d:
                self.state = lif.initial(d, (n, p.size))
                sends: Any = np.bool_ if d.vth_lo is None else np.int8
            case Graded() | GradedInt():
                sends = np.int32 if whole else np.float64
            case Source():
                raise InputError(f"run: population {p.name!r} is a second input; the first population is the only one")
            case other:
                raise InputError(f"run: population {p.name!r} is {type(other).__name__}; compile folds those away first")
        self.sent = record.sent[p.name] = np.zeros((n, steps, p.size), sends)
        self.margin = None
        if isinstance(p.dynamics, Lif | Graded):
            self.margin = record.margins[f"{p.name}.margin"] = np.full((n, steps, 1), np.inf)
        self.voltage = None
        if keep_voltage and self.state is not None:
            self.voltage = record.voltages[p.name] = np.zeros((n, steps, p.size), np.int32 if whole else np.float64)

    def step(self, t: int) -> None:
        """Take step t of the window."""
        total = np.zeros((self.sent.shape[0], self.sent.shape[2]), self.kind)
        for wire in self.wires:
            messages = _arriving(self.record.sent[wire.projection.source], t, wire.latency)
            if messages is not None and messages.any():
                total = total + wire(messages)
        if self.measure:
            self.record.note(f"{self.name}.a", total)
            self.record.note_range(self.name, total)
        if self.state is None:
            assert isinstance(self.dynamics, Graded | GradedInt)
            sent = graded.step(self.dynamics, total)
            if isinstance(self.dynamics, GradedInt):
                graded.check_payloads(sent, self.name, t)
            self.sent[:, t] = sent
            if self.margin is not None:
                self.margin[:, t, 0] = np.abs(np.abs(total) - self.dynamics.vth).min(axis=1)
            return
        assert isinstance(self.dynamics, Lif | LifInt)
        self.sent[:, t], self.state = lif.step(self.dynamics, self.state, total, lambda v, vth: self._spike(t, v, vth))
        if self.measure:
            self._note_current(total)
        if self.voltage is not None:
            self.voltage[:, t] = self.state.v

    def _spike(self, t: int, v: Array, vth: Any) -> Array:
        if self.margin is not None:
            away = np.where(v == 0, np.inf, np.abs(v - vth))  # at rest nothing was added, so nothing was rounded
            self.margin[:, t, 0] = np.minimum(self.margin[:, t, 0], away.min(axis=1))
        if self.measure:
            self.record.note(f"{self.name}.v", v)
        return v > vth

    def _note_current(self, total: Array) -> None:
        """Follow u in float64, where it does not wrap."""
        d = self.dynamics
        assert isinstance(d, Lif | LifInt)
        keep, unit = ((4095 - d.du) / 4096, 64) if isinstance(d, LifInt) else (1 - d.du, 1)
        self.current = self.current * keep + total * unit
        self.record.note(f"{self.name}.u", self.current)


def _arriving(sent: Array, t: int, latency: int | NDArray[np.int64]) -> Array | None:
    """Messages that arrive at step t, shape (sample, pre); None before any can."""
    if isinstance(latency, int):
        return sent[:, t - latency] if t >= latency else None
    at = t - latency
    return sent[:, np.maximum(at, 0), np.arange(len(at))] * (at >= 0)
