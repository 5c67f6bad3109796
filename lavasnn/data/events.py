"""Recordings of events as frames of spikes: N-MNIST, DVS-Gesture and the Spiking Heidelberg Digits.

A step holds a spike wherever at least one event fell into it. With T steps over a duration D an event at time t belongs to
step floor(t T / D); events after D are left out.

| name           | from the data directory                                   | duration | channels, rows, columns          |
|----------------|-----------------------------------------------------------|----------|----------------------------------|
| `nmnist`       | `NMNIST/Train/0/*.bin` ...                                | 300 ms   | 2, 34, 34                        |
| `nmnist_small` | `nmnist_small_events.npz`, the first 1000 + 100 of it     | 300 ms   | 2, 34, 34                        |
| `dvs_gesture`  | `DVSGesture/ibmGestureTrain/user01_led/0.npy` ...         | 1.5 s    | 2, 32, 32 (4 x 4 pixels as one)  |
| `shd`          | `SHD/shd_train.h5`, `SHD/shd_test.h5`                     | 1.4 s    | 1, 1, 700                        |

N-MNIST's three saccades take 100 ms each. Gestures last some 6 s; the first 1.5 s count, from a recording's first event. All
but the small file are read by tonic, which also puts them into these folders.

Sources: Orchard et al., Front. Neurosci. 9:437, 2015; Amir et al., CVPR 2017; Cramer et al., IEEE TNNLS 33(7), 2022.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.data.foreign import fetching, missing, reading
from lavasnn.data.samples import SETS, Images
from lavasnn.errors import DataError

MAX_STEPS = 1000
SMALL_FILE = "nmnist_small_events.npz"


@dataclass(frozen=True)
class Recorder:
    """How a data set's recordings become frames.

    Args:
        duration_us: Microseconds of a recording that count.
        reader: tonic's class.
        folders: Where its files lie, below the data directory, of training and test.
        pool: Pixels of the sensor, in both directions, that become one.
        from_first: Whether time starts at a recording's first event.
        counts: Published recordings of training and test; 0 if that is not checked.
    """

    duration_us: int
    reader: str = ""
    folders: tuple[str, str] = ("", "")
    pool: int = 1
    from_first: bool = False
    counts: tuple[int, int] = (0, 0)


RECORDERS = {
    "nmnist": Recorder(300_000, "NMNIST", ("NMNIST/Train", "NMNIST/Test"), counts=(60_000, 10_000)),
    "nmnist_small": Recorder(300_000),
    "dvs_gesture": Recorder(
        1_500_000,
        "DVSGesture",
        ("DVSGesture/ibmGestureTrain", "DVSGesture/ibmGestureTest"),
        pool=4,
        from_first=True,
        counts=(1077, 264),
    ),
    "shd": Recorder(1_400_000, "SHD", ("SHD/shd_train.h5", "SHD/shd_test.h5"), counts=(8156, 2264)),
}

Events = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
"""Columns, rows, polarities and times in microseconds."""


def read(name: str, split: str, folder: Path, download: bool, steps: int) -> Images:
    """Read recordings from the data directory `folder` and bin them.

    Raises:
        DataError: Steps out of range, tonic is not installed, or files that are missing or damaged.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise DataError(f"{name}:{split}: events in {steps} steps, allowed is 1..{MAX_STEPS}")
    kind = SETS[name]
    with reading(f"{name}:{split}", folder, "" if name == "nmnist_small" else fetching(download)):
        count, recordings = _small(split, folder) if name == "nmnist_small" else _tonic(name, split, folder, download)
        pixels = np.zeros((count, steps, int(np.prod(kind.shape))), np.uint8)
        labels = np.zeros(count, np.int64)
        for i, (events, label) in enumerate(recordings):
            bin_events(events, RECORDERS[name], kind.shape, pixels[i], f"{name}:{split}")
            labels[i] = label
    return Images(name, split, pixels, labels, kind.shape, kind.levels, kind.classes)


def bin_events(events: Events, recorder: Recorder, shape: tuple[int, ...], frames: NDArray[np.uint8], who: str) -> None:
    """Set spikes in `frames`, shape (step, feature), for one recording.

    Raises:
        DataError: Events beyond the sensor, or before time 0.
    """
    columns_of = [np.asarray(values) for values in events]
    if any(values.dtype.kind not in "iub" or values.ndim != 1 for values in columns_of):
        raise DataError(f"{who}: events are {', '.join(str(v.dtype) for v in columns_of)}, allowed are lists of integers")
    x, y, p, t = (values.astype(np.int64) for values in columns_of)
    x, y = x // recorder.pool, y // recorder.pool
    if recorder.from_first and len(t):
        t = t - t.min()
    _, rows, columns = shape
    for what, values, most in (("column", x, columns), ("row", y, rows), ("polarity", p, shape[0]), ("time", t, 2**62)):
        if len(values) and not 0 <= values.min() <= values.max() < most:
            wrong = values.min() if values.min() < 0 else values.max()
            raise DataError(f"{who}: an event has {what} {wrong}, allowed is 0..{most - 1}")
    now = t < recorder.duration_us
    step = t[now] * len(frames) // recorder.duration_us
    frames[step, ((p * rows + y) * columns + x)[now]] = 1


def _small(split: str, folder: Path) -> tuple[int, Iterator[tuple[Events, int]]]:
    """Number of recordings of the small file, and each with its label."""
    path = folder / SMALL_FILE
    if not path.is_file():
        raise DataError(f"nmnist_small:{split}: no file {path}; another data directory is named by --data-dir or LAVASNN_DATA")
    with np.load(path, allow_pickle=False) as arrays:
        x, y, p, t = (arrays[f"{split}_{key}"] for key in "xypt")
        offset, labels = arrays[f"{split}_offset"], arrays[f"{split}_label"]
    whole = offset.dtype.kind in "iu" and offset.shape == (len(labels) + 1,) and (np.diff(offset.astype(np.int64)) >= 0).all()
    if not whole or offset[0] != 0 or {len(x), len(y), len(p), len(t)} != {int(offset[-1])}:
        raise DataError(f"{path}: offsets of shape {offset.shape} do not cut its events into {len(labels)} recordings")
    parts = (slice(a, b) for a, b in itertools.pairwise(offset))
    return len(labels), (((x[c], y[c], p[c], t[c]), int(label)) for c, label in zip(parts, labels, strict=True))


def _tonic(name: str, split: str, folder: Path, download: bool) -> tuple[int, Iterator[tuple[Events, int]]]:
    """The same of a set that tonic reads."""
    recorder = RECORDERS[name]
    place = folder / recorder.folders[split == "test"]
    if not place.exists() and not download:
        raise DataError(
            f"{name}:{split}: nothing at {place}; --download fetches it with checksum; another data directory is named by "
            "--data-dir or LAVASNN_DATA"
        )
    try:
        from tonic import datasets  # pyright: ignore[reportMissingTypeStubs, reportMissingImports]
    except ImportError as error:
        raise missing(name, "tonic", "'lavasnn[events]'", error) from error
    published: Any = getattr(datasets, recorder.reader)
    # tonic asks for the archives too and fetches what it misses: here the unpacked files are enough.
    reader = type(published.__name__, (published,), {"_check_exists": lambda self: place.exists()})
    found = reader(str(folder), train=split == "train")
    wanted = recorder.counts[split == "test"]
    if wanted and len(found) != wanted:
        raise DataError(
            f"{name}:{split}: {place} holds {len(found):,} recordings, published are {wanted:,}; delete it and let --download "
            "fetch it anew"
        )
    return len(found), _each(found)


def _each(found: Any) -> Iterator[tuple[Events, int]]:
    # By name where files have names, for folders have no order of their own.
    for i in sorted(range(len(found)), key=lambda i: found.data[i] if found.data else i):
        events, label = found[i]
        there: Any = events.dtype.names
        nothing = np.zeros(len(events), np.int64)
        # The cochlea's channels have neither rows nor polarities; tonic gives them a polarity of 1.
        y, p = (events["y"], events["p"]) if "y" in there else (nothing, nothing)
        yield (events["x"], y, p, events["t"]), int(label)
