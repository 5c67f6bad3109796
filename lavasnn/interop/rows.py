"""Synapses of some neurons out of all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.synapses import Dense, Owned, Sparse, as_sparse, sparse_from


def sliced(s: Owned, rows: NDArray[Any], columns: NDArray[Any]) -> Owned:
    """Synapses from the neurons `columns` to the neurons `rows`."""
    from scipy.sparse import csr_matrix

    if isinstance(s, Dense):
        return Dense(s.weight[np.ix_(rows, columns)])
    single = as_sparse(s)
    return sparse_from(csr_matrix((single.weight, single.pre, single.start), single.shape)[rows][:, columns])


def only_rows(s: Sparse, keep: NDArray[np.bool_]) -> Sparse:
    """Synapses into some receivers alone, shape (post,); the others stay without any."""
    counts = np.diff(s.start)
    mine = np.repeat(keep, counts)
    start = np.concatenate([[0], np.cumsum(np.where(keep, counts, 0))]).astype(np.int64)
    return Sparse(s.weight[mine], s.pre[mine], start, s.n_pre)
