"""The image sets that the examples train on: digits, MNIST and Fashion-MNIST.

`digits` comes with scikit-learn and needs no file. The other two are read from the four published idx files, gzipped or
not, in the folder `MNIST/raw` or `FashionMNIST/raw` of the data directory, which is the argument, else the environment
variable LAVASNN_DATA, else `lavasnn` in the user's cache. Nothing is fetched unless `download` says so.

An idx file is, big-endian: two zero bytes, the element type (8: unsigned byte), the number of dimensions, each
dimension as 32 bits, then the elements. Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
"""

import contextlib
import gzip
import hashlib
import http.client
import os
import struct
import time
import urllib.error
import urllib.request
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lavasnn.errors import DataError

SPLITS = ("train", "test")
N_CLASSES = 10
MAX_SAMPLES = 60_000  # in one idx file: the published training sets
MAX_DOWNLOAD_BYTES = 64 << 20  # in one file: the largest published one has 26.4 MB
DOWNLOAD_DEADLINE_S = 900.0  # for one file
N_DIGITS_TEST = 360  # of 1797: a fifth
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class IdxSource:
    """Where an idx data set is kept and fetched from.

    Args:
        folder: Folder below the data directory.
        mirror: Address that the file names are appended to.
        md5: Published checksum of each gzipped file, images before labels, train before test.
    """

    folder: str
    mirror: str
    md5: dict[str, str]

    def pair(self, split: str) -> list[str]:
        """Return the names of the image and the label file of `split`, without `.gz`."""
        names = [name.removesuffix(".gz") for name in self.md5]
        return names[:2] if split == "train" else names[2:]


PUBLISHED = {
    "mnist": IdxSource(
        "MNIST/raw",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion_mnist": IdxSource(
        "FashionMNIST/raw",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
}
NAMES = ("digits", *PUBLISHED)


@dataclass(frozen=True, eq=False)
class Images:
    """A labelled set of grey images.

    Args:
        name: Data set, such as "mnist".
        split: Part of it, such as "test".
        pixels: Shape (sample, feature), uint8, 0..levels, the rows of each image one after the other.
        labels: Shape (sample,), int64, 0..classes-1.
        shape: Height and width in pixels; their product is the number of features.
        levels: Largest pixel value the set may hold, 1..255.
        classes: Number of classes, 1 or more.

    Raises:
        DataError: The fields do not fit each other.
    """

    name: str
    split: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    shape: tuple[int, int]
    levels: int
    classes: int

    def __post_init__(self) -> None:
        who = f"{self.name}:{self.split}"
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 2 or self.pixels.size == 0:
            found = f"{self.pixels.dtype} of shape {self.pixels.shape}"
            raise DataError(f"{who}: pixels are {found}, allowed is uint8 of shape (sample, feature), at least (1, 1)")
        if self.labels.dtype != np.int64 or self.labels.shape != self.pixels.shape[:1]:
            found = f"{self.labels.dtype} of shape {self.labels.shape}"
            raise DataError(f"{who}: labels are {found}, allowed is int64 of shape ({len(self.pixels)},)")
        if len(self.shape) != 2 or min(self.shape) < 1 or self.shape[0] * self.shape[1] != self.pixels.shape[1]:
            raise DataError(f"{who}: image shape {self.shape} does not give the {self.pixels.shape[1]} features of the pixels")
        if not 1 <= self.levels <= 255 or self.classes < 1:
            raise DataError(
                f"{who}: {self.levels} levels and {self.classes} classes, allowed are 1..255 levels and 1 class or more"
            )
        if int(self.pixels.max()) > self.levels:
            raise DataError(f"{who}: the largest pixel is {int(self.pixels.max())}, allowed is 0..{self.levels}")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= self.classes:
            span = f"{int(self.labels.min())} to {int(self.labels.max())}"
            raise DataError(f"{who}: labels run from {span}, allowed is 0..{self.classes - 1}")

    @property
    def label(self) -> str:
        """Name for a person."""
        return f"{self.name}:{self.split}"

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, which: int | Sequence[int] | NDArray[np.integer[Any]]) -> "Images":
        """Return the first `which` images, or those with the indices `which`, in that order.

        Raises:
            DataError: No image is asked for, or one that is not there, or `which` is not made of integers.
        """
        indices = np.asarray(which)
        if indices.dtype.kind not in "iu" or indices.ndim > 1 or indices.size == 0:
            raise DataError(
                f"{self.name}:{self.split}: cannot take {indices.dtype} of shape {indices.shape}, "
                "allowed are a count or a list of at least one integer index"
            )
        if indices.ndim == 0:
            if not 1 <= int(indices) <= len(self):
                raise DataError(f"{self.name}:{self.split}: {int(indices)} images asked for, allowed is 1..{len(self)}")
            return replace(self, pixels=self.pixels[: int(indices)], labels=self.labels[: int(indices)])
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= len(self):
            raise DataError(f"{self.name}:{self.split}: indices run from {low} to {high}, allowed is 0..{len(self) - 1}")
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])


def load(spec: str, data_dir: Path | None = None, seed: int = 0, download: bool = False) -> Images:
    """Read a data set.

    Args:
        spec: `digits`, `mnist` or `fashion_mnist`, then `:train` or `:test`; `:test` may be left out.
        data_dir: Data directory; by default LAVASNN_DATA or the user's cache.
        seed: Chooses the test samples of digits, which has no published split; take train and test with the same
            seed, or they overlap. The other sets ignore it.
        download: Fetch missing files first, with checksum. Files that are there are not replaced.

    Returns:
        The images, in the order in which they were published.

    Raises:
        DataError: An unknown `spec`, or files that are missing, damaged or not of this data set.
    """
    name, _, split = spec.partition(":")
    split = split if ":" in spec else "test"
    if name not in NAMES or split not in SPLITS:
        allowed = ", ".join(f"{known}:{part}" for known in NAMES for part in SPLITS)
        raise DataError(f"data set {spec!r} is unknown, allowed are {allowed} (a name alone means :test)")
    if name == "digits":
        return _digits(split, seed)
    if download:
        fetch(name, data_dir)
    return _idx_images(name, split, data_directory(data_dir))


def data_directory(data_dir: Path | None = None) -> Path:
    """Return the data directory: `data_dir`, else LAVASNN_DATA, else `lavasnn` in the user's cache."""
    if data_dir is not None:
        return Path(data_dir)
    if from_environment := os.environ.get("LAVASNN_DATA"):
        return Path(from_environment)
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if os.path.isabs(cache) else Path("~/.cache").expanduser()) / "lavasnn"


def validation_split(images: Images, n: int, seed: int) -> tuple[Images, Images]:
    """Set `n` images aside, with the classes in the same proportions as in the whole.

    Args:
        images: What to split.
        n: Size of the validation set, 1..len(images)-1. Each class gives its exact share, rounded down or up.
        seed: Chooses the images, 0..2^63-1.

    Returns:
        (train, validation), both in the order of `images`; validation has the split name "validation".

    Raises:
        DataError: `n` or `seed` lies outside its range.
    """
    if not 1 <= n < len(images):
        raise DataError(f"{images.name}:{images.split}: a validation set of {n} images, allowed is 1..{len(images) - 1}")
    aside = _stratified(images.labels, n, seed)
    return images.take(np.flatnonzero(~aside)), replace(images.take(np.flatnonzero(aside)), split="validation")


def fetch(name: str, data_dir: Path | None = None, timeout_s: float = 30.0) -> Path:
    """Fetch those of a data set's four files that are not there, and check every gzipped one.

    A file appears under its name only when it is complete and has the published md5.

    Args:
        name: `mnist` or `fashion_mnist`.
        data_dir: Data directory; by default LAVASNN_DATA or the user's cache.
        timeout_s: Longest wait for the server, in seconds.

    Returns:
        The folder that holds the files.

    Raises:
        DataError: An unknown `name`, no network, a wrong checksum, or a folder that cannot be written.
    """
    if name not in PUBLISHED:
        raise DataError(f"data set {name!r} cannot be fetched, allowed are {', '.join(PUBLISHED)}; digits needs no files")
    source = PUBLISHED[name]
    folder = data_directory(data_dir) / source.folder
    for file_name, md5 in source.md5.items():
        path = folder / file_name
        if os.path.isfile(path):
            found = _md5_of(path)
            if found != md5:
                raise DataError(f"{path}: md5 is {found}, published is {md5}; delete the file to have it fetched anew")
        elif not os.path.isfile(path.with_suffix("")):
            _fetch_file(source.mirror + file_name, path, md5, timeout_s, _by_hand(name, folder))
    return folder


def _by_hand(name: str, folder: Path) -> str:
    return f"offline, put {', '.join(PUBLISHED[name].md5)} (gzipped or not) into {folder}; digits needs no files"


def _md5_of(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _fetch_file(url: str, path: Path, md5: str, timeout_s: float, by_hand: str) -> None:
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    digest, n_bytes, deadline_s = hashlib.md5(usedforsecurity=False), 0, time.monotonic() + DOWNLOAD_DEADLINE_S
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as out, urllib.request.urlopen(url, timeout=timeout_s) as response:
            # read1 returns what has arrived, so that a server that drips bytes meets the deadline
            while block := cast(http.client.HTTPResponse, response).read1(1 << 16):
                digest.update(block)
                n_bytes += out.write(block)
                if n_bytes > MAX_DOWNLOAD_BYTES:
                    raise DataError(f"{url}: sends more than {MAX_DOWNLOAD_BYTES:,} bytes, which is allowed; {by_hand}")
                if time.monotonic() > deadline_s:
                    raise DataError(f"{url}: not done after the {DOWNLOAD_DEADLINE_S:,.0f} s allowed; {by_hand}")
        if digest.hexdigest() != md5:
            raise DataError(
                f"{url}: md5 of the {n_bytes:,} bytes received is {digest.hexdigest()}, published is {md5}; {by_hand}"
            )
        os.replace(part, path)
    except urllib.error.HTTPError as error:
        error.close()
        raise DataError(f"{url}: the server answers {error.code} {error.reason}; {by_hand}") from error
    except (OSError, http.client.HTTPException) as error:  # URLError and TimeoutError are OSErrors
        reason = getattr(error, "reason", error)
        raise DataError(f"{url}: cannot be fetched to {path} ({reason}); {by_hand}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _digits(split: str, seed: int) -> Images:
    """Read scikit-learn's 1797 digits of 8x8 pixels in 0..16 and return the part of `split`."""
    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    pixels, labels = cast("tuple[NDArray[np.float64], NDArray[np.int64]]", load_digits(return_X_y=True))
    is_test = _stratified(labels, N_DIGITS_TEST, seed)
    chosen = is_test if split == "test" else ~is_test
    return Images("digits", split, pixels[chosen].astype(np.uint8), labels[chosen].astype(np.int64), (8, 8), 16, N_CLASSES)


def _stratified(labels: NDArray[np.int64], n: int, seed: int) -> NDArray[np.bool_]:
    """Return a mask, shape (sample,), of `n` samples, drawn from every class by its share (largest remainders)."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed <= MAX_SEED:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DataError(f"split: seed is {seed!r}, allowed are integers 0..{MAX_SEED}")
    counts = np.bincount(labels)
    shares, remainders = np.divmod(counts * n, len(labels))
    n_left = n - int(shares.sum())
    shares[np.argsort(-remainders, kind="stable")[:n_left]] += 1
    chosen = np.zeros(len(labels), np.bool_)
    rng = np.random.Generator(np.random.PCG64(int(seed)))
    for label, share in enumerate(shares):
        chosen[rng.permutation(np.flatnonzero(labels == label))[:share]] = True
    return chosen


def _idx_images(name: str, split: str, data_dir: Path) -> Images:
    """Read the two idx files of `split` and hold them against each other."""
    folder = data_dir / PUBLISHED[name].folder
    names = PUBLISHED[name].pair(split)
    # the gzipped file, as published, goes before an unzipped one
    found = [next((folder / n for n in (f"{file}.gz", file) if os.path.isfile(folder / n)), None) for file in names]
    missing = [file for file, path in zip(names, found, strict=True) if path is None]
    if missing:
        raise DataError(
            f"{name}:{split}: {len(missing)} of 2 files missing in {folder} ({', '.join(missing)}); "
            f"--download fetches them with checksum; {_by_hand(name, folder)}; "
            "another data directory is named by --data-dir or LAVASNN_DATA"
        )
    image_path, label_path = cast("list[Path]", found)
    pixels = _read_idx(image_path, (28, 28))
    labels = _read_idx(label_path, ())
    if len(pixels) != len(labels):
        raise DataError(f"{name}:{split}: {image_path} has {len(pixels):,} images, {label_path} {len(labels):,} labels")
    if int(labels.max()) >= N_CLASSES:
        raise DataError(f"{label_path}: the largest label is {int(labels.max())}, allowed is 0..{N_CLASSES - 1}")
    return Images(name, split, pixels.reshape(len(pixels), -1), labels.astype(np.int64), (28, 28), 255, N_CLASSES)


def _read_idx(path: Path, item_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, gzipped or not, never more of it than its checked header declares.

    Args:
        path: The file; that it is gzipped is seen from its first two bytes, not from its name.
        item_shape: The dimensions after the first that the file has to have.

    Returns:
        Shape (sample, *item_shape), uint8.

    Raises:
        DataError: Not such a file, or a damaged one.
    """
    wanted = (0x0800 | (1 + len(item_shape)), *item_shape)
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(path.open("rb"))
            is_gzipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream = stack.enter_context(gzip.GzipFile(fileobj=file)) if is_gzipped else file
            header = stream.read(4 * (1 + len(wanted)))
            if len(header) < 4 * (1 + len(wanted)):
                raise DataError(f"{path}: {len(header)} bytes, an idx header has {4 * (1 + len(wanted))}")
            magic, count, *dims = struct.unpack(f">{1 + len(wanted)}I", header)
            if magic != wanted[0]:
                raise DataError(f"{path}: magic number is {magic:#010x}, allowed is {wanted[0]:#010x}")
            if tuple(dims) != item_shape:
                raise DataError(f"{path}: images of {dims[0]}x{dims[1]}, allowed is {item_shape[0]}x{item_shape[1]}")
            if not 1 <= count <= MAX_SAMPLES:
                raise DataError(f"{path}: declares {count:,} samples, allowed is 1..{MAX_SAMPLES:,}")
            n_bytes = count * int(np.prod(item_shape, dtype=np.int64))
            body = stream.read(n_bytes + 1)  # one more, to see what is too long and to check the gzip's own sum
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete it and let --download fetch it anew") from error
    if len(body) != n_bytes:
        have = f"only {len(body):,}" if len(body) < n_bytes else "more"
        raise DataError(f"{path}: declares {n_bytes:,} bytes for {count:,} samples and holds {have}")
    return np.frombuffer(body, np.uint8).reshape(count, *item_shape).copy()  # writable, as torch asks for
