"""Quantisation of BSD networks: each population has a unit, what one integer at its basal dendrites is worth.

The unit brings the largest weight to the end of the 8-bit grid, or is larger, so that the largest input of the calibration
samples leaves half of a dendrite's 16 bits free, its sum over a window half of 24, and a bias fits its mantissa. Where it is
larger, weights keep the whole grid and a negative exponent shifts their sums right. Threshold and biases scale along. Driven
populations shift their pixels left as far as a bias register takes them, so that their thresholds are as fine as they get.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from compile.backends.pyramidal import run_pyramidal, wires
from compile.passes.grids import on_grid, weight_report
from compile.passes.scales import fitting_unit, short
from compile.passes.state import State
from compile.target import Target
from lavasnn.dynamics.fixedpoint import ALIGN_BITS
from lavasnn.dynamics.pyramidal import INPUT_MAX, Pyramidal, PyramidalInt
from lavasnn.errors import RangeError
from lavasnn.ir import Graph, Population, Projection
from lavasnn.pathways import driven
from lavasnn.synapses import Borrowed, Grid, Shared, sign_mode, with_weight

MOST_CURRENT = 4095 << 7 >> ALIGN_BITS
"""Of a driven population: a bias register's 13-bit mantissa with the largest exponent (lava-nc 0.10.0, proc/lif/models.py),
whose lowest 6 bits lie below those of an input.
"""


def quantize_pyramidal(state: State) -> State:
    """Turn a BSD network into integers.

    Raises:
        RangeError: A threshold or bias that no unit brings into its register.
    """
    graph = state.graph
    peaks = run_pyramidal(graph, driven(graph, state.pixels, state.labels), wires(graph)).peaks
    units: dict[str, float] = {}
    populations: dict[str, PyramidalInt] = {}
    projections: dict[str, Projection] = {}
    report: dict[str, Any] = {}
    for p in graph.populations:
        d = p.dynamics
        assert isinstance(d, Pyramidal)
        if d.drive:
            populations[p.name], units[p.name] = _driven(p, d, graph, state.target)
            continue
        own = [q for q in graph.arriving(p.name) if q.into == "basal"]
        needed = {q.name: fitting_unit(graph.synapses(q).weight) for q in own}
        unit = units[p.name] = _unit(p, d, list(needed.values()), peaks, graph.steps, state.target)
        populations[p.name] = _registers(p, d, unit)
        for q in own:
            s = graph.synapses(q)
            exponent = math.ceil(math.log2(needed[q.name] / unit)) if needed[q.name] > 0 else 0
            exponent = max(exponent, state.target.weight_exponent_low.value)
            mode = sign_mode(s.weight)
            whole = on_grid(s.weight, unit * 2.0**exponent, mode)
            grid = Grid(exponent, mode, unit)
            projections[q.name] = replace(q, synapses=with_weight(s, whole, grid))
            report[q.name] = weight_report(s.weight, whole, unit * 2.0**exponent, grid) | {
                "vth": populations[p.name].vth,
                "vth_error": abs(populations[p.name].vth * unit - d.tau * d.threshold),
            }
    whole_graph = replace(
        graph,
        populations=tuple(
            replace(p, dynamics=replace(populations[p.name], bias_apical=_apical(graph, p, units))) for p in graph.populations
        ),
        projections=tuple(projections.get(q.name, q) for q in graph.projections),
    )
    summary = {"projections": report, "trial_samples": len(state.pixels)}
    return replace(state, graph=whole_graph, report={**state.report, "quantize": summary})


def _driven(p: Population, d: Pyramidal, graph: Graph, target: Target) -> tuple[PyramidalInt, float]:
    """Registers of a driven population, and what one integer of its current is worth."""
    levels = graph.encoding.levels if d.drive == "stimulus" else 1
    most = min(MOST_CURRENT, (2**target.threshold_bits.value - 1) / (d.tau * d.threshold), 2 ** (23 - ALIGN_BITS) / d.tau)
    shift = min(max(0, math.floor(math.log2(most / levels))), 15)
    unit = 1 / (levels << shift)
    return _registers(p, d, unit, shift), unit


def _unit(p: Population, d: Pyramidal, needed: list[float], peaks: Mapping[str, float], steps: int, target: Target) -> float:
    a, v, top = peaks[f"{p.name}.a"], peaks[f"{p.name}.v"], 2 ** (target.state_bits.value - 1)
    ceiling = d.tau * d.threshold / (2**target.threshold_bits.value - 1)
    least = 2 * max(a / INPUT_MAX, a * steps / top, v * 2**ALIGN_BITS / top, ceiling)
    bias = float(np.abs(np.asarray(d.bias)).max()) / (2 ** (target.bias_bits.value - 1) - 1)
    return short(max(*needed, least, bias))


def _registers(p: Population, d: Pyramidal, unit: float, shift: int = 0) -> PyramidalInt:
    vth = round(d.tau * d.threshold / unit)
    if vth < 1:
        raise RangeError(
            f"quantize: population {p.name!r} needs a threshold of {d.threshold:.4g}, less than half of what one integer of "
            f"its input is worth ({unit / d.tau:.4g}); smaller weights or a higher threshold help"
        )
    return PyramidalInt(vth, min(round(4096 / d.tau), 4095), d.drive, shift, _whole(p, d.bias, unit))


def _whole(p: Population, bias: Any, unit: float) -> Any:
    found = np.round(np.asarray(bias, np.float64) / unit)
    if float(np.abs(found).max()) > INPUT_MAX:
        raise RangeError(
            f"quantize: population {p.name!r} has a bias of {float(np.abs(np.asarray(bias)).max()):.4g}, beyond 16 bits in "
            f"units of {unit:.4g}; smaller biases or larger weights help"
        )
    return found.astype(np.int32) if found.ndim else int(found)


def _apical(graph: Graph, p: Population, units: Mapping[str, float]) -> Any:
    """Apical bias in the unit of what arrives there, which is that of the population that shares it."""
    d = p.dynamics
    assert isinstance(d, Pyramidal)
    for q in graph.arriving(p.name):
        if q.into == "apical" and isinstance(q.synapses, Shared):
            return _whole(p, d.bias_apical, units[graph.projection(q.synapses.of).target])
    return 0


def real_neurons(graph: Graph, p: Population) -> Pyramidal:
    """What a population in integers stands for."""
    d = p.dynamics
    assert isinstance(d, PyramidalInt)
    unit, apical = basal_unit(graph, p), 1.0
    for q in graph.arriving(p.name):
        if q.into == "apical" and isinstance(q.synapses, Borrowed):
            apical = basal_unit(graph, graph.population(graph.projection(q.synapses.of).target))
    tau = 4096 / d.dv
    bias, bias_apical = (np.asarray(v, np.float64) * u for v, u in ((d.bias, unit), (d.bias_apical, apical)))
    return Pyramidal(tau, d.vth * unit / tau, d.drive, bias, bias_apical)


def basal_unit(graph: Graph, p: Population) -> float:
    """What one integer of a population's basal input is worth."""
    d = p.dynamics
    assert isinstance(d, PyramidalInt)
    if d.drive:
        return 1 / ((graph.encoding.levels if d.drive == "stimulus" else 1) << d.shift)
    grids = [graph.synapses(q).grid for q in graph.arriving(p.name) if q.into == "basal"]
    return next((grid.unit for grid in grids if grid is not None), 1.0)
