"""Coloured images of 32 x 32 pixels: SVHN, CIFAR-10 and CIFAR-100 in their published files, and CIFAR-10 as JPEG.

SVHN lies in `SVHN/`, CIFAR-10 in `cifar-10-batches-py/` and CIFAR-100 in `cifar-100-python/` of the data directory, where
torchvision also puts them. CIFAR's files are pickles; torchvision opens them only if their md5 is the published one, so no
other pickle is ever read.

`cifar10_jpeg75` is one file, `cifar10_jpeg75_bytes.npz`: all of CIFAR-10 as JPEG of quality 75, which loses some detail, so
results on it are not results on CIFAR-10. Its arrays are `jpeg` (uint8, all files end to end), `offset` (int64, where each
starts, and the end), `label` (uint8) and `is_test` (bool).
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.data.foreign import fetching, missing, reading
from lavasnn.data.samples import SETS, Images
from lavasnn.errors import DataError

JPEG_FILE = "cifar10_jpeg75_bytes.npz"


def read(name: str, split: str, folder: Path, download: bool) -> Images:
    """Read a set of coloured images from the data directory `folder`.

    Raises:
        DataError: torchvision is not installed, or files that are missing or damaged.
    """
    if name == "cifar10_jpeg75":
        path = folder / JPEG_FILE
        if not path.is_file():
            raise DataError(f"{name}:{split}: no file {path}; another data directory is named by --data-dir or LAVASNN_DATA")
        with reading(f"{name}:{split}", path):
            return _images(name, split, *_jpeg(split, path))
    with reading(f"{name}:{split}", folder, fetching(download)):
        return _images(name, split, *_torchvision(name, split, folder, download))


def _images(name: str, split: str, planes: NDArray[np.uint8], labels: NDArray[Any]) -> Images:
    kind = SETS[name]
    pixels = np.ascontiguousarray(planes).reshape(len(planes), 3072)
    return Images(name, split, pixels, labels.astype(np.int64), kind.shape, kind.levels, kind.classes)


def _torchvision(name: str, split: str, folder: Path, download: bool) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Images (sample, channel, row, column) and labels."""
    try:
        from torchvision import datasets  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise missing(name, "torchvision", "torchvision", error) from error
    if name == "svhn":
        found: Any = datasets.SVHN(str(folder / "SVHN"), split, download=download)
        return found.data, np.asarray(found.labels)
    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    cifar: Any = kind(str(folder), split == "train", download=download)
    return cifar.data.transpose(0, 3, 1, 2), np.asarray(cifar.targets)


def _jpeg(split: str, path: Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """The same of the JPEG file."""
    from PIL import Image

    with np.load(path, allow_pickle=False) as arrays:
        data, offset, label, is_test = (arrays[key] for key in ("jpeg", "offset", "label", "is_test"))
    wanted = np.flatnonzero(is_test == (split == "test"))
    planes = np.empty((len(wanted), 32, 32, 3), np.uint8)
    for row, i in enumerate(wanted):
        with Image.open(io.BytesIO(data[offset[i] : offset[i + 1]].tobytes()), formats=("JPEG",)) as image:
            if image.size != (32, 32) or image.mode != "RGB":
                raise ValueError(f"image {i} is {image.mode} of {image.size}, allowed is RGB of (32, 32)")
            planes[row] = np.asarray(image)
    return planes.transpose(0, 3, 1, 2), label[wanted]
