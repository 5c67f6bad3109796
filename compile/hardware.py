"""Whether a network could run on the chip itself: which Lava processes have on-chip models, and Intel's extension.

Public Lava holds the simulator alone. Models for neurocores, their compiler and the adapters between host and chip belong
to an extension (lava-loihi, with nxcore) that Intel gives to members of its research community. What it contains is known
from release notes, its tracker and code that imports it; `SUPPORT` says for each process what was found and where. Nothing here
was ever run on a chip.

This module loads Lava when asked to build or to look for the extension; importing it costs nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compile.backends import lava, lava_wires
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.errors import InputError, LavaMissing
from lavasnn.ir import Graph, Source

Status = Literal["on chip", "needs microcode", "host", "unknown"]


@dataclass(frozen=True)
class Support:
    """What is publicly known of a Lava process on the chip.

    Args:
        status: "on chip" (a model exists), "needs microcode" (ours; nobody has written one), "host" (it stays on the host),
            "unknown" (no public trace of a model).
        confidence: "primary" (the maker's own text), "secondary" (follows from it), "simulator" (read in lava-nc 0.10.0),
            "none".
        source: Where it was found.
    """

    status: Status
    confidence: Literal["primary", "secondary", "simulator", "none"]
    source: str


_RELEASE = "Lava 0.4.0 release notes: LIF, Sigma-Delta and Dense processes execute on neurocores with the extension"
_NO_TRACE = "no release note, tracker entry or public import names a model"
SUPPORT: Mapping[str, Support] = {
    "LIF": Support("on chip", "primary", _RELEASE),
    "LIFReset": Support(
        "unknown", "none", f"{_NO_TRACE}; lava-dl 0.6.0, netx/hdf5.py builds it where a reset interval is given"
    ),
    "TernaryLIF": Support("unknown", "none", _NO_TRACE),
    "GradedVec": Support(
        "on chip",
        "secondary",
        "Lava tutorial on graded spikes (vector algebra on Loihi 2); lava-nc 0.10.0, networks/gradedvecnetwork.py has its "
        "adapters; no model is named",
    ),
    "GradedReluVec": Support("unknown", "none", _NO_TRACE),
    "Dense": Support("on chip", "primary", _RELEASE),
    "Sparse": Support("on chip", "primary", "lava-nc/lava#436, closed with its model; lava-optimization imports NcModelSparse"),
    "DelayDense": Support("on chip", "secondary", "lava-nc/lava#636 (delays on Loihi), closed; no model is named"),
    "DelaySparse": Support("on chip", "secondary", "lava-nc/lava#436 lists delays of its model as done; #636, closed"),
    "Conv": Support("on chip", "primary", "Lava 0.4.0 release notes (prototype); lava-dl 0.3.0 release notes"),
    "RingBuffer": Support("host", "simulator", "lava-nc 0.10.0, networks/gradedvecnetwork.py: through PyToNxAdapter"),
    "DiffPC": Support(
        "needs microcode", "primary", "lavasnn/processes/diffpc.py: a process of this project, for the simulator"
    ),
    "Pyramidal": Support(
        "needs microcode", "primary", "lavasnn/processes/pyramidal.py: a process of this project, for the simulator"
    ),
}

EXTENSION: Mapping[str, str] = {
    "lava.magma.core.model.c.model": "models on embedded processors; without it Loihi2HwCfg raises NameError",
    "lava.magma.core.model.nc.model": "models on neurocores",
    "lava.magma.compiler.builders.c_builder": "builders for embedded processors",
    "lava.magma.compiler.builders.nc_builder": "builders for neurocores",
    "lava.magma.compiler.subcompilers.c.cproc_compiler": "compiler for embedded processors",
    "lava.magma.compiler.subcompilers.nc.ncproc_compiler": "compiler for neurocores",
    "lava.proc.embedded_io.spike": "adapters between host and chip",
    "lava.utils.loihi2_profiler": "what lava.utils.loihi.is_installed looks for",
    "nxcore": "driver of the board",
}
"""Modules that public Lava imports from the extension, and what they are for.

Source: lava-nc 0.10.0, magma/core/run_configs.py, magma/compiler/compiler.py, utils/loihi.py, networks/gradedvecnetwork.py,
magma/runtime/runtime_services/channel_broker/channel_broker.py.
"""


@dataclass(frozen=True)
class Readiness:
    """One Lava process of a network.

    Args:
        name: Population or projection.
        process: Its Lava process.
        support: What is known of it on the chip.
    """

    name: str
    process: str
    support: Support

    def to_json(self) -> dict[str, str]:
        """As JSON values."""
        return {"name": self.name, "process": self.process, **asdict(self.support)}


def readiness(graph: Graph) -> tuple[Readiness, ...]:
    """What each population and projection becomes in Lava and whether that has an on-chip model.

    Raises:
        InputError: A population that Lava has no process for.
    """
    rows: list[Readiness] = []
    for p in graph.populations:
        match p.dynamics:
            case Source():
                name = "RingBuffer"
            case DiffPC() | DiffPCInt():
                name = "DiffPC"
            case _:
                name = lava.process_name(graph, p)
        rows.append(Readiness(p.name, name, SUPPORT[name]))
    rows += [Readiness(p.name, name, SUPPORT[name]) for p in graph.projections for name in (lava_wires.synapse_name(graph, p),)]
    return tuple(rows)


def missing() -> tuple[str, ...]:
    """Modules of the extension that this Python does not have."""
    return tuple(name for name in EXTENSION if not _found(name))


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a folder above it is missing
        return False


def require_extension() -> None:
    """Say what is missing for the chip.

    Raises:
        LavaMissing: Lava, or modules of the extension; names each with its purpose.
    """
    if not _found("lava.magma.core.run_configs"):
        raise LavaMissing(
            "hardware: Lava is not installed, and the chip needs it with Intel's extension; Lava takes Python 3.10"
        )
    absent = missing()
    if absent:
        names = "; ".join(f"{name} ({EXTENSION[name]})" for name in absent)
        raise LavaMissing(
            f"hardware: Lava is here, Intel's Loihi extension is not; missing {names}. "
            "Members of Intel's Neuromorphic Research Community get it as lava-loihi and nxcore"
        )


def check_ready(graph: Graph) -> None:
    """Refuse what certainly has no on-chip model.

    Raises:
        InputError: Real numbers, populations that need microcode (names them all), or an answer read from voltages.
    """
    if not graph.integer:
        raise InputError("hardware: the network holds real numbers, the chip needs integers; compile it first")
    ours = [f"{r.name!r} ({r.process})" for r in readiness(graph) if r.support.status == "needs microcode"]
    if ours:
        raise InputError(f"hardware: {', '.join(ours)} need microcode that does not exist; stock neurons alone can be built")
    if graph.read == "voltage":
        raise InputError(f"hardware: the answer is the voltage of {graph.output!r}; from a chip, messages alone are read")


@dataclass(frozen=True)
class Built:
    """A network compiled by Lava for the chip.

    Args:
        executable: Lava's executable.
        models: Process model that Lava chose for each process, by the process's name.
        on_host: Processes of the network for which Lava found only a Python model: they would run beside the chip.
    """

    executable: Any
    models: Mapping[str, str]
    on_host: tuple[str, ...]


def build(graph: Graph, samples: NDArray[Any], indices: NDArray[np.int64] | None = None) -> Built:
    """Compile a network of stock processes with Lava's `Loihi2HwCfg`.

    Spikes enter from a RingBuffer through PyToNxAdapter and leave through NxToPyAdapter into another one, as in lava-nc's
    gradedvecnetwork. No tag is selected: then Lava prefers neurocore models, while models of the extension need not carry
    the simulator's "fixed_pt". Only the two RingBuffers, which stay on the host, are told to take their integer models.

    How many steps the adapters add is not public. Resets of LIFReset are timed as in the simulator, without them.

    Args:
        graph: In integers.
        samples: Pixels (sample, pixel), or given messages (sample, step, neuron), to be shown one after the other; one
            sample if the network cannot run through (see `compile.backends.lava`).
        indices: Each sample's index in its data set; 0, 1, ... by default.

    Raises:
        InputError: A network that `check_ready` refuses, or several samples for one that takes one.
        LavaMissing: The extension is not installed.
    """
    check_ready(graph)
    require_extension()
    through = lava.continuous(graph)
    if not through and len(samples) != 1:
        raise InputError(f"hardware: {len(samples)} samples; the states of this network are not reset, so it takes 1 at a time")
    from lava.magma.core.model.py.model import AbstractPyProcessModel
    from lava.magma.core.run_configs import Loihi2HwCfg
    from lava.proc.embedded_io.spike import NxToPyAdapter, PyToNxAdapter  # pyright: ignore[reportMissingImports]
    from lava.proc.io import sink, source

    given = np.arange(len(samples)) if indices is None else indices
    shown = graph.encoding.messages(samples, given, graph.steps).reshape(-1, graph.source.size).T
    steps = shown.shape[1] + (max(graph.offsets.values()) if through else 0)
    data = np.zeros((graph.source.size, steps), np.int32)
    data[:, : shown.shape[1]] = shown
    feed = source.RingBuffer(data=data)
    enter = PyToNxAdapter(shape=(graph.source.size,), num_message_bits=lava_wires.message_bits(graph, graph.source.name))
    feed.s_out.connect(enter.inp)
    processes: dict[str, Any] = {graph.source.name: SimpleNamespace(s_out=enter.out)}
    for p in graph.populations[1:]:
        processes[p.name] = lava.neurons(graph, p)
    for p in graph.projections:
        lava_wires.wire(graph, p, processes)
    size = graph.population(graph.output).size
    leave = NxToPyAdapter(shape=(size,), num_message_bits=lava_wires.message_bits(graph, graph.output))
    store = sink.RingBuffer(shape=(size,), buffer=steps)
    processes[graph.output].s_out.connect(leave.inp)
    leave.out.connect(store.a_in)
    host: dict[Any, Any] = {source.RingBuffer: source.PySendModelFixed, sink.RingBuffer: sink.PyReceiveModelFixed}
    executable = processes[graph.output].compile(run_cfg=Loihi2HwCfg(exception_proc_model_map=host))
    chosen = {p: p.model_class for p in executable.process_list}
    return Built(
        executable,
        {p.name: model.__name__ for p, model in chosen.items()},
        tuple(p.name for p, m in chosen.items() if issubclass(m, AbstractPyProcessModel) and p not in (feed, store)),
    )
