"""Recordings in NIR's format: messages to run a network on, and what a run gave.

A file holds observables of nodes: numbers for each step of a regular grid, or events with their times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from lavasnn.errors import FileFormatError, InputError
from lavasnn.files import replacing
from lavasnn.interop.hdf5 import check_hdf5
from lavasnn.results import RunResult

Array = NDArray[Any]
LARGEST = 1 << 29
"""Messages (sample, step, neuron) that a recording may unfold to."""
EARLY = 1e-6
"""Share of a step by which an event may precede the step it belongs to: times are products of rounded numbers."""
OBSERVABLES = {"s": "spikes", "v": "voltages"}


def read_recording(
    path: Path, steps: int | None = None, *, dt: float | None = None, node: str | None = None, observable: str | None = None
) -> Array:
    """Read recorded messages, as samples of a network whose encoding is "given".

    Args:
        path: The file.
        steps: Keep this many steps; a shorter recording goes on in silence. None keeps it as it is.
        dt: Seconds in a step. Needed for events; a grid has its own, which has to be this one if given.
        node: Which node's. None takes the only one, or "input".
        observable: Which of its observables. None takes the only one, or "spikes".

    Returns:
        Shape (sample, step, neuron): int8 (spikes) or int32 (payloads).

    Raises:
        InputError: No such file, or a choice that it does not offer.
        FileFormatError: No NIR recording, or values that are no messages.
    """
    check_hdf5(path)
    try:
        data = nir.read_data(str(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise FileFormatError(f"{path}: no readable NIR recording ({' '.join(str(error).split())})") from error
    chosen = _choose(path, "node", data.nodes, node, "input")
    if not isinstance(chosen, nir.NIRNodeData):
        raise FileFormatError(f"{path}: the node holds a nested graph; allowed are observables")
    found = _choose(path, "observable", chosen.observables, observable, "spikes")
    messages = _gridded(path, found, dt) if isinstance(found, nir.TimeGriddedData) else _unfolded(path, found, dt)
    if steps is None:
        return messages
    if steps < 1:
        raise InputError(f"{path}: steps is {steps}, at least 1 is needed")
    kept = messages[:, :steps]
    return np.pad(kept, ((0, 0), (0, steps - kept.shape[1]), (0, 0)))


def write_recording(result: RunResult, path: Path, *, dt: float) -> None:
    """Write the messages and voltages of a run: observables "spikes" and "voltages" of each population.

    Args:
        result: A run with traces (the executors' `record`).
        path: The file.
        dt: Seconds in a step; step t of a population's window is at t dt.

    Raises:
        InputError: A run without traces, or a place that cannot be written.
    """
    if not (isinstance(dt, int | float) and 0 < dt < math.inf):
        raise InputError(f"write_recording: dt is {dt!r}, allowed is a finite number above 0")
    observed: dict[str, dict[str, Any]] = {}
    for key, values in result.traces.items():
        population, kind = key.rsplit(".", 1)
        if kind in OBSERVABLES:
            spikes = kind == "s" and values.dtype.kind in "iub" and values.min(initial=0) >= 0 and values.max(initial=0) <= 1
            data = nir.TimeGriddedData(values.astype(np.bool_) if spikes else values, float(dt))
            observed.setdefault(population.replace("/", "_"), {})[OBSERVABLES[kind]] = data
    if not observed:
        raise InputError("write_recording: the run holds no messages of single steps; run it with traces (record)")
    nodes: dict[str, Any] = {name: nir.NIRNodeData(entries) for name, entries in observed.items()}
    with replacing(path) as temporary:
        nir.write_data(temporary, nir.NIRGraphData(nodes))


def _choose(path: Path, what: str, entries: Mapping[str, Any], wanted: str | None, usual: str) -> Any:
    if wanted is None:
        wanted = next(iter(entries)) if len(entries) == 1 else usual
    if wanted not in entries:
        raise InputError(f"{path}: has no {what} {wanted!r}, allowed are {', '.join(map(repr, entries)) or 'none at all'}")
    return entries[wanted]


def _gridded(path: Path, found: Any, dt: float | None) -> Array:
    if dt is not None and not math.isclose(found.dt, dt, rel_tol=1e-6):
        raise InputError(f"{path}: recorded in steps of {found.dt:g} s, and dt is {dt:g} s; allowed are equal ones")
    return _messages(path, np.asarray(found.data))


def _unfolded(path: Path, events: Any, dt: float | None) -> Array:
    """Events as messages of the steps in which they happen."""
    if dt is None or not 0 < dt < math.inf:
        raise InputError(f"{path}: holds events, and dt, the seconds in a step, is {dt}; allowed is a number above 0")
    neurons, length = int(events.n_neurons), float(events.t_max) / dt
    index, time = np.asarray(events.idx), np.asarray(events.time, np.float64)
    steps = math.ceil(length - EARLY) if 0 <= length < LARGEST else LARGEST
    if index.ndim != 2 or index.dtype.kind not in "iu" or neurons < 1 or len(index) * steps * neurons > LARGEST:
        raise FileFormatError(
            f"{path}: events {index.dtype} of shape {index.shape}, {neurons} neurons and {length:g} steps; allowed are "
            f"integers of shape (sample, event) and {LARGEST:,} messages in all"
        )
    real = index != -1
    at = np.floor(np.where(real & np.isfinite(time), time, -1.0) / dt + EARLY).astype(np.int64)
    off = real & ((at < 0) | (at >= steps) | (index < 0) | (index >= neurons))
    if off.any():
        raise FileFormatError(
            f"{path}: {int(off.sum())} events lie outside {neurons} neurons and {steps} steps of {dt:g} s, the first is of "
            f"neuron {index[off][0]} at {time[off][0]:g} s"
        )
    shape, sample = (len(index), steps, neurons), np.broadcast_to(np.arange(len(index))[:, None], index.shape)
    places = (sample[real], at[real], index[real])
    if not isinstance(events, nir.ValuedEventData):
        spikes = np.zeros(shape, np.int8)
        spikes[places] = 1
        return spikes
    full = np.zeros(shape, np.int64)
    np.add.at(full, places, _messages(path, np.asarray(events.value))[real])
    return _messages(path, full)


def _messages(path: Path, values: Array) -> Array:
    """Whole numbers as int8, or int32 where they are no spikes."""
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and (values == np.round(values)).all()):
            raise FileFormatError(f"{path}: holds numbers that are not whole; messages are whole numbers")
    elif values.dtype.kind not in "iub":
        raise FileFormatError(f"{path}: holds values of type {values.dtype}, messages are whole numbers")
    most = float(np.abs(values.astype(np.float64)).max(initial=0))
    if most >= 1 << 31:
        raise FileFormatError(f"{path}: holds a message of {most:g}, allowed are 32 bits")
    return values.astype(np.int8 if most <= 1 else np.int32)
