"""Parameters of NIR's neurons in ours.

NIR's equations in forward Euler, with the steps of a LIF layer as Lava counts them (u before v, v > threshold):

    LIF       du = 1             dv = dt / tau        gain = r dv            bias = v_leak dv
    CubaLIF   du = dt / tau_syn  dv = dt / tau_mem    gain = r dv w_in du    bias = v_leak dv
    IF        du = 1             dv = 0               gain = r dt            bias = 0
    LI, CubaLI and I are the same without a threshold.

Source: nir 1.0.8, nir/ir/neuron.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from lavasnn.interop.nir_nodes import NEURONS, Net

Array = NDArray[np.float64]
SLIP = 1e-6
"""How near to a step a time constant counts as one: float32 misses 1e-4 by about a tenth of this."""


@dataclass(frozen=True)
class Cell:
    """Neurons of a node in our terms; arrays have the shape (neuron,).

    Args:
        du, dv: Decays.
        gain: What arrives is multiplied by this.
        bias: Added to the voltage in each step.
        threshold: None for a node that never spikes.
    """

    du: Array
    dv: Array
    gain: Array
    bias: Array
    threshold: Array | None

    def spread(self, size: int) -> Cell:
        """The same for a node of that many neurons; one set of parameters may stand for all of them."""
        du, dv, gain, bias = (np.broadcast_to(v, (size,)) for v in (self.du, self.dv, self.gain, self.bias))
        return Cell(du, dv, gain, bias, None if self.threshold is None else np.broadcast_to(self.threshold, (size,)))


def cells(net: Net, dt: float | None) -> dict[str, Cell]:
    """Parameters of all neurons; what has no form here is noted."""
    found: dict[str, Cell] = {}
    timed = [path for path, node in net.nodes.items() if isinstance(node, (*NEURONS, nir.Delay))]
    if timed and dt is None:
        net.problems.append(f"node {timed[0]!r} needs dt, the seconds in a step, and none is given")
        return found
    for path, node in net.nodes.items():
        if isinstance(node, NEURONS):
            assert dt is not None
            problems = [f"node {path!r} ({type(node).__name__}) {text}" for text in _limits(node, dt)]
            net.problems += problems
            if not problems:
                found[path] = _cell(node, dt)
    return found


def _limits(node: Any, dt: float) -> Iterator[str]:
    """What of a neuron's parameters has no form here."""
    for name in ("tau", "tau_mem", "tau_syn"):
        least = float(np.min(getattr(node, name, dt)))
        if least < dt * (1 - SLIP):
            yield f"has a {name} of {least:g} s, allowed is a step (dt = {dt:g} s) or more"
    if np.shape(getattr(node, "w_in", node.r)) != np.shape(node.r):
        yield f"has a w_in of shape {np.shape(node.w_in)}, needed is {np.shape(node.r)}"
    if np.any(getattr(node, "v_reset", 0)):
        yield "has a v_reset other than 0; a stock LIF resets to 0"
    if np.min(getattr(node, "v_threshold", 0)) < 0:
        yield f"has a v_threshold of {float(np.min(node.v_threshold)):g}, allowed is 0 or more"


def _cell(node: Any, dt: float) -> Cell:
    def numbers(name: str, otherwise: float = 0.0) -> Array:
        return np.asarray(getattr(node, name, otherwise), np.float64).reshape(-1)

    n = numbers("r").size
    synaptic = isinstance(node, nir.CubaLIF | nir.CubaLI)
    du = _decay(node, "du", np.minimum(dt / numbers("tau_syn"), 1.0), dt) if synaptic else np.ones(n)
    du = np.where(du > 1 - SLIP, 1.0, du)
    if isinstance(node, nir.IF | nir.I):
        dv, gain = np.zeros(n), numbers("r") * dt
    else:
        dv = _decay(node, "dv", np.minimum(dt / numbers("tau_mem" if synaptic else "tau"), 1.0), dt)
        gain = numbers("r") * dv
    if synaptic:
        gain = gain * numbers("w_in", 1.0) * du
    # Written as r = tau / dt, a gain of 1 comes back with a rounding error.
    gain = np.where(np.abs(gain - 1) < 1e-12, 1.0, gain)
    threshold = numbers("v_threshold") if isinstance(node, nir.LIF | nir.CubaLIF | nir.IF) else None
    return Cell(du, dv, gain, numbers("v_leak") * dv, threshold)


def _decay(node: Any, name: str, computed: Array, dt: float) -> Array:
    """dt / tau, or the very number that tau was written for, which the quotient may miss by a rounding error."""
    noted, step = np.asarray(node.metadata.get(name)), node.metadata.get("dt")
    if noted.dtype.kind != "f" or noted.size != 1 or not np.array_equal(step, dt):
        return computed
    if not np.allclose(noted, computed, rtol=1e-9, atol=0):
        return computed
    return np.broadcast_to(noted.reshape(()), computed.shape)
