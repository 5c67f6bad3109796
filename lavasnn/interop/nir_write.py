"""From Graph to NIR.

The steps of a LIF population in NIR's terms, the reverse of `lavasnn.interop.nir_cells`:

    LIF       du = 1            tau = dt / dv, r = 1 / dv
    CubaLIF   du < 1            tau_syn = dt / du, tau_mem = dt / dv, r = 1 / dv, w_in = 1 / du
    IF        du = 1, dv = 0    r = 1 / dt

so weights stay as they are. NIR has no latencies: of each delay, what only makes ways equally long is left out. The exact
decays, dt and the steps of a sample are noted as metadata.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from lavasnn.dynamics.graded import Graded, GradedInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.errors import InputError
from lavasnn.files import replacing
from lavasnn.ir import Coincidence, Graph, Population, Projection, Source, Through
from lavasnn.paths import depths, reach, slack
from lavasnn.synapses import Conv, as_dense, by_channel, diagonal

Array = NDArray[Any]
Shape = tuple[int, ...]
LARGEST = 1 << 27
"""Weights in a matrix that single synapses or an unfitting convolution are written out as (1 GiB)."""


def write_nir(graph: Graph, path: Path, *, dt: float) -> None:
    """Write a network of stock neurons to a NIR file; see `to_nir`.

    Raises:
        InputError: A network that NIR cannot hold, with every reason, or a place that cannot be written.
    """
    made = to_nir(graph, dt)
    with replacing(path) as temporary:
        nir.write(temporary, made)


def to_nir(graph: Graph, dt: float) -> nir.NIRGraph:
    """A network of stock neurons as NIR nodes.

    Args:
        graph: Real numbers (of integers, the real network that they stand for); binary LIF, linear layers between them.
        dt: Seconds in a step.

    Raises:
        InputError: A network that NIR cannot hold, with every reason.
    """
    if not (isinstance(dt, int | float) and 0 < dt < math.inf):
        raise InputError(f"write_nir: dt is {dt!r}, allowed is a finite number above 0")
    problems = list(_problems(graph))
    if problems:
        raise InputError("nir: " + "; ".join(problems))
    return _Writing(graph, float(dt)).graph()


def _problems(graph: Graph) -> Iterator[str]:
    """Everything that NIR has no form for."""
    if graph.timing is not None:
        yield "DiffPC populations have no form in NIR; allowed are LIF networks"
        return
    if not isinstance(graph.source.dynamics, Source):
        yield f"the first population {graph.source.name!r} is {type(graph.source.dynamics).__name__}, needed is an input"
    if graph.encoding.kind == "value":
        yield f"the input is encoded as {graph.encoding.kind!r}, NIR holds messages"
    speaks = {q.source for q in graph.projections}
    for p in graph.populations:
        name, d = p.name, p.dynamics
        if p.name not in speaks and p.name != graph.output:
            yield f"population {name!r} leads nowhere"
        if p is not graph.source and not graph.arriving(name):
            yield f"population {name!r} receives nothing"
        if isinstance(d, LifInt | GradedInt):
            yield f"population {name!r} holds integers; allowed are the real numbers they stand for"
        elif isinstance(d, Graded) and (d.vth or d.relu or name in speaks or name != graph.output):
            yield f"population {name!r} sends graded messages; NIR has no such neurons"
        elif isinstance(d, Through) and np.any(d.bias) and not np.all(d.scale):
            yield f"population {name!r} has a bias and scales of 0; NIR's affine nodes come before them"
        elif isinstance(d, Coincidence):
            yield f"population {name!r} joins pairs of spikes, which NIR has no node for; a program has neurons for them"
        elif isinstance(d, Source) and p is not graph.source:
            yield f"population {name!r} is a second input; allowed is one"
        elif isinstance(d, Lif):
            yield from _lif_problems(graph, p, d, name in speaks)
    for q in graph.projections:
        if getattr(graph.synapses(q), "grid", None) is not None:
            yield f"projection {q.name!r} holds integers; allowed are the real numbers they stand for"


def _lif_problems(graph: Graph, p: Population, d: Lif, speaks: bool) -> Iterator[str]:
    if d.vth_lo is not None:
        yield f"population {p.name!r} is ternary; NIR's neurons send +1 alone"
    if d.du < 1 and (d.du == 0 or d.dv == 0):
        yield f"population {p.name!r} has du {d.du:g} and dv {d.dv:g}; a CubaLIF leaks, allowed are both above 0"
    if graph.read == "voltage" and p.name == graph.output:
        if speaks:
            yield f"population {p.name!r} is read as a voltage and speaks; NIR's LI does not spike"
        elif reach(graph, p.name) > d.vth:
            yield (
                f"population {p.name!r} is read as a voltage, which may reach {reach(graph, p.name):g} and spike at {d.vth:g}; "
                "NIR's LI does not spike"
            )


class _Writing:
    """A NIR graph in the making."""

    def __init__(self, graph: Graph, dt: float) -> None:
        self.real, self.dt = graph, dt
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.names: dict[str, str] = {}
        self.problems: list[str] = []
        self.shapes = {p.name: self._shape(p) for p in graph.populations}
        self.delays = {name: -late for name, late in slack(graph, depths(graph, shortest=True)).items()}
        self.biases = {p.name: self._input_bias(p) for p in graph.populations}

    def graph(self) -> nir.NIRGraph:
        g = self.real
        for p in g.populations:
            self.names[p.name] = self._add(p.name, self._node(p))
        for p in g.populations:
            for i, q in enumerate(g.arriving(p.name)):
                self._connect(q, self.biases[p.name] if i == 0 else None)
        if self.problems:
            raise InputError("nir: " + "; ".join(self.problems))
        output = self._add("output", nir.Output({"output": np.array(self.shapes[g.output])}))
        self.edges.append((self.names[g.output], output))
        metadata = {"dt": self.dt, "steps": g.steps, "producer": "lavasnn"}
        return nir.NIRGraph(nodes=self.nodes, edges=self.edges, metadata=metadata, type_check=False)

    def _add(self, name: str, node: Any) -> str:
        """Add a node; HDF5 takes a slash for a group and a dot alone for the group itself."""
        base = name.replace("/", "_").strip(".") or "node"
        unique, n = base, 1
        while unique in self.nodes:
            n += 1
            unique = f"{base}.{n}"
        self.nodes[unique] = node
        return unique

    def _shape(self, p: Population) -> Shape:
        """An image where one convolution speaks of it and all that arrives is that image, else one axis."""
        leaving = [self.real.synapses(q) for q in self.real.projections if q.source == p.name]
        images = [_taken(s) for s in leaving if isinstance(s, Conv)]
        arriving = [self.real.synapses(q) for q in self.real.arriving(p.name)]
        if images and all(isinstance(s, Conv) and _given(s) == images[0] for s in arriving):
            return images[0]
        return (p.size,)

    def _input_bias(self, p: Population) -> Array | None:
        """A population's bias as one on what arrives, shape (neuron,); None if the node itself holds it, or there is none."""
        d = p.dynamics
        if isinstance(d, Lif) and np.any(d.bias_u):
            return np.broadcast_to(np.asarray(d.bias_u, np.float64), (p.size,))
        if not isinstance(d, Lif | Through) or not np.any(d.bias):
            return None
        bias = np.broadcast_to(np.asarray(d.bias, np.float64), (p.size,))
        if isinstance(d, Through):
            return bias / np.asarray(d.scale, np.float64)
        first = self.real.synapses(self.real.arriving(p.name)[0])
        shared = by_channel(bias, first.image_out[0]) is not None if isinstance(first, Conv) else diagonal(first) is None
        if d.du < 1 or (d.dv > 0 and not shared):
            return None
        return bias

    def _node(self, p: Population) -> Any:
        shape, d = self.shapes[p.name], p.dynamics
        match d:
            case Source():
                return nir.Input({"input": np.array(shape)})
            case Through():
                return nir.Scale(_full(shape, d.scale))
            case Graded():
                return nir.Scale(np.ones(shape))  # the sum itself
            case Lif():
                return self._neuron(p, d, shape)
            case _:
                raise AssertionError(type(d))

    def _neuron(self, p: Population, d: Lif, shape: Shape) -> Any:
        own = {"dt": self.dt, "du": d.du, "dv": d.dv}
        quiet = self.real.read == "voltage" and p.name == self.real.output
        limits: dict[str, Any] = {} if quiet else {"v_threshold": _full(shape, d.vth), "v_reset": np.zeros(shape)}
        if d.dv == 0:
            return (nir.I if quiet else nir.IF)(r=_full(shape, 1 / self.dt), metadata=own, **limits)
        elsewhere = self.biases[p.name] is not None and not np.any(d.bias_u)
        leak = np.zeros(shape) if elsewhere else _full(shape, np.asarray(d.bias) / d.dv)
        common: dict[str, Any] = {"r": _full(shape, 1 / d.dv), "v_leak": leak, "metadata": own, **limits}
        if d.du == 1:
            return (nir.LI if quiet else nir.LIF)(tau=_full(shape, self.dt / d.dv), **common)
        kind = nir.CubaLI if quiet else nir.CubaLIF
        times = {"tau_syn": _full(shape, self.dt / d.du), "tau_mem": _full(shape, self.dt / d.dv)}
        return kind(**times, w_in=_full(shape, 1 / d.du), **common)

    def _connect(self, q: Projection, bias: Array | None) -> None:
        """The nodes that a projection becomes: delay, flatten, weights, flatten, as far as they are needed."""
        s = self.real.synapses(q)
        before, after = self.shapes[q.source], self.shapes[q.target]
        chain: list[tuple[str, Any]] = []
        delay = np.asarray(q.delay) + self.delays[q.name]
        if delay.any():
            chain.append((f"{q.name}.delay", nir.Delay(_full(before, delay * self.dt))))
        if isinstance(s, Conv) and before == _taken(s) and (bias is None or by_channel(bias, s.image_out[0]) is not None):
            chain.append((q.name, _conv(s, bias, before)))
            if after != _given(s):
                chain.append((f"{q.name}.flatten", _flatten(_given(s))))
        elif (scale := diagonal(s)) is not None and before == after and bias is None:
            if (scale != 1).any():
                chain.append((q.name, nir.Scale(_full(before, scale))))
        else:
            if len(before) > 1:
                chain.append((f"{q.name}.flatten", _flatten(before)))
            if s.shape[0] * s.shape[1] > LARGEST:
                self.problems.append(
                    f"projection {q.name!r} needs a matrix of {s.shape[0] * s.shape[1]:,} weights, allowed are {LARGEST:,}"
                )
                return
            full = np.array(as_dense(s), np.float64)
            chain.append((q.name, nir.Linear(full) if bias is None else nir.Affine(full, bias)))
        at = self.names[q.source]
        for name, node in chain:
            unique = self._add(name, node)
            self.edges.append((at, unique))
            at = unique
        self.edges.append((at, self.names[q.target]))


def _narrow(s: Conv) -> bool:
    """Whether a convolution runs along lines: images and kernels of one row."""
    return s.image[1] == s.weight.shape[2] == s.image_out[1] == 1 and s.padding[0] == 0


def _taken(s: Conv) -> Shape:
    return (s.image[0], s.image[2]) if _narrow(s) else s.image


def _given(s: Conv) -> Shape:
    return (s.image_out[0], s.image_out[2]) if _narrow(s) else s.image_out


def _full(shape: Shape, value: Any) -> Array:
    values = np.asarray(value, np.float64)
    return np.array(np.broadcast_to(values if values.ndim == 0 else values.reshape(shape), shape))


def _flatten(shape: Shape) -> Any:
    return nir.Flatten({"input": np.array(shape)}, start_dim=0, end_dim=-1)


def _conv(s: Conv, bias: Array | None, before: Shape) -> Any:
    own = s.groups == s.image[0] == s.weight.shape[0] and bias is None and s.dilation == (1, 1) and len(before) == 3
    for value, kind in ((1.0, nir.SumPool2d), (1.0 / math.prod(s.weight.shape[2:]), nir.AvgPool2d)):
        if own and (s.weight == value).all():
            return kind(*(np.array(pair) for pair in (s.weight.shape[2:], s.stride, s.padding)))
    channels: Any = np.zeros(s.weight.shape[0]) if bias is None else by_channel(bias, s.image_out[0])
    kernel = np.array(s.weight, np.float64)
    if len(before) == 2:
        return nir.Conv1d(before[1], kernel[:, :, 0], s.stride[1], s.padding[1], s.dilation[1], s.groups, channels)
    return nir.Conv2d((before[1], before[2]), kernel, s.stride, s.padding, s.dilation, s.groups, channels)
