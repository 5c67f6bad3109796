"""What an HDF5 file may contain before anything of it is read.

A few hundred bytes of HDF5 can declare terabytes, point at other files or contain themselves. `check_hdf5` walks the
structure without reading any array and refuses what a network file has no use for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from lavasnn.errors import FileFormatError, InputError
from lavasnn.interop.heaps import check_text

LARGEST = 1 << 30
"""Bytes that all arrays of a file may take together once they are read."""
MOST_OBJECTS = 100_000
"""Groups and arrays in a file."""
DEEPEST = 32
"""Groups within groups."""
_low: Any = h5py  # its type stubs leave out the low-level modules


def check_hdf5(path: Path, largest: int = LARGEST) -> None:
    """Refuse a file that is no HDF5, or one that is unsafe to read.

    Allowed are groups and arrays of numbers or text, each reached by one hard link and stored in the file itself, that take up
    to `largest` bytes in memory all together.

    Args:
        path: The file; it is opened and closed again.
        largest: Bytes, at most `LARGEST` by default.

    Raises:
        InputError: There is no such file, or it cannot be opened.
        FileFormatError: Everything else; names the object.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file {path}")
    try:
        if not h5py.is_hdf5(path):
            raise FileFormatError(f"{path}: no HDF5 file")
        with h5py.File(path, "r") as file:
            _check_objects(file, path, largest)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, UnicodeError) as error:
        if isinstance(error, InputError):
            raise
        raise FileFormatError(f"{path}: no readable HDF5 file ({_one_line(error)})") from error


def _check_objects(file: Any, path: Path, largest: int) -> None:
    on_disk = path.stat().st_size
    seen = {_low.h5o.get_info(file.id).addr: "/"}
    in_memory = sum(_attribute_bytes(file, "/", path))
    waiting: list[tuple[str, Any, int]] = [("", file, 0)]
    while waiting:
        where, group, depth = waiting.pop()
        for name in group.id:
            here = f"{where}/{name.decode('utf-8', 'backslashreplace')}"
            if group.id.links.get_info(name).type != _low.h5l.TYPE_HARD:
                raise FileFormatError(f"{path}: {here} is a link to another place or file; allowed are objects of this file")
            member = group[name]
            address = _low.h5o.get_info(member.id).addr
            if address in seen:
                raise FileFormatError(f"{path}: {here} is {seen[address]} once more; allowed is one place for each object")
            seen[address] = here
            if len(seen) > MOST_OBJECTS:
                raise FileFormatError(f"{path}: more than {MOST_OBJECTS:,} objects, allowed are up to that many")
            in_memory += sum(_attribute_bytes(member, here, path))
            if isinstance(member, h5py.Group):
                if depth + 1 > DEEPEST:
                    raise FileFormatError(f"{path}: {here} lies {depth + 1} groups deep, allowed are {DEEPEST}")
                waiting.append((here, member, depth + 1))
            elif isinstance(member, h5py.Dataset):
                in_memory += _dataset_bytes(member, here, path, on_disk)
            else:
                raise FileFormatError(f"{path}: {here} is a {type(member).__name__}, allowed are groups and arrays")
            if in_memory > largest:
                raise FileFormatError(
                    f"{path}: up to {here} its arrays declare {in_memory:,} bytes, allowed are {largest:,} for the whole file"
                )


def _dataset_bytes(data: Any, here: str, path: Path, on_disk: int) -> int:
    """Bytes that reading an array takes, after a look at how it is stored."""
    if data.is_virtual or data.external:
        raise FileFormatError(f"{path}: {here} keeps its numbers in other files, allowed are numbers in this one")
    _check_type(data.dtype, here, path)
    if data.shape is None:
        raise FileFormatError(f"{path}: {here} declares no array, needed is one")
    declared = math.prod(data.shape) * data.dtype.itemsize
    stored = data.id.get_storage_size()
    plain = data.id.get_create_plist().get_nfilters() == 0
    if stored > on_disk or (declared and not stored) or (plain and stored < declared):
        raise FileFormatError(
            f"{path}: {here} declares {declared:,} bytes and stores {stored:,} in a file of {on_disk:,}; it is incomplete"
        )
    check_text(data)
    # A chunk is unpacked whole, even where it is larger than the array.
    return max(declared, math.prod(data.chunks) * data.dtype.itemsize if data.chunks else 0)


def _attribute_bytes(member: Any, here: str, path: Path) -> Iterator[int]:
    for name in member.attrs:
        entry = member.attrs.get_id(name)
        _check_type(entry.dtype, f"attribute {name!r} of {here}", path)
        yield math.prod(entry.shape or ()) * entry.dtype.itemsize


def _check_type(dtype: Any, here: str, path: Path) -> None:
    """Numbers and text only: no references, no records, no arrays of arrays."""
    text = h5py.check_string_dtype(dtype) is not None
    if not text and dtype.kind not in "biuf":
        raise FileFormatError(f"{path}: {here} is of type {dtype}, allowed are numbers and text")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
