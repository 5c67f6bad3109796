"""DiffPC population as a Lava Process, with a fixed-point and a floating-point model.

Wire it with Lava's own Dense, which adds the one step a synapse takes:

    below.s_A -> Dense(W, num_message_bits=2) -> above.a_x        activity spikes go up
    above.s_e -> Dense(W.T, num_message_bits=2) -> below.a_e      error spikes come down

Source of the dynamics: `lavasnn.dynamics.diffpc.step`.
"""

# Lava declares ports and variables of a model as LavaPyType and builds them later.
# pyright: reportAssignmentType=false

import os

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from lavasnn.dynamics import diffpc as dynamics
from lavasnn.errors import InputError


class DiffPC(AbstractProcess):
    """Neurons that exchange ternary spikes about changes of activity and of error.

    Ports: `a_x`, `a_e` receive weighted activity and error spikes, `s_A`, `s_e` send spikes in {-1, 0, 1}; all of shape
    (neuron,). Vars: x_F, x_T, x_A, e_in, e_A after the last step, same shape.

    Args:
        shape: (neuron,).
        params: `lavasnn.dynamics.diffpc.DiffPCInt` for "fixed_pt", `DiffPC` for "floating_pt".
        targets: Clamped values, shape (sample, neuron): images for an input, one-hot labels for an output; in the units
            of `params`. Sample k is shown in the k-th window, and again from the start when they are used up.
        settle: Whether a window has the second phase (labels, errors) or ends after the first.
        steps: Steps to record for `record`.
        record: File (.npz) that receives s_A, s_e, x_A, x_F, e_A of the first `steps` steps, shape (step, neuron), in the
            last of them; "" records nothing.
        name: Shown in errors.

    Raises:
        InputError: An input without targets, or targets of another shape.
    """

    def __init__(
        self,
        *,
        shape: tuple[int],
        params: dynamics.Dynamics,
        targets: np.ndarray | None = None,
        settle: bool = True,
        steps: int = 0,
        record: str = "",
        name: str | None = None,
    ) -> None:
        if targets is None and (params.role == "input" or (params.role == "output" and settle)):
            raise InputError(f"DiffPC {params.role} population {name or ''}: targets are needed, shape (sample, {shape[0]})")
        if targets is not None and (targets.ndim != 2 or targets.shape[1] != shape[0]):
            raise InputError(f"DiffPC {name or params.role}: targets have shape {targets.shape}, needed (sample, {shape[0]})")
        super().__init__(
            shape=shape,
            params=params,
            targets=targets,
            settle=settle,
            steps=steps,
            record=record,
            label=name or params.role,
            name=name,
        )
        self.a_x = InPort(shape=shape)
        self.a_e = InPort(shape=shape)
        self.s_A = OutPort(shape=shape)
        self.s_e = OutPort(shape=shape)
        self.x_F = Var(shape=shape, init=0)
        self.x_T = Var(shape=shape, init=0)
        self.x_A = Var(shape=shape, init=0)
        self.e_in = Var(shape=shape, init=0)
        self.e_A = Var(shape=shape, init=0)


class _Model(PyLoihiProcessModel):
    """What both precisions share: windows, clamping, recording."""

    a_x: PyInPort
    a_e: PyInPort
    s_A: PyOutPort
    s_e: PyOutPort
    dtype: type = np.float64
    sent: type = np.float64

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.params = proc_params["params"]
        self.settle = proc_params["settle"]
        self.label = proc_params["label"]
        targets = proc_params["targets"]
        self.targets = None if targets is None else np.asarray(targets).astype(self.dtype)
        self.window = self.params.timing.window(self.settle)
        self.state = None
        self.n_steps = proc_params["steps"]
        names = ("s_A", "s_e", *self.params.STATES)
        shape = (self.n_steps, *proc_params["shape"])
        short = np.int8 if self.dtype is np.int64 else np.float64
        long = np.int32 if self.dtype is np.int64 else np.float64
        kinds = {name: short if name.startswith("s_") else long for name in names}
        self.record = proc_params["record"]
        self.trace = {name: np.zeros(shape, kinds[name]) for name in names} if self.record else {}

    def run_spk(self) -> None:
        """One step: receive, update, send."""
        sample, t = divmod(self.time_step - 1, self.window)
        a_x = np.asarray(self.a_x.recv(), self.dtype)
        a_e = np.asarray(self.a_e.recv(), self.dtype)
        target = None if self.targets is None else self.targets[sample % len(self.targets)]
        now = self.params.now(t, self.settle)
        self.state, s_A, s_e = dynamics.step(self.params, now, self.state, a_x, a_e, target)
        if self.dtype is np.int64:
            dynamics.check_24_bits(self.state, self.label, t)
        self.s_A.send(s_A.astype(self.sent))
        self.s_e.send(s_e.astype(self.sent))
        for name in ("x_F", "x_T", "x_A", "e_in", "e_A"):
            getattr(self, name)[:] = getattr(self.state, name)
        if self.record and self.time_step <= self.n_steps:
            self._write(s_A, s_e)

    def _write(self, s_A: np.ndarray, s_e: np.ndarray) -> None:
        for name, values in self.trace.items():
            values[self.time_step - 1] = {"s_A": s_A, "s_e": s_e}.get(name, getattr(self.state, name, None))
        if self.time_step == self.n_steps:
            with open(self.record + ".part", "wb") as file:
                np.savez(file, **self.trace)
            os.replace(self.record + ".part", self.record)


@implements(proc=DiffPC, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyDiffPCFixed(_Model):
    """Integers: signed 24-bit states, messages of 2 bits; refuses to run on when a state needs more."""

    a_x: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    a_e: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    s_A: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=2)
    s_e: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=2)
    x_F: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    x_T: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    x_A: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    e_in: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    e_A: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    dtype = np.int64
    sent = np.int32

    def __init__(self, proc_params: dict) -> None:
        if not isinstance(proc_params["params"], dynamics.DiffPCInt):
            raise InputError(f"DiffPC {proc_params['label']}: 'fixed_pt' needs DiffPCInt parameters")
        super().__init__(proc_params)


@implements(proc=DiffPC, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PyDiffPCFloat(_Model):
    """Real numbers in float64."""

    a_x: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)
    a_e: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)
    s_A: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)
    s_e: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)
    x_F: np.ndarray = LavaPyType(np.ndarray, float)
    x_T: np.ndarray = LavaPyType(np.ndarray, float)
    x_A: np.ndarray = LavaPyType(np.ndarray, float)
    e_in: np.ndarray = LavaPyType(np.ndarray, float)
    e_A: np.ndarray = LavaPyType(np.ndarray, float)
    dtype = np.float64
    sent = np.float64

    def __init__(self, proc_params: dict) -> None:
        if not isinstance(proc_params["params"], dynamics.DiffPC):
            raise InputError(f"DiffPC {proc_params['label']}: 'floating_pt' needs DiffPC parameters")
        super().__init__(proc_params)
