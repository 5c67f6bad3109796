"""Recorder and Probe: keep messages or voltages inside their model and write them to a file.

Lava's Var.get moves one element at a time, and a Monitor costs most of a small run.
"""

# Lava declares ports and variables of a model as LavaPyType and builds them later.
# pyright: reportAssignmentType=false

import os
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyRefPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, RefPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class Recorder(AbstractProcess):
    """Receives spikes at port `s_in` and writes them to a file in the last step.

    Args:
        shape: (neuron,).
        steps: Steps to record.
        record: File (.npy) that receives messages of shape (step, neuron).
        kind: Their dtype: "int8" holds spikes of -1..1, "int32" payloads.
        name: Shown in errors.
    """

    def __init__(self, *, shape: tuple[int], steps: int, record: str, kind: str = "int8", name: str | None = None) -> None:
        super().__init__(shape=shape, steps=steps, record=record, kind=kind, name=name)
        self.s_in = InPort(shape=shape)


@implements(proc=Recorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt", "floating_pt")
class PyRecorder(PyLoihiProcessModel):
    """Works for messages of any stock neuron."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.record = proc_params["record"]
        self.kept = np.zeros((proc_params["steps"], *proc_params["shape"]), proc_params["kind"])

    def run_spk(self) -> None:
        """Receive one step's messages."""
        keep(self.kept, self.time_step, self.s_in.recv(), self.record)


class Probe(AbstractProcess):
    """Reads a variable at the end of every step through the port `v` and writes it to a file.

    Args:
        shape: Of the variable.
        steps: Steps to record.
        record: File (.npy) that receives values of shape (step, neuron).
        name: Shown in errors.
    """

    def __init__(self, *, shape: tuple[int], steps: int, record: str, name: str | None = None) -> None:
        super().__init__(shape=shape, steps=steps, record=record, name=name)
        self.v = RefPort(shape=shape)


@implements(proc=Probe, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt", "floating_pt")
class PyProbe(PyLoihiProcessModel):
    """Reads after all neurons have taken the step, as Lava's own Monitor does (proc/monitor/models.py)."""

    v: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, float)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.record = proc_params["record"]
        self.kept = np.zeros((proc_params["steps"], *proc_params["shape"]))

    def post_guard(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]  (Lava declares no answer and asks for one)
        """Ask for the phase after every step."""
        return True

    def run_post_mgmt(self) -> None:
        """Read one step's values."""
        keep(self.kept, self.time_step, self.v.read(), self.record)


def keep(kept: np.ndarray, time_step: int, values: Any, path: str) -> None:
    """Note one step (Lava counts from 1); write the file, whole, in the last one."""
    if time_step <= len(kept):
        kept[time_step - 1] = values
    if time_step == len(kept):
        with open(path + ".part", "wb") as file:
            np.save(file, kept)
        os.replace(path + ".part", path)
