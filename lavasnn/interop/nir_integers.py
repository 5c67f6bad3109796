"""NIR's published mapping to Loihi 2: one scale for weights and thresholds, everything cut to whole numbers.

It differs from what the compiler does (`compile.passes.quantize`), which finds a scale for each population and rounds to the
nearest. Its point is to be the one that recordings of the chip were made with.

Source: the NIR reference experiments with a LIF neuron on Loihi 2; scale 250, du = 4095, dv = floor(4096 dt / tau).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.dynamics.graded import Graded, GradedInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.errors import InputError, RangeError
from lavasnn.ir import Dynamics, Graph, Population, Projection, Through
from lavasnn.synapses import GRID, Borrowed, Grid, Owned, sign_mode, with_weight

SLIP = 1e-6
"""How near below a whole number counts as it: float32 parameters miss 10 by about this."""


def in_integers(graph: Graph, scale: float) -> Graph:
    """A real graph of stock neurons in registers.

    Args:
        graph: Without populations that only pass on.
        scale: Weight units in 1.

    Raises:
        InputError: Linear nodes in a chain, which have to be folded by the compiler first.
        RangeError: Numbers that leave their registers; names them all.
    """
    chained = [p.name for p in graph.populations if isinstance(p.dynamics, Through)]
    if chained:
        raise InputError(
            f"nir: with a scale, weights follow neurons; {', '.join(map(repr, chained))} follow weights. Import without a "
            "scale and compile"
        )
    problems: list[str] = []
    populations = tuple(Population(p.name, p.size, _registers(graph, p, scale, problems)) for p in graph.populations)
    projections = tuple(
        Projection(q.name, q.source, q.target, _weights(q, scale, problems), q.carries, q.into, q.delay)
        for q in graph.projections
    )
    if problems:
        raise RangeError(f"nir: with a scale of {scale:g}, " + "; ".join(problems))
    return Graph(populations, projections, graph.encoding, graph.output, graph.steps, graph.read)


def cut(values: Any, scale: float) -> NDArray[np.int64]:
    """Real numbers times `scale`, cut towards 0."""
    scaled = np.asarray(values, np.float64) * scale
    near = np.round(scaled)
    return np.where(np.abs(scaled - near) < SLIP, near, np.trunc(scaled)).astype(np.int64)


def _registers(graph: Graph, p: Population, scale: float, problems: list[str]) -> Dynamics:
    d = p.dynamics
    if isinstance(d, Graded):
        return GradedInt(int(cut(d.vth, scale)), d.relu)
    if not isinstance(d, Lif):
        return d
    top = LifInt.RANGES["vth"][1]
    quiet = graph.read == "voltage" and p.name == graph.output
    vth = top if quiet else int(cut(d.vth, scale))
    if vth > top:
        problems.append(f"population {p.name!r} has a threshold of {vth:,}, allowed are {top:,}")
        vth = top
    bias = cut(d.bias, scale * 64)
    most = int(np.abs(bias).max())
    exponent = max(0, math.ceil(math.log2(max(most, 1) / 4095)))
    if exponent > LifInt.RANGES["bias_exp"][1]:
        problems.append(f"population {p.name!r} has a bias of {most:,} (in 1/64), allowed are {4095 << 7:,}")
        return d
    mantissa = np.sign(bias) * (np.abs(bias) >> exponent)
    du, dv = int(cut(d.du, 4096)) - 1, min(int(cut(d.dv, 4096)), 4095)
    return LifInt(du, dv, vth, mantissa if mantissa.ndim else int(mantissa), exponent)


def _weights(q: Projection, scale: float, problems: list[str]) -> Owned:
    s = q.synapses
    assert not isinstance(s, Borrowed)
    whole = cut(s.weight, scale)
    mode = sign_mode(whole)
    low, high, step = GRID[mode]
    whole = whole // step * step  # as Lava does: a mixed sign costs the lowest bit (utils/weightutils.py)
    if whole.min(initial=0) < low or whole.max(initial=0) > high:
        problems.append(f"weights of {q.name!r} run from {whole.min()} to {whole.max()}, allowed are {low}..{high}")
        whole = np.clip(whole, low, high)
    return with_weight(s, whole.astype(np.int16), Grid(0, mode, 1 / scale))
