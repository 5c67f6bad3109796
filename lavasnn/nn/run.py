"""Run a Graph in torch: the training side's own account of a network, in real numbers or in integers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavasnn.dynamics import graded, lif, pyramidal
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.graded import Graded, GradedInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.dynamics.pyramidal import Pyramidal, PyramidalInt
from lavasnn.errors import InputError
from lavasnn.ir import Graph, Projection
from lavasnn.nn.diffpc import literal
from lavasnn.pathways import driven, voltage_or_spikes
from lavasnn.results import RunResult
from lavasnn.synapses import Conv, Deconv, Dense, Owned


@torch.no_grad()
def run(
    graph: Graph,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64] | None = None,
    *,
    settle: bool = False,
    record: bool = False,
    indices: NDArray[np.int64] | None = None,
) -> RunResult:
    """Run samples through a layered network by the step loop, in torch.

    Args:
        graph: Stock neurons, or DiffPC layers in order, each projecting to the next (and errors back by transposed weights).
        pixels: Images, shape (sample, pixel), or given messages, shape (sample, step, neuron).
        labels: Classes, shape (sample,); needed for the second phase. Of pyramidal networks the concepts shown.
        settle: Run DiffPC's second phase too.
        record: Keep every message and state of every step.
        indices: Each sample's index in its data set; 0, 1, ... by default.

    Raises:
        InputError: A DiffPC graph that is no chain of layers.
        RangeError: A payload beyond signed 24 bits.
    """
    if graph.pyramidal:
        return _pyramidal(graph, pixels, labels, record)
    if graph.timing is None:
        return _stock(graph, pixels, labels, np.arange(len(pixels)) if indices is None else indices, record)
    forward = [p for p in graph.projections if p.into in ("a", "a_x")]
    names = [p.name for p in graph.populations]
    if [(p.source, p.target) for p in forward] != list(pairwise(names)):
        raise InputError("torch run: the graph is no chain of layers")
    outputs, messages, traces = _diffpc(graph, forward, pixels, labels if settle else None)
    return RunResult.of(graph, "torch", settle, outputs.numpy(), labels, messages, traces=traces if record else {})


Run = tuple[Tensor, dict[str, NDArray[np.int32]], dict[str, NDArray[np.generic]]]


def _shift(graph: Graph, p: Projection) -> int:
    grid = graph.synapses(p).grid
    return 0 if grid is None else grid.exponent


def _shifted(total: Tensor, shift: int) -> Tensor:
    return total << shift if shift > 0 else total >> -shift


def _diffpc(graph: Graph, forward: list[Projection], pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> Run:
    kind = torch.int64 if graph.integer else torch.float64
    populations = [p.dynamics for p in graph.populations if isinstance(p.dynamics, DiffPC | DiffPCInt)]
    first = populations[0]
    point = first.point if isinstance(first, DiffPCInt) else 0
    weights = [torch.from_numpy(np.array(graph.weight(p))).to(kind) for p in forward]
    back = {p.target: p for p in graph.projections if p.into == "a_e"}
    shifts = [(_shift(graph, p), _shift(graph, back[p.source]) if p.source in back else 0) for p in forward]
    values = torch.from_numpy(graph.encoding.values(pixels)) * 2.0**point
    x = values.floor().to(kind) if graph.integer else values
    target = None
    if labels is not None:
        target = torch.nn.functional.one_hot(torch.from_numpy(labels), graph.populations[-1].size).to(kind) * 2**point
    started, _, counts, traces = literal(populations, weights, x, target, shifts=shifts if graph.integer else (), record=True)
    names = [p.name for p in graph.populations]

    def named(key: str) -> str:
        layer, variable = key.split(".")
        return f"{names[int(layer)]}.{variable}"

    messages = {named(k): v.to(torch.int32).numpy() for k, v in counts.items()}
    kept: dict[str, NDArray[np.generic]] = {}
    for key, value in traces.items():
        spikes = key.split(".")[1].startswith("s_")
        kept[named(key)] = value.to(torch.int8 if spikes else torch.int32 if graph.integer else kind).numpy()
    return started[-1].x_F, messages, kept


def _stock(
    graph: Graph, samples: NDArray[Any], labels: NDArray[np.int64] | None, indices: NDArray[np.int64], record: bool
) -> RunResult:
    """Networks of stock neurons, step by step; sums by torch's own products and convolutions, in float64.

    Time is as in `Graph.seamless`: populations' windows follow each other by what messages need, or all open together.
    """
    shown = torch.from_numpy(graph.encoding.messages(samples, indices, graph.steps))
    sent: dict[str, list[Tensor]] = {p.name: [] for p in graph.populations}
    sent[graph.source.name] = list(shown.unbind(1))
    sums = {p.name: _summing(graph.synapses(p)) for p in graph.projections}
    seamless, whole = graph.seamless, graph.integer
    latency = {q.name: 0 if seamless else 1 + np.asarray(q.delay) for q in graph.projections}
    shift = {q.name: _shift(graph, q) if whole else 0 for q in graph.projections}
    arriving = {p.name: graph.arriving(p.name) for p in graph.populations}
    kind = torch.int64 if whole else torch.float64
    states: dict[str, lif.LifState] = {}
    voltages: list[Tensor] = []
    for t in range(graph.steps):
        for p in graph.populations[1:]:
            d, total = p.dynamics, torch.zeros(len(samples), p.size, dtype=kind)
            for q in arriving[p.name]:
                heard = _delayed(sent[q.source], t, latency[q.name])
                if heard is not None:
                    part = sums[q.name](heard.to(torch.float64)).to(kind)
                    total = total + (_shifted(part, shift[q.name]) if whole else part)
            if isinstance(d, Graded | GradedInt):
                s = graded.step(d, total)
                if isinstance(d, GradedInt):
                    graded.check_payloads(s, p.name, t)
            elif isinstance(d, Lif | LifInt):
                state = states.get(p.name) or lif.initial(d, total.shape, like=torch.zeros((), dtype=torch.float64))
                s, states[p.name] = lif.step(d, state, total)
            else:
                raise InputError(f"torch run: population {p.name!r} is {type(d).__name__}, which compile folds away first")
            sent[p.name].append(s)
        if graph.read == "voltage":
            voltages.append(states[graph.output].v)
    raster = {name: torch.stack(steps, 1) for name, steps in sent.items()}
    traces = {f"{name}.s": (s.to(torch.int8) if s.dtype == torch.bool else s).numpy() for name, s in raster.items()}
    outputs = raster[graph.output].sum(1)
    if graph.read == "voltage":
        traces[f"{graph.output}.v"] = torch.stack(voltages, 1).numpy()
        outputs = voltages[-1].to(kind)
    messages = {f"{name}.s": (s != 0).sum(2).to(torch.int32).numpy() for name, s in raster.items()}
    return RunResult.of(graph, "torch", False, outputs.numpy(), labels, messages, traces=traces if record else {})


def _pyramidal(graph: Graph, pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None, record: bool) -> RunResult:
    """Both pathways by a clock that all populations share: a spike arrives a step after it was sent, windows open in turn."""
    kind, n = torch.int64 if graph.integer else torch.float64, len(pixels)
    basal_at, apical_at = graph.offsets, graph.apical_offsets
    wires = {
        p.name: [(q, _shift(graph, q), _summing(graph.synapses(q))) for q in graph.arriving(p.name)] for p in graph.populations
    }
    shown = {name: torch.from_numpy(current) for name, current in driven(graph, pixels, labels).items()}
    empty = {p.name: torch.zeros(n, p.size, dtype=kind) for p in graph.populations}
    v, sent, acc_b, acc_a = dict(empty), dict(empty), dict(empty), dict(empty)
    kept: dict[str, list[Tensor]] = {f"{p.name}.{key}": [] for p in graph.populations for key in ("s", "acc_b", "acc_a")}
    for clock in range(graph.steps + max(*basal_at.values(), *apical_at.values())):
        now = dict(empty)
        for p in graph.populations:
            d = p.dynamics
            assert isinstance(d, Pyramidal | PyramidalInt)
            sums = {"basal": empty[p.name] + _bias(d.bias, kind), "apical": empty[p.name] + _bias(d.bias_apical, kind)}
            for q, shift, summing in wires[p.name]:
                total = summing(sent[q.source].to(torch.float64)).to(kind)
                sums[q.into] = sums[q.into] + (_shifted(total, shift) if shift else total)
            if 0 <= clock - basal_at[p.name] < graph.steps:
                basal = sums["basal"] + shown[p.name] if p.name in shown else sums["basal"]
                s, v[p.name] = pyramidal.step(d, v[p.name], basal)
                now[p.name] = s.to(kind)
                acc_b[p.name] = acc_b[p.name] + basal
                kept[f"{p.name}.s"].append(s.to(torch.int8))
                kept[f"{p.name}.acc_b"].append(acc_b[p.name])
            if 0 <= clock - apical_at[p.name] < graph.steps:
                acc_a[p.name] = acc_a[p.name] + sums["apical"]
                kept[f"{p.name}.acc_a"].append(acc_a[p.name])
        sent = now
    narrow = torch.int32 if graph.integer else torch.float64
    traces = {key: torch.stack([t if key.endswith(".s") else t.to(narrow) for t in ts], 1).numpy() for key, ts in kept.items()}
    traces |= {f"{p.name}.cnt": np.cumsum(traces[f"{p.name}.s"], axis=1, dtype=np.int32) for p in graph.populations}
    outputs = voltage_or_spikes(graph, traces[f"{graph.output}.s"], traces[f"{graph.output}.acc_b"])
    messages = {f"{p.name}.s": traces[f"{p.name}.s"].sum(axis=2, dtype=np.int32) for p in graph.populations}
    return RunResult.of(graph, "torch", False, outputs, labels, messages, traces=traces if record else {})


def _bias(bias: Any, kind: torch.dtype) -> Tensor:
    return torch.from_numpy(np.atleast_1d(np.asarray(bias))).to(kind)


def _delayed(sent: list[Tensor], t: int, latency: Any) -> Tensor | None:
    """What arrives at step t; `latency` is a number or one for each sender."""
    if np.ndim(latency) == 0:
        at = t - int(latency)
        return sent[at] if 0 <= at < len(sent) else None
    if not sent:
        return None
    columns = [sent[t - k][:, i] if k <= t else torch.zeros_like(sent[0][:, i]) for i, k in enumerate(latency.tolist())]
    return torch.stack(columns, 1)


def _summing(s: Owned) -> Callable[[Tensor], Tensor]:
    """Weighted sums of messages (sample, pre) as (sample, post), float64."""
    if isinstance(s, Dense):
        matrix = torch.from_numpy(np.array(s.weight, np.float64))
        return lambda x: x @ matrix.T
    if isinstance(s, Conv):
        kernel = torch.from_numpy(np.array(s.weight, np.float64))

        def convolved(x: Tensor) -> Tensor:
            images = x.view(len(x), *s.image)
            return torch.nn.functional.conv2d(images, kernel, None, s.stride, s.padding, s.dilation, s.groups).flatten(1)

        return convolved
    if isinstance(s, Deconv):
        kernel, conv = torch.from_numpy(np.array(s.weight, np.float64)), s.conv
        beyond = [
            (n + 2 * p - d * (k - 1) - 1) % t
            for n, k, t, p, d in zip(
                conv.image[1:], conv.weight.shape[2:], conv.stride, conv.padding, conv.dilation, strict=True
            )
        ]  # rows and columns that no stride of the convolution reaches

        def spread(x: Tensor) -> Tensor:
            images = x.view(len(x), *s.image)
            found = torch.nn.functional.conv_transpose2d(
                images, kernel, None, conv.stride, conv.padding, beyond, dilation=conv.dilation
            )
            return found.flatten(1)

        return spread
    index = np.stack([np.repeat(np.arange(s.shape[0]), np.diff(s.start)), s.pre])
    rows = torch.sparse_coo_tensor(torch.from_numpy(index), torch.from_numpy(np.array(s.weight, np.float64)), s.shape)
    return lambda x: torch.sparse.mm(rows, x.T).T
