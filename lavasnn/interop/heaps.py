"""Text of variable length in HDF5 lies in heaps, and the HDF5 library walks through a damaged heap for ever.

A heap holds objects one behind the other, each of which says how long it is; the library goes on by that number without
asking whether it is 0 or larger than the heap. `check_text` walks the heaps of a text before the library does.

Source: HDF5 File Format Specification 3.0, III.E, Disk Format: Level 1E - Global Heap; HDF5 1.14, src/H5HGcache.c.
"""

from __future__ import annotations

import math
import os
import struct
from typing import Any, BinaryIO

import h5py

from lavasnn.errors import FileFormatError

REFERENCE = struct.Struct("<IQI")
"""What stands in the array for each text: its length, the address of its heap, its number there."""
HEAP = struct.Struct("<4sB3xQ")
"""Signature, version and size of a heap."""
OBJECT = struct.Struct("<HHxxxxQ")
"""Number, references and size of an object in a heap; number 0 is the free space at its end, whose size counts this head."""
LONGEST_ADDRESS = 8


def check_text(data: Any) -> None:
    """Refuse text of variable length whose heap is damaged; everything else passes.

    Args:
        data: A dataset.

    Raises:
        FileFormatError: The text cannot be read, or is not stored in one piece.
    """
    if h5py.check_string_dtype(data.dtype) is None or data.dtype.kind != "O":
        return
    where, sizes = f"{data.file.filename}: {data.name}", data.file.id.get_create_plist().get_sizes()
    offset = data.id.get_offset()
    if offset is None or sizes != (LONGEST_ADDRESS, LONGEST_ADDRESS):
        raise FileFormatError(f"{where} holds text that is not stored in one piece, allowed is one that is")
    base = data.file.userblock_size
    with open(data.file.filename, "rb") as file:
        file.seek(offset)
        stored = file.read(math.prod(data.shape) * REFERENCE.size)
        try:
            heaps = {heap for length, heap, _ in REFERENCE.iter_unpack(stored) if length}
            for heap in heaps:
                _check_heap(file, base + heap)
        except (struct.error, ValueError, OSError, OverflowError) as error:
            raise FileFormatError(f"{where} holds text whose heap is damaged ({error})") from error


def _check_heap(file: BinaryIO, address: int) -> None:
    if address > os.fstat(file.fileno()).st_size:
        raise ValueError("it lies behind the end of the file")
    file.seek(address)
    signature, _, size = HEAP.unpack(file.read(HEAP.size))
    if signature != b"GCOL" or address + size > os.fstat(file.fileno()).st_size:
        raise ValueError("there is none at its address")
    body = file.read(max(size - HEAP.size, 0))
    at = 0
    while at + OBJECT.size <= len(body):
        number, _, length = OBJECT.unpack_from(body, at)
        step = OBJECT.size + (length + 7) // 8 * 8 if number else length
        if step < OBJECT.size or at + step > len(body):
            raise ValueError(f"its object {number} claims {length:,} bytes at {at:,} of {len(body):,}")
        at += step
