"""What lets a layer of BSD learn in Lava: a Process between its pyramidal neurons and their plastic synapses.

    Pyramidal.s_out -> Learner.s_in, Learner.s_out -> LearningDense.s_in;    LearningDense.a_out -> Pyramidal and Learner

It adds up what the layer's dendrites do, passes spikes on and keeps them, lets the critic find alpha and beta, and replays the
window with the post traces. The synapses are Lava's own LearningDense with the rule of `lavasnn.dynamics.concept`.

A sample takes `period` steps: a window of T in layer i from phase i (Type 1) or L - i (Type 2, i from 1), the replay of T from
phase T + L - 1 in all layers at once, and a step for the last messages of the replay, which no window hears.
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
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from lavasnn.dynamics.concept import GATE, TRACE_MAX, Compartments, Plasticity

POST_TAU = 65535
"""Time constant that Lava gives the post traces of a three-factor rule."""


def steady_seed(steps: int) -> int:
    """The lowest rng_seed of a learning rule with which no post trace is changed at random in a run of that many steps.

    Lava's simulator lets a post trace y decay in the very step it arrives in and rounds y (1 - 1/65535) at random, one number
    for all synapses of a rule: in about one step of 65535 / y it would be y - 1. Runs of some thousand steps find a seed.
    """
    least = 1 - TRACE_MAX / POST_TAU
    seed = 0
    while np.random.default_rng(seed + 2).random(2 * steps + 1)[2::2].max() >= least:  # two draws a step, one before
        seed += 1
    return seed


class Learner(AbstractProcess):
    """Memory, critic and replay of one layer.

    Ports, all of shape (neuron,): `v_in`, `u_in` receive what the basal dendrites of Type 1 and Type 2 do, `s_in`, `z_in` their
    spikes; `s_out`, `z_out` send these, now or replayed, `y1_out`, `y2_out` the post traces of Type 1's synapses, `z1_out`,
    `z2_out` those of Type 2's, and `gate_out` GATE during a replay.

    Args:
        shape: (neuron,).
        how: The layer's plasticity.
        labels: Class of each sample.
        steps: T.
        layers: L.
        layer: i, from 0.
        v_current: Current of Type 1, shape (sample, neuron), in layer 1; None elsewhere.
        u_current: Current of Type 2 in the top layer; None elsewhere.
        record: File (.npz) that receives v, u, shape (sample, neuron), s, z, shape (sample, step, neuron), and y, shape
            (sample, 4, neuron), in the last step of the last sample.
        name: Of the process.
    """

    def __init__(
        self,
        *,
        shape: tuple[int],
        how: Plasticity,
        labels: np.ndarray,
        steps: int,
        layers: int,
        layer: int,
        v_current: np.ndarray | None = None,
        u_current: np.ndarray | None = None,
        record: str,
        name: str | None = None,
    ) -> None:
        super().__init__(
            shape=shape,
            how=how,
            labels=labels,
            steps=steps,
            at={"v": layer, "u": layers - 1 - layer},
            replay_at=steps + layers - 1,
            currents={"v": v_current, "u": u_current},
            record=record,
            name=name,
        )
        self.v_in, self.u_in, self.s_in, self.z_in = (InPort(shape=shape) for _ in range(4))
        self.s_out, self.z_out = (OutPort(shape=shape) for _ in range(2))
        self.y1_out, self.y2_out, self.z1_out, self.z2_out, self.gate_out = (OutPort(shape=shape) for _ in range(5))


@implements(proc=Learner, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyLearnerFixed(PyLoihiProcessModel):
    """Integers."""

    v_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    u_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=1)
    z_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=1)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=1)
    z_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=1)
    y1_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=7)
    y2_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=7)
    z1_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=7)
    z2_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=7)
    gate_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=7)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.labels, self.n_steps, self.at = proc_params["labels"], proc_params["steps"], proc_params["at"]
        self.replay_at, self.currents, self.record = (proc_params[name] for name in ("replay_at", "currents", "record"))
        (n,) = proc_params["shape"]
        self.layer = Compartments(n, proc_params["how"])
        self.kept = {which: np.zeros((len(self.labels), n), np.int64) for which in "vu"}
        self.kept |= {which: np.zeros((len(self.labels), self.n_steps, n), np.int8) for which in "sz"}
        self.kept["y"] = np.zeros((len(self.labels), 4, n), np.int64)

    def run_spk(self) -> None:
        """One step: receive, remember or replay, send."""
        sample, phase = divmod(self.time_step - 1, self.replay_at + self.n_steps + 1)
        arrived = {"v": self.v_in.recv(), "u": self.u_in.recv()}
        spikes = {"s": self.s_in.recv(), "z": self.z_in.recv()}
        for dendrite, soma in (("v", "s"), ("u", "z")):
            t, current = phase - self.at[dendrite], self.currents[dendrite]
            if 0 <= t < self.n_steps:
                self.kept[dendrite][sample] += np.asarray(arrived[dendrite]) + (0 if current is None else current[sample])
                self.kept[soma][sample, t] = spikes[soma]
        if phase == self.replay_at:
            self.kept["y"][sample] = self.layer.signals(
                self.kept["v"][sample], self.kept["u"][sample], int(self.labels[sample])
            )
        r, y = phase - self.replay_at, np.zeros_like(self.kept["y"][0])
        replaying = 0 <= r < self.n_steps
        if replaying:
            spikes, y = {which: self.kept[which][sample, r] for which in "sz"}, self.kept["y"][sample]
        outs = (self.s_out, self.z_out, self.y1_out, self.y2_out, self.z1_out, self.z2_out, self.gate_out)
        for out, sent in zip(outs, (*spikes.values(), *y, np.full(y.shape[1], GATE * replaying)), strict=True):
            out.send(np.asarray(sent, np.int32))
        if sample == len(self.labels) - 1 and r == self.n_steps:
            with open(self.record + ".part", "wb") as file:
                np.savez(file, **self.kept)
            os.replace(self.record + ".part", self.record)
