"""Run a Graph in torch: the training side's own account of a network, in real numbers or in integers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavasnn.dynamics import lif
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.errors import InputError
from lavasnn.ir import DenseInt, Graph, Projection, Transposed
from lavasnn.nn.diffpc import literal
from lavasnn.results import RunResult


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
        graph: Layers in order, each projecting to the next (DiffPC: errors back by the transposed weights).
        pixels: Images, shape (sample, pixel).
        labels: Classes, shape (sample,); needed for the second phase.
        settle: Run DiffPC's second phase too.
        record: Keep every message and state of every step.
        indices: Each sample's index in its data set; 0, 1, ... by default.

    Raises:
        InputError: A graph that is no chain of layers.
    """
    forward = [p for p in graph.projections if p.into in ("a", "a_x")]
    names = [p.name for p in graph.populations]
    if [(p.source, p.target) for p in forward] != list(pairwise(names)):
        raise InputError("torch run: the graph is no chain of layers")
    run_layers = _diffpc if graph.timing is not None else _lif
    given = np.arange(len(pixels)) if indices is None else indices
    outputs, messages, traces = run_layers(graph, forward, pixels, labels if settle else None, given)
    carried = {f"{p.source}.{p.carries}" for p in graph.projections}
    return RunResult(
        backend="torch",
        precision="fixed" if graph.integer else "float",
        phases=graph.phases(settle),
        sizes={p.name: p.size for p in graph.populations},
        outputs=outputs.numpy(),
        labels=np.zeros(0, np.int64) if labels is None else labels,
        messages=messages,
        unheard=tuple(key for key in messages if key not in carried),
        traces=traces if record else {},
    )


Run = tuple[Tensor, dict[str, NDArray[np.int32]], dict[str, NDArray[np.generic]]]


def _shift(p: Projection) -> int:
    return p.synapses.exponent if isinstance(p.synapses, DenseInt | Transposed) else 0


def _diffpc(
    graph: Graph, forward: list[Projection], pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None, _: object
) -> Run:
    kind = torch.int64 if graph.integer else torch.float64
    populations = [p.dynamics for p in graph.populations if isinstance(p.dynamics, DiffPC | DiffPCInt)]
    first = populations[0]
    point = first.point if isinstance(first, DiffPCInt) else 0
    weights = [torch.from_numpy(np.array(graph.weight(p))).to(kind) for p in forward]
    back = {p.target: p for p in graph.projections if p.into == "a_e"}
    shifts = [(_shift(p), _shift(back[p.source]) if p.source in back else 0) for p in forward]
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


def _lif(graph: Graph, forward: list[Projection], pixels: NDArray[np.uint8], _: object, indices: NDArray[np.int64]) -> Run:
    """Layer by layer; a layer's window opens one step after the one below it, so sums arrive within the same step."""
    kind = torch.int64 if graph.integer else torch.float64
    spikes = torch.from_numpy(graph.encoding.spikes(pixels, indices, graph.steps))
    traces = {f"{graph.source.name}.s": spikes}
    for p in forward:
        d = graph.population(p.target).dynamics
        assert isinstance(d, Lif | LifInt)
        weight = torch.from_numpy(np.array(graph.weight(p))).to(torch.float64)
        state = lif.initial(d, (len(pixels), len(weight)), like=torch.zeros((), dtype=torch.float64))
        sent: list[Tensor] = []
        for t in range(graph.steps):
            total = (spikes[:, t].to(torch.float64) @ weight.T).to(kind)
            if graph.integer:
                total = total << _shift(p) if _shift(p) > 0 else total >> -_shift(p)
            s, state = lif.step(d, state, total)
            sent.append(s)
        spikes = torch.stack(sent, 1)
        traces[f"{p.target}.s"] = spikes
    messages = {key: s.sum(2).to(torch.int32).numpy() for key, s in traces.items()}
    return spikes.sum(1), messages, {key: s.to(torch.int8).numpy() for key, s in traces.items()}
