"""Pyramidal population of BSD as a Lava Process, with a fixed-point and a floating-point model.

Both pathways run at once. A Dense from below leads to the basal dendrites of Type 1 and to the apical ones of Type 2 in the
same layer, a Dense from above the other way round:

    Type 1[i].s_out -> Dense(W) -> Type 1[i+1].basal_in, Type 2[i+1].apical_in
    Type 2[i].s_out -> Dense(Theta) -> Type 2[i-1].basal_in, Type 1[i-1].apical_in

A Dense takes one step, so in a network of L layers Type 1 of layer i (from 1) opens its basal window at phase i - 1 and its
apical one at L - i, Type 2 the other way round. Samples follow each other every `period` steps, at least those of a window.

Source of the dynamics: `lavasnn.dynamics.pyramidal.step`.
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

from lavasnn.dynamics import pyramidal as dynamics
from lavasnn.errors import InputError


class Pyramidal(AbstractProcess):
    """Neurons with a spiking soma and two dendrites that add up what arrives in a sample's window.

    Ports: `basal_in` and `apical_in` receive weighted spikes, `s_out` sends spikes of 0 or 1; all of shape (neuron,). Vars:
    `soma`, `acc_b`, `acc_a` (sums over the window so far) and `cnt` (spikes), same shape.

    Args:
        shape: (neuron,).
        params: `lavasnn.dynamics.pyramidal.PyramidalInt` for "fixed_pt", `Pyramidal` for "floating_pt".
        steps: T, the steps of a window, at least 1.
        period: Steps from a sample to the next, at least `steps`.
        basal_at: Phase at which the basal window opens, from 0; the soma starts at rest there and is silent outside.
        apical_at: Phase at which the apical window opens.
        current: Constant basal current of each sample, shape (sample, neuron), for populations at an end of their pathway;
            shown again from the start when it is used up. None for all others.
        samples: Samples to record for `record`.
        record: File (.npz) that receives s, cnt, acc_b and acc_a after each step of their windows, shape
            (sample, step, neuron), once the windows of all samples are over; "" records nothing.
        name: Shown in errors.

    Raises:
        InputError: A window without steps, a period shorter than that, a phase below 0, or currents of another shape.
    """

    def __init__(
        self,
        *,
        shape: tuple[int],
        params: dynamics.Pyramidal | dynamics.PyramidalInt,
        steps: int,
        period: int,
        basal_at: int = 0,
        apical_at: int = 0,
        current: np.ndarray | None = None,
        samples: int = 0,
        record: str = "",
        name: str | None = None,
    ) -> None:
        who = f"Pyramidal {name or ''}".rstrip()
        if steps < 1 or period < steps or min(basal_at, apical_at) < 0:
            raise InputError(
                f"{who}: {steps} steps, a period of {period}, phases {basal_at} and {apical_at}; needed are steps from 1, a "
                "period of as many or more, and phases from 0"
            )
        if current is not None and (current.ndim != 2 or current.shape[1] != shape[0] or not len(current)):
            raise InputError(f"{who}: currents have shape {current.shape}, needed (sample, {shape[0]})")
        super().__init__(
            shape=shape,
            params=params,
            steps=steps,
            period=period,
            basal_at=basal_at,
            apical_at=apical_at,
            current=current,
            samples=samples,
            record=record,
            label=who,
            name=name,
        )
        self.basal_in = InPort(shape=shape)
        self.apical_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.soma = Var(shape=shape, init=0)
        self.acc_b = Var(shape=shape, init=0)
        self.acc_a = Var(shape=shape, init=0)
        self.cnt = Var(shape=shape, init=0)


class _Model(PyLoihiProcessModel):
    """What both precisions share: windows, sums, recording."""

    basal_in: PyInPort
    apical_in: PyInPort
    s_out: PyOutPort
    soma: np.ndarray
    acc_b: np.ndarray
    acc_a: np.ndarray
    cnt: np.ndarray
    dtype: type = np.float64
    sent: type = np.float64

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.params, self.label = proc_params["params"], proc_params["label"]
        self.n_steps, self.period = proc_params["steps"], proc_params["period"]
        self.at = {"b": proc_params["basal_at"], "a": proc_params["apical_at"]}
        current, samples, (size,) = proc_params["current"], proc_params["samples"], proc_params["shape"]
        self.current, self.record = None if current is None else np.asarray(current).astype(self.dtype), proc_params["record"]
        self.sums = {which: np.zeros(size, self.dtype) for which in "ba"}
        self.v, self.spikes = np.zeros(size, self.dtype), np.zeros(size, np.int64)
        kinds = {"acc_b": self.sent, "acc_a": self.sent, "cnt": np.int32, "s": np.int8}
        self.kept = {key: np.zeros((samples, self.n_steps, size), kind) for key, kind in kinds.items()}

    def run_spk(self) -> None:
        """One step: receive, add up, let the soma spike, send."""
        arriving = {
            "b": np.asarray(self.basal_in.recv(), self.dtype),
            "a": np.asarray(self.apical_in.recv(), self.dtype),
        }
        s = np.zeros(len(self.v), bool)
        for which, a in arriving.items():
            sample, t = divmod(self.time_step - 1 - self.at[which], self.period)
            if sample < 0 or t >= self.n_steps:
                continue
            if t == 0:
                self.sums[which] = np.zeros_like(a)
            if which == "b":
                s = self._soma(a if self.current is None else a + self.current[sample % len(self.current)], sample, t)
            else:
                apical = a + self.params.bias_apical
                self._check(apical, sample, t)
                self.sums["a"] = self.sums["a"] + apical
            if sample < len(self.kept["cnt"]):
                self.kept[f"acc_{which}"][sample, t] = self.sums[which]
        self.s_out.send(s.astype(self.sent))
        self.soma[:], self.cnt[:] = self.v, self.spikes
        self.acc_b[:], self.acc_a[:] = self.sums["b"], self.sums["a"]
        last = (len(self.kept["cnt"]) - 1) * self.period + max(self.at.values()) + self.n_steps
        if self.record and self.time_step == last:
            with open(self.record + ".part", "wb") as file:
                np.savez(file, **self.kept)
            os.replace(self.record + ".part", self.record)

    def _soma(self, basal: np.ndarray, sample: int, t: int) -> np.ndarray:
        """Step t of a window; returns the spikes."""
        if t == 0:
            self.v, self.spikes = np.zeros_like(basal), np.zeros_like(self.spikes)
        basal = basal + self.params.bias
        self._check(basal, sample, t)
        s, self.v = dynamics.step(self.params, self.v, basal)
        self.sums["b"] = self.sums["b"] + basal
        self.spikes = self.spikes + s
        if sample < len(self.kept["cnt"]):
            self.kept["s"][sample, t] = s
            self.kept["cnt"][sample, t] = self.spikes
        return s

    def _check(self, a: np.ndarray, sample: int, t: int) -> None:
        """Refuse what the chip's dendrite does not hold; real numbers have no end."""


@implements(proc=Pyramidal, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyPyramidalFixed(_Model):
    """Integers: inputs of 16 bits, a soma of 24, sums of 24; refuses to run on when an input needs more."""

    basal_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    apical_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=1)
    soma: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    acc_b: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    acc_a: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    cnt: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    dtype = np.int64
    sent = np.int32

    def __init__(self, proc_params: dict) -> None:
        if not isinstance(proc_params["params"], dynamics.PyramidalInt):
            raise InputError(f"{proc_params['label']}: 'fixed_pt' needs PyramidalInt parameters")
        super().__init__(proc_params)

    def _check(self, a: np.ndarray, sample: int, t: int) -> None:
        dynamics.check_input(a, self.n_steps, self.label, sample, t)


@implements(proc=Pyramidal, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PyPyramidalFloat(_Model):
    """Real numbers in float64."""

    basal_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)
    apical_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)
    soma: np.ndarray = LavaPyType(np.ndarray, float)
    acc_b: np.ndarray = LavaPyType(np.ndarray, float)
    acc_a: np.ndarray = LavaPyType(np.ndarray, float)
    cnt: np.ndarray = LavaPyType(np.ndarray, float)
    dtype = np.float64
    sent = np.float64

    def __init__(self, proc_params: dict) -> None:
        if not isinstance(proc_params["params"], dynamics.Pyramidal):
            raise InputError(f"{proc_params['label']}: 'floating_pt' needs Pyramidal parameters")
        super().__init__(proc_params)
