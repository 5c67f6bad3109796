"""Coloured images and events, from files in the formats in which they are published, written here byte for byte."""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lavasnn.data import NAMES, SETS, Images, load
from lavasnn.data.events import RECORDERS, bin_events
from lavasnn.errors import DataError

datasets = pytest.importorskip("torchvision.datasets", reason="torchvision is not installed")


def random_images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 32, 32)).astype(np.uint8)


# SVHN and CIFAR


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MATLAB files with X (row, column, channel, image) and y in 1..10, where 10 is the digit 0."""
    from scipy.io import savemat

    images, labels = random_images(5), np.array([1, 10, 9, 10, 3])
    (tmp_path / "SVHN").mkdir()
    file = tmp_path / "SVHN" / "test_32x32.mat"
    savemat(file, {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None].astype(np.uint8)})
    with pytest.raises(
        DataError, match=r"svhn:test: cannot be read from .* \(Dataset not found or corrupted.*--download fetches"
    ):
        load("svhn", tmp_path)
    known = datasets.SVHN.split_list["test"]
    md5 = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(datasets.SVHN.split_list, "test", [*known[:2], md5])
    found = load("svhn:test", tmp_path)
    assert np.array_equal(found.pixels, images.reshape(5, -1))
    assert found.labels.tolist() == [1, 0, 9, 0, 3]
    assert (found.shape, found.classes) == ((3, 32, 32), 10)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR's folders with a few images; what torchvision takes for their published sums are those of these files."""
    images, labels = random_images(12), np.arange(12) % 10

    def write(folder: str, file: str, content: dict[str, Any]) -> list[str]:
        (tmp_path / folder).mkdir(exist_ok=True)
        data = pickle.dumps(content)
        (tmp_path / folder / file).write_bytes(data)
        return [file, hashlib.md5(data, usedforsecurity=False).hexdigest()]

    for cls, key, names in (
        (datasets.CIFAR10, "label_names", "labels"),
        (datasets.CIFAR100, "fine_label_names", "fine_labels"),
    ):
        folder = cls.base_folder
        parts = {"train": (0, 8), "test": (8, 12)}
        lists = {
            split: [
                write(folder, f"{split}{i}", {"data": images[i : i + 4].reshape(4, -1), names: labels[i : i + 4].tolist()})
                for i in range(start, stop, 4)
            ]
            for split, (start, stop) in parts.items()
        }
        meta = write(folder, "names", {key: list("abcdefghij")})
        monkeypatch.setattr(cls, "train_list", lists["train"])
        monkeypatch.setattr(cls, "test_list", lists["test"])
        monkeypatch.setattr(cls, "meta", {"filename": meta[0], "key": key, "md5": meta[1]})
    return images, labels


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(tmp_path: Path, cifar: tuple[np.ndarray, np.ndarray], name: str) -> None:
    images, labels = cifar
    for split, part in (("train", slice(0, 8)), ("test", slice(8, 12))):
        found = load(f"{name}:{split}", tmp_path)
        assert np.array_equal(found.pixels, images[part].reshape(-1, 3072))
        assert np.array_equal(found.labels, labels[part])
        assert found.classes == SETS[name].classes


class Hostile:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_other_pickle_is_opened(tmp_path: Path, cifar: tuple[np.ndarray, np.ndarray]) -> None:
    trace = tmp_path / "trace"
    for file in ("train0", "test8", "names"):
        whole = (tmp_path / "cifar-10-batches-py" / file).read_bytes()
        (tmp_path / "cifar-10-batches-py" / file).write_bytes(pickle.dumps(Hostile(trace)))
        with pytest.raises(DataError, match="cifar10:train: cannot be read from"):
            load("cifar10:train", tmp_path)
        assert not trace.exists()
        (tmp_path / "cifar-10-batches-py" / file).write_bytes(whole)
    load("cifar10:train", tmp_path)


# JPEG


def jpeg_file(folder: Path, images: np.ndarray, labels: np.ndarray, is_test: np.ndarray) -> dict[str, np.ndarray]:
    from PIL import Image

    blobs: list[bytes] = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(stream, "JPEG", quality=75)
        blobs.append(stream.getvalue())
    arrays = {
        "jpeg": np.frombuffer(b"".join(blobs), np.uint8),
        "offset": np.cumsum([0, *map(len, blobs)]),
        "label": labels.astype(np.uint8),
        "is_test": is_test,
    }
    np.savez(folder / "cifar10_jpeg75_bytes.npz", **arrays)
    return arrays


def test_jpeg(tmp_path: Path) -> None:
    """One colour each, which JPEG keeps but for rounding."""
    colours = np.random.default_rng(1).integers(0, 256, (6, 3, 1, 1))
    images = np.broadcast_to(colours, (6, 3, 32, 32)).astype(np.uint8)
    is_test = np.array([False, True, False, False, True, True])
    arrays = jpeg_file(tmp_path, images, np.arange(6), is_test)
    for split, rows in (("train", ~is_test), ("test", is_test)):
        found = load(f"cifar10_jpeg75:{split}", tmp_path)
        assert found.labels.tolist() == np.flatnonzero(rows).tolist()
        assert np.abs(found.pixels.reshape(-1, 3, 1024).astype(int) - colours[rows].reshape(-1, 3, 1)).max() <= 4
    for change, message in (
        ({"offset": arrays["offset"] + 1}, "cannot be read"),
        ({"offset": arrays["offset"][:3]}, "cannot be read"),
        ({"jpeg": arrays["jpeg"][:50]}, "cannot be read"),
    ):
        np.savez(tmp_path / "cifar10_jpeg75_bytes.npz", **(arrays | change))
        with pytest.raises(DataError, match=rf"{message} from .*cifar10_jpeg75_bytes.npz"):
            load("cifar10_jpeg75:test", tmp_path)
    (tmp_path / "cifar10_jpeg75_bytes.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read"):
        load("cifar10_jpeg75:test", tmp_path)
    with pytest.raises(DataError, match=r"no file .*another data directory is named by --data-dir"):
        load("cifar10_jpeg75:test", tmp_path / "elsewhere")


# Events


def random_events(n: int, columns: int, rows: int, until_us: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    t = np.sort(random.integers(0, until_us, n))
    return {"x": random.integers(0, columns, n), "y": random.integers(0, rows, n), "p": random.integers(0, 2, n), "t": t}


def binned(events: dict[str, np.ndarray], steps: int, duration: int, shape: tuple[int, ...], pool: int = 1) -> np.ndarray:
    """An event at a time."""
    frames = np.zeros((steps, *shape), np.uint8)
    for x, y, p, t in zip(*(events[key].tolist() for key in "xypt"), strict=True):
        if t < duration:
            frames[t * steps // duration, p, y // pool, x // pool] = 1
    return frames.reshape(steps, -1)


def test_a_step_holds_a_spike_wherever_an_event_fell() -> None:
    events = random_events(2000, 34, 34, 400_000, 0)
    frames = np.zeros((7, 2 * 34 * 34), np.uint8)
    bin_events(tuple(events[k] for k in "xypt"), RECORDERS["nmnist"], (2, 34, 34), frames, "here")
    wanted = binned(events, 7, 300_000, (2, 34, 34))
    assert 0 < wanted.mean() < 1
    assert np.array_equal(frames, wanted)


@pytest.mark.parametrize(
    ("key", "value", "what"), [("x", 34, "column 34"), ("y", 40, "row 40"), ("p", 2, "polarity 2"), ("t", -1, "time -1")]
)
def test_events_beyond_the_sensor_are_refused(key: str, value: int, what: str) -> None:
    events = random_events(5, 34, 34, 1000, 0)
    events[key][3] = value
    with pytest.raises(DataError, match=rf"here: an event has {what}, allowed is 0\.\."):
        bin_events(tuple(events[k] for k in "xypt"), RECORDERS["nmnist"], (2, 34, 34), np.zeros((3, 2312), np.uint8), "here")


def small_file(
    folder: Path, recordings: dict[str, list[dict[str, np.ndarray]]], labels: dict[str, list[int]]
) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for split, found in recordings.items():
        for key in "xypt":
            arrays[f"{split}_{key}"] = np.concatenate([r[key] for r in found]).astype(np.uint32 if key == "t" else np.uint8)
        arrays[f"{split}_offset"] = np.cumsum([0, *(len(r["t"]) for r in found)])
        arrays[f"{split}_label"] = np.array(labels[split], np.uint8)
    np.savez(folder / "nmnist_small_events.npz", **arrays)
    return arrays


def test_the_small_file(tmp_path: Path) -> None:
    recordings = {
        split: [random_events(300, 34, 34, 310_000, seed) for seed in seeds]
        for split, seeds in (("train", (1, 2, 3)), ("test", (4,)))
    }
    arrays = small_file(tmp_path, recordings, {"train": [3, 9, 0], "test": [5]})
    found = load("nmnist_small:train", tmp_path, steps=5)
    assert found.events and found.labels.tolist() == [3, 9, 0] and found.shape == (2, 34, 34)
    assert np.array_equal(found.pixels, [binned(r, 5, 300_000, (2, 34, 34)) for r in recordings["train"]])
    assert load("nmnist_small", tmp_path, steps=1).pixels.shape == (1, 1, 2312)
    for steps in (0, 1001):
        with pytest.raises(DataError, match=rf"nmnist_small:test: events in {steps} steps, allowed is 1..1000"):
            load("nmnist_small", tmp_path, steps=steps)
    for change in ({"train_offset": arrays["train_offset"][::-1]}, {"train_x": arrays["train_x"][1:]}):
        np.savez(tmp_path / "nmnist_small_events.npz", **(arrays | change))
        with pytest.raises(DataError, match="do not cut its events into 3 recordings"):
            load("nmnist_small:train", tmp_path, steps=5)
    np.savez(tmp_path / "nmnist_small_events.npz", test_x=arrays["test_x"])
    with pytest.raises(DataError, match="nmnist_small:test: cannot be read from"):
        load("nmnist_small:test", tmp_path, steps=5)


@pytest.mark.parametrize(
    "change",
    [
        {"train_offset": np.array([-5, 4, 10, 20])},
        {"train_offset": np.array([0.0, 4, 10, 20])},
        {"train_x": np.zeros(20)},
        {"train_label": np.array(["a", "b", "c"])},
        {"train_label": np.zeros((3, 2), np.uint8)},
        {"train_label": np.uint8(3)},
        {"train_t": np.uint64(7)},
    ],
)
def test_nonsense_in_the_small_file_is_a_data_error(tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    arrays = small_file(tmp_path, {"train": [random_events(n, 34, 34, 9000, n) for n in (4, 6, 10)]}, {"train": [1, 2, 3]})
    load("nmnist_small:train", tmp_path, steps=2)
    np.savez(tmp_path / "nmnist_small_events.npz", **(arrays | change))
    with pytest.raises(DataError, match="nmnist_small"):
        load("nmnist_small:train", tmp_path, steps=2)


def test_damaged_archives_are_data_errors(tmp_path: Path) -> None:
    arrays = small_file(tmp_path, {"train": [random_events(400, 34, 34, 9000, 0)]}, {"train": [1]})
    file = tmp_path / "nmnist_small_events.npz"
    np.savez_compressed(file, **arrays)
    whole = bytearray(file.read_bytes())
    for at in range(60, len(whole), 97):
        broken = whole.copy()
        broken[at] ^= 0xFF
        file.write_bytes(broken)
        try:
            load("nmnist_small:train", tmp_path, steps=2)
        except DataError as error:
            assert "\n" not in str(error) and "--download" not in str(error)
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.npy").rename(file)
    with pytest.raises(DataError, match="cannot be read"):
        load("nmnist_small:train", tmp_path, steps=2)


def test_late_events_do_not_overflow(tmp_path: Path) -> None:
    events = {"x": np.array([1, 2]), "y": np.array([1, 2]), "p": np.array([0, 1]), "t": np.array([5, 2**61])}
    frames = np.zeros((1000, 2312), np.uint8)
    bin_events(tuple(events[k] for k in "xypt"), RECORDERS["nmnist"], (2, 34, 34), frames, "here")
    assert frames.sum() == 1


def uncounted(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A few recordings count as all that were published."""
    monkeypatch.setitem(RECORDERS, name, replace(RECORDERS[name], counts=(0, 0)))


def nmnist_bytes(events: dict[str, np.ndarray]) -> bytes:
    """Five bytes an event: x, y, then a bit of polarity and 23 bits of time."""
    words = (events["p"].astype(np.int64) << 23) | events["t"]
    parts = np.stack((events["x"], events["y"], words >> 16 & 255, words >> 8 & 255, words & 255), 1)
    return parts.astype(np.uint8).tobytes()


def test_nmnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tonic", reason="tonic is not installed")
    uncounted(monkeypatch, "nmnist")
    recordings = {7: random_events(200, 34, 34, 300_000, 1), 2: random_events(150, 34, 34, 300_000, 2)}
    for label, events in recordings.items():
        folder = tmp_path / "NMNIST" / "Test" / str(label)
        folder.mkdir(parents=True)
        (folder / "00001.bin").write_bytes(nmnist_bytes(events))
    found = load("nmnist:test", tmp_path, steps=6)
    assert found.labels.tolist() == [2, 7]
    assert np.array_equal(found.pixels, [binned(recordings[k], 6, 300_000, (2, 34, 34)) for k in (2, 7)])
    with pytest.raises(DataError, match=r"nmnist:train: nothing at .*NMNIST/Train; --download fetches it with checksum"):
        load("nmnist:train", tmp_path, steps=6)


def test_dvs_gesture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One array a recording, (event, 4): x, y, polarity, milliseconds; the file's name is the class."""
    pytest.importorskip("tonic", reason="tonic is not installed")
    uncounted(monkeypatch, "dvs_gesture")
    events = random_events(400, 128, 128, 2_000, 3)
    folder = tmp_path / "DVSGesture" / "ibmGestureTrain" / "user01_led"
    folder.mkdir(parents=True)
    np.save(folder / "10.npy", np.stack([events["x"], events["y"], events["p"], events["t"] + 500], 1).astype(np.int64))
    found = load("dvs_gesture:train", tmp_path, steps=8)
    assert found.labels.tolist() == [10] and found.classes == 11
    from_first = events | {"t": (events["t"] - events["t"].min()) * 1000}
    assert np.array_equal(found.pixels[0], binned(from_first, 8, 1_500_000, (2, 32, 32), pool=4))
    for place in ("user07_lab/3", "user02_led/5", "user07_lab/1"):
        (folder.parent / place).parent.mkdir(exist_ok=True)
        np.save(folder.parent / f"{place}.npy", np.array([[1, 1, 1, 500]], np.int64))
    assert load("dvs_gesture:train", tmp_path, steps=8).labels.tolist() == [10, 5, 1, 3]  # by name, whatever the disk says
    monkeypatch.setitem(RECORDERS, "dvs_gesture", replace(RECORDERS["dvs_gesture"], counts=(1077, 264)))
    with pytest.raises(
        DataError, match=r"dvs_gesture:train: .* holds 4 recordings, published are 1,077; delete it and let --down"
    ):
        load("dvs_gesture:train", tmp_path, steps=8)


def test_shd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 with one list of times in seconds and one of channels for each recording."""
    pytest.importorskip("tonic", reason="tonic is not installed")
    uncounted(monkeypatch, "shd")
    (tmp_path / "SHD").mkdir()
    recordings = [random_events(n, 700, 1, 1_500_000, n) for n in (80, 120)]
    with h5py.File(tmp_path / "SHD" / "shd_test.h5", "w") as file:
        for key, kind, values in (("times", np.float64, "t"), ("units", np.int64, "x")):
            stored = file.create_dataset(f"spikes/{key}", (2,), h5py.vlen_dtype(kind))
            for i, r in enumerate(recordings):
                stored[i] = r[values] / 1e6 if key == "times" else r[values]
        file["labels"] = np.array([19, 4])
        file["extra/keys"], file["extra/speaker"] = np.array([b"a"]), np.array([0, 1])
    found = load("shd:test", tmp_path, steps=10)
    assert found.labels.tolist() == [19, 4] and found.classes == 20
    flat = [r | {"p": np.zeros_like(r["p"])} for r in recordings]
    near = [binned(r, 10, 1_400_000, (1, 1, 700)) for r in flat]
    assert np.array_equal(found.pixels, near)


def test_a_damaged_recording_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tonic", reason="tonic is not installed")
    (tmp_path / "SHD").mkdir()
    (tmp_path / "SHD" / "shd_test.h5").write_bytes(b"no HDF5")
    with pytest.raises(DataError, match="shd:test: cannot be read from"):
        load("shd:test", tmp_path, steps=10)


def test_every_set_has_a_reader(tmp_path: Path) -> None:
    for name in NAMES:
        if name == "digits":
            continue
        with pytest.raises(DataError, match=name.split("_")[0]):
            load(f"{name}:train", tmp_path, steps=3)


def test_events_are_three_dimensional() -> None:
    labels = np.zeros(2, np.int64)
    assert Images("x", "test", np.ones((2, 5, 8), np.uint8), labels, (2, 2, 2), 1, 1).features == 8
    with pytest.raises(DataError, match="of events \\(sample, step, feature\\)"):
        Images("x", "test", np.ones((2, 5, 8, 1), np.uint8), labels, (2, 2, 2), 1, 1)


# What was published


@pytest.mark.data("nmnist_small_events.npz")
def test_stored_events(stored: Path) -> None:
    events = load("nmnist_small:train", stored.parent, steps=10)
    assert len(events) == 1000 and np.bincount(events.labels).min() > 80
    assert events.labels[:5].tolist() == [5, 0, 4, 1, 9]  # MNIST's own order
    assert len(load("nmnist_small:test", stored.parent, steps=10)) == 100


@pytest.mark.data("cifar10_jpeg75_bytes.npz")
def test_stored_jpegs(stored: Path) -> None:
    images = load("cifar10_jpeg75:test", stored.parent)
    assert np.bincount(images.labels).tolist() == [1000] * 10
    assert images.labels[:5].tolist() == [3, 8, 8, 0, 6]  # CIFAR-10's own order
