"""Single entries of a netx layer: numbers, shapes and words, checked as they are read."""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lavasnn.errors import InputError

LARGEST_LAYER = 1 << 24
"""Neurons; a file of a few bytes can declare any number."""


def shape_of(layer: Any) -> tuple[int, ...]:
    """The shape that a layer declares."""
    values = whole_of(layer, "shape").reshape(-1)
    if values.size == 0 or values.min() < 1:
        raise InputError(f"has the shape {values.tolist()}, needed are numbers of at least 1")
    shape = tuple(int(v) for v in values)
    if math.prod(shape) > LARGEST_LAYER:
        raise InputError(f"has {math.prod(shape):,} neurons, allowed are {LARGEST_LAYER:,}")
    return shape


def pair_of(layer: Any, name: str) -> tuple[int, int]:
    """Rows and columns; a single number stands for both."""
    values = whole_of(layer, name).reshape(-1)
    if values.size not in (1, 2):
        raise InputError(f"has {values.size} numbers as {name!r}, needed are 1 or 2")
    return int(values[0]), int(values[-1])


def one_of(group: Any, name: str, cut: bool = False) -> int:
    """A single number, whole unless it is to be `cut`."""
    values = _numbers(group, name).reshape(-1)
    if values.size != 1 or (not cut and values[0] != np.trunc(values[0])):
        raise InputError(f"has {values[:3].tolist()} as {name!r}, needed is one whole number")
    return int(values[0])


def whole_of(group: Any, name: str) -> NDArray[np.int64]:
    """An array cut to integers toward zero, as netx does."""
    return _numbers(group, name).astype(np.int64)


def _numbers(group: Any, name: str) -> NDArray[Any]:
    values = np.asarray(_dataset(group, name))
    if values.dtype.kind not in "iufb":
        raise InputError(f"has a {name!r} in letters, needed are numbers")
    values = values.astype(np.int64) if values.dtype.kind in "bu" else values
    bad = ~np.isfinite(values)
    if bad.any():
        raise InputError(f"has a {name!r} with {int(bad.sum())} numbers that are not finite, out of {values.size}")
    most = np.abs(values.astype(np.float64)).max(initial=0)
    if most >= 2**31:
        raise InputError(f"has a {name!r} with numbers up to {most:.3g}, allowed are 32 bits")
    return values


def text_of(group: Any, name: str, who: str = "") -> str:
    """A word, of fixed or variable length."""
    value = np.asarray(_dataset(group, name)).reshape(-1)
    text = value[0] if value.size == 1 else None
    if isinstance(text, bytes):
        text = text.decode("ascii", "replace")
    if not isinstance(text, str):
        raise InputError(f"has no {who}{name!r} in letters")
    return text


def _dataset(group: Any, name: str) -> Any:
    found = group.get(name)
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"has no {name!r}" if found is None else f"has a {name!r} that is a group, needed is an array")
    return found[()]
