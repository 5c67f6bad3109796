"""Which pairs of inputs a bilinear dendrite listens to: at random, from what the inputs do, or from what was learned.

Pairs of a fully connected layer are int64 tensors of shape (pair, 2), i < j in each row. Pairs of a convolution have
shape (pair, 6): channel, row and column of the one input, then of the other, where rows and columns count positions of
the kernel. The first input of a pair comes before the second (by channel, then row, then column), no pair comes twice,
and the rows are sorted. The same seed gives the same pairs.

Samples are tensors of shape (sample, input) that hold 0 and 1, of any dtype; a byte each is enough.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavasnn.errors import InputError, RangeError


class Pool(Protocol):
    """Synapses with pairs that all outputs share: `PairPool` and `PairConv2d`."""

    k: Tensor
    pairs: Tensor


def random_pairs(n: int, count: int, seed: int) -> Tensor:
    """`count` of the pairs of `n` inputs, each as likely as any other.

    Raises:
        RangeError: More pairs than there are, or fewer than 0.
    """
    total = n * (n - 1) // 2
    _check_count("random_pairs", count, total, f"{n} inputs")
    return _pairs(n, _drawn(total, count, seed))


def active_pairs(x: Tensor, count: int, seed: int, least: float = 0.01) -> Tensor:
    """Random pairs among the inputs that spike, for data without labels.

    Args:
        x: Samples, shape (sample, input), 0 or 1.
        count: Pairs to draw.
        seed: Of the draw.
        least: Share of the samples in which an input has to spike to take part, 0..1; no input that never spikes does.

    Raises:
        InputError: Samples that are not 0 and 1.
        RangeError: More pairs than the active inputs have.
    """
    _check_samples("active_pairs", x)
    sums = x.sum(0, dtype=torch.float64)
    active = ((sums > 0) & (sums >= least * len(x))).nonzero().flatten().cpu()
    total = len(active) * (len(active) - 1) // 2
    who = f"{len(active)} of {x.shape[1]} inputs that spike in at least {least:g} of the samples"
    _check_count("active_pairs", count, total, who)
    return active[_pairs(len(active), _drawn(total, count, seed))]


def covariance_pairs(x: Tensor, labels: Tensor, count: int, seed: int, wide: int = 4) -> Tensor:
    """Pairs whose covariance differs most between the classes, which is where a bilinear term tells classes apart.

    A pair scores the variance over classes c of its covariance C_c,ij = E[s_i s_j | c] − E[s_i | c] E[s_j | c]. `count`
    pairs are drawn from the `wide` · `count` that score most: the very best ones share few inputs and say the same.

    Args:
        x: Samples, shape (sample, input), 0 or 1.
        labels: Class of each sample, shape (sample,), integers; at least two classes.
        count: Pairs to draw.
        seed: Of the draw.
        wide: How many times `count` to draw from, at least 1.

    Raises:
        InputError: Samples that are not 0 and 1, or labels that do not fit them.
        RangeError: More pairs than there are, or `wide` below 1.

    Source: the optimal K = (C_1 − C_2)/‖C_1 − C_2‖ of Dendritic Bilinear Integration (ICLR 2026), theorem 1.
    """
    _check_samples("covariance_pairs", x)
    if labels.shape != x.shape[:1] or labels.is_floating_point():
        raise InputError(
            f"covariance_pairs: labels of shape {tuple(labels.shape)}, {labels.dtype}; allowed are {len(x)} integers"
        )
    classes = labels.unique()
    if len(classes) < 2:
        raise InputError(f"covariance_pairs: labels name {len(classes)} class; at least 2 are needed")
    if wide < 1:
        raise RangeError(f"covariance_pairs: wide = {wide}; allowed is a whole number from 1")
    n = x.shape[1]
    total = n * (n - 1) // 2
    _check_count("covariance_pairs", count, total, f"{n} inputs")
    i, j = np.triu_indices(n, 1)
    mean, square = np.zeros(total), np.zeros(total)
    for c in classes:
        covariance = _covariance(x[labels == c])[i, j]
        mean += covariance / len(classes)
        square += covariance**2 / len(classes)
    score = square - mean**2
    best = np.argsort(-score, kind="stable")[: wide * count]
    return _pairs(n, np.sort(best[_drawn(len(best), count, seed)]))


def channel_pairs(channels: int, count: int, seed: int, at: tuple[int, int] = (0, 0)) -> Tensor:
    """Random pairs of channels at one pixel, for a convolution.

    Args:
        channels: Channels of the input.
        count: Pairs to draw.
        seed: Of the draw.
        at: Row and column of the kernel that the pixel is under: (0, 0) for a 1×1 kernel, (1, 1) for the centre of 3×3.

    Returns:
        Shape (count, 6).

    Raises:
        RangeError: More pairs than the channels have.
    """
    _check_count("channel_pairs", count, channels * (channels - 1) // 2, f"{channels} channels")
    pairs = random_pairs(channels, count, seed)
    row, column = torch.full((count,), at[0]), torch.full((count,), at[1])
    return torch.stack((pairs[:, 0], row, column, pairs[:, 1], row, column), 1)


def field_pairs(channels: int, kernel_size: int | tuple[int, int], count: int, seed: int) -> Tensor:
    """Random pairs within the receptive field of a convolution.

    Returns:
        Shape (count, 6).

    Raises:
        RangeError: More pairs than the receptive field has.
    """
    rows, columns = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    n = channels * rows * columns
    _check_count("field_pairs", count, n * (n - 1) // 2, f"a field of {channels}×{rows}×{columns}")
    return in_field(random_pairs(n, count, seed), (rows, columns))


def in_field(pairs: Tensor, kernel_size: tuple[int, int]) -> Tensor:
    """Pairs of a flattened receptive field, shape (pair, 2), as those of a convolution, shape (pair, 6).

    With `torch.nn.functional.unfold`, which flattens the same way, any choice above works on patches of images.
    """
    rows, columns = kernel_size
    row = pairs // columns
    return torch.stack((row // rows, row % rows, pairs % columns), -1).flatten(1)


def kept(pool: Pool, count: int) -> Tensor:
    """Places of the `count` pairs whose coefficients are largest, by the Euclidean norm over outputs; in order.

    Raises:
        RangeError: More pairs than the pool has.
    """
    norms = pool.k.detach().square().sum(0)
    _check_count("kept_pairs", count, len(norms), f"a pool of {len(norms)} pairs")
    return torch.argsort(norms, descending=True, stable=True)[:count].sort().values


def kept_pairs(pool: Pool, count: int) -> Tensor:
    """The `count` pairs whose coefficients learned to be largest: start wide, train, keep these; see `PairPool.pruned`."""
    return pool.pairs[kept(pool, count)]


def private_pairs(n: int, neurons: int, count: int, seed: int) -> Tensor:
    """`count` random pairs of `n` inputs for each of the neurons, shape (neuron, pair, 2).

    Raises:
        RangeError: More pairs than there are.
    """
    total = n * (n - 1) // 2
    _check_count("private_pairs", count, total, f"{n} inputs")
    generator = np.random.default_rng(seed)
    drawn = [_pairs(n, _drawn(total, count, generator)) for _ in range(neurons)]
    return torch.stack(drawn)


def check_pairs(pairs: Tensor, n: int, who: str) -> None:
    """Refuse what is not a list of pairs of `n` inputs.

    Raises:
        InputError: Another shape or type, or a row twice or out of order.
        RangeError: Inputs that do not exist.
    """
    _check_list(pairs, 2, who)
    if len(pairs) and (int(pairs.min()) < 0 or int(pairs.max()) >= n):
        raise RangeError(f"{who}: pairs name inputs {int(pairs.min())}..{int(pairs.max())}; allowed are 0..{n - 1}")
    _check_order(pairs[:, 0], pairs[:, 1], pairs, who)


def check_sites(pairs: Tensor, channels: int, kernel_size: tuple[int, int], who: str) -> None:
    """Refuse what is not a list of pairs in a receptive field; errors as in `check_pairs`."""
    _check_list(pairs, 6, who)
    rows, columns = kernel_size
    for name, most, at in (("channels", channels, 0), ("rows", rows, 1), ("columns", columns, 2)):
        values = pairs[:, at::3]
        if len(pairs) and (int(values.min()) < 0 or int(values.max()) >= most):
            raise RangeError(f"{who}: pairs name {name} {int(values.min())}..{int(values.max())}; allowed are 0..{most - 1}")
    i, j = sites(pairs, kernel_size).unbind(1)
    _check_order(i, j, pairs, who)


def sites(pairs: Tensor, kernel_size: tuple[int, int]) -> Tensor:
    """Pairs of a convolution as places in its flattened receptive field, shape (pair, 2): undoes `in_field`."""
    channel, row, column = pairs.view(-1, 2, 3).unbind(2)
    return (channel * kernel_size[0] + row) * kernel_size[1] + column


def _check_list(pairs: Tensor, width: int, who: str) -> None:
    if pairs.ndim != 2 or pairs.shape[1] != width or pairs.dtype != torch.int64:
        raise InputError(f"{who}: pairs of shape {tuple(pairs.shape)}, {pairs.dtype}; allowed is (pair, {width}), int64")


def _check_order(i: Tensor, j: Tensor, pairs: Tensor, who: str) -> None:
    wrong = (i >= j).nonzero().flatten().tolist()
    if wrong:
        raise InputError(f"{who}: pair {wrong[0]} is {pairs[wrong[0]].tolist()}; the first input comes before the second")
    several = len(pairs) - len(pairs.unique(dim=0)) if len(pairs) else 0
    if several:
        raise InputError(f"{who}: {several} of {len(pairs)} pairs are given more than once")


def _check_count(who: str, count: int, total: int, of: str) -> None:
    if not 0 <= count <= total:
        raise RangeError(f"{who}: {count} pairs of {of}; allowed are 0..{total}")


def _check_samples(who: str, x: Tensor) -> None:
    if x.ndim != 2 or len(x) == 0:
        raise InputError(f"{who}: samples of shape {tuple(x.shape)}; allowed is (sample, input), at least one sample")
    low, high = x.aminmax()
    if float(low) < 0 or float(high) > 1 or (x.is_floating_point() and bool(((x != 0) & (x != 1)).any())):
        raise InputError(f"{who}: samples hold {float(low):g}..{float(high):g}; allowed are 0 and 1 alone")


def _drawn(total: int, count: int, seed: int | np.random.Generator) -> NDArray[np.int64]:
    """`count` of the numbers below `total`, sorted."""
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False, shuffle=False))


def _pairs(n: int, number: NDArray[np.int64]) -> Tensor:
    """Pairs by their number in the order (0, 1), (0, 2), ..., (1, 2), ..."""
    first = np.arange(n, dtype=np.int64)
    start = first * (2 * n - 1 - first) // 2  # number of the pair (i, i + 1)
    i = np.searchsorted(start, number, side="right") - 1
    # Row n − 1 has no pairs and starts where row n − 2 ends, so no number below the total finds it.
    return torch.from_numpy(np.stack((i, number - start[i] + i + 1), 1).astype(np.int64))


def _covariance(x: Tensor) -> NDArray[np.float64]:
    """Covariance of 0/1 samples, shape (input, input); the counts are exact, so no order of summing changes it."""
    n = x.shape[1]
    both = torch.zeros(n, n, dtype=torch.float64, device=x.device)
    for part in x.split(1 << 14):
        rows = part.to(torch.float32)
        both += rows.T @ rows
    mean = x.sum(0, dtype=torch.float64) / len(x)
    return (both / len(x) - mean[:, None] * mean).cpu().numpy()
