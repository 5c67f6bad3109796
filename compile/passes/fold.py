"""Fold away what has no neurons: batch normalisation, scales, pooling, chains of linear layers.

A population of `Through` passes on scale * a + bias within the same step. Every way through it becomes one projection with
the product of both matrices; its bias, seen through the outgoing weights, joins the biases of the neurons behind it (of their
current, if that has a memory).

    W = W_out diag(scale) W_in,    bias += W_out bias

Convolutions stay convolutions where the product is one: behind pooling by whole strides, and before or behind a scale for each
channel. All-to-all matrices stay all-to-all; what is left becomes sparse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.passes.state import State
from lavasnn.dynamics.lif import Lif
from lavasnn.errors import InputError
from lavasnn.ir import Graph, Population, Projection, Through
from lavasnn.synapses import (
    Borrowed,
    Conv,
    Deconv,
    Dense,
    Owned,
    Sparse,
    as_dense,
    as_sparse,
    by_channel,
    diagonal,
    scaled_rows,
    sparse_from,
    with_weight,
)

Array = NDArray[Any]


@dataclass(frozen=True)
class Fold:
    """Remove every `Through` population."""

    def apply(self, state: State) -> State:
        """See the module's text.

        Raises:
            InputError: A bias before neurons that have none, or a delay that differs among folded neurons.
        """
        graph = folded(state.graph)
        names = [p.name for p in state.graph.populations if isinstance(p.dynamics, Through)]
        return replace(state, graph=graph, report={**state.report, "fold": {"folded": names}})


def folded(graph: Graph) -> Graph:
    """The same network without `Through` populations; the graph itself if it has none.

    Raises:
        InputError: See `Fold`, or the output itself has no neurons.
    """
    while (p := next((p for p in graph.populations if isinstance(p.dynamics, Through)), None)) is not None:
        graph = _without(graph, p)
    return graph


def _without(graph: Graph, middle: Population) -> Graph:
    """The graph with one population folded into the projections behind it."""
    assert isinstance(middle.dynamics, Through)
    if middle.name == graph.output:
        raise InputError(f"fold: the output {middle.name!r} has no neurons; a network ends with neurons to read")
    scale = np.broadcast_to(np.asarray(middle.dynamics.scale, np.float64), (middle.size,))
    bias = np.broadcast_to(np.asarray(middle.dynamics.bias, np.float64), (middle.size,))
    populations = {p.name: p for p in graph.populations if p.name != middle.name}
    projections: list[Projection] = []
    for behind in graph.projections:
        if behind.source != middle.name:
            if behind.target != middle.name:
                projections.append(behind)
            continue
        outer = _real(graph, behind)
        if bias.any():
            target = populations[behind.target]
            populations[target.name] = replace(target, dynamics=_with_bias(target, _matrix(outer) @ bias))
        for before in graph.arriving(middle.name):
            if before.source == middle.name:
                raise InputError(f"fold: population {middle.name!r} projects to itself without any neuron or delay")
            synapses = compose(outer, scaled_rows(_real(graph, before), scale))
            name = f"{before.name}.{behind.name}"
            delay = _delay(before, behind)
            projections.append(Projection(name, before.source, behind.target, synapses, "s", behind.into, delay))
    kept = tuple(populations[p.name] for p in graph.populations if p.name in populations)
    return replace(graph, populations=kept, projections=tuple(projections))


def _real(graph: Graph, projection: Projection) -> Owned:
    s = projection.synapses
    if isinstance(s, Borrowed) or s.grid is not None:
        raise InputError(f"fold: projection {projection.name!r} holds integers or another's weights; only real ones fold")
    return graph.synapses(projection)


def _delay(before: Projection, behind: Projection) -> Any:
    if np.ndim(behind.delay):
        raise InputError(
            f"fold: projection {behind.name!r} has a delay for each of its senders, which are no neurons; allowed is one delay"
        )
    return before.delay + behind.delay


def _with_bias(target: Population, bias: Array) -> Through | Lif:
    d = target.dynamics
    match d:
        case Through():
            mine = np.broadcast_to(np.asarray(d.scale, np.float64), (target.size,))
            return replace(d, bias=np.asarray(d.bias, np.float64) + mine * bias)
        case Lif() if d.du == 1:
            return replace(d, bias=np.asarray(d.bias, np.float64) + bias)
        case Lif():
            return replace(d, bias_u=np.asarray(d.bias_u, np.float64) + bias)
        case _:
            raise InputError(f"fold: population {target.name!r} is {type(d).__name__}, which has no bias to fold one into")


def compose(outer: Owned, inner: Owned) -> Owned:
    """Synapses whose sums are those of `outer` upon the sums of `inner`."""
    if (ones := diagonal(outer)) is not None:
        return scaled_rows(inner, ones)
    if (ones := diagonal(inner)) is not None and (scaled := _scaled_columns(outer, ones)) is not None:
        return scaled
    if isinstance(outer, Conv) and isinstance(inner, Conv) and (both := _pooled(outer, inner)) is not None:
        return both
    left, right = (_matrix(s) for s in (outer, inner))
    product = left @ right
    if isinstance(outer, Dense) or isinstance(inner, Dense):
        return Dense(np.asarray(product))
    return sparse_from(product)


def _scaled_columns(s: Owned, scale: Array) -> Owned | None:
    """Synapses upon messages multiplied by `scale`, shape (pre,); None if a kernel cannot hold that."""
    match s:
        case Dense():
            return with_weight(s, s.weight * scale[None, :])
        case Sparse():
            return with_weight(s, s.weight * scale[s.pre])
        case Conv():
            channels = by_channel(scale, s.image[0])
            if channels is None:
                return None
            outside = s.weight.shape[0] // s.groups
            own = np.repeat(channels.reshape(s.groups, -1), outside, axis=0)  # (channel out, channel in of its group)
            return with_weight(s, s.weight * own[:, :, None, None])
        case Deconv():
            channels = by_channel(scale, s.image[0])
            return None if channels is None else with_weight(s, s.weight * channels[:, None, None, None])


def _pooled(outer: Conv, inner: Conv) -> Conv | None:
    """A convolution upon pools that tile the image as one with a larger kernel, or None if it is not that."""
    _, _, high, wide = inner.weight.shape
    pools = inner.groups == inner.image[0] == inner.weight.shape[0] and (inner.weight == inner.weight[:, :, :1, :1]).all()
    if not pools or inner.stride != (high, wide) or inner.padding != (0, 0) or inner.dilation != (1, 1):
        return None
    if outer.dilation != (1, 1) and (high, wide) != (1, 1):
        return None
    whole = all(size == k * out for size, k, out in zip(inner.image[1:], (high, wide), inner.image_out[1:], strict=True))
    if not whole and outer.padding != (0, 0):
        return None  # behind the last whole pool the image goes on where the outer kernel expects zeros
    kernel = np.repeat(np.repeat(outer.weight, high, axis=2), wide, axis=3)
    factors = inner.weight[:, 0, 0, 0].reshape(outer.groups, -1)
    own = np.repeat(factors, outer.weight.shape[0] // outer.groups, axis=0)
    both = Conv(
        kernel * own[:, :, None, None],
        inner.image,
        (outer.stride[0] * high, outer.stride[1] * wide),
        (outer.padding[0] * high, outer.padding[1] * wide),
        outer.dilation,
        outer.groups,
    )
    return both if both.image_out == outer.image_out else None


def _matrix(s: Owned) -> Any:
    from scipy.sparse import csr_matrix

    if isinstance(s, Dense):
        return as_dense(s)
    rows = as_sparse(s)
    return csr_matrix((rows.weight, rows.pre, rows.start), rows.shape)
