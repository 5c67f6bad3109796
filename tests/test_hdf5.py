"""HDF5 files that are unsafe or damaged, refused before anything is read from them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lavasnn.errors import FileFormatError, InputError
from lavasnn.interop.hdf5 import check_hdf5


def _unwritten(file: Any) -> None:
    file.create_dataset("w", shape=(1 << 20, 1 << 20), dtype="f8")


def _sparse_chunks(file: Any) -> None:
    file.create_dataset("w", shape=(1 << 20, 1 << 20), dtype="f8", chunks=(64, 64), compression="gzip")[0, 0] = 1


def _hidden_chunk(file: Any) -> None:
    file.create_dataset("w", shape=(1,), maxshape=(None,), dtype="u1", chunks=(1 << 31,), compression="gzip")


def _self_containing(file: Any) -> None:
    file["a"] = file


def _twice(file: Any) -> None:
    file["a"] = file.create_group("b")


def _virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "a", (4,))
    file.create_virtual_dataset("w", layout)


def _references(file: Any) -> None:
    file["x"] = np.zeros(3)
    file["r"] = np.array([file["x"].ref], dtype=h5py.ref_dtype)


def _deep(file: Any) -> None:
    for _ in range(40):
        file = file.create_group("g")


def _attribute(file: Any) -> None:
    file.attrs["a"] = np.zeros(3, dtype=[("x", "i4"), ("y", "f8")])


HOSTILE: list[tuple[Callable[[Any], Any], str]] = [
    (_unwritten, r"/w declares 8,796,093,022,208 bytes and stores 0 in a file of .* incomplete"),
    (_sparse_chunks, r"up to /w its arrays declare 8,796,093,022,208 bytes, allowed are 1,073,741,824"),
    (_hidden_chunk, r"/w declares 1 bytes and stores 0|arrays declare 2,147,483,648 bytes"),
    (lambda f: f.__setitem__("a", h5py.ExternalLink("/etc/hostname", "/")), "/a is a link to another place or file"),
    (lambda f: f.__setitem__("a", h5py.SoftLink("/")), "/a is a link to another place or file"),
    (_self_containing, "/a is / once more; allowed is one place"),
    (_twice, "is /. once more"),
    (lambda f: f.create_dataset("w", shape=(9,), dtype="f8", external=[("/etc/hostname", 0, 72)]), "numbers in other files"),
    (_virtual, "/w keeps its numbers in other files"),
    (lambda f: f.create_dataset("w", data=h5py.Empty("f8")), "/w declares no array"),
    (_references, "/r is of type object, allowed are numbers and text"),
    (lambda f: f.__setitem__("w", np.zeros(3, dtype=[("x", "i4")])), "/w is of type .*, allowed are numbers and text"),
    (_attribute, "attribute 'a' of / is of type"),
    (lambda f: f.__setitem__("t", np.dtype("f8")), "/t is a Datatype, allowed are groups and arrays"),
    (_deep, "lies 33 groups deep, allowed are 32"),
]


@pytest.mark.parametrize(("make", "message"), HOSTILE)
def test_hostile_files_are_refused(make: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        make(file)
    with pytest.raises(FileFormatError, match=message) as caught:
        check_hdf5(path)
    assert "\n" not in str(caught.value)


def test_the_limits_count_all_arrays_and_objects_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for i in range(4):
            file[f"g/{i}"] = np.zeros(100)
    check_hdf5(path, largest=3200)
    with pytest.raises(FileFormatError, match=r"up to /g/3 its arrays declare 3,200 bytes, allowed are 3,199"):
        check_hdf5(path, largest=3199)
    monkeypatch.setattr("lavasnn.interop.hdf5.MOST_OBJECTS", 5)
    with pytest.raises(FileFormatError, match="more than 5 objects"):
        check_hdf5(path)


def test_what_networks_hold_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["text"] = "LIF"
        file["fixed"] = np.array(["CUBA"], "S10")
        file["strings"] = [("a", "b"), ("b", "c")]
        file["empty"] = np.zeros(0)
        file["flag"] = True
        file["g/number"] = 3.0
        file["g"].attrs["dt"] = 1e-3
        file["g"].attrs["kind"] = "spikes"
        file.create_dataset("zipped", data=np.zeros((100, 100)), compression="gzip", chunks=(10, 10))
    check_hdf5(path)


def test_no_file_and_no_hdf5(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        check_hdf5(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(FileFormatError, match="no HDF5 file"):
        check_hdf5(tmp_path / "text")


def test_damaged_files_are_refused_or_readable(tmp_path: Path) -> None:
    """Whatever bytes change, the answer is an error of ours or a file that can be read."""
    whole, path = tmp_path / "whole.h5", tmp_path / "x.h5"
    with h5py.File(whole, "w") as file:
        file["type"] = "LIF"
        file.create_dataset("weight", data=np.arange(50.0), compression="gzip")
        file["nodes/a/tau"] = np.ones(3)
    source, chance = whole.read_bytes(), random.Random(1)
    for cut in (0, 1, 100, len(source) // 2, len(source) - 1):
        path.write_bytes(source[:cut])
        with pytest.raises(FileFormatError):
            check_hdf5(path)
    for _ in range(200):
        data = bytearray(source)
        for _ in range(chance.choice([1, 10])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            check_hdf5(path)
        except FileFormatError as error:
            assert "\n" not in str(error)
