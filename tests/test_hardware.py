"""Readiness for the chip: what is known of each process, what public Lava misses, and a build with a planted extension."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compile import hardware
from compile.hardware import EXTENSION, SUPPORT, readiness
from lavasnn.dynamics.diffpc import DiffPCInt
from lavasnn.dynamics.graded import GradedInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.errors import InputError, LavaMissing
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.synapses import Conv, Dense, Grid, sparse_from


def stock(loop: bool = False) -> Graph:
    """All stock neurons and synapses of a network that can run through; with a loop it cannot."""
    conv = Conv(np.full((2, 1, 2, 2), 2, np.int16), (1, 3, 3), grid=Grid())
    some = np.array([[2, 0], [0, 4], [6, 0]], np.int16)
    populations = (
        Population("input", 9, Source()),
        Population("maps", conv.shape[0], LifInt(4095, 0, 3)),
        Population("vector", 2, GradedInt(0)),
        Population("rectified", 3, GradedInt(0, relu=True)),
        Population("output", 2, LifInt(4095, 0, 3)),
    )
    projections = [
        Projection("conv", "input", "maps", conv),
        Projection("dense", "maps", "vector", Dense(np.full((2, conv.shape[0]), 2, np.int16), Grid())),
        Projection("sparse", "vector", "rectified", sparse_from(some, Grid())),
        Projection("late", "rectified", "output", Dense(np.full((2, 3), 2, np.int16), Grid()), delay=1),
    ]
    if loop:
        projections.append(Projection("loop", "output", "output", sparse_from(np.eye(2, dtype=np.int16) * 2, Grid()), delay=3))
    return Graph(populations, tuple(projections), Encoding("bernoulli", levels=4), "output", 6)


def diffpc() -> Graph:
    timing = Timing(m=1, n=2, init_cycles=1)
    populations = (
        Population("input", 3, DiffPCInt("input", 0, timing, point=2)),
        Population("output", 2, DiffPCInt("output", 1, timing, point=2)),
    )
    w = Projection("w", "input", "output", Dense(np.full((2, 3), 2, np.int16), Grid()), "s_A", "a_x")
    return Graph(populations, (w,), Encoding("value"), "output")


def processes(graph: Graph) -> dict[str, tuple[str, str]]:
    return {row.name: (row.process, row.support.status) for row in readiness(graph)}


def test_stock_networks_are_told_process_by_process() -> None:
    assert processes(stock()) == {
        "input": ("RingBuffer", "host"),
        "maps": ("LIFReset", "unknown"),
        "vector": ("GradedVec", "on chip"),
        "rectified": ("GradedReluVec", "unknown"),
        "output": ("LIFReset", "unknown"),
        "conv": ("Conv", "on chip"),
        "dense": ("Dense", "on chip"),
        "sparse": ("Sparse", "on chip"),
        "late": ("DelayDense", "on chip"),
    }
    looped = processes(stock(loop=True))
    assert looped["output"] == ("LIF", "on chip")
    assert looped["loop"] == ("DelaySparse", "on chip")
    ternary = replace(stock(), populations=(*stock().populations[:-1], Population("output", 2, LifInt(4095, 0, 3, vth_lo=-3))))
    assert processes(ternary)["output"] == ("TernaryLIF", "unknown")


def test_diffpc_needs_microcode() -> None:
    assert processes(diffpc()) == {
        "input": ("DiffPC", "needs microcode"),
        "output": ("DiffPC", "needs microcode"),
        "w": ("Dense", "on chip"),
    }


def test_every_entry_has_a_source_and_unknown_claims_nothing() -> None:
    for name, support in SUPPORT.items():
        assert support.source, name
        assert (support.confidence == "none") == (support.status == "unknown"), name
    json.dumps([row.to_json() for row in readiness(stock())])
    assert readiness(stock())[1].to_json() == {
        "name": "maps",
        "process": "LIFReset",
        "status": "unknown",
        "confidence": "none",
        "source": SUPPORT["LIFReset"].source,
    }


@pytest.fixture
def lava_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Lava be imported in this process: it sets multiprocessing's start method, which others may have set before."""
    monkeypatch.setattr(multiprocessing, "set_start_method", lambda method: None)


@pytest.mark.lava
def test_processes_named_on_chip_exist_in_lava(lava_here: None) -> None:
    from lava.proc.conv import process as conv
    from lava.proc.dense import process as dense
    from lava.proc.graded import process as graded
    from lava.proc.io import source
    from lava.proc.lif import process as lif
    from lava.proc.sparse import process as sparse

    homes = (conv, dense, graded, source, lif, sparse)
    assert [name for name in SUPPORT if not any(hasattr(home, name) for home in homes)] == ["DiffPC", "Pyramidal"]


@pytest.mark.lava
def test_public_lava_imports_each_module_of_the_extension_and_has_none() -> None:
    folder = Path(str(importlib.util.find_spec("lava.magma.core.run_configs").origin)).parents[2]  # type: ignore[union-attr]
    text = "\n".join(path.read_text() for path in folder.rglob("*.py"))
    for name in EXTENSION:
        parent, _, last = name.rpartition(".")
        assert name in text or (parent.rsplit(".", 1)[-1] in text and f"eio.{last}" in text), name
    assert hardware.missing() == tuple(EXTENSION)
    with pytest.raises(LavaMissing) as told:
        hardware.require_extension()
    message = str(told.value)
    assert message.startswith("hardware: Lava is here, Intel's Loihi extension is not; missing lava.magma.core.model.c.model (")
    assert all(f"{name} ({purpose})" in message for name, purpose in EXTENSION.items())
    assert "lava-loihi and nxcore" in message and "\n" not in message


@pytest.mark.lava
def test_lava_itself_fails_as_we_say(lava_here: None) -> None:
    from lava.magma.core.run_configs import Loihi2HwCfg
    from lava.proc.lif.models import PyLifModelBitAcc, PyLifModelFloat
    from lava.proc.lif.process import LIF
    from lava.utils.loihi import is_installed

    with pytest.raises(NameError, match="CLoihiProcessModel"):
        Loihi2HwCfg().select(LIF(shape=(1,)), [PyLifModelFloat, PyLifModelBitAcc])
    assert not is_installed()


def test_without_lava_that_is_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_found", lambda name: False)
    with pytest.raises(LavaMissing, match="hardware: Lava is not installed, and the chip needs it with Intel's extension"):
        hardware.require_extension()


def test_what_cannot_be_built_is_refused_before_anything_is_loaded() -> None:
    pixels = np.ones((1, 3), np.uint8)
    with pytest.raises(InputError, match=r"'input' \(DiffPC\), 'output' \(DiffPC\) need microcode that does not exist"):
        hardware.build(diffpc(), pixels)
    real = Graph(
        (Population("input", 2, Source()), Population("output", 1, Lif(1.0, 0.0, 1.0))),
        (Projection("w", "input", "output", Dense(np.ones((1, 2)))),),
        Encoding("bernoulli", levels=4),
        "output",
        3,
    )
    with pytest.raises(InputError, match="hardware: the network holds real numbers, the chip needs integers; compile it first"):
        hardware.build(real, pixels)
    with pytest.raises(InputError, match="the answer is the voltage of 'output'; from a chip, messages alone are read"):
        hardware.build(replace(stock(), read="voltage"), pixels)


MODEL = """
from lava.magma.core.decorator import implements, requires
from lava.magma.core.model.nc.model import AbstractNcProcessModel
from lava.magma.core.resources import Loihi2NeuroCore
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.{folder}.process import {process}


@implements(proc={process}, protocol=LoihiProtocol)
@requires(Loihi2NeuroCore)
class NcModel{process}(AbstractNcProcessModel):
    pass
"""
ADAPTERS = """
import numpy as np
from lava.magma.core.decorator import implements, requires
from lava.magma.core.model.c.model import CLoihiProcessModel
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import LMT
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class PyToNxAdapter(AbstractProcess):
    def __init__(self, shape, num_message_bits=0):
        super().__init__(shape=shape, num_message_bits=num_message_bits)
        self.inp, self.out = InPort(shape=shape), OutPort(shape=shape)


class NxToPyAdapter(PyToNxAdapter):
    pass


@implements(proc=PyToNxAdapter, protocol=LoihiProtocol)
@requires(LMT)
class CPyToNx(CLoihiProcessModel):
    pass


@implements(proc=NxToPyAdapter, protocol=LoihiProtocol)
@requires(LMT)
class CNxToPy(CLoihiProcessModel):
    pass
"""
PLANTED = {
    "lava/magma/core/model/c/model.py": """
from lava.magma.core.model.model import AbstractProcessModel


class AbstractCProcessModel(AbstractProcessModel):
    def run(self):
        pass

    def join(self):
        pass


class CLoihiProcessModel(AbstractCProcessModel):
    pass
""",
    "lava/magma/core/model/nc/model.py": """
from lava.magma.core.model.model import AbstractProcessModel


class AbstractNcProcessModel(AbstractProcessModel):
    def run(self):
        pass

    def join(self):
        pass
""",
    "lava/magma/compiler/builders/c_builder.py": "class CProcessBuilder:\n    pass\n",
    "lava/magma/compiler/builders/nc_builder.py": "class NcProcessBuilder:\n    pass\n",
    "lava/magma/compiler/subcompilers/c/cproc_compiler.py": "class CProcCompiler:\n    pass\n",
    "lava/magma/compiler/subcompilers/nc/ncproc_compiler.py": "class NcProcCompiler:\n    pass\n",
    "lava/proc/embedded_io/spike.py": ADAPTERS,
    "lava/proc/lif/ncmodels.py": MODEL.format(folder="lif", process="LIF"),
    "lava/proc/dense/ncmodels.py": MODEL.format(folder="dense", process="Dense"),
    "lava/utils/loihi2_profiler.py": "",
    "nxcore/__init__.py": "",
}
CHILD = """
import json, sys
from types import SimpleNamespace
import numpy as np
from lava.magma.compiler.compiler_graphs import ProcGroupDiGraphs, find_processes
from lava.magma.core.process.process import AbstractProcess
from lava.utils.loihi import is_installed
from compile import hardware
from lavasnn.ir import Graph

seen = {}

def compile(process, run_cfg, compile_config=None):
    '''Lava's own compilation up to where each process has its model; what follows is the extension's.'''
    groups = ProcGroupDiGraphs(process, run_cfg, {}).get_proc_groups()
    seen.update(cfg=type(run_cfg).__name__)
    return SimpleNamespace(process_list=[p for group in groups for p in group])

AbstractProcess.compile = compile
graph = Graph.load(sys.argv[1])
hardware.require_extension()
built = hardware.build(graph, np.load(sys.argv[2]))
wires = {}
for p in built.executable.process_list:
    for port in p.out_ports:
        wires[p.name] = [c.process.name for c in port.get_dst_ports()]
adapters = [p for p in built.executable.process_list if "Adapter" in type(p).__name__]
bits = {type(p).__name__: p.proc_params["num_message_bits"] for p in adapters}
data = next(p for p in built.executable.process_list if type(p).__module__.endswith("io.source")).data.init
print(json.dumps({"installed": is_installed(), "missing": hardware.missing(), **seen, "models": built.models,
                  "host": built.on_host, "wires": wires, "shown": data.tolist(), "bits": bits}))
"""


def plain_lif(loop: bool) -> Graph:
    """3-2 stock LIF; with a loop its neurons are not reset, so they are Lava's LIF."""
    w = Dense(np.full((2, 3), 2, np.int16), Grid())
    projections = [Projection("w", "input", "output", w)]
    if loop:
        projections.append(Projection("loop", "output", "output", Dense(np.full((2, 2), -2, np.int16), Grid())))
    return Graph(
        (Population("input", 3, Source()), Population("output", 2, LifInt(4095, 0, 1))),
        tuple(projections),
        Encoding("given", levels=1),
        "output",
        4,
    )


def built(graph: Graph, samples: Any, folder: Path) -> dict[str, Any]:
    """Build in a child process whose Lava finds the planted extension; Lava's packages span several folders."""
    for name, text in PLANTED.items():
        path = folder / "planted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    graph.save(folder / "graph")
    np.save(folder / "samples.npy", samples)
    paths = os.pathsep.join([str(folder / "planted"), str(Path(__file__).parents[1])])
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder / "graph"), str(folder / "samples.npy")],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.mark.lava
def test_with_the_extension_lava_chooses_neurocore_models(tmp_path: Path) -> None:
    shown = np.random.default_rng(0).integers(-1, 2, (1, 4, 3)).astype(np.int8)
    found = built(plain_lif(loop=True), shown, tmp_path)
    assert (found["installed"], found["missing"], found["cfg"]) == (True, [], "Loihi2HwCfg")
    models = found["models"]
    assert {name: models[name] for name in ("output", "w", "loop")} == {
        "output": "NcModelLIF",
        "w": "NcModelDense",
        "loop": "NcModelDense",
    }
    assert sorted(set(models.values())) == [
        "CNxToPy",
        "CPyToNx",
        "NcModelDense",
        "NcModelLIF",
        "PyReceiveModelFixed",
        "PySendModelFixed",
    ]
    assert found["host"] == []
    # RingBuffer, adapter, w, output; from there to the loop and through the other adapter into the second RingBuffer.
    (feed,), (enter,) = ([n for n, m in models.items() if m == k] for k in ("PySendModelFixed", "CPyToNx"))
    (leave,), (store,) = ([n for n, m in models.items() if m == k] for k in ("CNxToPy", "PyReceiveModelFixed"))
    wires = found["wires"]
    assert (wires[feed], wires[enter], wires["w"], wires["loop"]) == ([enter], ["w"], ["output"], ["output"])
    assert (sorted(wires["output"]), wires[leave]) == (sorted(["loop", leave]), [store])
    assert found["shown"] == shown[0].T.tolist()
    assert found["bits"] == {"PyToNxAdapter": 2, "NxToPyAdapter": 0}  # signed spikes in, plain ones out


@pytest.mark.lava
def test_what_falls_back_to_python_is_told(tmp_path: Path) -> None:
    shown = np.ones((2, 4, 3), np.int8)
    found = built(plain_lif(loop=False), shown, tmp_path)
    assert found["models"]["output"].startswith("PyLifReset")  # no model of LIFReset is planted
    assert found["host"] == ["output"]
    assert np.shape(found["shown"]) == (3, 2 * 4 + 1)  # two windows, and the step that messages are under way


@pytest.mark.lava
def test_several_samples_need_a_network_that_resets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "require_extension", lambda: None)
    with pytest.raises(
        InputError, match="hardware: 2 samples; the states of this network are not reset, so it takes 1 at a time"
    ):
        hardware.build(plain_lif(loop=True), np.ones((2, 4, 3), np.int8))
