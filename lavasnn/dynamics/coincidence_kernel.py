"""Pairs of spikes, compiled: what memoryless LIF neurons of two senders compute, for 64 samples with one AND a pair."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(nogil=True, cache=True, error_model="numpy")
def _join(messages: Any, first: Any, second: Any, place: Any, raster: Any) -> None:
    """64 samples at a time, a bit each: what spikes with what is then one AND a pair, and no branch depends on the data."""
    batch, steps, n = messages.shape
    bits, joined = np.empty(n, np.uint64), np.zeros(raster.shape[2], np.uint64)
    for begin in range(0, batch, 64):
        samples = min(64, batch - begin)
        for t in range(steps):
            bits[:] = 0
            for k in range(samples):
                row, shift = messages[begin + k, t], np.uint64(k)
                for i in range(n):
                    bits[i] |= np.uint64(row[i] != 0) << shift
            for p in range(first.shape[0]):
                joined[place[p]] = bits[first[p]] & bits[second[p]]
            for k in range(samples):
                out, shift = raster[begin + k, t], np.uint64(k)
                for i in range(out.shape[0]):
                    out[i] = np.uint8((joined[i] >> shift) & np.uint64(1))


def coincidences(
    spikes: NDArray[np.bool_], inputs: NDArray[np.uint32], place: NDArray[np.uint32], size: int
) -> NDArray[np.bool_]:
    """Where two inputs spike in the same step.

    Args:
        spikes: Shape (batch, steps, input), bool.
        inputs: The two of each pair, shape (2, pair).
        place: The pair's neuron, shape (pair,); none has two pairs.
        size: Neurons; those of no pair are silent.

    Returns:
        Bool (batch, steps, neuron).
    """
    raster = np.empty((*spikes.shape[:2], size), np.bool_)
    _join(np.ascontiguousarray(spikes).view(np.uint8), inputs[0], inputs[1], place, raster.view(np.uint8))
    return raster
