"""The image sets: idx files written here byte by byte, a local server for the mirrors, the real files if there."""

import contextlib
import gzip
import hashlib
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lavasnn import data
from lavasnn.data import Images, fetch, idx, load, validation_split
from lavasnn.errors import DataError

TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", TEST_IMAGES, TEST_LABELS]


def image_file(pixels: list[int], n: int, height: int = 28, width: int = 28, magic: int = 0x803) -> bytes:
    return struct.pack(">4I", magic, n, height, width) + bytes(pixels)


def label_file(labels: list[int], n: int | None = None, magic: int = 0x801) -> bytes:
    return struct.pack(">2I", magic, len(labels) if n is None else n) + bytes(labels)


def some_pixels(n: int) -> list[int]:
    return [(7 * k + k // 784) % 256 for k in range(784 * n)]


def put(folder: Path, images: bytes, labels: bytes, zipped: bool = False) -> Path:
    """Write a test split and return the data directory."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in ((TEST_IMAGES, images), (TEST_LABELS, labels)):
        path = raw / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(content, mtime=0) if zipped else content)
    return folder


def grey(labels: list[int], classes: int = 10) -> Images:
    """Images of one pixel that holds the image's own number."""
    pixels = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1)
    return Images("made", "train", pixels, np.array(labels, np.int64), (1, 1), 255, classes)


# --- idx files


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_read_as_written(tmp_path: Path, zipped: bool):
    pixels = some_pixels(3)
    images = load("mnist", put(tmp_path, image_file(pixels, 3), label_file([4, 0, 9]), zipped))
    assert images.pixels.dtype == np.uint8 and images.labels.dtype == np.int64
    assert images.pixels.tolist() == [pixels[784 * k : 784 * (k + 1)] for k in range(3)]
    assert images.labels.tolist() == [4, 0, 9]
    assert (images.name, images.split, images.shape, images.levels, images.classes) == (
        "mnist",
        "test",
        (28, 28),
        255,
        10,
    )
    assert images.pixels.flags.writeable and images.labels.flags.writeable


def test_published_gz_goes_before_unzipped(tmp_path: Path):
    put(tmp_path, image_file(some_pixels(1), 1), label_file([1]), zipped=False)
    put(tmp_path, image_file(some_pixels(1), 1), label_file([2]), zipped=True)
    assert load("mnist:test", tmp_path).labels.tolist() == [2]


def test_split_and_folder_choose_the_files(tmp_path: Path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / FILES[0]).write_bytes(image_file([3] * 784, 1))
    (raw / FILES[1]).write_bytes(label_file([7]))
    images = load("fashion_mnist:train", tmp_path)
    assert (images.split, images.labels.tolist(), set(images.pixels.ravel().tolist())) == ("train", [7], {3})


GOOD_IMAGES, GOOD_LABELS = image_file(some_pixels(2), 2), label_file([1, 2])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"", GOOD_LABELS, r"t10k-images-idx3-ubyte: 0 bytes, an idx header has 16"),
        (GOOD_IMAGES[:15], GOOD_LABELS, r"15 bytes, an idx header has 16"),
        (image_file([], 2, magic=0x802), GOOD_LABELS, r"magic number is 0x00000802, allowed is 0x00000803"),
        (GOOD_LABELS + b"\0" * 9, GOOD_LABELS, r"magic number is 0x00000801, allowed is 0x00000803"),
        (image_file([], 2, magic=0x00000D03), GOOD_LABELS, r"magic number is 0x00000d03"),
        (image_file([0] * 1568, 2, 14, 56), GOOD_LABELS, r"images of 14x56, allowed is 28x28"),
        (image_file([], 2**32 - 1), GOOD_LABELS, r"declares 4,294,967,295 samples, allowed is 1\.\.60,000"),
        (image_file([], 0), label_file([]), r"declares 0 samples, allowed is 1\.\.60,000"),
        (GOOD_IMAGES[:-1], GOOD_LABELS, r"declares 1,568 bytes for 2 samples and holds only 1,567"),
        (GOOD_IMAGES + b"\0", GOOD_LABELS, r"declares 1,568 bytes for 2 samples and holds more"),
        (GOOD_IMAGES, label_file([1, 2, 3]), r"mnist:test: .* has 2 images, .* 3 labels"),
        (GOOD_IMAGES, label_file([1, 10]), r"t10k-labels.*the largest label is 10, allowed is 0\.\.9"),
        (GOOD_IMAGES, GOOD_IMAGES, r"magic number is 0x00000803, allowed is 0x00000801"),
        (GOOD_IMAGES, label_file([1], n=2), r"declares 2 bytes for 2 samples and holds only 1"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_hostile_idx_files_are_refused(tmp_path: Path, images: bytes, labels: bytes, message: str, zipped: bool):
    put(tmp_path, images, labels, zipped)
    with pytest.raises(DataError, match=message.replace("ubyte:", r"ubyte\.gz:") if zipped else message) as caught:
        load("mnist", tmp_path)
    assert "\n" not in str(caught.value)


def test_truncated_or_damaged_gzip_is_refused(tmp_path: Path):
    put(tmp_path, GOOD_IMAGES, GOOD_LABELS, zipped=True)
    path = tmp_path / "MNIST" / "raw" / f"{TEST_IMAGES}.gz"
    whole = path.read_bytes()
    wrong_sum = whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]
    for damaged in (whole[:-9], whole[:12], wrong_sum):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"\.gz: cannot be read \(.*\); delete it and let --download fetch"):
            load("mnist", tmp_path)


def test_gzip_bomb_is_not_unpacked(tmp_path: Path):
    put(tmp_path, GOOD_IMAGES, GOOD_LABELS, zipped=True)
    path = tmp_path / "MNIST" / "raw" / f"{TEST_IMAGES}.gz"
    path.write_bytes(gzip.compress(GOOD_IMAGES + bytes(64 << 20), compresslevel=1))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="holds more"):
            load("mnist", tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    zipped=st.booleans(),
    cut=st.integers(0, 2000),
    changes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255)), max_size=4),
)
def test_any_damage_is_a_data_error_or_harmless(tmp_path: Path, zipped: bool, cut: int, changes: list[tuple[int, int]]):
    for name in (TEST_IMAGES, f"{TEST_IMAGES}.gz"):
        (tmp_path / "MNIST" / "raw" / name).unlink(missing_ok=True)
    put(tmp_path, GOOD_IMAGES, GOOD_LABELS, zipped)
    path = tmp_path / "MNIST" / "raw" / (f"{TEST_IMAGES}.gz" if zipped else TEST_IMAGES)
    content = bytearray(path.read_bytes()[:cut])
    for place, value in changes:
        if place < len(content):
            content[place] = value
    path.write_bytes(content)
    try:
        images = load("mnist", tmp_path)
    except DataError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert images.pixels.shape == (2, 784)


def test_a_folder_in_place_of_a_file_is_missing(tmp_path: Path):
    put(tmp_path, GOOD_IMAGES, GOOD_LABELS)
    (tmp_path / "MNIST" / "raw" / TEST_IMAGES).unlink()
    (tmp_path / "MNIST" / "raw" / TEST_IMAGES).mkdir()
    with pytest.raises(DataError, match=r"mnist:test: 1 of 2 files missing in .*raw \(t10k-images-idx3-ubyte\);"):
        load("mnist", tmp_path)


def test_missing_files_say_what_to_do_offline(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        load("fashion_mnist", tmp_path)
    message = str(caught.value)
    assert message.startswith(f"fashion_mnist:test: 2 of 2 files missing in {tmp_path / 'FashionMNIST' / 'raw'} ")
    for word in [*(f"{name}.gz" for name in FILES), "--download", "checksum", "--data-dir", "LAVASNN_DATA"]:
        assert word in message
    assert "\n" not in message


# --- where the data is


def test_order_of_the_data_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAVASNN_DATA", str(tmp_path / "env"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data.data_directory(tmp_path / "argument") == tmp_path / "argument"
    assert data.data_directory() == tmp_path / "env"
    monkeypatch.setenv("LAVASNN_DATA", "")
    assert data.data_directory() == tmp_path / "cache" / "lavasnn"
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert data.data_directory() == tmp_path / "home" / ".cache" / "lavasnn"
    put(tmp_path / "home" / ".cache" / "lavasnn", GOOD_IMAGES, GOOD_LABELS)
    assert len(load("mnist")) == 2


@pytest.mark.parametrize("spec", ["cifar", "", "mnist:validation", "mnist:", "mnist:test:x", ":test", "MNIST"])
def test_unknown_sets_list_the_known_ones(spec: str):
    with pytest.raises(DataError) as caught:
        load(spec)
    assert str(caught.value) == (
        f"data set {spec!r} is unknown, allowed are digits, mnist, fashion_mnist, svhn, cifar10, cifar10_jpeg75, cifar100, "
        "nmnist, nmnist_small, dvs_gesture, shd, each with :train or :test, which is the default"
    )


def test_import_is_light():
    code = "import sys, lavasnn.data, lavasnn.encode; print(*{'torch', 'sklearn', 'lava'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == ""


# --- digits


def test_digits_split_is_whole_and_stratified():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    train, test = load("digits:train"), load("digits")
    assert (len(train), len(test)) == (1437, 360)
    assert test.split == "test" and test.shape == (8, 8) and test.levels == 16 and test.classes == 10
    published = Counter((row.astype(int).tobytes(), int(label)) for row, label in zip(pixels, labels, strict=True))
    ours = Counter(
        (row.astype(int).tobytes(), int(label))
        for part in (train, test)
        for row, label in zip(part.pixels, part.labels, strict=True)
    )
    assert ours == published
    for label, count in Counter(labels.tolist()).items():
        assert abs(test.labels.tolist().count(label) - 360 * count / 1797) < 1


def test_digits_split_follows_the_seed():
    first, again, other = (load("digits", seed=seed).pixels for seed in (3, 3, 4))
    assert (first == again).all()
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True])
def test_wrong_seeds_are_named(seed: int):
    with pytest.raises(DataError, match=rf"seed is {seed}, allowed are integers 0\.\."):
        load("digits", seed=seed)


# --- Images


def test_take_count_and_indices():
    images = grey([0, 1, 2, 3])
    assert images.take(2).labels.tolist() == [0, 1]
    assert images.take(4).pixels.tolist() == images.pixels.tolist()
    some = images.take([3, 0, 3])
    assert some.labels.tolist() == [3, 0, 3] and some.pixels.tolist() == [[3], [0], [3]]
    assert images.take(np.array([2])).labels.tolist() == [2]
    assert len(images) == 4


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (0, r"made:train: 0 images asked for, allowed is 1\.\.4"),
        (5, r"5 images asked for"),
        (-1, r"-1 images asked for"),
        (True, r"cannot take bool of shape \(\), allowed are a count or a list"),
        (1.0, r"cannot take float64"),
        ([], r"cannot take float64 of shape \(0,\)"),
        ([[0]], r"cannot take int64 of shape \(1, 1\)"),
        ([0, 4], r"indices run from 0 to 4, allowed is 0\.\.3"),
        ([-1], r"indices run from -1 to -1"),
    ],
)
def test_take_refuses(which: int, message: str):
    with pytest.raises(DataError, match=message):
        grey([0, 1, 2, 3]).take(which)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": np.zeros((2, 1), np.int64)}, r"made:train: pixels are int64 of shape \(2, 1\), allowed is uint8"),
        ({"pixels": np.zeros(2, np.uint8)}, r"pixels are uint8 of shape \(2,\)"),
        ({"pixels": np.zeros((0, 1), np.uint8)}, r"pixels are uint8 of shape \(0, 1\)"),
        ({"labels": np.zeros(2, np.int32)}, r"labels are int32 of shape \(2,\), allowed is int64 of shape \(2,\)"),
        ({"labels": np.zeros(3, np.int64)}, r"labels are int64 of shape \(3,\)"),
        ({"labels": np.array([0, 10])}, r"labels run from 0 to 10, allowed is 0\.\.9"),
        ({"labels": np.array([-1, 0])}, r"labels run from -1 to 0"),
        ({"shape": (2, 2)}, r"image shape \(2, 2\) does not give the 1 features"),
        ({"shape": (-1, -1)}, r"image shape \(-1, -1\)"),
        ({"pixels": np.full((2, 1), 17, np.uint8), "levels": 16}, r"the largest pixel is 17, allowed is 0\.\.16"),
        ({"levels": 256}, r"256 levels and 10 classes, allowed are 1\.\.255 levels"),
        ({"classes": 0}, r"255 levels and 0 classes"),
    ],
)
def test_images_that_do_not_fit_are_refused(change: dict[str, object], message: str):
    with pytest.raises(DataError, match=message):
        replace(grey([0, 1]), **change)


@settings(deadline=None)
@given(labels=st.lists(st.integers(0, 4), min_size=2, max_size=200), seed=st.integers(0, 2**63 - 1), data=st.data())
def test_validation_split_is_stratified_and_whole(labels: list[int], seed: int, data: st.DataObject):
    n = data.draw(st.integers(1, len(labels) - 1))
    images = grey(labels, classes=5)
    train, validation = validation_split(images, n, seed)
    assert len(validation) == n and (train.split, validation.split) == ("train", "validation")
    numbers = train.pixels.ravel().tolist() + validation.pixels.ravel().tolist()
    assert sorted(numbers) == list(range(len(labels)))
    for part in (train, validation):
        kept = part.pixels.ravel().tolist()
        assert kept == sorted(kept) and part.labels.tolist() == [labels[k] for k in kept]
    for label, count in Counter(labels).items():
        assert abs(validation.labels.tolist().count(label) - n * count / len(labels)) < 1


def test_validation_split_depends_on_the_seed_alone():
    images = grey([k % 3 for k in range(90)])
    first, again, other = (validation_split(images, 30, seed)[1].pixels.ravel().tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("n", [0, 3, -1])
def test_validation_split_refuses(n: int):
    with pytest.raises(DataError, match=rf"made:train: a validation set of {n} images, allowed is 1\.\.2"):
        validation_split(grey([0, 1, 2]), n, 0)


# --- fetch


class Mirror:
    """A server on this machine; `answers` maps a path to what it sends."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.delay_s = 0.0
        self.drip = False
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked.append(self.path)
                time.sleep(mirror.delay_s)
                content = mirror.answers.get(self.path)
                with contextlib.suppress(OSError):  # some tests want the client to go before the end
                    if content is None:
                        self.send_error(404)
                        return
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    for byte in content if mirror.drip else ():
                        self.wfile.write(bytes([byte]))
                        time.sleep(0.02)
                    if not mirror.drip:
                        self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


CONTENT = {
    f"{name}.gz": gzip.compress(content, mtime=0)
    for name, content in zip(
        FILES, [image_file(some_pixels(3), 3), label_file([5, 6, 7]), GOOD_IMAGES, GOOD_LABELS], strict=True
    )
}


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Mirror()
    server.answers = {f"/{name}": content for name, content in CONTENT.items()}
    sums = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in CONTENT.items()}
    monkeypatch.setitem(data.PUBLISHED, "mnist", idx.IdxSource("MNIST/raw", server.url, sums))
    yield server
    server.close()


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_fetch_gets_the_four_files_once(tmp_path: Path, mirror: Mirror):
    folder = fetch("mnist", tmp_path)
    assert folder == tmp_path / "MNIST" / "raw"
    assert content_of(folder) == CONTENT
    fetch("mnist", tmp_path)
    assert mirror.asked == [f"/{name}.gz" for name in FILES]


def test_fetched_files_are_readable_by_others(tmp_path: Path, mirror: Mirror):
    (tmp_path / "plain").write_bytes(b"")
    modes = {path.stat().st_mode for path in fetch("mnist", tmp_path).iterdir()}
    assert modes == {(tmp_path / "plain").stat().st_mode}


def test_load_downloads_only_when_told(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAVASNN_DATA", str(tmp_path))
    with pytest.raises(DataError, match="2 of 2 files missing"):
        load("mnist:train")
    assert mirror.asked == []
    assert load("mnist:train", download=True).labels.tolist() == [5, 6, 7]
    assert load("mnist").labels.tolist() == [1, 2]


def test_fetch_leaves_unzipped_files_alone(tmp_path: Path, mirror: Mirror):
    put(tmp_path, GOOD_IMAGES, GOOD_LABELS)
    assert load("mnist:train", tmp_path, download=True).labels.tolist() == [5, 6, 7]
    assert mirror.asked == ["/train-images-idx3-ubyte.gz", "/train-labels-idx1-ubyte.gz"]


def test_wrong_checksum_leaves_no_file(tmp_path: Path, mirror: Mirror):
    mirror.answers["/train-labels-idx1-ubyte.gz"] = b"not it"
    wanted = hashlib.md5(CONTENT["train-labels-idx1-ubyte.gz"], usedforsecurity=False).hexdigest()
    got = hashlib.md5(b"not it", usedforsecurity=False).hexdigest()
    with pytest.raises(DataError) as caught:
        fetch("mnist", tmp_path)
    message = f"{mirror.url}train-labels-idx1-ubyte.gz: md5 of the 6 bytes received is {got}, published is {wanted}; "
    assert str(caught.value).startswith(message + "offline, put train-images-idx3-ubyte.gz, ")
    assert set(content_of(tmp_path / "MNIST" / "raw")) == {"train-images-idx3-ubyte.gz"}


def test_cut_transfer_leaves_no_file(tmp_path: Path, mirror: Mirror):
    mirror.answers["/train-images-idx3-ubyte.gz"] = CONTENT["train-images-idx3-ubyte.gz"][:-1]
    with pytest.raises(DataError, match="md5 of the"):
        fetch("mnist", tmp_path)
    assert content_of(tmp_path / "MNIST" / "raw") == {}


def test_present_file_with_a_wrong_sum_is_kept_and_named(tmp_path: Path, mirror: Mirror):
    put(tmp_path, GOOD_IMAGES, label_file([3, 3]), zipped=True)
    mine = content_of(tmp_path / "MNIST" / "raw")[f"{TEST_LABELS}.gz"]
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: md5 is .*, published is .*; delete the file"):
        fetch("mnist", tmp_path)
    assert content_of(tmp_path / "MNIST" / "raw")[f"{TEST_LABELS}.gz"] == mine


def test_server_that_lacks_a_file(tmp_path: Path, mirror: Mirror):
    del mirror.answers["/train-images-idx3-ubyte.gz"]
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: the server answers 404 Not Found; offline, put"):
        fetch("mnist", tmp_path)
    assert content_of(tmp_path / "MNIST" / "raw") == {}


def test_server_that_sends_too_much(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(idx, "MAX_DOWNLOAD_BYTES", 10)
    with pytest.raises(DataError, match="sends more than 10 bytes, which is allowed"):
        fetch("mnist", tmp_path)
    assert content_of(tmp_path / "MNIST" / "raw") == {}


def test_server_that_stays_silent(tmp_path: Path, mirror: Mirror):
    mirror.delay_s = 0.6
    with pytest.raises(DataError, match=r"cannot be fetched to .* \(.*timed out.*\); offline, put"):
        fetch("mnist", tmp_path, timeout_s=0.1)
    assert content_of(tmp_path / "MNIST" / "raw") == {}


def test_server_that_drips(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch):
    mirror.drip = True
    monkeypatch.setattr(idx, "DOWNLOAD_DEADLINE_S", 0.2)
    started = time.monotonic()
    with pytest.raises(DataError, match="not done after the 0 s allowed"):
        fetch("mnist", tmp_path)
    whole_s = 0.02 * len(CONTENT["train-images-idx3-ubyte.gz"])
    assert time.monotonic() - started < whole_s / 2
    assert content_of(tmp_path / "MNIST" / "raw") == {}


def test_no_network(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    source = replace(data.PUBLISHED["mnist"], mirror=f"http://127.0.0.1:{port}/")
    monkeypatch.setitem(data.PUBLISHED, "mnist", source)
    with pytest.raises(DataError) as caught:
        fetch("mnist", tmp_path)
    message = str(caught.value)
    assert "refused" in message and "\n" not in message
    for word in (str(port), *CONTENT, str(tmp_path / "MNIST" / "raw")):
        assert word in message


def test_folder_that_cannot_be_made(tmp_path: Path, mirror: Mirror):
    (tmp_path / "MNIST").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot be fetched to .* \(.*Not a directory.*\)"):
        fetch("mnist", tmp_path)
    assert mirror.asked == []


def test_only_published_sets_are_fetched(tmp_path: Path):
    with pytest.raises(DataError, match="'digits' cannot be fetched, allowed are mnist, fashion_mnist; digits needs"):
        fetch("digits", tmp_path)


# --- the published files


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("mnist", marks=pytest.mark.data("MNIST/raw")),
        pytest.param("fashion_mnist", marks=pytest.mark.data("FashionMNIST/raw")),
    ],
)
def test_published_checksums(name: str, stored: Path):
    found = {f: stored / f for f in data.PUBLISHED[name].md5 if (stored / f).is_file()}
    assert found
    for file_name, path in found.items():
        assert hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == data.PUBLISHED[name].md5[file_name]


@pytest.mark.data("MNIST/raw")
def test_mnist_is_as_published(stored: Path):
    root = stored.parents[1]
    train, test = load("mnist:train", root), load("mnist", root)
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9] and test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    # the mean and deviation that every MNIST example normalises with
    assert float(train.pixels.mean()) / 255 == pytest.approx(0.1307, abs=5e-5)
    assert float(train.pixels.std()) / 255 == pytest.approx(0.3081, abs=5e-5)


@pytest.mark.data("FashionMNIST/raw")
def test_fashion_mnist_is_as_published(stored: Path):
    root = stored.parents[1]
    train, test = load("fashion_mnist:train", root), load("fashion_mnist", root)
    assert np.bincount(train.labels).tolist() == [6000] * 10 and np.bincount(test.labels).tolist() == [1000] * 10
    assert train.labels[:5].tolist() == [9, 0, 0, 3, 0] and test.labels[:5].tolist() == [9, 2, 1, 1, 6]
    assert float(train.pixels.mean()) / 255 == pytest.approx(0.2860, abs=5e-5)
    assert float(train.pixels.std()) / 255 == pytest.approx(0.3530, abs=5e-5)
