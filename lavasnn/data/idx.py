"""MNIST and Fashion-MNIST, from the four published idx files, gzipped or not, and how these are fetched.

They lie in the folder `MNIST/raw` or `FashionMNIST/raw` of the data directory.

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
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from lavasnn.data.samples import SETS, Images
from lavasnn.errors import DataError

MAX_SAMPLES = 60_000  # in one idx file: the published training sets
MAX_DOWNLOAD_BYTES = 64 << 20  # in one file: the largest published one has 26.4 MB
DOWNLOAD_DEADLINE_S = 900.0  # for one file


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


def data_directory(data_dir: Path | None = None) -> Path:
    """Return the data directory: `data_dir`, else LAVASNN_DATA, else `lavasnn` in the user's cache."""
    if data_dir is not None:
        return Path(data_dir)
    if from_environment := os.environ.get("LAVASNN_DATA"):
        return Path(from_environment)
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if os.path.isabs(cache) else Path("~/.cache").expanduser()) / "lavasnn"


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


def read(name: str, split: str, data_dir: Path) -> Images:
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
    kind = SETS[name]
    pixels = _read_idx(image_path, kind.shape)
    labels = _read_idx(label_path, ())
    if len(pixels) != len(labels):
        raise DataError(f"{name}:{split}: {image_path} has {len(pixels):,} images, {label_path} {len(labels):,} labels")
    if int(labels.max()) >= kind.classes:
        raise DataError(f"{label_path}: the largest label is {int(labels.max())}, allowed is 0..{kind.classes - 1}")
    return Images(name, split, pixels.reshape(len(pixels), -1), labels.astype(np.int64), kind.shape, kind.levels, kind.classes)


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
