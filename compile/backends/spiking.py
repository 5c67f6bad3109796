"""Stock neurons in the exact executor: LIF and graded populations, any synapses, delays and loops.

Time is that of each population's window. In a seamless graph (see `Graph.seamless`) a message sent at step t of its
population's window arrives at step t of the receiver's, so populations run one after the other over all steps; in others
it arrives at t + 1 + delay, and all populations take each step together. In both, windows open at rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.backends.sums import synapse
from lavasnn.dynamics import graded, lif, lif_kernel
from lavasnn.dynamics.coincidence_kernel import coincidences
from lavasnn.dynamics.graded import Graded, GradedInt
from lavasnn.dynamics.lif import Lif, LifInt, LifState
from lavasnn.errors import InputError
from lavasnn.ir import Graph, Population, Source
from lavasnn.synapses import Dense, Sparse

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


@dataclass(frozen=True)
class Layer:
    """LIF behind one or two all-to-all projections of spikes, ready for the compiled kernel.

    Args:
        dynamics: Registers.
        arriving: Who sends, its weights, and the exponent of their sums.
    """

    dynamics: LifInt
    arriving: tuple[tuple[str, lif_kernel.Rows, int], ...]

    def __call__(self, sent: Mapping[str, Array]) -> Array | None:
        """Spikes, shape (sample, step, neuron); None for messages that the kernel does not take."""
        (source, rows, exponent), *others = self.arriving
        second = None
        for other, rows2, exponent2 in others:
            if sent[other].dtype != bool or sent[source].dtype != bool:
                return None
            second = rows2, sent[other], exponent2
        return lif_kernel.run_layer(self.dynamics, rows, sent[source], exponent, 0, second=second)


@dataclass(frozen=True)
class Pairs:
    """Neurons that spike just where both of two inputs do.

    Args:
        source: Who sends.
        inputs: The two inputs of each pair, shape (2, pair).
        place: Its neuron, shape (pair,).
        size: Neurons.
    """

    source: str
    inputs: NDArray[np.uint32]
    place: NDArray[np.uint32]
    size: int

    def __call__(self, sent: Mapping[str, Array]) -> Array | None:
        """As in `Layer`."""
        shown = sent[self.source]
        return coincidences(shown, self.inputs, self.place, self.size) if shown.dtype == bool else None


Kernels = Mapping[str, Layer | Pairs]


def kernels(graph: Graph) -> Kernels:
    """The populations that compiled kernels run, ready for them: in a seamless graph of integers, and spikes alone.

    Nothing is lost by preparing them once for several batches.
    """
    if not graph.seamless:
        return {}
    found = {p.name: _kernel(graph, p) for p in graph.populations[1:]}
    return {name: kernel for name, kernel in found.items() if kernel is not None}


def _kernel(graph: Graph, p: Population) -> Layer | Pairs | None:
    return _pairs(graph, p) or _layer(graph, p)


def _layer(graph: Graph, p: Population) -> Layer | None:
    d, arriving = p.dynamics, graph.arriving(p.name)
    if not isinstance(d, LifInt) or not 1 <= len(arriving) <= 2 or any(graph.graded(q.source) for q in arriving):
        return None
    found: list[tuple[str, lif_kernel.Rows, int]] = []
    for q in arriving:
        s = graph.synapses(q)
        if not isinstance(s, Dense):
            return None
        widest = found[0][1].tiles.shape[2] if found else 0
        rows = lif_kernel.pack_rows(np.ascontiguousarray(s.weight.T), widest)
        found.append((q.source, rows, s.grid.exponent if s.grid is not None else 0))
    return Layer(d, tuple(found))


def _pairs(graph: Graph, p: Population) -> Pairs | None:
    """A population whose neurons have two synapses or fewer and provably compute the logical AND of two spikes.

    The proof is `lif.step` itself: from rest and from whatever any input left behind, each answer is that to the present input
    alone, and it is a spike for both spikes and for nothing less.
    """
    d, arriving = p.dynamics, graph.arriving(p.name)
    if not isinstance(d, LifInt) or np.ndim(d.bias_mant) or len(arriving) != 1 or graph.graded(arriving[0].source):
        return None
    s = graph.synapses(arriving[0])
    if not isinstance(s, Sparse) or s.grid is None or s.grid.exponent < 0:
        return None
    fan = np.diff(s.start)
    if fan.max(initial=0) != 2:
        return None
    both = np.flatnonzero(fan == 2)
    both = both[(s.weight[s.start[both]] != 0) & (s.weight[s.start[both] + 1] != 0)]
    at = s.start[both]
    weights = np.stack((s.weight[at], s.weight[at + 1]))
    others = np.setdiff1d(np.flatnonzero(fan > 0), both)  # with one weight other than zero, or none
    lone = np.array([s.weight[s.start[j] : s.start[j + 1]].sum() for j in others], s.weight.dtype)
    kinds = np.unique(np.concatenate((weights, np.stack((lone, np.zeros_like(lone)))), axis=1), axis=1).astype(np.int64)
    spikes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    now = (spikes @ kinds) << s.grid.exponent  # (input, kind)
    wanted = np.array([False, False, False, True])[:, None] & (kinds != 0).all(0)
    answer, state = lif.step(d, lif.initial(d, now.shape), now)
    later = lif.LifState(np.repeat(state.u, 4, axis=0), np.repeat(state.v, 4, axis=0))
    again, after = lif.step(d, later, np.tile(now, (4, 1)))
    same = (after.u == np.tile(state.u, (4, 1))).all() and (after.v == np.tile(state.v, (4, 1))).all()
    if not (answer == wanted).all() or not (again == np.tile(wanted, (4, 1))).all() or not same:
        return None
    pairs = np.stack((s.pre[at], s.pre[at + 1])).astype(np.uint32)
    return Pairs(arriving[0].source, pairs, both.astype(np.uint32), p.size)


def run_spiking(
    graph: Graph, shown: Array, *, measure: bool = False, voltages: tuple[str, ...] = (), ready: Kernels | None = None
) -> Record:
    """Run a network of stock neurons.

    Args:
        graph: The network, real or in integers.
        shown: Messages of its input, shape (sample, step, neuron).
        measure: Note the largest inputs and states met, too.
        voltages: LIF populations whose voltages to keep.
        ready: What `kernels` made of the graph; else it is made anew.

    Raises:
        InputError: A population that no executor runs (see `compile.passes.fold`).
        RangeError: A payload beyond signed 24 bits.
    """
    record = Record({graph.source.name: shown})
    runners: dict[str, _Runner] = {}
    fast = {} if measure else kernels(graph) if ready is None else ready
    for p in graph.populations[1:]:
        if p.name in fast and p.name not in voltages and (spikes := fast[p.name](record.sent)) is not None:
            record.sent[p.name] = spikes
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
    kernel = _kernel(graph, p) if graph.seamless else None
    if kernel is not None and (spikes := kernel(sent)) is not None:
        return spikes
    runner = _Runner(graph, p, record, False, False)
    for t in range(sent[graph.source.name].shape[1]):
        runner.step(t)
    return runner.sent


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
