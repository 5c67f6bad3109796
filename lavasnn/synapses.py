"""Synapses: how the messages of one population become weighted sums in another.

A structure (all-to-all, sparse, convolution) holds one array of weights. They are real numbers, or, with a `Grid`, the
integers of a neurocore. Everything that asks about synapses (how many, how strong, from where to where) asks here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lavasnn.errors import InputError

Array = NDArray[Any]
SignMode = Literal["mixed", "excitatory", "inhibitory"]
Pair = tuple[int, int]

GRID: dict[SignMode, tuple[int, int, int]] = {
    "mixed": (-256, 254, 2),
    "excitatory": (0, 255, 1),
    "inhibitory": (-255, 0, 1),
}
"""Smallest and largest 8-bit weight and their spacing (lava-nc 0.10.0, utils/weightutils.py: a mixed sign costs a bit)."""


def sign_mode(weight: Array) -> SignMode:
    """Lava's sign mode of a matrix (lava-nc 0.10.0, utils/weightutils.py, determine_sign_mode)."""
    if weight.min(initial=0) >= 0:
        return "excitatory"
    return "inhibitory" if weight.max(initial=0) <= 0 else "mixed"


@dataclass(frozen=True)
class Grid:
    """How integer weights are to be read (Lava's Dense, fixed_pt).

    Args:
        exponent: The accumulated sum is shifted left by this many bits (right, rounding down, if negative).
        sign_mode: Lava's SignMode; the weights lie on its `GRID`.
        unit: What one weight unit is worth in the real network, before the shift.
    """

    exponent: int = 0
    sign_mode: SignMode = "mixed"
    unit: float = 1.0


@dataclass(frozen=True)
class Dense:
    """All-to-all synapses.

    Args:
        weight: Shape (post, pre).
        grid: Given if the weights are integers.
    """

    weight: Array
    grid: Grid | None = None

    @property
    def shape(self) -> Pair:
        """(post, pre)."""
        return self.weight.shape[0], self.weight.shape[1]


@dataclass(frozen=True)
class Sparse:
    """Single synapses, in compressed rows: those of neuron j are start[j]..start[j + 1] - 1.

    Args:
        weight: Shape (synapse,), zeros count as synapses.
        pre: Index of each synapse's sending neuron, shape (synapse,), growing within a row.
        start: Shape (post + 1,).
        n_pre: Number of sending neurons.
        grid: Given if the weights are integers.

    Raises:
        InputError: Arrays that do not belong together.
    """

    weight: Array
    pre: NDArray[np.int32]
    start: NDArray[np.int64]
    n_pre: int
    grid: Grid | None = None

    def __post_init__(self) -> None:
        n = len(self.weight)
        whole = self.start.ndim == 1 and len(self.start) > 0 and self.start[0] == 0 and self.start[-1] == n == len(self.pre)
        if not whole or (np.diff(self.start) < 0).any():
            raise InputError(f"sparse synapses: rows do not add up to {n} weights and {len(self.pre)} senders")
        if n and (self.pre.min() < 0 or self.pre.max() >= self.n_pre):
            raise InputError(f"sparse synapses: senders {self.pre.min()}..{self.pre.max()}, allowed is 0..{self.n_pre - 1}")
        falls = np.diff(self.pre) <= 0
        falls[self.start[1:-1][(self.start[1:-1] > 0) & (self.start[1:-1] < n)] - 1] = False
        if falls.any():
            raise InputError("sparse synapses: senders of a row have to grow; the same one twice has to be added up")

    @property
    def shape(self) -> Pair:
        """(post, pre)."""
        return len(self.start) - 1, self.n_pre


@dataclass(frozen=True)
class Conv:
    """Synapses that share the weights of a two-dimensional kernel; populations are (channel, row, column) in C order.

    As in torch: out[o, y, x] = sum over c, i, j of kernel[o, c, i, j] in[c, y stride - padding + i dilation, ...].

    Args:
        weight: Kernel, shape (channel out, channel in / groups, row, column).
        image: Channels, rows and columns of the sending population.
        stride: Rows and columns between two receptive fields.
        padding: Rows and columns of zeros on each side.
        dilation: Rows and columns between two weights of the kernel.
        groups: Blocks of channels that see only each other.
        grid: Given if the weights are integers.

    Raises:
        InputError: A kernel that does not fit the image, or counts below their minimum.
    """

    weight: Array
    image: tuple[int, int, int]
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    grid: Grid | None = None

    def __post_init__(self) -> None:
        if self.weight.ndim != 4 or 0 in self.weight.shape:
            raise InputError(f"convolution: kernel of shape {self.weight.shape}, needed is (out, in / groups, row, column)")
        out, inside = self.weight.shape[:2]
        for name, low in (("stride", 1), ("padding", 0), ("dilation", 1)):
            pair = getattr(self, name)
            if len(pair) != 2 or any(not isinstance(v, int | np.integer) or v < low for v in pair):
                raise InputError(f"convolution: {name} is {pair}, needed are two whole numbers of {low} or more")
            object.__setattr__(self, name, (int(pair[0]), int(pair[1])))
        if self.groups < 1 or out % self.groups or inside * self.groups != self.image[0]:
            raise InputError(
                f"convolution: {self.groups} groups, {self.image[0]} channels in and {out} out do not fit a kernel of shape "
                f"{self.weight.shape}"
            )
        if min(self.image) < 1 or min(self.image_out) < 1:
            raise InputError(
                f"convolution: a kernel of {self.weight.shape[2:]} with dilation {self.dilation} and padding {self.padding} "
                f"does not fit images of {self.image[1:]}"
            )

    @property
    def image_out(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the receiving population."""
        rows, columns = (
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(
                self.image[1:], self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True
            )
        )
        return self.weight.shape[0], rows, columns

    @property
    def shape(self) -> Pair:
        """(post, pre)."""
        return int(np.prod(self.image_out)), int(np.prod(self.image))

    @property
    def per_channel(self) -> int:
        """Weights of one receiving channel."""
        return self.weight[0].size


@dataclass(frozen=True)
class Deconv:
    """Synapses of a convolution from its receivers back to its senders: torch's ConvTranspose2d.

    Args:
        conv: The convolution, in the direction in which it is one, of one group; its kernel and grid are these synapses'.

    Raises:
        InputError: It has groups.
    """

    conv: Conv

    def __post_init__(self) -> None:
        if self.conv.groups != 1:
            raise InputError(f"transposed convolution: {self.conv.groups} groups, allowed is 1")

    @property
    def weight(self) -> Array:
        """Shape (channel in, channel out, row, column)."""
        return self.conv.weight

    @property
    def grid(self) -> Grid | None:
        """Given if the weights are integers."""
        return self.conv.grid

    @property
    def groups(self) -> int:
        """Blocks of channels that see only each other."""
        return 1

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the sending population."""
        return self.conv.image_out

    @property
    def image_out(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the receiving population."""
        return self.conv.image

    @property
    def shape(self) -> Pair:
        """(post, pre)."""
        return self.conv.shape[1], self.conv.shape[0]

    @property
    def per_channel(self) -> int:
        """Weights of one receiving channel."""
        return self.conv.weight[:, 0].size


@dataclass(frozen=True)
class Transposed:
    """The synapses of another projection, used from its targets back to its sources.

    Args:
        of: Name of that projection.
        exponent: As in `Grid`; unused with real weights.
    """

    of: str
    exponent: int = 0


@dataclass(frozen=True)
class Shared:
    """The sums of another projection from the same population, arriving at a second place too.

    Args:
        of: Name of that projection.
    """

    of: str


Owned = Dense | Sparse | Conv | Deconv
"""Synapses with weights of their own."""
Borrowed = Transposed | Shared
"""Synapses with those of another projection."""
Synapses = Owned | Borrowed
S = TypeVar("S", bound=Owned)


def sparse_from(matrix: Any, grid: Grid | None = None) -> Sparse:
    """Sparse synapses from a scipy sparse matrix or an array (post, pre), whose zeros become no synapses."""
    from scipy.sparse import csr_matrix

    rows = csr_matrix(matrix)
    rows.sum_duplicates()
    rows.sort_indices()
    return Sparse(rows.data, rows.indices.astype(np.int32), rows.indptr.astype(np.int64), int(matrix.shape[1]), grid)


def one_to_one(weight: Array, grid: Grid | None = None) -> Sparse:
    """Synapses from each neuron to the one of its own index; weights of shape (neuron,)."""
    n = len(weight)
    return Sparse(weight, np.arange(n, dtype=np.int32), np.arange(n + 1, dtype=np.int64), n, grid)


def average_pool(image: tuple[int, int, int], size: Pair, stride: Pair, padding: Pair = (0, 0), total: bool = False) -> Conv:
    """Pooling as weights: a convolution of each channel by itself.

    Args:
        image: Channels, rows and columns.
        size: Rows and columns of a pool.
        stride: Between two pools.
        padding: Rows and columns of zeros on each side; they count in the average, as in torch's default.
        total: Sum instead of average.
    """
    value = 1.0 if total else 1.0 / (size[0] * size[1])
    return Conv(np.full((image[0], 1, *size), value), image, stride, padding, groups=image[0])


def as_sparse(s: Owned) -> Sparse:
    """The same synapses one by one; an all-to-all one keeps its zeros."""
    if isinstance(s, Sparse):
        return s
    if isinstance(s, Deconv):
        return _flipped(as_sparse(s.conv))
    post, pre = s.shape
    if isinstance(s, Dense):
        senders = np.tile(np.arange(pre, dtype=np.int32), post)
        return Sparse(s.weight.reshape(-1), senders, np.arange(post + 1, dtype=np.int64) * pre, pre, s.grid)
    start = np.concatenate([[0], np.cumsum(fan_in(s))]).astype(np.int64)
    senders = np.empty(start[-1], np.int32)
    values = np.empty(start[-1], s.weight.dtype)
    _expand(s.weight, np.array(_geometry(s)), start, senders, values)
    return Sparse(values, senders, start, pre, s.grid)


def as_dense(s: Owned) -> Array:
    """Weights of all pairs, shape (post, pre); zero where there is no synapse."""
    if isinstance(s, Dense):
        return s.weight
    rows = as_sparse(s)
    full = np.zeros(rows.shape, rows.weight.dtype)
    full[np.repeat(np.arange(rows.shape[0]), np.diff(rows.start)), rows.pre] = rows.weight
    return full


def count(s: Owned) -> int:
    """Number of synapses."""
    return int(fan_in(s).sum())


def fan_in(s: Owned) -> NDArray[np.int64]:
    """Synapses that lead into each neuron, shape (post,)."""
    match s:
        case Dense():
            return np.full(s.shape[0], s.shape[1], np.int64)
        case Sparse():
            return np.diff(s.start)
        case Conv():
            rows, columns = (np.add.reduce(hits, axis=1) for hits in _hits(s))
            one = np.multiply.outer(rows, columns).reshape(-1) * s.weight.shape[1]
            return np.tile(one, s.weight.shape[0]).astype(np.int64)
        case Deconv():
            return fan_out(s.conv)


def fan_out(s: Owned) -> NDArray[np.int64]:
    """Synapses that each neuron sends to, shape (pre,)."""
    match s:
        case Dense():
            return np.full(s.shape[1], s.shape[0], np.int64)
        case Sparse():
            return np.bincount(s.pre, minlength=s.n_pre).astype(np.int64)
        case Conv():
            rows, columns = (np.add.reduce(hits, axis=0) for hits in _hits(s))
            one = np.multiply.outer(rows, columns).reshape(-1) * (s.weight.shape[0] // s.groups)
            return np.tile(one, s.image[0]).astype(np.int64)
        case Deconv():
            return fan_in(s.conv)


def loud_fan_out(s: Owned) -> NDArray[np.int64]:
    """Synapses with weights other than 0 that each neuron sends to, shape (pre,)."""
    match s:
        case Dense():
            return np.count_nonzero(s.weight, axis=0).astype(np.int64)
        case Sparse():
            return np.bincount(s.pre[s.weight != 0], minlength=s.n_pre).astype(np.int64)
        case Conv():
            return _by_sender(s, s.weight != 0).astype(np.int64)
        case Deconv():
            return strengths(with_weight(s.conv, (s.weight != 0).astype(np.int64)))


def strengths(s: Owned) -> Array:
    """Sum of the magnitudes of the weights into each neuron, shape (post,), int64 or float64."""
    kind = np.float64 if s.weight.dtype.kind == "f" else np.int64
    match s:
        case Dense():
            return np.abs(s.weight.astype(kind)).sum(axis=1)
        case Sparse():
            post = np.repeat(np.arange(s.shape[0]), np.diff(s.start))
            return np.bincount(post, np.abs(s.weight.astype(kind)), s.shape[0]).astype(kind)
        case Conv():
            sizes = np.abs(s.weight.astype(kind)).sum(axis=1)
            rows, columns = (inside.astype(kind) for inside in _taps(s))
            return np.einsum("oij,yi,xj->oyx", sizes, rows, columns, optimize=True).reshape(-1)
        case Deconv():
            return _by_sender(s.conv, np.abs(s.weight.astype(kind)))


def transposed(s: Owned) -> Owned:
    """The same synapses from their receivers back to their senders; kernels stay kernels, but for those of several groups."""
    match s:
        case Dense():
            return replace(s, weight=s.weight.T)
        case Conv(groups=1):
            return Deconv(s)
        case Deconv():
            return s.conv
        case _:
            return _flipped(as_sparse(s))


def _flipped(rows: Sparse) -> Sparse:
    order = np.argsort(rows.pre, kind="stable")
    post = np.repeat(np.arange(rows.shape[0], dtype=np.int32), np.diff(rows.start))
    start = np.concatenate([[0], np.cumsum(fan_out(rows))]).astype(np.int64)
    return Sparse(rows.weight[order], post[order], start, rows.shape[0], rows.grid)


def with_weight(s: S, weight: Array, grid: Grid | None = None) -> S:
    """The same structure with other weights."""
    if isinstance(s, Deconv):
        return replace(s, conv=with_weight(s.conv, weight, grid))
    return replace(s, weight=weight, grid=grid)


def scaled_rows(s: Owned, scale: Array) -> Owned:
    """Synapses whose sums are multiplied by `scale`, shape (post,)."""
    if (scale == 1).all():
        return s
    match s:
        case Dense():
            return with_weight(s, s.weight * scale[:, None])
        case Sparse():
            return with_weight(s, s.weight * np.repeat(scale, np.diff(s.start)))
        case Conv():
            if (channels := by_channel(scale, s.weight.shape[0])) is not None:
                return with_weight(s, s.weight * channels[:, None, None, None])
            return scaled_rows(as_sparse(s), scale)
        case Deconv():
            if (channels := by_channel(scale, s.image_out[0])) is not None:
                return with_weight(s, s.weight * channels[:, None, None])
            return scaled_rows(as_sparse(s), scale)


def diagonal(s: Owned) -> Array | None:
    """Weights of one-to-one synapses, shape (neuron,), or None if they are not."""
    if isinstance(s, Sparse) and s.shape[0] == s.shape[1] == len(s.pre) and np.array_equal(s.pre, np.arange(len(s.pre))):
        return s.weight if np.array_equal(s.start, np.arange(len(s.pre) + 1)) else None
    return None


def by_channel(values: Array, channels: int) -> Array | None:
    """One value for each channel, or None if they differ within one."""
    blocks = values.reshape(channels, -1)
    return blocks[:, 0] if (blocks == blocks[:, :1]).all() else None


def _geometry(s: Conv) -> tuple[int, ...]:
    return (*s.image, *s.image_out[1:], *s.stride, *s.padding, *s.dilation, s.groups)


def _taps(s: Conv) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For rows and columns: whether a kernel position falls inside the image, shape (out position, kernel position)."""
    found: list[NDArray[np.bool_]] = []
    for axis in (0, 1):
        at = np.arange(s.image_out[1 + axis])[:, None] * s.stride[axis] - s.padding[axis]
        at = at + np.arange(s.weight.shape[2 + axis])[None, :] * s.dilation[axis]
        found.append((at >= 0) & (at < s.image[1 + axis]))
    return found[0], found[1]


def _hits(s: Conv) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For rows and columns: how many kernel positions join an out and an in position, shape (out, in)."""
    found: list[NDArray[np.int64]] = []
    for axis, inside in enumerate(_taps(s)):
        hits = np.zeros((inside.shape[0], s.image[1 + axis]), np.int64)
        out, tap = np.nonzero(inside)
        np.add.at(hits, (out, out * s.stride[axis] - s.padding[axis] + tap * s.dilation[axis]), 1)
        found.append(hits)
    return found[0], found[1]


def _by_sender(s: Conv, values: Array) -> Array:
    """Values of the kernel's weights, added up over each sender's synapses, shape (pre,)."""
    blocks = values.reshape(s.groups, -1, *values.shape[1:]).sum(axis=1)  # (group, channel in, row, column)
    rows, columns = (reach.astype(blocks.dtype) for reach in _reach(s))
    return np.einsum("cij,iv,jh->cvh", blocks.reshape(s.image[0], *values.shape[2:]), rows, columns, optimize=True).reshape(-1)


def _reach(s: Conv) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For rows and columns: whether some receiver sees an input position through a kernel position, shape (tap, in)."""
    found: list[NDArray[np.int64]] = []
    for axis, inside in enumerate(_taps(s)):
        reach = np.zeros((inside.shape[1], s.image[1 + axis]), np.int64)
        out, tap = np.nonzero(inside)
        reach[tap, out * s.stride[axis] - s.padding[axis] + tap * s.dilation[axis]] = 1
        found.append(reach)
    return found[0], found[1]


@njit(nogil=True, cache=True)
def _expand(kernel: Any, geometry: Any, start: Any, senders: Any, values: Any) -> None:
    """Write out every synapse of a convolution, rows in order, senders growing."""
    channels, height, width = geometry[0], geometry[1], geometry[2]
    rows, columns, groups = geometry[3], geometry[4], geometry[11]
    inside, outside = channels // groups, kernel.shape[0] // groups
    for o in range(kernel.shape[0]):
        first = (o // outside) * inside
        for y in range(rows):
            for x in range(columns):
                k = start[(o * rows + y) * columns + x]
                for c in range(inside):
                    for i in range(kernel.shape[2]):
                        v = y * geometry[5] - geometry[7] + i * geometry[9]
                        if v < 0 or v >= height:
                            continue
                        for j in range(kernel.shape[3]):
                            h = x * geometry[6] - geometry[8] + j * geometry[10]
                            if 0 <= h < width:
                                senders[k] = ((first + c) * height + v) * width + h
                                values[k] = kernel[o, c, i, j]
                                k += 1
