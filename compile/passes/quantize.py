"""Real numbers to registers: 8-bit weights on Lava's grid, thresholds and biases to match.

Loihi's mixed-sign weights have 8 bits at even values -256..254, one-sign ones the values 0..255 (lava-nc 0.10.0,
utils/weightutils.py, truncate_weights: the mixed flag costs the lowest bit). DiffPC's weights scale by powers of two, so
that sums line up with thresholds by shifts alone; a stock LIF population scales freely, its threshold scales along.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.backends import exact
from compile.passes.state import State
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.fixedpoint import STATE_MAX
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.dynamics.timing import Timing
from lavasnn.errors import RangeError
from lavasnn.ir import GRID, Dense, DenseInt, Graph, Population, Projection, SignMode, Transposed

LARGEST_SHIFT = 20
HEADROOM = 1
"""Bits that states have left on the calibration samples, if it can be had."""
SMALLEST_UNIT = 2.0**-1000
"""Of a LIF population's weights: keeps quotients finite."""


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
        return _diffpc(state, graph.timing) if graph.timing is not None else _lif(state)


def _as_they_are(graph: Graph) -> dict[str, Any]:
    """The report on weights that came as integers: none changes."""
    return {
        p.name: _report(p.synapses.weight * p.synapses.unit, p.synapses.weight, p.synapses.unit, p.synapses.sign_mode)
        for p in graph.projections
        if isinstance(p.synapses, DenseInt)
    }


def sign_mode(weight: NDArray[Any]) -> SignMode:
    """Lava's sign mode of a matrix (lava-nc 0.10.0, utils/weightutils.py, determine_sign_mode)."""
    if weight.min() >= 0:
        return "excitatory"
    return "inhibitory" if weight.max() <= 0 else "mixed"


def on_grid(weight: NDArray[Any], unit: float, mode: SignMode) -> NDArray[np.int16]:
    """Nearest weights of the grid, in units of `unit`; beyond its ends they saturate."""
    low, high, step = GRID[mode]
    return np.clip(step * np.round(weight / (unit * step)), low, high).astype(np.int16)


def _report(weight: NDArray[Any], integers: NDArray[np.int16], unit: float, mode: SignMode) -> dict[str, Any]:
    low, high, _ = GRID[mode]
    error = np.abs(weight - integers * unit)
    return {
        "weights": int(weight.size),
        "changed": int((error > 0).sum()),
        "largest_error": float(error.max()),
        "mean_error": float(error.mean()),
        "saturated": int(((weight < low * unit) | (weight > high * unit)).sum()),
        "unit": unit,
        "sign_mode": mode,
    }


def power_of_two_unit(weight: NDArray[Any], mode: SignMode) -> int:
    """Fraction bits f of the unit 2**-f with the smallest squared error; a few outliers may saturate."""
    low, high, step = GRID[mode]
    most = float(np.abs(weight).max())
    if most == 0.0:
        return 0
    fits = int(np.floor(np.log2(max(-low, high) / most)))
    best, least = fits, np.inf
    for bits in (fits - 1, fits, fits + 1, fits + 2):
        if bits > LARGEST_SHIFT:
            continue
        error = float(np.square(weight - on_grid(weight, 2.0**-bits, mode) * 2.0**-bits).sum())
        if error < least:
            best, least = bits, error
    best = min(best, LARGEST_SHIFT)
    # A coarser unit that holds the very same weights costs nothing and keeps the states smaller.
    chosen = on_grid(weight, 2.0**-best, mode)
    spare = trailing_zeros(chosen) - (step - 1)
    return max(best - max(spare, 0), min(best, 0))


def trailing_zeros(values: NDArray[Any]) -> int:
    """Factors of two that all values share; `LARGEST_SHIFT` if all are 0."""
    bits = int(np.bitwise_or.reduce(values.astype(np.int64), axis=None))
    return (bits & -bits).bit_length() - 1 if bits else LARGEST_SHIFT


def _diffpc(state: State, timing: Timing) -> State:
    """Powers of two throughout: weights w * 2**-f, states x * 2**-point, sums shifted by what is left between them."""
    graph = state.graph
    report: dict[str, Any] = {}
    fraction: dict[str, int] = {}
    spare: dict[str, int] = {}  # factors of two in all weights of a matrix
    integers: dict[str, DenseInt] = {}
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
        integers[p.name] = DenseInt(whole, 0, mode, 2.0**-bits)
        report[p.name] = _report(weight, whole, 2.0**-bits, mode)
    lowest = {"s_A": timing.lowest("activity"), "s_e": timing.lowest("error")}

    def owner(p: Projection) -> str:
        return p.synapses.of if isinstance(p.synapses, Transposed) else p.name

    # Without any rounding: every sum shifts left, gamma's right shifts lose nothing, thresholds and inputs are whole.
    needed = [fraction[owner(p)] - spare[owner(p)] - lowest[p.carries] for p in graph.projections]
    needed += [-lowest["s_A"], -lowest["s_e"], -graph.encoding.scale_exponent]
    lossless = max(needed) + timing.gamma_shift * max(timing.settle_cycles - 1, 0)
    rounded = replace(
        graph,
        projections=tuple(
            replace(p, synapses=Dense(integers[p.name].weight * integers[p.name].unit)) if p.name in integers else p
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
        synapses = replace(integers[p.name], exponent=exponent) if p.name in integers else Transposed(owner(p), exponent)
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


def _lif(state: State) -> State:
    graph = state.graph
    report: dict[str, Any] = {}
    populations: list[Population] = [graph.source]
    projections: list[Projection] = []
    for p in graph.populations[1:]:
        (projection,) = graph.arriving(p.name)
        d = p.dynamics
        assert isinstance(d, Lif)
        assert isinstance(projection.synapses, Dense)
        weight = projection.synapses.weight
        mode = sign_mode(weight)
        unit = _free_unit(weight, mode, d)
        whole = on_grid(weight, unit, mode)
        registers = _registers(p.name, d, unit)
        projections.append(replace(projection, synapses=DenseInt(whole, 0, mode, unit)))
        populations.append(replace(p, dynamics=registers))
        report[projection.name] = _report(weight, whole, unit, mode) | {
            "vth": registers.vth,
            "vth_error": abs(registers.vth * unit - d.vth),
            "du_error": abs((registers.du + 1) / 4096 - d.du),
            "dv_error": abs(registers.dv / 4096 - d.dv),
        }
    return replace(
        state,
        graph=replace(graph, populations=tuple(populations), projections=tuple(projections)),
        report={**state.report, "quantize": {"projections": report}},
    )


def _free_unit(weight: NDArray[Any], mode: SignMode, d: Lif) -> float:
    """Unit that uses the whole grid; 1 if weights and threshold are the chip's integers already.

    It has 12 significant bits, so that float64 adds weights in this unit without rounding and, like the chip, tells v = vth
    from v > vth.
    """
    if np.array_equal(on_grid(weight, 1.0, mode), weight) and d.vth == round(d.vth):
        return 1.0
    low, high, _ = GRID[mode]
    most = max(float(weight.max()) / high if high else 0.0, float(weight.min()) / low if low else 0.0)
    mantissa, exponent = math.frexp(most)
    return max(math.ldexp(math.ceil(mantissa * 4096), exponent - 12), SMALLEST_UNIT) if most > 0 else 1.0


def _registers(name: str, d: Lif, unit: float) -> LifInt:
    """Threshold in weight units, bias in 1/64 of them, decays in 1/4096."""
    wanted = d.vth / unit
    if not wanted < LifInt.RANGES["vth"][1] + 0.5:
        raise RangeError(
            f"quantize: population {name!r} needs vth {wanted:.7g} in weight units of {unit:.4g}, the register holds up to "
            f"{LifInt.RANGES['vth'][1]:,} (17 bits); larger weights or a lower threshold help"
        )
    with np.errstate(over="ignore"):  # refused below
        bias = np.asarray(d.bias, np.float64) / unit * 64
    largest, most = float(np.abs(bias).max()), LifInt.RANGES["bias_exp"][1]
    exponent = max(0, math.ceil(math.log2(max(largest, 1.0) / 4095))) if largest <= 4095 << most else most + 1
    if exponent > most:
        raise RangeError(
            f"quantize: population {name!r} has a bias of {float(np.abs(np.asarray(d.bias)).max()):.4g}, in weight units of "
            f"{unit:.4g} beyond what 13 bits shifted by up to 7 hold"
        )
    mantissa = np.round(bias / 2**exponent).astype(np.int32)
    return LifInt(
        du=round(d.du * 4096) - 1,
        dv=min(round(d.dv * 4096), 4095),
        vth=round(wanted),
        bias_mant=mantissa if mantissa.ndim else int(mantissa),
        bias_exp=exponent,
    )


def real(graph: Graph) -> Graph:
    """The real network that a graph in integers stands for (its weights, biases and thresholds as float64).

    With these dyadic numbers the float models of DiffPC reach the very states of the integer ones.
    """
    populations: list[Population] = []
    for p in graph.populations:
        d = p.dynamics
        if isinstance(d, DiffPCInt):
            bias = np.ldexp(np.asarray(d.bias, np.float64), -d.point)
            populations.append(replace(p, dynamics=DiffPC(d.role, d.depth, d.timing, bias)))
        elif isinstance(d, LifInt):
            (projection,) = graph.arriving(p.name)
            assert isinstance(projection.synapses, DenseInt)
            unit = projection.synapses.unit
            bias = np.asarray(d.bias, np.float64) * unit / 64
            populations.append(replace(p, dynamics=Lif((d.du + 1) / 4096, d.dv / 4096, d.vth * unit, bias)))
        else:
            populations.append(p)
    projections = [
        replace(p, synapses=Dense(p.synapses.weight * p.synapses.unit * (2.0**p.synapses.exponent if p.into == "a" else 1.0)))
        if isinstance(p.synapses, DenseInt)
        else replace(p, synapses=Transposed(p.synapses.of))
        if isinstance(p.synapses, Transposed)
        else p
        for p in graph.projections
    ]
    return replace(graph, populations=tuple(populations), projections=tuple(projections))
