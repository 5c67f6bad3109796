"""Emit a network as a Lava process graph and run it on Lava's Loihi 2 simulator, in a guarded child process.

Stock processes wherever they suffice: Dense for all synapses, LIFReset for LIF. Only DiffPC brings its own.
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

from compile.backends import exact
from compile.backends.guard import Job, run_guarded
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.errors import InputError, LavaRunError, RangeError
from lavasnn.ir import DenseInt, Graph, Projection, Source, Transposed
from lavasnn.results import RunResult, joined

START_S = 60.0
"""Seconds allowed for start-up, whatever the size."""
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
        limit = (
            timeout_s
            if timeout_s is not None
            else START_S + STEP_S * n_steps * (len(graph.populations) * 2 + len(graph.projections))
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


def _collect(graph: Graph, labels: NDArray[np.int64] | None, settle: bool, samples: int, job: Path) -> RunResult:
    """Read what the recorders wrote."""
    phases = graph.phases(settle)
    window = phases[-1].stop
    traces: dict[str, NDArray[Any]] = {}
    for p in graph.populations:
        if graph.timing is not None:
            with np.load(job / f"{p.name}.npz") as recorded:
                for name in recorded.files:
                    values = recorded[name].reshape(samples, window, p.size)
                    traces[f"{p.name}.{name}"] = values.astype(np.int8) if name.startswith("s_") else values
        else:
            spikes = np.load(job / f"{p.name}.npy")
            first = graph.offsets[p.name]
            traces[f"{p.name}.s"] = spikes[first : first + samples * window].reshape(samples, window, p.size)
    if graph.timing is not None:
        outputs = traces[f"{graph.output}.x_F"][:, graph.timing.init_steps].astype(np.int64 if graph.integer else np.float64)
    else:
        outputs = traces[f"{graph.output}.s"].sum(axis=1, dtype=np.int64)
    kinds = {p.name: p.dynamics.MESSAGES for p in graph.populations}
    return RunResult(
        backend="lava",
        precision="fixed" if graph.integer else "float",
        phases=phases,
        sizes={p.name: p.size for p in graph.populations},
        outputs=outputs,
        labels=np.zeros(0, np.int64) if labels is None else labels,
        messages={
            f"{name}.{kind}": np.count_nonzero(traces[f"{name}.{kind}"], axis=2).astype(np.int32)
            for name, sent in kinds.items()
            for kind in sent
        },
        unheard=exact.unheard(graph),
        traces=traces,
    )


def run_job(job: Path) -> None:
    """The child's part: build the process graph of `job` and run it to the end."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    graph = Graph.load(job / "graph.safetensors")
    settle = json.loads((job / "options.json").read_text())["settle"]
    with np.load(job / "samples.npz") as samples:
        pixels, indices = samples["pixels"], samples["indices"]
        labels = samples["labels"] if "labels" in samples.files else None
    processes, steps = emit(graph, pixels, labels, settle, indices, job)
    tag = "fixed_pt" if graph.integer else "floating_pt"
    processes[graph.source.name].run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag=tag))


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
        pixels: Images, shape (sample, pixel).
        labels: Classes; clamped in the second phase.
        settle: Whether windows have a second phase.
        indices: Each sample's index in its data set.
        job: Folder for what is recorded, one file a population; None records nothing.
        record: False records the output population alone.

    Returns:
        Processes by population name, and the steps that all samples take.
    """
    window = graph.phases(settle)[-1].stop
    steps = len(pixels) * window
    if graph.timing is not None:
        processes = _emit_diffpc(graph, pixels, labels, settle, steps, job)
    else:
        steps += max(graph.offsets.values())
        processes = _emit_lif(graph, pixels, indices, steps)
        if job is not None:
            names = processes if record else [graph.output]
            for name in names:
                _attach_recorder(processes[name], job / f"{name}.npy", graph.population(name).size, steps)
    for p in graph.projections:
        _wire(graph, p, processes)
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
        record = "" if job is None else str(job / f"{p.name}.npz")
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


def _emit_lif(graph: Graph, pixels: NDArray[np.uint8], indices: NDArray[np.int64], steps: int) -> dict[str, Any]:
    from lava.proc.io.source import RingBuffer
    from lava.proc.lif.process import LIFReset

    spikes = graph.encoding.spikes(pixels, indices, graph.steps)
    shown = spikes.reshape(-1, graph.source.size).T
    data = np.zeros((graph.source.size, steps), np.int32 if graph.integer else np.float64)
    data[:, : shown.shape[1]] = shown
    offsets = graph.offsets
    processes: dict[str, Any] = {graph.source.name: RingBuffer(data=data)}
    for p in graph.populations[1:]:
        reset: dict[str, Any] = {"reset_interval": graph.steps, "reset_offset": (1 + offsets[p.name]) % graph.steps}
        match p.dynamics:
            case LifInt() as d:
                neuron: dict[str, Any] = {"du": d.du, "dv": d.dv, "vth": d.vth}
                neuron |= {"bias_mant": d.bias_mant, "bias_exp": d.bias_exp}
            case Lif() as d:
                neuron = {"du": d.du, "dv": d.dv, "vth": d.vth, "bias_mant": d.bias}
            case other:
                raise InputError(f"population {p.name!r}: no Lava process for {type(other).__name__}")
        processes[p.name] = LIFReset(shape=(p.size,), name=p.name, **reset, **neuron)
    return processes


def _attach_recorder(process: Any, path: Path, size: int, steps: int) -> None:
    from lavasnn.processes.recorder import Recorder

    recorder = Recorder(shape=(size,), steps=steps, record=str(path), name=f"record {path.stem}")
    process.s_out.connect(recorder.s_in)


def _wire(graph: Graph, p: Projection, processes: Mapping[str, Any]) -> None:
    """One Dense between two populations; weights are on Lava's grid, so its own rounding changes none."""
    from lava.proc.dense.process import Dense
    from lava.utils.weightutils import SignMode

    weight = graph.weight(p)
    ternary = p.carries != "s"
    options: dict[str, Any] = {"num_message_bits": 2 if ternary else 0, "name": p.name}
    if graph.integer:
        owner = graph.projection(p.synapses.of) if isinstance(p.synapses, Transposed) else p
        assert isinstance(owner.synapses, DenseInt)
        assert isinstance(p.synapses, DenseInt | Transposed)
        options["sign_mode"] = SignMode[owner.synapses.sign_mode.upper()]
        options["weight_exp"] = p.synapses.exponent
    dense = Dense(weights=weight.astype(np.int32 if graph.integer else np.float64), **options)
    source = processes[p.source]
    sends = (
        source.s_out if isinstance(graph.population(p.source).dynamics, Source | Lif | LifInt) else getattr(source, p.carries)
    )
    receives = processes[p.target].a_in if p.into == "a" else getattr(processes[p.target], p.into)
    sends.connect(dense.s_in)
    dense.a_out.connect(receives)
