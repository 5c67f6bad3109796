"""Axons: which senders reach a range of neurons, without writing convolutions out.

An axon is an entry in the tables of the sending and of the receiving core. All-to-all and sparse synapses have one for each
sending neuron. A convolution has one for each position of its image (and group): the channels there share it, and the message
says which channel speaks. Population axons did this on Loihi 1 (nengo-loihi, pull request 261); how Loihi 2 stores
convolutions is not published, so this is an assumption.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.ir import Projection
from lavasnn.synapses import Conv, Deconv, Dense, Owned, Sparse, fan_in

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Links:
    """Who tells whom, one entry for each pair of slices that a message can pass between.

    Args:
        source: Index of the sending slice, shape (link,).
        target: Index of the receiving one.
        axons: Entries in the sender's table.
        messages: Per sample.
    """

    source: Ints
    target: Ints
    axons: Ints
    messages: NDArray[np.float64]


NO_LINKS = Links(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True, eq=False)
class Wires:
    """One projection, ready to be asked about ranges of its neurons.

    Args:
        projection: Which.
        synapses: Its weights.
        pre: Senders in the order in which ranges count them, shape (pre,); None counts them as their population does.
        post: The same of receivers, shape (post,).
    """

    projection: Projection
    synapses: Owned
    pre: Ints | None = None
    post: Ints | None = None
    into: Ints = field(init=False)
    """Synapses into the receivers before each, as ranges count them, shape (post + 1,)."""
    axon: Ints | None = field(init=False)
    """Axon of each sender, shape (pre,); None if each has its own."""
    heard: NDArray[np.int32] | None = field(init=False)
    """Senders of sparse synapses, receiver by receiver as ranges count them; None of others."""

    def __post_init__(self) -> None:
        s = self.synapses
        number = fan_in(s) if self.post is None else fan_in(s)[self.post]
        object.__setattr__(self, "into", np.concatenate([[0], np.cumsum(number)]))
        heard = s.pre if isinstance(s, Sparse) else None
        if isinstance(s, Sparse) and self.post is not None:
            heard = s.pre[np.arange(len(s.pre)) + np.repeat(s.start[self.post] - self.into[:-1], number)]
        object.__setattr__(self, "heard", heard)
        shared: Ints | None = None
        if isinstance(s, Conv | Deconv):
            plane = s.image[1] * s.image[2]
            group = np.arange(s.image[0]) // (s.image[0] // s.groups)
            shared = (group[:, None] * plane + np.arange(plane)).reshape(-1)
        object.__setattr__(self, "axon", shared)

    @property
    def axons(self) -> int:
        """Number of axons."""
        s = self.synapses
        return s.groups * s.image[1] * s.image[2] if isinstance(s, Conv | Deconv) else s.shape[1]

    def needed(self, start: int, stop: int) -> Bools:
        """Axons with a synapse among the receivers start..stop-1, shape (axon,)."""
        match self.synapses:
            case Dense() as s:
                return np.ones(s.shape[1], np.bool_)
            case Sparse() as s:
                found = np.zeros(s.n_pre, np.bool_)
                assert self.heard is not None
                found[self.heard[self.into[start] : self.into[stop]]] = True
                return found
            case Conv() | Deconv() as s:
                return _fields(s, self._receivers(start, stop))

    def n_needed(self, start: int, stop: int) -> int:
        """Number of those."""
        s = self.synapses
        return s.shape[1] if isinstance(s, Dense) else int(np.count_nonzero(self.needed(start, stop)))

    def held(self, start: int, stop: int) -> tuple[int, int]:
        """Weights kept for the receivers start..stop-1 and their bytes: 1 a weight, and 2 for each sparse one's receiver."""
        s = self.synapses
        if isinstance(s, Conv | Deconv):
            plane = s.image_out[1] * s.image_out[2]
            weights = len(np.unique(self._receivers(start, stop) // plane)) * s.per_channel
            return weights, weights
        weights = int(self.into[stop] - self.into[start])
        return weights, weights * (3 if isinstance(s, Sparse) else 1)

    def sent(self, start: int, stop: int) -> Any:
        """Axons of the senders start..stop-1: a slice, or indices without repetition."""
        senders = slice(start, stop) if self.pre is None else self.pre[start:stop]
        return senders if self.axon is None else np.unique(self.axon[senders])

    def by_sender(self, axons: Bools) -> Bools:
        """Whether each sender's axon is among those, shape (pre,)."""
        return axons if self.axon is None else axons[self.axon]

    def _receivers(self, start: int, stop: int) -> Ints:
        return np.arange(start, stop) if self.post is None else self.post[start:stop]


def _fields(s: Conv | Deconv, outputs: Ints) -> Bools:
    """Positions of the image that some outputs look at, shape (group * row * column,)."""
    channels, rows, columns = s.image_out
    channel, place = np.divmod(outputs, rows * columns)
    looked = np.zeros((s.groups, rows, columns), np.bool_)
    looked.reshape(s.groups, -1)[channel // (channels // s.groups), place] = True
    conv = s.conv if isinstance(s, Deconv) else s
    for axis in (0, 1):  # rows, then columns, which are rows of the image turned over, then rows again
        found = np.zeros((s.groups, s.image[1 + axis], looked.shape[2]), np.bool_)
        for i in range(conv.weight.shape[2 + axis]):
            offset = i * conv.dilation[axis] - conv.padding[axis]
            own, seen = _taps(conv.image_out[1 + axis], conv.image[1 + axis], conv.stride[axis], offset)
            own, seen = (seen, own) if conv is not s else (own, seen)
            found[:, seen] |= looked[:, own]
        looked = found.transpose(0, 2, 1)
    return looked.reshape(-1)


def _taps(outputs: int, inputs: int, stride: int, offset: int) -> tuple[slice, slice]:
    """Outputs of a convolution whose tap at `offset` falls inside the image, and where."""
    first = max(0, -(offset // stride))
    last = min(outputs, (inputs - 1 - offset) // stride + 1)
    if last <= first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last), slice(first * stride + offset, (last - 1) * stride + offset + 1, stride)


def fan_out(wires: Wires, pieces: list[tuple[int, int]]) -> Ints:
    """Pieces of the receiving population that each axon reaches, shape (axon,)."""
    if isinstance(wires.synapses, Dense):
        return np.full(wires.axons, len(pieces), np.int64)
    total = np.zeros(wires.axons, np.int64)
    for start, stop in pieces:
        total += wires.needed(start, stop)
    return total


def links(
    wires: list[Wires], pieces: Mapping[str, list[tuple[int, int]]], first: Mapping[str, int], traffic: Mapping[str, Any]
) -> Links:
    """All links between slices.

    Args:
        wires: Projections.
        pieces: Ranges of neurons of each population; populations without have no core.
        first: Index of the first slice of each population.
        traffic: Messages per sample by "population.kind", shape (neuron,); missing ones count as silent.
    """
    found: dict[tuple[int, int], tuple[int, float]] = {}
    for w in wires:
        if w.projection.source not in pieces:
            continue
        for pair, axons, messages in _pairs(w, pieces, traffic):
            key = first[w.projection.source] + pair[0], first[w.projection.target] + pair[1]
            before = found.get(key, (0, 0.0))
            found[key] = before[0] + axons, before[1] + messages
    keys = np.array(sorted(found), np.int64).reshape(-1, 2)
    values = [found[a, b] for a, b in keys.tolist()]
    return Links(
        keys[:, 0], keys[:, 1], np.array([v[0] for v in values], np.int64), np.array([v[1] for v in values], np.float64)
    )


def _pairs(
    w: Wires, pieces: Mapping[str, list[tuple[int, int]]], traffic: Mapping[str, Any]
) -> Iterator[tuple[tuple[int, int], int, float]]:
    """(sending piece, receiving piece), axons and messages of one projection."""
    senders = pieces[w.projection.source]
    sent = np.asarray(traffic.get(f"{w.projection.source}.{w.projection.carries}", np.zeros(w.synapses.shape[1])), np.float64)
    starts = np.array([start for start, _ in senders])
    owned = [w.sent(start, stop) for start, stop in senders]
    whole: tuple[list[int], list[float]] | None = None
    for j, (start, stop) in enumerate(pieces[w.projection.target]):
        if whole is None or not isinstance(w.synapses, Dense):
            axons = w.needed(start, stop)
            counts = [int(np.count_nonzero(axons[own])) for own in owned]
            arriving = sent * w.by_sender(axons)
            whole = counts, np.add.reduceat(arriving if w.pre is None else arriving[w.pre], starts).tolist()
        for i, (count, messages) in enumerate(zip(*whole, strict=True)):
            if count:
                yield (i, j), count, messages
