"""Weighted sums of messages, exact in integers: what arrives at a population in one step.

All-to-all synapses are matrix products (float32 while every partial sum stays below 2**24, float64 below 2**53, so both are
exact). Sparse ones and convolutions follow the messages: each adds its sender's weights to its receivers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lavasnn.ir import Graph, Projection
from lavasnn.synapses import Conv, Deconv, Dense, Owned, Sparse, as_dense, as_sparse, strengths, transposed

Array = NDArray[Any]


@dataclass(frozen=True)
class Synapse:
    """A projection ready to sum.

    Args:
        projection: Which.
        latency: Steps of the window from sending to arrival, one number or shape (pre,).
        shift: Left shift of the sum; right, rounding down, if negative.
        kind: dtype of sums: int64 for integers, else float64.
        post: Number of receivers.
        tables: Weights in the form that suits their structure: a product, or the arguments of a scattering kernel.
    """

    projection: Projection
    latency: int | NDArray[np.int64]
    shift: int
    kind: Any
    post: int
    tables: Product | tuple[Array, ...]

    def __call__(self, sent: Array) -> Array:
        """Sums of messages (sample, pre) as (sample, post); integers stay exact."""
        total: Array
        if isinstance(self.tables, Product):
            total = self.tables(sent).astype(self.kind, copy=False)
        else:
            total = np.zeros((len(sent), self.post), self.kind)
            scatter: Any = _scatter_sparse if len(self.tables) == 3 else _scatter_image
            scatter(np.ascontiguousarray(sent).view(np.int8) if sent.dtype == bool else sent, *self.tables, total)
        if self.shift == 0:
            return total
        return total << self.shift if self.shift > 0 else total >> -self.shift


def synapse(graph: Graph, projection: Projection) -> Synapse:
    """Prepare a projection of real numbers or integers."""
    s = graph.synapses(projection)
    whole = s.grid is not None
    shift = s.grid.exponent if s.grid is not None else 0
    latency = 0 if graph.seamless else 1 + np.asarray(projection.delay, np.int64)
    latency = latency if np.ndim(latency) else int(latency)
    kind = np.int64 if whole else np.float64
    return Synapse(projection, latency, shift, kind, s.shape[0], _tables(s, whole, graph.graded(projection.source)))


@dataclass(frozen=True)
class Product:
    """All-to-all synapses: weights (pre, post) in the dtype to multiply in."""

    weight: Array

    def __call__(self, sent: Array) -> Array:
        return sent.astype(self.weight.dtype, copy=False) @ self.weight


def _tables(s: Owned, whole: bool, graded: bool) -> Product | tuple[Array, ...]:
    match s:
        case Dense():
            narrow = whole and not graded and int(strengths(s).max(initial=0)) < 1 << 24
            return Product(np.ascontiguousarray(s.weight.T, np.float32 if narrow else np.float64))
        case Sparse() if 8 * len(s.weight) >= s.shape[0] * s.shape[1]:  # from here on a matrix product is faster
            return _tables(Dense(as_dense(s), s.grid), whole, graded)
        case Sparse() | Deconv():
            by_sender = as_sparse(transposed(s))
            return by_sender.start, by_sender.pre, by_sender.weight.astype(np.int32 if whole else np.float64)
        case Conv():
            # (group, channel in, kernel row, kernel column, channel out), so that one message adds to neighbours in memory
            blocks = s.weight.reshape(s.groups, -1, *s.weight.shape[1:]).transpose(0, 2, 3, 4, 1)
            geometry = np.array([*s.image, *s.image_out[1:], *s.stride, *s.padding, *s.dilation])
            return np.ascontiguousarray(blocks, np.int32 if whole else np.float64), geometry


@njit(nogil=True, cache=True)
def _scatter_sparse(sent: Any, start: Any, post: Any, weight: Any, total: Any) -> None:
    for b in range(sent.shape[0]):
        row = total[b]
        for i in range(sent.shape[1]):
            s = sent[b, i]
            if s != 0:
                for k in range(start[i], start[i + 1]):
                    row[post[k]] += weight[k] * s


@njit(nogil=True, cache=True)
def _scatter_image(sent: Any, blocks: Any, geometry: Any, total: Any) -> None:
    height, width, rows, columns = geometry[1], geometry[2], geometry[3], geometry[4]
    groups, inside, high, broad, wide = blocks.shape
    sums = np.zeros((rows, columns, groups, wide), total.dtype)
    for b in range(sent.shape[0]):
        sums[:] = 0
        for i in range(sent.shape[1]):
            s = sent[b, i]
            if s == 0:
                continue
            channel, place = i // (height * width), i % (height * width)
            v, h = place // width, place % width
            g, c = channel // inside, channel % inside
            for ky in range(high):
                y = v + geometry[7] - ky * geometry[9]
                if y < 0 or y % geometry[5] != 0 or y // geometry[5] >= rows:
                    continue
                y //= geometry[5]
                for kx in range(broad):
                    x = h + geometry[8] - kx * geometry[10]
                    if x < 0 or x % geometry[6] != 0 or x // geometry[6] >= columns:
                        continue
                    cell, weights = sums[y, x // geometry[6], g], blocks[g, c, ky, kx]
                    for o in range(wide):
                        cell[o] += weights[o] * s
        for g in range(groups):
            for o in range(wide):
                first = (g * wide + o) * rows * columns
                for y in range(rows):
                    for x in range(columns):
                        total[b, first + y * columns + x] = sums[y, x, g, o]
