"""Real numbers to registers: 8-bit weights on Lava's grid, thresholds and biases to match.

DiffPC's weights scale by powers of two, so that sums line up with thresholds by shifts alone; a population of stock neurons
scales freely, its threshold along (`compile.passes.scales`, of pyramidal neurons `compile.passes.pyramids`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compile.backends import exact
from compile.passes.grids import on_grid, power_of_two_unit, trailing_zeros, weight_report
from compile.passes.pyramids import quantize_pyramidal, real_neurons
from compile.passes.scales import population_units, quantize_stock
from compile.passes.state import State
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.fixedpoint import STATE_MAX
from lavasnn.dynamics.graded import Graded, GradedInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.dynamics.pyramidal import PyramidalInt
from lavasnn.dynamics.timing import Timing
from lavasnn.errors import RangeError
from lavasnn.ir import Graph, Population, Projection
from lavasnn.synapses import Borrowed, Dense, Grid, Transposed, sign_mode, with_weight

HEADROOM = 1
"""Bits that states have left on the calibration samples, if it can be had."""


@dataclass(frozen=True)
class Quantize:
    """Turn every population and projection into integers; a graph that is already in integers passes unchanged."""

    def apply(self, state: State) -> State:
        """See the module's text.

        Raises:
            RangeError: A threshold, bias or state that no scale brings into its register.
        """
        graph = state.graph
        if graph.integer:
            return replace(state, report={**state.report, "quantize": {"projections": _as_they_are(graph)}})
        if graph.timing is not None:
            return _diffpc(state, graph.timing)
        return quantize_pyramidal(state) if graph.pyramidal else quantize_stock(state)


def _as_they_are(graph: Graph) -> dict[str, Any]:
    """The report on weights that came as integers: none changes."""
    owned = {p.name: p.synapses for p in graph.projections if not isinstance(p.synapses, Borrowed)}
    return {
        name: weight_report(s.weight * s.grid.unit, s.weight, s.grid.unit, s.grid)
        for name, s in owned.items()
        if s.grid is not None
    }


def _diffpc(state: State, timing: Timing) -> State:
    """Powers of two throughout: weights w * 2**-f, states x * 2**-point, sums shifted by what is left between them."""
    graph = state.graph
    report: dict[str, Any] = {}
    fraction: dict[str, int] = {}
    spare: dict[str, int] = {}  # factors of two in all weights of a matrix
    integers: dict[str, Dense] = {}
    for p in graph.projections:
        if not isinstance(p.synapses, Dense):
            continue
        weight = p.synapses.weight
        most = float(np.abs(weight).max())
        if most > STATE_MAX:
            raise RangeError(
                f"quantize: projection {p.name!r} holds a weight of magnitude {most:.4g}; one spike through it leaves signed "
                f"24-bit states, which hold up to {STATE_MAX:,}"
            )
        mode = sign_mode(weight)
        bits = power_of_two_unit(weight, mode)
        whole = on_grid(weight, 2.0**-bits, mode)
        fraction[p.name] = bits
        spare[p.name] = trailing_zeros(whole)
        integers[p.name] = Dense(whole, Grid(0, mode, 2.0**-bits))
        report[p.name] = weight_report(weight, whole, 2.0**-bits, Grid(sign_mode=mode))
    lowest = {"s_A": timing.lowest("activity"), "s_e": timing.lowest("error")}

    def owner(p: Projection) -> str:
        return p.synapses.of if isinstance(p.synapses, Borrowed) else p.name

    # Without any rounding: every sum shifts left, gamma's right shifts lose nothing, thresholds and inputs are whole.
    needed = [fraction[owner(p)] - spare[owner(p)] - lowest[p.carries] for p in graph.projections]
    needed += [-lowest["s_A"], -lowest["s_e"], -graph.encoding.scale_exponent]
    lossless = max(needed) + timing.gamma_shift * max(timing.settle_cycles - 1, 0)
    rounded = replace(
        graph,
        projections=tuple(
            replace(p, synapses=Dense(integers[p.name].weight * 2.0 ** -fraction[p.name])) if p.name in integers else p
            for p in graph.projections
        ),
    )
    peaks = exact.run(rounded, state.pixels, state.labels, settle=timing.settle_cycles > 0).meta["peaks"]
    peak = max(peaks.values())
    highest = max(int(timing.exponents(k).max()) for k in ("activity", "error"))
    fits = min(int(np.floor(np.log2(STATE_MAX / max(peak, 2.0**-20)))), 22 - highest)
    shifts = min(fraction[owner(p)] - lowest[p.carries] for p in graph.projections) + state.target.weight_exponent_high.value
    least = max(-lowest["s_A"], -lowest["s_e"])
    # Samples not seen here may reach further: leave them a bit, unless the smallest threshold needs it.
    point = min(lossless, fits, max(fits - HEADROOM, least), max(shifts, least))
    if point < least:
        name = max(peaks, key=lambda key: peaks[key])
        raise RangeError(
            f"quantize: {name} reaches {peak:.4g} on the calibration samples; with the {least} fractional bits that the "
            f"smallest threshold needs, signed 24 bits hold {STATE_MAX / 2**least:.4g}"
        )
    warnings = state.warnings
    if point < lossless:
        warnings = (
            *warnings,
            f"quantize: {point} fractional bits fit 24-bit states and weight exponents, {lossless} would make sums lossless",
        )
    populations = [replace(p, dynamics=_rounded(p, point)) for p in graph.populations]
    projections: list[Projection] = []
    for p in graph.projections:
        exponent = point + lowest[p.carries] - fraction[owner(p)]
        synapses = Transposed(owner(p), exponent)
        if (mine := integers.get(p.name)) is not None and mine.grid is not None:
            synapses = replace(mine, grid=replace(mine.grid, exponent=exponent))
        projections.append(replace(p, synapses=synapses))
    summary = {"point": point, "lossless_point": lossless, "largest_state": peak, "projections": report}
    return replace(
        state,
        graph=replace(graph, populations=tuple(populations), projections=tuple(projections)),
        report={**state.report, "quantize": summary},
        warnings=warnings,
    )


def _rounded(population: Population, point: int) -> DiffPCInt:
    d = population.dynamics
    assert isinstance(d, DiffPC)
    bias = np.round(np.ldexp(np.broadcast_to(np.asarray(d.bias, np.float64), (population.size,)), point)).astype(np.int64)
    return DiffPCInt(d.role, d.depth, d.timing, bias, point)


def real(graph: Graph) -> Graph:
    """The real network that a graph in integers stands for (its weights, biases and thresholds as float64).

    With these dyadic numbers the float models of DiffPC reach the very states of the integer ones.
    """
    units = population_units(graph)
    populations: list[Population] = []
    for p in graph.populations:
        d = p.dynamics
        if isinstance(d, DiffPCInt):
            bias = np.ldexp(np.asarray(d.bias, np.float64), -d.point)
            populations.append(replace(p, dynamics=DiffPC(d.role, d.depth, d.timing, bias)))
        elif isinstance(d, LifInt):
            unit = units[p.name]
            low = None if d.vth_lo is None else d.vth_lo * unit
            bias = np.asarray(d.bias, np.float64) * unit / 64
            populations.append(replace(p, dynamics=Lif((d.du + 1) / 4096, d.dv / 4096, d.vth * unit, bias, low)))
        elif isinstance(d, PyramidalInt):
            populations.append(replace(p, dynamics=real_neurons(graph, p)))
        elif isinstance(d, GradedInt):
            populations.append(replace(p, dynamics=Graded(d.vth * units[p.name], d.relu)))
        else:
            populations.append(p)
    projections: list[Projection] = []
    for p in graph.projections:
        s = p.synapses
        if isinstance(s, Borrowed):
            projections.append(replace(p, synapses=Transposed(s.of) if isinstance(s, Transposed) else s))
        else:
            assert s.grid is not None
            scale = s.grid.unit * (2.0**s.grid.exponent if p.into in ("a", "basal") else 1.0)
            projections.append(replace(p, synapses=with_weight(s, s.weight * scale)))
    return replace(graph, populations=tuple(populations), projections=tuple(projections))
