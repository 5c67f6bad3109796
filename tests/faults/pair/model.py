"""A sender that goes wrong on demand and a receiver that writes down what it got."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class Sender(AbstractProcess):
    """Sends 3 * step + 1; at step `at` (from 0) it does `fault`."""

    def __init__(self, fault: str, at: int) -> None:
        super().__init__(fault=fault, at=at, name="sender")
        self.s_out = OutPort(shape=(1,))


class Receiver(AbstractProcess):
    """Writes the `n_steps` numbers that it received, one a line, into `file`."""

    def __init__(self, file: str, n_steps: int) -> None:
        super().__init__(file=file, n_steps=n_steps, name="receiver")
        self.a_in = InPort(shape=(1,))


@implements(proc=Sender, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class SenderModel(PyLoihiProcessModel):
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.fault, self.at = proc_params["fault"], proc_params["at"]
        if self.fault == "build":

            class Unpicklable(Exception):
                """Cannot pass Lava's queue of exceptions, which then waits for ever."""

            raise Unpicklable("planted while building")

    def run_spk(self) -> None:
        step = self.time_step - 1
        value = np.array([3 * step + 1], dtype=np.int32)
        if step != self.at:
            self.s_out.send(value)
        elif self.fault == "raise_before":
            raise ValueError("planted before sending\nand a second line")
        elif self.fault == "raise_after":
            self.s_out.send(value)
            raise ValueError("planted after sending")
        elif self.fault == "sys_exit":
            sys.exit(3)
        elif self.fault == "os_exit":
            os._exit(0)
        elif self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "loop":
            while True:
                pass
        elif self.fault == "starve":
            pass  # sends nothing and goes on: the receiver waits for ever


@implements(proc=Receiver, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class ReceiverModel(PyLoihiProcessModel):
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.file, self.n_steps = Path(proc_params["file"]), proc_params["n_steps"]
        self.received: list[int] = []

    def run_spk(self) -> None:
        self.received.append(int(self.a_in.recv()[0]))
        if len(self.received) == self.n_steps:
            self.file.write_text("\n".join(map(str, self.received)))
