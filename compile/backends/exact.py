"""The exact executor: batched, in-process, spike for spike what Lava does, without Lava.

Integer synapse sums go through float32 matrix products while every partial sum stays below 2**24, through int64 beyond.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.dynamics import diffpc, lif, lif_kernel
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.fixedpoint import STATE_MAX
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.errors import InputError
from lavasnn.ir import DenseInt, Graph, Projection, Transposed
from lavasnn.results import RunResult, joined

Array = NDArray[Any]


@dataclass(frozen=True)
class Synapse:
    """A projection ready to sum: weights transposed to (pre, post) and the shift of the sum."""

    projection: Projection
    weight: Array
    shift: int

    def __call__(self, spikes: Array) -> Array:
        """Weighted sums, shape (sample, post); integers stay exact."""
        if self.weight.dtype == np.float64:
            return spikes @ self.weight
        total = (spikes.astype(self.weight.dtype) @ self.weight).astype(np.int64)
        return total << self.shift if self.shift > 0 else total >> -self.shift


def synapse(graph: Graph, projection: Projection) -> Synapse:
    """Prepare a projection; integers as float32 where that is exact."""
    weight = graph.weight(projection)
    if not graph.integer:
        return Synapse(projection, np.ascontiguousarray(weight.T, np.float64), 0)
    exponent = projection.synapses.exponent if isinstance(projection.synapses, DenseInt | Transposed) else 0
    worst = int(np.abs(weight.astype(np.int64)).sum(1).max(initial=0))
    return Synapse(projection, np.ascontiguousarray(weight.T, np.float32 if worst < 1 << 24 else np.int64), exponent)


def run(
    graph: Graph,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64] | None = None,
    *,
    settle: bool = False,
    batch: int = 256,
    record: bool = False,
    indices: NDArray[np.int64] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RunResult:
    """Run samples through a network of real numbers or integers.

    Args:
        graph: The network; integers if compiled, else float64.
        pixels: Images, shape (sample, pixel).
        labels: Classes, shape (sample,); needed for the second phase.
        settle: Run DiffPC's second phase too, labels clamped.
        batch: Samples at a time.
        record: Keep every message and state of every step.
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
    execute = _diffpc if graph.timing is not None else _lif
    parts: list[RunResult] = []
    peaks: dict[str, float] = {}
    for start in range(0, len(pixels), batch):
        rows = slice(start, start + batch)
        part = execute(graph, pixels[rows], None if labels is None else labels[rows], given[rows], settle, record, peaks, start)
        parts.append(part)
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
    if pixels.ndim != 2 or pixels.shape[1] != graph.source.size:
        raise InputError(
            f"run: images have {pixels.shape[1:]} pixels, the network's input {graph.source.name!r} has {graph.source.size}"
        )
    classes = graph.population(graph.output).size
    if labels is not None and (len(labels) != len(pixels) or labels.min() < 0 or labels.max() >= classes):
        raise InputError(f"run: {len(labels)} labels for {len(pixels)} images and {classes} classes")
    if settle and graph.timing is None:
        raise InputError("run: LIF networks have one phase; only DiffPC has a second")
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
    indices: NDArray[np.int64],
    settle: bool,
    record: bool,
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
        if t == timing.init_steps:
            outputs = states[graph.output].x_F
    return RunResult(
        backend="exact",
        precision="fixed" if graph.integer else "float",
        phases=graph.phases(settle),
        sizes={p.name: p.size for p in graph.populations},
        outputs=outputs,
        labels=np.zeros(0, np.int64) if labels is None else labels,
        messages=counts,
        unheard=unheard(graph),
        traces=trace.arrays if trace is not None else {},
    )


def unheard(graph: Graph) -> tuple[str, ...]:
    """Messages ("population.kind") that no projection carries on."""
    carried = {f"{p.source}.{p.carries}" for p in graph.projections}
    keys = [f"{p.name}.{kind}" for p in graph.populations for kind in p.dynamics.MESSAGES]
    return tuple(key for key in keys if key not in carried)


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


def _lif(
    graph: Graph,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    indices: NDArray[np.int64],
    settle: bool,
    record: bool,
    peaks: dict[str, float],
    first: int,
) -> RunResult:
    """Feed-forward LIF, layer by layer over all steps; windows start one step later per layer, so nothing is in flight."""
    spikes, margins = lif_layers(graph, graph.encoding.spikes(pixels, indices, graph.steps))
    answer = spikes[graph.output].sum(axis=1, dtype=np.int64)
    return RunResult(
        backend="exact",
        precision="fixed" if graph.integer else "float",
        phases=graph.phases(False),
        sizes={p.name: p.size for p in graph.populations},
        outputs=answer,
        labels=np.zeros(0, np.int64) if labels is None else labels,
        messages={f"{name}.s": lif_kernel.count_spikes(s.view(np.uint8)) for name, s in spikes.items()},
        unheard=unheard(graph),
        traces={f"{name}.s": s.astype(np.int8) for name, s in spikes.items()} | margins if record else {},
    )


def lif_layers(graph: Graph, shown: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    """Spikes of every population of a feed-forward LIF network, and for real numbers the margins of `_float_layer`.

    Args:
        graph: The network.
        shown: Spikes of its input, shape (sample, step, neuron), bool.

    Returns:
        Spikes by population, the input's included, shape (sample, step, neuron); margins by "population.margin".
    """
    spikes: dict[str, Array] = {graph.source.name: shown}
    margins: dict[str, Array] = {}
    for p in graph.populations[1:]:
        (projection,) = graph.arriving(p.name)
        ready = synapse(graph, projection)
        arriving = spikes[projection.source]
        if isinstance(p.dynamics, LifInt):
            rows = np.ascontiguousarray(graph.weight(projection).T)
            spikes[p.name] = lif_kernel.run_layer(p.dynamics, rows, arriving, exponent=ready.shift, arrive=0)
        else:
            assert isinstance(p.dynamics, Lif)
            spikes[p.name], margins[f"{p.name}.margin"] = _float_layer(p.dynamics, ready, arriving)
    return spikes, margins


def _float_layer(parameters: Lif, ready: Synapse, arriving: Array) -> tuple[Array, Array]:
    """Spikes, shape (sample, step, neuron), and how near the nearest v came to the threshold, shape (sample, step, 1)."""
    n, steps, _ = arriving.shape
    out = np.zeros((n, steps, ready.weight.shape[1]), bool)
    margin = np.zeros((n, steps, 1))
    state = lif.initial(parameters, (n, out.shape[2]))
    for t in range(steps):

        def spike(v: Array, vth: float, t: int = t) -> Array:
            margin[:, t, 0] = np.abs(v - vth).min(axis=1)
            return v > vth

        out[:, t], state = lif.step(parameters, state, ready(arriving[:, t].astype(np.float64)), spike)
    return out, margin


def lif_input_peaks(graph: Graph, pixels: NDArray[np.uint8]) -> dict[str, int]:
    """Largest magnitude of the summed input of every stock LIF population on given samples."""
    result = run(graph, pixels, record=True)
    peaks: dict[str, int] = {}
    for p in graph.populations[1:]:
        (projection,) = graph.arriving(p.name)
        ready = synapse(graph, projection)
        arriving = result.traces[f"{projection.source}.s"]
        peaks[p.name] = max(int(np.abs(ready(arriving[:, t])).max()) for t in range(arriving.shape[1]))
    return peaks
