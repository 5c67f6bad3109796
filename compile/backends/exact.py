"""The exact executor: batched, in-process, spike for spike what Lava does, without Lava.

DiffPC networks run here, networks of stock neurons in `compile.backends.spiking`, those of pyramidal ones in
`compile.backends.pyramidal`, sums in `compile.backends.sums`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.backends.pyramidal import STEP_BYTES as PYRAMIDAL_BYTES
from compile.backends.pyramidal import Wires, run_pyramidal, window_traces, wires
from compile.backends.spiking import Kernels, kernels, run_spiking
from compile.backends.sums import synapse
from lavasnn.dynamics import diffpc, lif_kernel
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.fixedpoint import STATE_MAX
from lavasnn.errors import InputError
from lavasnn.ir import Graph
from lavasnn.pathways import driven, voltage_or_spikes
from lavasnn.results import RunResult, joined

Array = NDArray[Any]


LARGEST_BATCH = 1 << 29
"""Bytes that a batch's messages, one byte each as spikes are, and one step's states may take."""
STEP_BYTES = 40
"""Of a step's sums and states, for each neuron of the largest population."""


def run(
    graph: Graph,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64] | None = None,
    *,
    settle: bool = False,
    batch: int = 256,
    record: bool = False,
    measure: bool = False,
    indices: NDArray[np.int64] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RunResult:
    """Run samples through a network of real numbers or integers.

    Args:
        graph: The network; integers if compiled, else float64.
        pixels: Images, shape (sample, pixel), or given messages, shape (sample, step, neuron).
        labels: Classes, shape (sample,); needed for the second phase. Of pyramidal networks they are the concepts shown.
        settle: Run DiffPC's second phase too, labels clamped.
        batch: Samples at a time, fewer if they need more than `LARGEST_BATCH`.
        record: Keep every message and state of every step.
        measure: Count each neuron's messages, and note the largest states of stock neurons (DiffPC always does).
        indices: Each sample's index in its data set (random encodings depend on it); 0, 1, ... by default.
        progress: Called with (samples done, samples in all).

    Returns:
        Outputs, message counts, and with `record` traces; meta["peaks"] holds the largest magnitudes met, by state.

    Raises:
        InputError: Images of the wrong size, or no labels for the second phase.
        RangeError: A state left signed 24 bits; names population, neuron and step.
    """
    given = np.arange(len(pixels)) if indices is None else indices
    check_samples(graph, pixels, labels, settle, batch)
    sizes = [p.size for p in graph.populations]
    each = graph.phases(settle)[-1].stop * sum(sizes) * (PYRAMIDAL_BYTES if graph.pyramidal else 1) + STEP_BYTES * max(sizes)
    batch = min(batch, max(1, LARGEST_BATCH // each))
    parts: list[RunResult] = []
    peaks: dict[str, float] = {}
    ready = {} if graph.timing is not None or graph.pyramidal or measure else kernels(graph)
    wired = wires(graph) if graph.pyramidal else {}
    for start in range(0, len(pixels), batch):
        rows = slice(start, start + batch)
        some = None if labels is None else labels[rows]
        if graph.timing is not None:
            parts.append(_diffpc(graph, pixels[rows], some, settle, record, measure, peaks, start))
        elif graph.pyramidal:
            parts.append(_pyramidal(graph, pixels[rows], some, record, measure, peaks, wired, start))
        else:
            parts.append(_stock(graph, pixels[rows], some, given[rows], record, measure, peaks, ready))
        if progress is not None:
            progress(min(start + batch, len(pixels)), len(pixels))
    return replace(joined(parts), meta={"peaks": peaks})


def check_samples(
    graph: Graph, pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None, settle: bool, batch: int = 1
) -> None:
    """Refuse samples that do not fit a network.

    Raises:
        InputError: No samples, images of the wrong size, labels missing or out of range, a batch below 1.
    """
    if batch < 1:
        raise InputError(f"run: batch is {batch}, at least 1 is needed")
    if len(pixels) < 1:
        raise InputError("run: 0 samples given, at least 1 is needed")
    given = graph.encoding.kind == "given"
    if pixels.ndim != 2 + given:
        needed = "messages (sample, step, neuron)" if given else "images (sample, pixel)"
        raise InputError(f"samples of shape {pixels.shape}, the network's input {graph.source.name!r} takes {needed}")
    if pixels.shape[-1] != graph.source.size:
        raise InputError(
            f"{'messages come from' if given else 'images have'} {pixels.shape[-1]} "
            f"{'neurons' if given else 'pixels'}, the network's input {graph.source.name!r} has {graph.source.size}"
        )
    classes = graph.population(graph.output).size
    if labels is not None and (len(labels) != len(pixels) or labels.min() < 0 or labels.max() >= classes):
        raise InputError(f"run: {len(labels)} labels for {len(pixels)} images and {classes} classes")
    if settle and graph.timing is None:
        raise InputError("run: these networks have one phase; only DiffPC has a second")
    if settle and labels is None:
        raise InputError("run: the second phase clamps the output to labels, and none are given")


def clamps(graph: Graph, pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None, settle: bool) -> dict[str, NDArray[Any]]:
    """Clamped targets of a DiffPC network's input and output, in the units of its populations, shape (sample, neuron)."""
    targets: dict[str, NDArray[Any]] = {graph.source.name: graph.encoding.values(pixels)}
    if settle and labels is not None:
        targets[graph.output] = np.eye(graph.population(graph.output).size)[labels]
    for name, values in targets.items():
        parameters = graph.population(name).dynamics
        if isinstance(parameters, DiffPCInt):
            targets[name] = np.floor(np.ldexp(values, parameters.point)).astype(np.int64)
    return targets


def _diffpc(
    graph: Graph,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    settle: bool,
    record: bool,
    measure: bool,
    peaks: dict[str, float],
    first: int,
) -> RunResult:
    timing = graph.timing
    assert timing is not None
    n, window = len(pixels), timing.window(settle)
    targets = clamps(graph, pixels, labels, settle)
    dtype = np.int64 if graph.integer else np.float64
    synapses = {p.name: [synapse(graph, q) for q in graph.arriving(p.name)] for p in graph.populations}
    kinds = diffpc.DiffPC.MESSAGES
    sent = {f"{p.name}.{k}": np.zeros((n, p.size), dtype) for p in graph.populations for k in kinds}
    counts = {key: np.zeros((n, window), np.int32) for key in sent}
    trace = _Trace(graph, n, window) if record else None
    states: dict[str, diffpc.State] = {}
    outputs = np.zeros((n, graph.population(graph.output).size), dtype)
    by_neuron = {key: np.zeros(sent[key].shape[1], np.int64) for key in sent} if measure else {}
    for t in range(window):
        now_sent: dict[str, Array] = {}
        for p in graph.populations:
            parameters = p.dynamics
            assert isinstance(parameters, DiffPC | DiffPCInt)
            now = parameters.now(t, settle)
            sums: dict[str, Array] = {} if t else {"a_x": np.zeros((n, p.size), dtype)}
            for s in synapses[p.name]:
                key, into = f"{s.projection.source}.{s.projection.carries}", s.projection.into
                if t and counts[key][:, t - 1].any():
                    total = s(sent[key])
                    sums[into] = sums[into] + total if into in sums else total
            state, s_A, s_e = diffpc.step(
                parameters, now, states.get(p.name), sums.get("a_x"), sums.get("a_e"), targets.get(p.name)
            )
            _note_peaks(peaks, p.name, states.get(p.name), state)
            if graph.integer and max(peaks[f"{p.name}.{v}"] for v in diffpc.VARIABLES) > STATE_MAX:
                diffpc.check_24_bits(state, p.name, t, first)
            states[p.name] = state
            now_sent[f"{p.name}.s_A"], now_sent[f"{p.name}.s_e"] = s_A, s_e
            if trace is not None:
                trace.note(p.name, t, s_A, s_e, state, now)
        sent = now_sent
        for key, spikes in sent.items():
            counts[key][:, t] = np.count_nonzero(spikes, axis=1)
            if measure and counts[key][:, t].any():
                by_neuron[key] += np.count_nonzero(spikes, axis=0)
        if t == timing.init_steps:
            outputs = states[graph.output].x_F
    traces = trace.arrays if trace is not None else {}
    return RunResult.of(graph, "exact", settle, outputs, labels, counts, by_neuron=by_neuron, traces=traces)


def _note_peaks(peaks: dict[str, float], name: str, before: diffpc.State | None, state: diffpc.State) -> None:
    """Largest magnitude of every state so far; what a step left as it was needs no second look."""
    for variable in diffpc.VARIABLES:
        value, key = getattr(state, variable), f"{name}.{variable}"
        if before is None or value is not getattr(before, variable) or key not in peaks:
            peaks[key] = max(peaks.get(key, 0.0), float(value.max()), -float(value.min()))


@dataclass
class _Trace:
    """Room for every message and state of every step, shape (sample, step, neuron)."""

    graph: Graph
    samples: int
    window: int
    arrays: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for p in self.graph.populations:
            shape = (self.samples, self.window, p.size)
            for name in diffpc.DiffPC.MESSAGES:
                self.arrays[f"{p.name}.{name}"] = np.zeros(shape, np.int8)
            for name in diffpc.DiffPC.STATES:
                self.arrays[f"{p.name}.{name}"] = np.zeros(shape, np.int32 if self.graph.integer else np.float64)
            if not self.graph.integer and p is not self.graph.source:
                self.arrays[f"{p.name}.margin"] = np.full((self.samples, self.window, 1), np.inf)

    def note(self, name: str, t: int, s_A: Array, s_e: Array, state: diffpc.State, now: diffpc.Now) -> None:
        """Keep step t of a population, and for real numbers how near its nearest decision was to falling otherwise.

        The input has none: its targets and thresholds are exact.
        So are those of an output's activity while it is clamped to the label.
        """
        clamped = now.settling and name == self.graph.output
        self.arrays[f"{name}.s_A"][:, t], self.arrays[f"{name}.s_e"][:, t] = s_A, s_e
        for variable in diffpc.DiffPC.STATES:
            self.arrays[f"{name}.{variable}"][:, t] = getattr(state, variable)
        if f"{name}.margin" in self.arrays:
            self.arrays[f"{name}.margin"][:, t, 0] = _margin(state, s_A, s_e, now, clamped)


def _margin(state: diffpc.State, s_A: Array, s_e: Array, now: diffpc.Now, clamped: bool) -> Array:
    """Smallest distance of any |d| from its threshold, and of a new ReLU mask's x_T from 0, shape (sample,)."""
    least = np.full(len(s_A), np.inf)
    if now.speaks and not clamped:
        before = state.x_A - now.theta * s_A
        least = np.minimum(least, np.abs(np.abs(state.x_T - before) - now.theta).min(axis=1))
    if now.settling:
        before = state.e_A - now.theta_error * s_e
        least = np.minimum(least, np.abs(np.abs(state.e_T - before) - now.theta_error).min(axis=1))
    if now.settling and now.cycle_start:
        least = np.minimum(least, np.where(state.x_T == 0, np.inf, np.abs(state.x_T)).min(axis=1))
    return least


def _stock(
    graph: Graph,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    indices: NDArray[np.int64],
    record: bool,
    measure: bool,
    peaks: dict[str, float],
    ready: Kernels,
) -> RunResult:
    """Networks of LIF and graded neurons."""
    read = (graph.output,) if graph.read == "voltage" else ()
    shown = graph.encoding.messages(pixels, indices, graph.steps)
    found = run_spiking(graph, shown, measure=measure, voltages=read, ready=ready)
    for key, value in found.peaks.items():
        peaks[key] = (min if key.endswith(".least") else max)(peaks.get(key, value), value)
    sent = {f"{name}.s": s for name, s in found.sent.items()}
    traces = sent | {f"{name}.v": v for name, v in found.voltages.items()} | found.margins
    return RunResult.of(
        graph,
        "exact",
        False,
        answer(graph, traces),
        labels,
        {key: count(s) for key, s in sent.items()},
        by_neuron={key: np.count_nonzero(s, axis=(0, 1)) for key, s in sent.items()} if measure else {},
        traces={key: s.astype(np.int8) if s.dtype == bool else s for key, s in traces.items()} if record else {},
    )


def _pyramidal(
    graph: Graph,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    record: bool,
    measure: bool,
    peaks: dict[str, float],
    wired: Wires,
    first: int,
) -> RunResult:
    """Both pathways of a BSD network."""
    found = run_pyramidal(graph, driven(graph, pixels, labels), wired, record=record, first=first)
    for key, value in found.peaks.items():
        peaks[key] = max(peaks.get(key, value), value)
    traces: dict[str, Array] = {}
    if record:
        traces = window_traces(graph, found.spikes, found.basal, found.apical) | found.margins
    return RunResult.of(
        graph,
        "exact",
        False,
        voltage_or_spikes(graph, found.spikes[graph.output], found.basal[graph.output]),
        labels,
        {f"{name}.s": count(s) for name, s in found.spikes.items()},
        by_neuron={f"{name}.s": np.count_nonzero(s, axis=(0, 1)) for name, s in found.spikes.items()} if measure else {},
        traces=traces,
    )


def answer(graph: Graph, traces: Mapping[str, Array]) -> Array:
    """What a network of stock neurons answers, shape (sample, output neuron): summed messages, or the last voltage."""
    if graph.read == "voltage":
        last = traces[f"{graph.output}.v"][:, -1]
        return last.astype(np.int64 if graph.integer else np.float64)
    sent = traces[f"{graph.output}.s"]
    return sent.sum(axis=1, dtype=np.float64 if sent.dtype.kind == "f" else np.int64)


def count(sent: Array) -> NDArray[np.int32]:
    """Number of messages of each step, shape (sample, step)."""
    return lif_kernel.count_spikes(sent.view(np.uint8) if sent.dtype == bool else (sent != 0).view(np.uint8))
