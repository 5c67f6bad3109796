"""Sequences to predict: the characters of a text, and columns of numbers through time.

| name | file below the data directory | what |
|---|---|---|
| tinyshakespeare | `tinyshakespeare.txt` | text; runs of white space become one space |
| los_speed | `timeseries/los_speed.npz`, array `speed` | 2,016 five-minute means of 207 road sensors, mph |
| exchange_rate | `timeseries/exchange_rate.npz`, array `data` | 7,588 days of 8 exchange rates |
| etth1 | `timeseries/ETTh1.csv`, columns after `date` | 17,420 hours of a transformer's 6 loads and its oil temperature |

Splits are in time: training comes before testing, and no pair of input and target lies astride. The target of position i is the
next character, or the last column one step later. Each column is shifted and scaled to mean 0 and variance 1 over the training
part; a column that does not vary there stays at 0.

Files are read from the data directory, see `lavasnn.data`; none is fetched.
"""

from __future__ import annotations

import csv
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lavasnn.data.foreign import reading
from lavasnn.data.idx import data_directory
from lavasnn.errors import DataError

TEXTS = {"tinyshakespeare": "tinyshakespeare.txt"}
SERIES = {
    "los_speed": "timeseries/los_speed.npz",
    "exchange_rate": "timeseries/exchange_rate.npz",
    "etth1": "timeseries/ETTh1.csv",
}
Name = Literal["tinyshakespeare", "los_speed", "exchange_rate", "etth1"]
NAMES: tuple[str, ...] = get_args(Name)
ARRAYS = {"los_speed": "speed", "exchange_rate": "data"}
MOST_BYTES = 2**28
"""Of a file."""


@dataclass(frozen=True, eq=False)
class Stretch:
    """A part of a sequence, as inputs and their targets.

    Attributes:
        x: Characters as numbers, shape (time,), int64; or columns, shape (time, input), float32.
        y: What is to be predicted from each x and those before it: shape (time,), int64, or (time, 1), float32.
        now: The target's column at the time of x, shape (time,), what "no change" would predict; the characters of a text.
    """

    x: NDArray[np.int64] | NDArray[np.float32]
    y: NDArray[np.int64] | NDArray[np.float32]
    now: NDArray[np.int64] | NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.x)

    def take(self, some: slice) -> Stretch:
        """Those times."""
        return Stretch(self.x[some], self.y[some], self.now[some])


@dataclass(frozen=True, eq=False)
class Sequence:
    """A whole sequence, split in time.

    Attributes:
        name: Data set.
        symbols: Characters by their number; empty for numbers.
        columns: Names or numbers of a series' columns, the target last; empty for text.
        train, test: The two parts.
    """

    name: str
    symbols: tuple[str, ...]
    columns: tuple[str, ...]
    train: Stretch
    test: Stretch

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of an input and of a target."""
        return (len(self.symbols), len(self.symbols)) if self.symbols else (self.train.x.shape[1], 1)

    def held_out(self, share: float) -> Sequence:
        """The training part alone, its last `share` in place of the test part; columns stay as they are scaled.

        Raises:
            DataError: Nothing would be left on one side.
        """
        n = len(self.train) - round(share * len(self.train))
        if not 1 < n < len(self.train):
            raise DataError(f"{self.name}: {share} of {len(self.train):,} training steps held out leaves none on one side")
        train, aside = self.train.take(slice(0, n - 1)), self.train.take(slice(n, None))
        return Sequence(self.name, self.symbols, self.columns, train, aside)

    @property
    def checksum(self) -> str:
        """Of all numbers."""
        found = hashlib.sha256("".join(self.symbols).encode())
        for part in (self.train, self.test):
            for array in (part.x, part.y):
                found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


def load(name: str, data_dir: Path | None = None, *, test: float = 0.1, own: bool = True) -> Sequence:
    """Read a sequence.

    Args:
        name: See `NAMES`.
        data_dir: Data directory; by default LAVASNN_DATA or the user's cache.
        test: Share at the end that is for testing, above 0 and below 1.
        own: Series: whether the inputs have the target's own column too.

    Raises:
        DataError: An unknown name, a share out of range, or a file that is missing, damaged or too short.
    """
    if name not in NAMES:
        raise DataError(f"sequence {name!r} is unknown, allowed are {', '.join(NAMES)}")
    if not 0 < test < 1:
        raise DataError(f"{name}: a share of {test} for testing; allowed is above 0 and below 1")
    path = data_directory(data_dir) / (TEXTS | SERIES)[name]
    if not path.is_file():
        raise DataError(f"{name}: no file {path}; another data directory is named by --data-dir or LAVASNN_DATA")
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"{path}: {path.stat().st_size:,} bytes, allowed are {MOST_BYTES:,}")
    with reading(name, path):
        if name in TEXTS:
            return text(name, path.read_text("utf-8"), test)
        values, columns = _table(path) if path.suffix == ".csv" else _array(path, ARRAYS[name])
        return series(name, values, columns, test, own=own)


def text(name: str, words: str, test: float) -> Sequence:
    """A text's characters, each to be predicted from those before; its alphabet is that of the whole text.

    Raises:
        DataError: Fewer than two characters in a part.
    """
    letters = np.array(list(re.sub(r"\s+", " ", words)))
    symbols, codes = np.unique(letters, return_inverse=True)
    train, later = _split(name, codes.astype(np.int64), test)
    parts = [Stretch(part[:-1], part[1:], part[:-1]) for part in (train, later)]
    return Sequence(name, tuple(str(s) for s in symbols), (), *parts)


def series(name: str, values: NDArray[np.float64], columns: tuple[str, ...], test: float, *, own: bool = True) -> Sequence:
    """Columns of numbers, shape (time, column), of which the last is to be predicted a step ahead.

    Raises:
        DataError: Not a table of finite numbers, fewer than two rows in a part, or no column to predict from.
    """
    if values.ndim != 2 or not np.isfinite(values).all():
        raise DataError(f"{name}: an array of shape {values.shape}; needed is (time, column) of finite numbers")
    if values.shape[1] < 2 - own:
        raise DataError(f"{name}: {values.shape[1]} columns; the target is the last one, so none is left to predict it from")
    mean, spread = (np.asarray(of(_split(name, values, test)[0], axis=0)) for of in (np.mean, np.std))
    scaled = ((values - mean) / np.where(spread > 0, spread, np.inf)).astype(np.float32)
    inputs = scaled.shape[1] - (not own)
    parts = [Stretch(part[:-1, :inputs], part[1:, -1:], part[:-1, -1]) for part in _split(name, scaled, test)]
    return Sequence(name, (), columns, *parts)


def _split(name: str, values: NDArray, test: float) -> tuple[NDArray, NDArray]:
    n = len(values) - round(test * len(values))
    if min(n, len(values) - n) < 2:
        raise DataError(f"{name}: {len(values):,} steps, of which {len(values) - n:,} are for testing; each part needs 2")
    return values[:n], values[n:]


def _array(path: Path, key: str) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    with np.load(path, allow_pickle=False) as arrays:
        values = np.asarray(arrays[key], np.float64)
    return values, tuple(str(i) for i in range(values.shape[-1]))


def _table(path: Path) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """All columns but the first, which is the date."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    return np.array([row[1:] for row in rows[1:]], np.float64), tuple(rows[0][1:])


# What costs no training


def most_frequent(sequence: Sequence) -> NDArray[np.int64]:
    """The training text's most frequent character, for each time of the test part."""
    return np.full(len(sequence.test), np.bincount(_codes(sequence.train.y)).argmax())


def by_context(sequence: Sequence, context: int) -> NDArray[np.int64]:
    """The character that follows the last `context` ones most often in training, for each time of the test part.

    Contexts that training does not have, and those that the part's start cuts off, fall back to shorter ones.
    """
    found, size = most_frequent(sequence), len(sequence.symbols)
    for length in range(1, context + 1):
        counts = np.zeros((size**length, size), np.int64)
        np.add.at(counts, (_contexts(sequence.train.x, length, size), _codes(sequence.train.y[length - 1 :])), 1)
        seen = _contexts(sequence.test.x, length, size)
        known = counts[seen].any(1)
        found[length - 1 :][known] = counts[seen[known]].argmax(1)
    return found


def _contexts(x: NDArray[np.int64] | NDArray[np.float32], length: int, size: int) -> NDArray[np.int64]:
    """Numbers of the last `length` characters, for each time from the first that has as many."""
    n = len(x) - length + 1
    return sum((_codes(x[i : i + n]) * size ** (length - 1 - i) for i in range(length)), np.zeros(n, np.int64))


def _codes(x: NDArray[np.int64] | NDArray[np.float32]) -> NDArray[np.int64]:
    return x.astype(np.int64)


def linear(sequence: Sequence) -> NDArray[np.float64]:
    """Least squares from the inputs of a time and a constant, fitted on the training part, for each time of the test part."""

    def design(part: Stretch) -> NDArray[np.float64]:
        return np.concatenate([part.x.astype(np.float64), np.ones((len(part), 1))], 1)

    fit = np.linalg.lstsq(design(sequence.train), sequence.train.y.astype(np.float64), rcond=None)[0]
    return design(sequence.test) @ fit
