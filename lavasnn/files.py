"""One container for every file we write: safetensors with a JSON header, no pickle, written whole or not at all.

Frozen dataclasses over numpy arrays are packed generically: the header holds the structure, arrays become tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lavasnn.errors import FileFormatError, InputError, LavasnnError

SCHEMA = 1
_KEY = "lavasnn"


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """Give a temporary name beside `path`; rename it to `path` if the block succeeds, remove it if not.

    Raises:
        InputError: The folder does not exist or cannot be written.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder, a file name is needed")
        if path.exists() and not path.is_file():
            raise InputError(f"cannot write {path}: it is a device or pipe, a file name is needed")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: Path, kind: str, header: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write one of our files.

    Args:
        path: Where; an existing file is replaced only once the new one is complete.
        kind: What it is: "graph", "program", "model", "checkpoint", "run".
        header: Anything JSON can hold.
        tensors: Arrays by name.

    Raises:
        InputError: The place cannot be written.
    """
    arrays = {name: np.asarray(value, value.dtype.newbyteorder("="), order="C") for name, value in tensors.items()}
    meta = {"kind": kind, "schema": SCHEMA, "sha256": _digest(header, arrays), "header": header}
    with replacing(path) as temporary:
        temporary.write_bytes(save(arrays, metadata={_KEY: json.dumps(meta)}))


def read_tensors(path: Path, *kinds: str) -> tuple[str, dict[str, Any], dict[str, NDArray[Any]]]:
    """Read one of our files.

    Args:
        path: The file.
        kinds: What it may be; none means anything of ours.

    Returns:
        Kind, header and arrays.

    Raises:
        InputError: There is no such file.
        FileFormatError: Not one of ours, damaged, of another kind, or written by a newer schema.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file {path}")
    try:
        with safe_open(path, framework="np") as file:
            meta = json.loads((file.metadata() or {}).get(_KEY, "null"))
            if not isinstance(meta, dict):
                raise FileFormatError(f"{path}: a safetensors file, but not one that lavasnn wrote")
            if meta.get("schema", 0) > SCHEMA:
                raise FileFormatError(f"{path}: schema {meta['schema']}, this lavasnn reads up to {SCHEMA}; upgrade lavasnn")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except LavasnnError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path}: no readable safetensors file ({error})") from error
    kind, header = str(meta.get("kind")), meta.get("header", {})
    if kinds and kind not in kinds:
        raise FileFormatError(f"{path}: holds a {kind}, needed is a {' or '.join(kinds)}")
    if _digest(header, tensors) != meta.get("sha256"):
        raise FileFormatError(f"{path}: damaged, its content does not match its checksum")
    return kind, header, tensors


def _digest(header: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def pack(value: Any, tensors: dict[str, NDArray[Any]], name: str = "") -> Any:
    """Turn dataclasses, tuples, mappings and arrays into JSON; arrays go to `tensors` under their path."""
    if isinstance(value, np.ndarray):
        tensors[name] = value
        return {"$tensor": name}
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value):
        entries = {f.name: pack(getattr(value, f.name), tensors, f"{name}/{f.name}".strip("/")) for f in fields(value)}
        return {"$type": type(value).__name__, **entries}
    if isinstance(value, Mapping):
        return {str(key): pack(item, tensors, f"{name}/{key}".strip("/")) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [pack(item, tensors, f"{name}/{i}".strip("/")) for i, item in enumerate(value)]
    return value


def unpack(value: Any, tensors: Mapping[str, NDArray[Any]], types: Mapping[str, type], where: str = "file") -> Any:
    """Undo `pack`; lists become tuples.

    Args:
        value: The JSON.
        tensors: Arrays by name.
        types: Dataclasses that may occur, by class name.
        where: Named in errors.

    Raises:
        FileFormatError: An unknown type, a missing entry or array, or values that a dataclass refuses.
    """
    if isinstance(value, list):
        return tuple(unpack(item, tensors, types, where) for item in value)
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        if value["$tensor"] not in tensors:
            raise FileFormatError(f"{where}: array {value['$tensor']!r} is missing")
        return tensors[value["$tensor"]]
    entries = {key: unpack(item, tensors, types, where) for key, item in value.items() if key != "$type"}
    if "$type" not in value:
        return entries
    name = value["$type"]
    if name not in types:
        raise FileFormatError(f"{where}: unknown type {name!r}")
    try:
        return types[name](**entries)
    except (TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{where}: {name}: {error}") from error
