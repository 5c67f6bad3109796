"""Recorder: keeps what it receives inside its model and writes it to a file, faster than any probe.

Lava's Var.get moves one element at a time, and a Monitor costs most of a small run.
"""

# Lava declares ports and variables of a model as LavaPyType and builds them later.
# pyright: reportAssignmentType=false

import os

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class Recorder(AbstractProcess):
    """Receives spikes at port `s_in` and writes them to a file in the last step.

    Args:
        shape: (neuron,).
        steps: Steps to record.
        record: File (.npy) that receives int8 spikes of shape (step, neuron).
        name: Shown in errors.
    """

    def __init__(self, *, shape: tuple[int], steps: int, record: str, name: str | None = None) -> None:
        super().__init__(shape=shape, steps=steps, record=record, name=name)
        self.s_in = InPort(shape=shape)


@implements(proc=Recorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt", "floating_pt")
class PyRecorder(PyLoihiProcessModel):
    """Works for spikes of any stock neuron: values in {-1, 0, 1}."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.steps, self.record = proc_params["steps"], proc_params["record"]
        self.kept = np.zeros((self.steps, *proc_params["shape"]), np.int8)

    def run_spk(self) -> None:
        """Receive one step's spikes."""
        spikes = self.s_in.recv()
        if self.time_step <= self.steps:
            self.kept[self.time_step - 1] = spikes
        if self.time_step == self.steps:
            with open(self.record + ".part", "wb") as file:
                np.save(file, self.kept)
            os.replace(self.record + ".part", self.record)
