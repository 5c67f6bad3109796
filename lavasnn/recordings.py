"""Samples that are not images: recorded or generated messages for a network's input, from a file or from random numbers."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.encode import Encoding
from lavasnn.errors import DataError

Array = NDArray[Any]
RANDOM_SAMPLES = 16
"""Samples of random input, unless told otherwise."""


@dataclass(frozen=True, eq=False)
class Recording:
    """Samples as a network takes them; stands where `lavasnn.data.Images` does.

    Args:
        name: Where they come from.
        pixels: Given messages (sample, step, neuron), or pixels (sample, pixel): integers.
        labels: Classes, shape (sample,); empty if unknown.
    """

    name: str
    pixels: Array
    labels: NDArray[np.int64]

    @property
    def label(self) -> str:
        """Name for a person."""
        return self.name

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, which: int | Sequence[int] | NDArray[np.integer[Any]]) -> Recording:
        """The first `which` samples, or those at these places."""
        rows = np.arange(min(which, len(self))) if isinstance(which, int) else np.asarray(which)
        return Recording(self.name, self.pixels[rows], self.labels[rows] if len(self.labels) else self.labels)


def load_input(spec: str, encoding: Encoding, size: int, steps: int, samples: int | None = None, seed: int = 0) -> Recording:
    """Samples named on the command line.

    Args:
        spec: A `.npy` file with an array of integers; an `.npz` file with arrays `x` and, if known, `labels`; a `.nir` file
            with recorded messages (of events: "FILE.nir@DT" with the seconds of a step); or "random" or "random:RATE": spikes
            of that rate (0.1 by default) of every neuron and step, or greys from 0 to twice that share of the brightest.
        encoding: What the network takes: pixels (sample, pixel), or messages (sample, step, neuron), where one sample may
            come without its first axis.
        size: Neurons of the network's input.
        steps: Steps of a window.
        samples: How many random samples to draw; 16 by default.
        seed: Of random samples.

    Raises:
        DataError: No such file, one without numbers in it, or arrays that do not fit together; a rate outside 0..1.
    """
    if spec.partition(":")[0] == "random":
        return _random(spec, encoding, size, steps, samples or RANDOM_SAMPLES, seed)
    path, _, dt = (Path(spec), "", "") if Path(spec).is_file() else _with_dt(spec)
    if not path.is_file():
        raise DataError(f"no input file {path}; --input takes .npy, .npz, .nir or random:RATE")
    labels = np.zeros(0, np.int64)
    if path.suffix == ".nir":
        from lavasnn.interop.nir import read_recording

        values = read_recording(path, steps, dt=float(dt)) if dt else read_recording(path)
    else:
        values, labels = _arrays(path)
    axes = 3 if encoding.kind == "given" else 2
    if values.ndim == axes - 1:
        values = values[None]
    if values.dtype.kind == "f" and (np.abs(values) < 2**31).all() and (values == np.round(values)).all():
        values = values.astype(np.int64)
    if values.dtype.kind not in "iub" or values.ndim != axes:
        needed = "(sample, step, neuron)" if axes == 3 else "(sample, pixel)"
        raise DataError(f"{path}: holds {values.dtype} of shape {values.shape}, needed are integers of shape {needed}")
    if labels.shape not in ((0,), (len(values),)) or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: labels are {labels.dtype} of shape {labels.shape}, needed are integers, one a sample")
    return Recording(path.name, values, labels.astype(np.int64))


def _with_dt(spec: str) -> tuple[Path, str, str]:
    """A file name and the seconds of a step behind an @, if there are any."""
    name, at, dt = spec.rpartition("@")
    try:
        return (Path(name), at, dt) if at and float(dt) > 0 else (Path(spec), "", "")
    except ValueError:
        return Path(spec), "", ""


def _random(spec: str, encoding: Encoding, size: int, steps: int, samples: int, seed: int) -> Recording:
    text = spec.partition(":")[2] or "0.1"
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0.0 <= rate <= 1.0:
        raise DataError(f"--input {spec}: the rate is {text!r}, allowed is 0..1")
    random = np.random.default_rng(seed)
    if encoding.kind == "given":
        shown = random.random((samples, steps, size)) < rate
        payloads = random.integers(1, encoding.levels + 1, shown.shape) if encoding.graded else 1
        return Recording(spec, (shown * payloads).astype(np.int32), np.zeros(0, np.int64))
    grey = np.ceil(random.random((samples, size)) * 2 * rate * encoding.levels)
    return Recording(spec, np.minimum(grey, encoding.levels).astype(np.uint8), np.zeros(0, np.int64))


def _arrays(path: Path) -> tuple[Array, NDArray[np.int64]]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded, np.zeros(0, np.int64)
            if "x" not in loaded.files:
                raise DataError(f"{path}: holds {', '.join(loaded.files) or 'nothing'}; an array named x is needed")
            labels = loaded["labels"] if "labels" in loaded.files else np.zeros(0, np.int64)
            return loaded["x"], labels
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: no readable array: {str(error).splitlines()[0]}") from None
