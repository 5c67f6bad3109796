"""Samples from files and random numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavasnn.encode import Encoding
from lavasnn.errors import DataError, InputError
from lavasnn.recordings import Recording, load_input

GIVEN, PIXELS = Encoding("given", levels=1), Encoding("bernoulli", levels=16)


def test_arrays_come_back_as_they_are(tmp_path: Path) -> None:
    shown = np.random.default_rng(0).integers(0, 2, (3, 7, 5))
    np.save(tmp_path / "x.npy", shown)
    found = load_input(str(tmp_path / "x.npy"), GIVEN, 5, 7)
    assert np.array_equal(found.pixels, shown)
    assert (len(found), len(found.labels), found.name) == (3, 0, "x.npy")
    np.save(tmp_path / "one.npy", shown[0].astype(float))
    one = load_input(str(tmp_path / "one.npy"), GIVEN, 5, 7)
    assert np.array_equal(one.pixels, shown[:1])
    assert one.pixels.dtype.kind == "i"
    np.savez(tmp_path / "p.npz", x=np.arange(10).reshape(2, 5), labels=[1, 0])
    pair = load_input(str(tmp_path / "p.npz"), PIXELS, 5, 7)
    assert (pair.pixels.tolist(), pair.labels.tolist()) == ([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]], [1, 0])
    assert (pair.take(1).labels.tolist(), pair.take([1]).pixels.tolist()) == ([1], [[5, 6, 7, 8, 9]])


def test_random_input_has_its_rate_and_its_seed() -> None:
    found = load_input("random:0.3", GIVEN, 50, 40, samples=20, seed=1)
    assert found.pixels.shape == (20, 40, 50)
    n = found.pixels.size
    assert abs(found.pixels.mean() - 0.3) < 6 * (0.3 * 0.7 / n) ** 0.5
    assert np.array_equal(found.pixels, load_input("random:0.3", GIVEN, 50, 40, 20, 1).pixels)
    assert not np.array_equal(found.pixels, load_input("random:0.3", GIVEN, 50, 40, 20, 2).pixels)
    greys = load_input("random:0.25", PIXELS, 500, 9).pixels  # from 0 to half of 16 levels
    assert (greys.shape, greys.min(), greys.max()) == ((16, 500), 1, 8)
    assert abs(greys.mean() - 4.5) < 0.2
    assert load_input("random:0.001", PIXELS, 4, 9).pixels.all()  # a rate above 0 never rounds to silence
    assert not load_input("random:0", PIXELS, 4, 9).pixels.any()
    payloads = load_input("random:1", Encoding("given", levels=9), 30, 20).pixels
    assert (payloads.min(), payloads.max()) == (1, 9)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.npy", None, r"no input file .*no\.npy; --input takes \.npy, \.npz, \.nir or random:RATE"),
        ("bad.npy", b"hello", r"bad\.npy: no readable array"),
        ("bad.npz", b"PK\x03\x04 not a zip", r"bad\.npz: no readable array"),
        ("half.npy", np.full((2, 5), 0.5), r"half\.npy: holds float64 of shape \(1, 2, 5\), needed are integers"),
        ("flat.npy", np.zeros(5, int), r"flat\.npy: holds int64 of shape \(5,\), needed are integers of shape \(sample, step"),
        ("other.npz", {"y": np.zeros(3)}, r"other\.npz: holds y; an array named x is needed"),
        ("labels.npz", {"x": np.zeros((2, 7, 5), int), "labels": [1]}, r"labels\.npz: labels are int64 of shape \(1,\)"),
        ("half.npz", {"x": np.zeros((2, 7, 5), int), "labels": [0.5, 1]}, r"half\.npz: labels are float64 of shape \(2,\)"),
        ("pair.npz", {"x": np.zeros((2, 7, 5), int), "labels": [[1], [0]]}, r"pair\.npz: labels are int64 of shape \(2, 1\)"),
        ("inf.npy", np.full((2, 7, 5), np.inf), r"inf\.npy: holds float64"),
        ("vast.npy", np.full((2, 7, 5), 1e300), r"vast\.npy: holds float64"),
    ],
)
def test_files_that_hold_no_samples_are_refused(tmp_path: Path, name: str, content: object, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(DataError, match=message) as caught:
        load_input(str(path), GIVEN, 5, 7)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", ["1.5", "-1", "x", "nan"])
def test_rates_are_shares(rate: str) -> None:
    with pytest.raises(DataError, match=r"the rate is '.*', allowed is 0\.\.1"):
        load_input(f"random:{rate}", GIVEN, 5, 7)


def test_objects_in_files_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="no readable array"):
        load_input(str(tmp_path / "x.npy"), GIVEN, 5, 7)


def test_a_recording_is_taken_from_like_images() -> None:
    whole = Recording("x", np.arange(12).reshape(4, 3), np.zeros(0, np.int64))
    assert whole.take(9).pixels.tolist() == whole.pixels.tolist()
    assert whole.take(np.array([3, 0])).pixels.tolist() == [[9, 10, 11], [0, 1, 2]]


@pytest.mark.parametrize("value", [np.int64(-(2**63)), np.uint64(2**64 - 1), np.int8(-128)])
def test_no_magnitude_slips_through_at_the_end_of_its_type(value: np.integer) -> None:
    with pytest.raises(InputError, match=f"magnitudes run up to {abs(int(value))}, the network takes up to 1"):
        GIVEN.messages(np.full((1, 7, 5), value), np.arange(1), 7)
