"""From NIR to Graph.

A node's neurons have a decay of u and v, a gain, a bias and a threshold (`lavasnn.interop.nir_cells`). What arrives is
multiplied by the gain, so weights (and biases, where du = 1) are. Voltages scale with their threshold: neurons
whose thresholds differ get theirs scaled to the largest one of the node. Only decays are a population's: neurons of a node
that differ in them become several populations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from lavasnn.dynamics.graded import Graded
from lavasnn.dynamics.lif import Lif
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.interop.nir_cells import Cell, cells
from lavasnn.interop.nir_integers import cut, in_integers
from lavasnn.interop.nir_nodes import LINEAR, Net, infer_shapes, load, window
from lavasnn.interop.rows import only_rows, sliced
from lavasnn.ir import Graph, Population, Projection, Source, Through
from lavasnn.paths import aligned, in_order, reach
from lavasnn.synapses import Dense, Owned, Sparse, as_sparse, one_to_one, scaled_rows

Array = NDArray[np.float64]
Delay = int | NDArray[np.int64]
Neurons = NDArray[np.int64]
LONGEST = 1 << 20
"""Steps of a delay; a chip has less (`compile.target`), which the compiler says."""


@dataclass(frozen=True)
class Term:
    """A way from neurons (or the input) to a node.

    Args:
        source: Node whose neurons speak.
        synapses: None for one to one.
        delay: Steps, one number or one for each speaking neuron.
        name: Node that the weights come from, if they do.
    """

    source: str
    synapses: Owned | None = None
    delay: Delay = 0
    name: str = ""


@dataclass(frozen=True)
class Feed:
    """What a node puts out: a sum of weighted messages and a constant, shape (number,)."""

    terms: tuple[Term, ...]
    bias: Array


@dataclass
class Reading:
    """A net on its way to a graph.

    Args:
        net: The nodes.
        dt: Seconds in a step.
        groups: Most populations that a node may become.
        whole: Whether decays round down to registers, as with a scale, or to the nearest.
        cells: Parameters of the neurons.
        parts: For each node that became populations: their names and neurons.
        made: For each node that puts out sums: what they are.
        populations, projections: Of the graph.
    """

    net: Net
    dt: float | None
    groups: int
    whole: bool
    cells: dict[str, Cell] = field(default_factory=dict)
    parts: dict[str, list[tuple[str, Neurons]]] = field(default_factory=dict)
    made: dict[str, Feed] = field(default_factory=dict)
    populations: list[Population] = field(default_factory=list)
    projections: list[Projection] = field(default_factory=list)


def read_nir(
    path: Path,
    *,
    dt: float | None,
    steps: int | None,
    scale: float | None = None,
    levels: int = 1,
    groups: int = 64,
) -> Graph:
    """Read a network from a NIR file.

    Args:
        path: The file.
        dt: Seconds in a step. None takes the one that `write_nir` noted in the file.
        steps: Steps of a sample. None takes those that `write_nir` noted.
        scale: None gives real numbers, for the compiler to quantise. Else weights and thresholds times `scale`, cut to
            integers, and decays cut to 1/4096: NIR's published mapping to Loihi 2, which used 250.
        levels: Largest magnitude of the input's messages; 1 means spikes.
        groups: Most populations that the neurons of one node may become.

    Returns:
        The graph; samples are messages, shape (sample, step, neuron), neurons in C order of (channel, row, column). Ways of
        different length get delays; see `lavasnn.paths.aligned`.

    Raises:
        InputError: No such file, a step or scale out of range, or nodes that have no form here: all at once, with their paths.
        FileFormatError: No NIR file, or an unsafe one.
        RangeError: With `scale`: numbers that leave their registers.
    """
    net = load(path)
    dt, steps = _noted("dt", dt, net), _noted("steps", steps, net)
    for name, value in (("dt", dt), ("scale", scale)):
        if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
            raise InputError(f"read_nir: {name} is {value!r}, allowed is a finite number above 0")
    if steps is None or steps < 1 or groups < 1:
        raise InputError(f"read_nir: steps is {steps} and groups is {groups}, at least 1 is needed")
    reading = Reading(net, None if dt is None else float(dt), groups, scale is not None)
    reading.cells = cells(net, reading.dt)
    _refuse(path, net)
    infer_shapes(net)
    _refuse(path, net)
    _make_populations(reading)
    _refuse(path, net)
    graph = _graph(reading, path, Encoding("given", levels=levels), int(steps), 1.0 if scale is None else 2.0 / scale)
    _refuse(path, net)
    return graph if scale is None else in_integers(graph, float(scale))


def _noted(name: str, given: Any, net: Net) -> Any:
    noted = net.metadata.get(name)
    return noted.item() if given is None and isinstance(noted, np.number) else given


def _refuse(path: Path, net: Net) -> None:
    if net.problems:
        raise InputError(f"{path}: " + "; ".join(net.problems))


def _make_populations(reading: Reading) -> None:
    """Populations of the input and of every node with neurons, split where decays differ."""
    net = reading.net
    (source,) = net.inputs
    size = math.prod(net.shapes[source])
    reading.parts[source] = [(source, np.arange(size))]
    reading.populations.append(Population(source, size, Source()))
    for path, cell in reading.cells.items():
        size = math.prod(net.shapes[path])
        cell = reading.cells[path] = cell.spread(size)
        silent = np.zeros(size) if cell.threshold is None else cell.threshold == 0  # a threshold of 0 scales to no other
        keys = np.stack([_register(cell.du, reading), np.minimum(_register(cell.dv, reading), 4095), silent], axis=1)
        _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        which = which.reshape(-1)
        if len(first) > reading.groups:
            net.problems.append(
                f"node {path!r}: its neurons have {len(first)} different decays (in 1/4096), allowed are {reading.groups}"
            )
            continue
        if len(first) == 1:
            reading.parts[path] = [(path, np.arange(size))]
        else:
            order = np.argsort(first)
            reading.parts[path] = [(f"{path}.{i}", np.flatnonzero(which == k)) for i, k in enumerate(order)]


def _graph(reading: Reading, path: Path, encoding: Encoding, steps: int, relay: float) -> Graph:
    net = reading.net
    before = net.before()
    summing = {p: [a for a in before[p] if a not in reading.parts] for p in net.nodes if p not in reading.parts}
    try:
        order = list(TopologicalSorter(summing).static_order())
    except CycleError as error:
        ring = [str(p) for p in error.args[1]]
        raise InputError(f"{path}: nodes {' -> '.join(map(repr, ring))} form a loop without any neuron in it") from None
    for p in order:
        if p not in net.outputs:
            reading.made[p] = _feed(reading, p, before[p])
    for p in reading.cells:
        _add_neurons(reading, p, _joined([_output(reading, a) for a in before[p]], math.prod(net.shapes[p])))
    output, read = _read_out(reading, before, relay)
    _refuse(path, net)
    names: dict[str, int] = {}
    projections: list[Projection] = []
    for q in reading.projections:
        names[q.name] = names.get(q.name, 0) + 1
        projections.append(replace(q, name=q.name if names[q.name] == 1 else f"{q.name}.{names[q.name]}"))
    populations = in_order(reading.populations, projections)
    graph = aligned(Graph(populations, tuple(projections), encoding, output, steps, read))
    return _with_thresholds(graph) if read == "voltage" else graph


def _with_thresholds(graph: Graph) -> Graph:
    """Give the output, which never spikes, a threshold that its voltage cannot reach."""
    d = graph.population(graph.output).dynamics
    assert isinstance(d, Lif)
    lifted = replace(d, vth=reach(graph, graph.output) * (1 + 1e-6) or 1.0)
    populations = tuple(replace(p, dynamics=lifted) if p.name == graph.output else p for p in graph.populations)
    return replace(graph, populations=populations)


def _output(reading: Reading, path: str) -> Feed:
    """What a node puts out."""
    if path in reading.parts:
        return Feed((Term(path),), np.zeros(math.prod(reading.net.shapes[path])))
    return reading.made[path]


def _joined(feeds: list[Feed], size: int) -> Feed:
    return Feed(tuple(t for f in feeds for t in f.terms), sum((f.bias for f in feeds), np.zeros(size)))


def _feed(reading: Reading, path: str, before: list[str]) -> Feed:
    """What a node without neurons puts out."""
    net, node = reading.net, reading.net.nodes[path]
    size = math.prod(net.takes.get(path, net.shapes[path]))
    if isinstance(node, LINEAR):
        arriving = _joined([_plain(reading, a) for a in before], size)
        synapses, bias = _weights(node, net.takes[path])
        return Feed(tuple(replace(t, synapses=synapses, name=path) for t in arriving.terms), bias)
    arriving = _joined([_output(reading, a) for a in before], size)
    if isinstance(node, nir.Scale):
        return _scaled(arriving, np.broadcast_to(np.asarray(node.scale, np.float64).reshape(-1), (size,)))
    if isinstance(node, nir.Delay):
        return _delayed(reading, path, arriving)
    return arriving


def _plain(reading: Reading, path: str) -> Feed:
    """What a node puts out as messages one to one; weights before it become a population without neurons."""
    feed = _output(reading, path)
    if not feed.bias.any() and all(t.synapses is None for t in feed.terms):
        return feed
    size = len(feed.bias)
    if path not in reading.parts:
        reading.parts[path] = [(path, np.arange(size))]
        reading.populations.append(Population(path, size, Through(bias=feed.bias if feed.bias.any() else 0.0)))
        _connect(reading, path, feed, np.ones(size))
    return Feed((Term(path),), np.zeros(size))


def _weights(node: Any, before: tuple[int, ...]) -> tuple[Owned, Array]:
    """Synapses and bias of a linear node on what comes in."""
    if isinstance(node, nir.Affine | nir.Linear):
        weight = np.asarray(node.weight, np.float64)
        bias = np.asarray(node.bias, np.float64).reshape(-1) if isinstance(node, nir.Affine) else np.zeros(1)
        return Dense(weight), np.broadcast_to(bias, (len(weight),))
    conv = window(node, before)
    size, channels = conv.shape[0], conv.image_out[0]
    own = getattr(node, "bias", None)
    bias = np.zeros(channels) if own is None else np.broadcast_to(np.asarray(own, np.float64).reshape(-1), (channels,))
    return conv, np.repeat(bias, size // channels)


def _scaled(feed: Feed, scale: Array) -> Feed:
    return Feed(tuple(replace(t, synapses=_times(t, scale)) for t in feed.terms), feed.bias * scale)


def _times(term: Term, scale: Array) -> Owned:
    """A term's synapses, sums multiplied by `scale`, shape (number,)."""
    return one_to_one(scale) if term.synapses is None else scaled_rows(term.synapses, scale)


def _delayed(reading: Reading, path: str, feed: Feed) -> Feed:
    """A feed some steps later; a bias is a constant that was there before the first step, so no delay changes it."""
    net, node = reading.net, reading.net.nodes[path]
    assert reading.dt is not None
    wanted = np.asarray(node.delay, np.float64).reshape(-1) / reading.dt
    steps = np.round(wanted)
    off = (np.abs(wanted - steps) > 1e-6 * np.maximum(steps, 1)) | (steps < 0) | (steps > LONGEST)
    if off.any():
        bad = wanted[off][0]
        net.problems.append(f"node {path!r} (Delay) has a delay of {bad:g} steps of {reading.dt:g} s, allowed are whole steps")
        return feed
    whole = steps.astype(np.int64)
    values = np.unique(whole)
    if len(values) == 1:
        return replace(feed, terms=tuple(replace(t, delay=t.delay + int(values[0])) for t in feed.terms))
    terms: list[Term] = []
    for t in feed.terms:
        if t.synapses is None:
            terms.append(replace(t, delay=t.delay + whole))
        elif len(values) > reading.groups:
            net.problems.append(f"node {path!r} (Delay) has {len(values)} delays behind weights, allowed are {reading.groups}")
        else:
            terms += [replace(t, synapses=only_rows(as_sparse(t.synapses), whole == v), delay=t.delay + int(v)) for v in values]
    return replace(feed, terms=tuple(terms))


def _add_neurons(reading: Reading, path: str, feed: Feed) -> None:
    """The populations of a node with neurons, and what leads to them."""
    cell = reading.cells[path]
    factor, common = np.ones(len(feed.bias)), None
    if cell.threshold is not None:
        common = float(cell.threshold.max())
        factor = np.where(cell.threshold > 0, common / np.where(cell.threshold > 0, cell.threshold, 1.0), 1.0)
    arriving = feed.bias * cell.gain * factor
    bias = cell.bias * factor + np.where(cell.du == 1, arriving, 0.0)
    for name, neurons in reading.parts[path]:
        own, current = bias[neurons], np.where(cell.du == 1, 0.0, arriving)[neurons]
        vth = 0.0 if cell.threshold is None or not cell.threshold[neurons].any() else common or 0.0
        d = Lif(_shared(cell.du[neurons], reading), _shared(cell.dv[neurons], reading), vth, own if own.any() else 0.0)
        d = replace(d, bias_u=current) if current.any() else d
        reading.populations.append(Population(name, len(neurons), d))
    _connect(reading, path, feed, cell.gain * factor)


def _shared(decay: Array, reading: Reading) -> float:
    """One decay for a population: its neurons' own if they are equal, else the register's that they round to."""
    if (decay == decay[0]).all():
        return float(decay[0])
    return float(_register(decay, reading)[0]) / 4096


def _register(decay: Array, reading: Reading) -> Array:
    """Decays in 1/4096, as the registers will hold them."""
    return cut(decay, 4096).astype(np.float64) if reading.whole else np.round(decay * 4096)


def _connect(reading: Reading, path: str, feed: Feed, gain: Array) -> None:
    """Projections that carry a feed to a node's populations, sums multiplied by `gain`, shape (number,)."""
    for t in feed.terms:
        weights = _times(t, gain)
        senders = reading.parts[t.source]
        for target, rows in reading.parts[path]:
            for source, columns in senders:
                part = weights if len(senders) == len(reading.parts[path]) == 1 else sliced(weights, rows, columns)
                if isinstance(part, Sparse) and not len(part.weight) and part is not weights:
                    continue
                delay = t.delay[columns] if isinstance(t.delay, np.ndarray) else t.delay
                if isinstance(delay, np.ndarray) and (delay == delay[0]).all():
                    delay = int(delay[0])
                name = f"{source}-{target}" if not t.name or part is not weights else t.name
                reading.projections.append(Projection(name, source, target, part, delay=delay))


def _read_out(reading: Reading, before: Mapping[str, list[str]], relay: float) -> tuple[str, Any]:
    """Name of the population that is read, and what of it."""
    net = reading.net
    (path,) = net.outputs
    size = math.prod(net.shapes[path])
    feed = _joined([_output(reading, a) for a in before[path]], size)
    quiet = {p for p, cell in reading.cells.items() if cell.threshold is None}
    heard = {q.source: q.name for q in reading.projections}
    for p in sorted(quiet):
        for name, _ in reading.parts[p]:
            if name in heard:
                net.problems.append(
                    f"node {p!r} ({type(net.nodes[p]).__name__}) never spikes; allowed is it only as the last one"
                )
    one = len(feed.terms) == 1 and feed.terms[0].source in reading.cells and feed.terms[0].synapses is None
    if one and not feed.bias.any() and not np.any(feed.terms[0].delay):
        node = feed.terms[0].source
        parts = reading.parts[node]
        if len(parts) == 1:
            return parts[0][0], "voltage" if node in quiet else "messages"
        if node in quiet:
            net.problems.append(f"node {node!r}: decays of the last node differ, and voltages are read from one population")
            return parts[0][0], "voltage"
        # Spikes of all its populations, gathered in their order a step later.
        reading.parts[path] = [(path, np.arange(size))]
        reading.populations.append(Population(path, size, Lif(1.0, 1.0, relay / 2)))
        _connect(reading, path, feed, np.full(size, relay))
        return path, "messages"
    if any(t.source in quiet for t in feed.terms):
        net.problems.append(f"Output {path!r} hears a node that never spikes, but not alone; allowed is nothing else before it")
    if feed.bias.any() or any(np.any(t.delay) for t in feed.terms):
        net.problems.append(
            f"Output {path!r} hears a bias or delay without neurons behind; allowed are weights or neurons alone"
        )
    reading.parts[path] = [(path, np.arange(size))]
    reading.populations.append(Population(path, size, Graded(0.0)))
    _connect(reading, path, feed, np.ones(size))
    return path, "messages"
