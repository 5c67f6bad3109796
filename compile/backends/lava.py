"""Emit a network as a Lava process graph and run it on Lava's Loihi 2 simulator, in a guarded child process.

Stock processes wherever they suffice: Dense, Sparse, their delayed forms and Conv for synapses, LIF, LIFReset, TernaryLIF,
GradedVec and GradedReluVec for neurons. Only DiffPC and pyramidal neurons bring their own.

Samples follow each other in one run where each finds all at rest by itself: DiffPC, BSD and seamless networks.
Elsewhere every sample has a run of its own, as nothing in Lava can discard what is in flight.

This module loads Lava inside the child alone; importing it costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.backends import exact, lava_pyramidal
from compile.backends.guard import Job, run_guarded
from compile.backends.lava_wires import wire
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.graded import Graded, GradedInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.dynamics.pyramidal import Pyramidal, PyramidalInt
from lavasnn.errors import InputError, LavaRunError, RangeError
from lavasnn.ir import Graph, Population
from lavasnn.pathways import voltage_or_spikes
from lavasnn.results import RunResult, joined

START_S = 60.0
"""Seconds allowed for start-up, whatever the size."""
SAMPLE_START_S = 10.0
"""Seconds allowed for each further start, where samples have runs of their own; below 1 s is usual."""
STEP_S = 0.01
"""Seconds allowed for each process and step; about 0.2 ms is usual."""


def run(
    graph: Graph,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64] | None = None,
    *,
    settle: bool = False,
    batch: int = 256,
    record: bool = False,
    indices: NDArray[np.int64] | None = None,
    progress: Callable[[int, int], None] | None = None,
    timeout_s: float | None = None,
) -> RunResult:
    """Run samples one after the other on Lava; integers run under "fixed_pt", real networks under "floating_pt".

    Args:
        graph: As in `compile.backends.exact.run`, like all but:
        pixels: Images, shape (sample, pixel).
        labels: Classes, shape (sample,).
        settle: Run DiffPC's second phase too.
        batch: Samples that share one start of Lava.
        record: Keep every message and state of every step.
        indices: Each sample's index in its data set.
        progress: Called with (samples done, samples in all).
        timeout_s: Limit for each batch in seconds; None derives one from its size.

    Raises:
        InputError: Samples that do not fit the network.
        RangeError: A state left signed 24 bits; names population, neuron and step.
        LavaMissing: This Python has no Lava.
        LavaRunError, LavaTimeout: The run raised, died or outlived its limit.
    """
    given = np.arange(len(pixels)) if indices is None else indices
    exact.check_samples(graph, pixels, labels, settle, batch)
    window = graph.phases(settle)[-1].stop
    parts: list[RunResult] = []
    for start in range(0, len(pixels), batch):
        rows = slice(start, start + batch)
        some = None if labels is None else labels[rows]
        n_steps = len(pixels[rows]) * window + len(graph.populations)
        starts = 0 if continuous(graph) else len(pixels[rows])
        limit = (
            timeout_s
            if timeout_s is not None
            else START_S + SAMPLE_START_S * starts + STEP_S * n_steps * (len(graph.populations) * 2 + len(graph.projections))
        )
        parts.append(_run_batch(graph, pixels[rows], some, settle, given[rows], limit))
        if progress is not None:
            progress(min(start + batch, len(pixels)), len(pixels))
    whole = joined(parts)
    return whole if record else replace(whole, traces={})


def _run_batch(
    graph: Graph,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    settle: bool,
    indices: NDArray[np.int64],
    timeout_s: float,
) -> RunResult:
    with Job() as job:
        graph.save(job / "graph.safetensors")
        np.savez(job / "samples.npz", pixels=pixels, indices=indices, **({} if labels is None else {"labels": labels}))
        (job / "options.json").write_text(json.dumps({"settle": settle}))
        try:
            run_guarded("compile.backends.lava:run_job", job, timeout_s)
        except LavaRunError as error:
            last = error.details.strip().rsplit("\n", 1)[-1]
            if "RangeError: " in last:
                raise RangeError(last.split("RangeError: ", 1)[1]) from None
            raise
        return _collect(graph, labels, settle, len(pixels), job)


def continuous(graph: Graph) -> bool:
    """Whether samples can follow each other in one run: each finds all neurons at rest and nothing in flight."""
    return graph.timing is not None or graph.seamless


def _collect(graph: Graph, labels: NDArray[np.int64] | None, settle: bool, samples: int, job: Path) -> RunResult:
    """Read what the recorders wrote."""
    window = graph.phases(settle)[-1].stop
    traces: dict[str, NDArray[Any]] = {}
    for p in graph.populations:
        if graph.timing is not None or graph.pyramidal:
            with np.load(job / _file(graph, p.name, ".npz")) as recorded:
                for name in recorded.files:
                    values = recorded[name].reshape(samples, window, p.size)
                    traces[f"{p.name}.{name}"] = values.astype(np.int8) if name.startswith("s_") else values
        else:
            traces[f"{p.name}.s"] = _read_recorder(graph, p.name, "s", job, samples)
            if graph.read == "voltage" and p.name == graph.output:
                traces[f"{p.name}.v"] = _read_recorder(graph, p.name, "v", job, samples)
    if graph.timing is not None:
        outputs = traces[f"{graph.output}.x_F"][:, graph.timing.init_steps].astype(np.int64 if graph.integer else np.float64)
    elif graph.pyramidal:
        outputs = voltage_or_spikes(graph, traces[f"{graph.output}.s"], traces[f"{graph.output}.acc_b"])
    else:
        outputs = exact.answer(graph, traces)
    messages = {key: exact.count(traces[key]) for key in graph.payloads}
    return RunResult.of(graph, "lava", settle, outputs, labels, messages, traces=traces)


def _file(graph: Graph, population: str, ending: str) -> str:
    """Name of the file that a population's recorder writes; its number, as any text may be a population's name."""
    return f"{[p.name for p in graph.populations].index(population)}{ending}"


def _read_recorder(graph: Graph, population: str, variable: str, job: Path, samples: int) -> NDArray[Any]:
    """What one recorder wrote, cut into windows: shape (sample, step, neuron)."""
    recorded = np.load(job / _file(graph, population, f".{variable}.npy"))
    first = graph.offsets[population] if continuous(graph) else 0
    return recorded[first : first + samples * graph.steps].reshape(samples, graph.steps, -1)


def run_job(job: Path) -> None:
    """The child's part: build the process graph of `job` and run it to the end."""
    graph = Graph.load(job / "graph.safetensors")
    settle = json.loads((job / "options.json").read_text())["settle"]
    with np.load(job / "samples.npz") as samples:
        pixels, indices = samples["pixels"], samples["indices"]
        labels = samples["labels"] if "labels" in samples.files else None
    if continuous(graph):
        _run_through(graph, pixels, labels, settle, indices, job)
        return
    for k in range(len(pixels)):
        (job / str(k)).mkdir()
        _run_through(graph, pixels[k : k + 1], None, False, indices[k : k + 1], job / str(k)).stop()
    for first in (job / "0").glob("*.npy"):
        np.save(job / first.name, np.concatenate([np.load(job / str(k) / first.name) for k in range(len(pixels))]))


def _run_through(
    graph: Graph,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    settle: bool,
    indices: NDArray[np.int64],
    job: Path,
) -> Any:
    """Run samples in one go; gives a process of the run."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    processes, steps = emit(graph, pixels, labels, settle, indices, job)
    tag = "fixed_pt" if graph.integer else "floating_pt"
    first = processes[graph.source.name]
    first.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag=tag))
    return first


def emit(
    graph: Graph,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    settle: bool,
    indices: NDArray[np.int64],
    job: Path | None,
    record: bool = True,
) -> tuple[Mapping[str, Any], int]:
    """Build and wire the Lava processes of a network.

    Args:
        graph: The network.
        pixels: Images, shape (sample, pixel), or given messages, shape (sample, step, neuron); a network that is not
            `continuous` takes one sample.
        labels: Classes; clamped in the second phase of DiffPC, the concepts of BSD.
        settle: Whether windows have a second phase.
        indices: Each sample's index in its data set.
        job: Folder for what is recorded, one file a population; None records nothing.
        record: False records the output population alone.

    Returns:
        Processes by population name, and the steps that all samples take.

    Raises:
        InputError: A population or projection that Lava has no process for.
    """
    window = graph.phases(settle)[-1].stop
    steps = len(pixels) * window
    if graph.timing is not None:
        processes = _emit_diffpc(graph, pixels, labels, settle, steps, job)
    elif graph.pyramidal:
        steps = lava_pyramidal.steps_of(graph, len(pixels))
        names = () if job is None else [p.name for p in graph.populations] if record else [graph.output]
        files = {} if job is None else {name: job / _file(graph, name, ".npz") for name in names}
        processes = lava_pyramidal.emit(graph, pixels, labels, files)
    else:
        steps += max(graph.offsets.values()) if continuous(graph) else 0
        processes = _emit_stock(graph, pixels, indices, steps)
        if job is not None:
            names = processes if record else [graph.output]
            for name in names:
                _attach_recorder(processes[name], job / _file(graph, name, ".s.npy"), name, steps, graph)
            if graph.read == "voltage":
                _attach_probe(processes[graph.output], job / _file(graph, graph.output, ".v.npy"), graph.output, steps)
    for p in graph.projections:
        wire(graph, p, processes)
    return processes, steps


def _emit_diffpc(
    graph: Graph,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    settle: bool,
    steps: int,
    job: Path | None,
) -> dict[str, Any]:
    from lavasnn.processes.diffpc import DiffPC as Process

    targets = exact.clamps(graph, pixels, labels, settle)
    processes: dict[str, Any] = {}
    for p in graph.populations:
        assert isinstance(p.dynamics, DiffPC | DiffPCInt)
        record = "" if job is None else str(job / _file(graph, p.name, ".npz"))
        processes[p.name] = Process(
            shape=(p.size,),
            params=p.dynamics,
            targets=targets.get(p.name),
            settle=settle,
            steps=steps,
            record=record,
            name=p.name,
        )
    return processes


def _emit_stock(graph: Graph, pixels: NDArray[np.uint8], indices: NDArray[np.int64], steps: int) -> dict[str, Any]:
    from lava.proc.io.source import RingBuffer

    shown = graph.encoding.messages(pixels, indices, graph.steps).reshape(-1, graph.source.size).T
    data = np.zeros((graph.source.size, steps), np.int32 if graph.integer else np.float64)
    data[:, : shown.shape[1]] = shown
    processes: dict[str, Any] = {graph.source.name: RingBuffer(data=data)}
    for p in graph.populations[1:]:
        processes[p.name] = neurons(graph, p)
    return processes


def process_name(graph: Graph, population: Population) -> str:
    """The Lava process that a population of stock neurons becomes.

    Raises:
        InputError: There is none.
    """
    match population.dynamics:
        case Lif(vth_lo=None) | LifInt(vth_lo=None):
            return "LIFReset" if continuous(graph) else "LIF"
        case Lif() | LifInt():
            return "TernaryLIF"
        case Pyramidal() | PyramidalInt():
            return "Pyramidal"
        case GradedInt(relu=relu):
            return "GradedReluVec" if relu else "GradedVec"
        case Graded():
            raise InputError(f"population {population.name!r}: Lava's graded neurons have no floating-point model")
        case other:
            raise InputError(f"population {population.name!r}: no Lava process for {type(other).__name__}")


def neurons(graph: Graph, p: Population) -> Any:
    """The Lava process of a population of stock neurons."""
    from lava.proc.graded import process as graded
    from lava.proc.lif import process as lif

    name, d = process_name(graph, p), p.dynamics
    if isinstance(d, Graded | GradedInt):
        return getattr(graded, name)(shape=(p.size,), vth=d.vth)
    assert isinstance(d, Lif | LifInt)
    neuron: dict[str, Any] = {"shape": (p.size,), "name": p.name, "du": d.du, "dv": d.dv}
    neuron |= {"bias_mant": d.bias_mant, "bias_exp": d.bias_exp} if isinstance(d, LifInt) else {"bias_mant": d.bias}
    neuron |= {"vth": d.vth} if d.vth_lo is None else {"vth_hi": d.vth, "vth_lo": d.vth_lo}
    if name == "LIFReset":
        neuron |= {"reset_interval": graph.steps, "reset_offset": (1 + graph.offsets[p.name]) % graph.steps}
    return getattr(lif, name)(**neuron)


def _attach_recorder(process: Any, path: Path, population: str, steps: int, graph: Graph) -> None:
    from lavasnn.processes.recorder import Recorder

    kind, shape = "int32" if graph.graded(population) else "int8", (graph.population(population).size,)
    recorder = Recorder(shape=shape, steps=steps, record=str(path), kind=kind, name=f"record {population}")
    process.s_out.connect(recorder.s_in)


def _attach_probe(process: Any, path: Path, population: str, steps: int) -> None:
    from lavasnn.processes.recorder import Probe

    probe = Probe(shape=process.v.shape, steps=steps, record=str(path), name=f"probe {population}")
    probe.v.connect_var(process.v)
