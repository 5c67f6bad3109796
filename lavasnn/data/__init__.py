"""The data sets that the examples train on.

`digits` comes with scikit-learn and needs no file. All others are read from their published files in the data directory,
which is the argument, else the environment variable LAVASNN_DATA, else `lavasnn` in the user's cache. Nothing is fetched
unless `download` says so. See `idx` for MNIST and Fashion-MNIST, `pictures` for coloured images, `events` for recordings of
event cameras and of the artificial cochlea, `sequences` for texts and time series, which are no labelled samples.
"""

from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from lavasnn.data.idx import PUBLISHED, data_directory, fetch
from lavasnn.data.idx import read as read_idx
from lavasnn.data.samples import NAMES, SETS, Images, Kind, stratified, validation_split
from lavasnn.errors import DataError

SPLITS = ("train", "test")
N_DIGITS_TEST = 360  # of 1797: a fifth


def load(spec: str, data_dir: Path | None = None, seed: int = 0, download: bool = False, steps: int = 0) -> Images:
    """Read a data set.

    Args:
        spec: Name of a data set, see `NAMES`, then `:train` or `:test`; `:test` may be left out.
        data_dir: Data directory; by default LAVASNN_DATA or the user's cache.
        seed: Chooses the test samples of digits, which has no published split; take train and test with the same
            seed, or they overlap. The other sets ignore it.
        download: Fetch missing files first, with checksum. Files that are there are not replaced.
        steps: Of events: into how many steps they are binned, at least 1. Images ignore it.

    Returns:
        The samples, in the order in which they were published.

    Raises:
        DataError: An unknown `spec`, no steps for events, or files that are missing, damaged or not of this data set.
    """
    name, _, split = spec.partition(":")
    split = split if ":" in spec else "test"
    if name not in NAMES or split not in SPLITS:
        raise DataError(
            f"data set {spec!r} is unknown, allowed are {', '.join(NAMES)}, each with :train or :test, which is the default"
        )
    folder = data_directory(data_dir)
    if name == "digits":
        return _digits(split, seed)
    if name in PUBLISHED:
        if download:
            fetch(name, data_dir)
        return read_idx(name, split, folder)
    if SETS[name].events:
        from lavasnn.data import events

        return events.read(name, split, folder, download, steps)
    from lavasnn.data import pictures

    return pictures.read(name, split, folder, download)


def _digits(split: str, seed: int) -> Images:
    """Read scikit-learn's 1797 digits of 8x8 pixels in 0..16 and return the part of `split`."""
    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    pixels, labels = cast("tuple[NDArray[np.float64], NDArray[np.int64]]", load_digits(return_X_y=True))
    is_test = stratified(labels, N_DIGITS_TEST, seed)
    chosen = is_test if split == "test" else ~is_test
    kind = SETS["digits"]
    inputs, classes = pixels[chosen].astype(np.uint8), labels[chosen].astype(np.int64)
    return Images("digits", split, inputs, classes, kind.shape, kind.levels, kind.classes)


__all__ = ["NAMES", "PUBLISHED", "SETS", "SPLITS", "Images", "Kind", "data_directory", "fetch", "load", "validation_split"]
