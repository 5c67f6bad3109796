"""Quantisation of stock neurons: each population has a unit, what one integer of its inputs is worth in the real network.

Weights become multiples of that unit, shifted by their projection's exponent; threshold and bias scale along. Of a few
units, from one that holds the largest weight to ones that let outliers saturate, the one is taken under which the population
answers the messages of the real network most nearly as the real population does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.backends.spiking import Record, run_population, run_spiking
from compile.passes.grids import on_grid, weight_report
from compile.passes.state import State
from compile.target import Target
from lavasnn.dynamics.graded import Graded, GradedInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.errors import InputError, RangeError
from lavasnn.ir import Graph, Population, Projection
from lavasnn.synapses import GRID, Borrowed, Grid, count, sign_mode, with_weight

Array = NDArray[Any]
SMALLEST_UNIT = 2.0**-1000
"""Of a population's weights: keeps quotients finite."""
CANDIDATES = (1.0, 0.85, 0.7, 0.5)
"""Units tried, as shares of the one that holds the largest weight."""
TRIAL_MESSAGES = 1 << 26
"""Messages (sample, step, neuron) of the calibration samples that units are compared on; more samples are left out."""
TRIAL_WORK = 1 << 32
"""Synapses times steps times samples, likewise."""


@dataclass(frozen=True)
class _Scaled:
    """A population in integers, with its projections and the unit they share."""

    population: Population
    projections: tuple[Projection, ...]
    unit: float
    report: Mapping[str, Any]


def quantize_stock(state: State) -> State:
    """Turn a graph of stock neurons into integers.

    Raises:
        InputError: Payloads that come back to a population before theirs, whose unit is not known yet.
        RangeError: A threshold or bias that no scale brings into its register.
    """
    graph = state.graph
    run = _reference(state)
    reference = run.sent
    units: dict[str, float] = {graph.source.name: 1.0}
    populations: list[Population] = [graph.source]
    projections: dict[str, Projection] = {}
    report: dict[str, Any] = {}
    outputs: dict[str, float] = {}
    for p in graph.populations[1:]:
        for q in graph.arriving(p.name):
            if graph.graded(q.source) and q.source not in units:
                raise InputError(
                    f"quantize: projection {q.name!r} brings payloads of {q.source!r} back to {p.name!r}; feedback has to be "
                    "spikes"
                )
        best, least = _best(graph, p, units, reference, state.target, run.peaks)
        units[p.name] = best.unit
        populations.append(best.population)
        projections |= {q.name: q for q in best.projections}
        report |= best.report
        outputs[p.name] = least
    whole = replace(graph, populations=tuple(populations), projections=tuple(projections[q.name] for q in graph.projections))
    summary = {"projections": report, "output_error": outputs, "trial_samples": len(reference[graph.source.name])}
    return replace(state, graph=whole, report={**state.report, "quantize": summary})


def population_units(graph: Graph) -> dict[str, float]:
    """What one integer of each population's inputs is worth in the real network, for a graph in integers."""
    units = {p.name: 1.0 for p in graph.populations}
    for p in graph.populations:
        arriving = graph.arriving(p.name)
        grid = graph.synapses(arriving[0]).grid if arriving and isinstance(p.dynamics, LifInt | GradedInt) else None
        if grid is not None:
            units[p.name] = grid.unit * (units[arriving[0].source] if graph.graded(arriving[0].source) else 1.0)
    return units


def _least(p: Population, peaks: Mapping[str, float], target: Target) -> float:
    """Smallest unit in which inputs and currents of the calibration samples leave half of their registers free."""
    top = 2.0 ** (target.state_bits.value - 1)
    a = peaks.get(f"{p.name}.a", 0.0)
    if isinstance(p.dynamics, Graded):
        return 2 * a / top
    return 2 * max(a / target.dendrite_input.value, peaks.get(f"{p.name}.u", 0.0) * 64 / top)


def _reference(state: State) -> Record:
    """Messages of the real network on as many calibration samples as fit."""
    graph = state.graph
    messages = graph.steps * sum(p.size for p in graph.populations)
    work = graph.steps * sum(count(graph.synapses(q)) for q in graph.projections)
    few = state.pixels[: max(1, min(TRIAL_MESSAGES // messages, TRIAL_WORK // max(work, 1)))]
    return run_spiking(graph, graph.encoding.messages(few, np.arange(len(few)), graph.steps), measure=True)


def _best(
    graph: Graph,
    p: Population,
    units: Mapping[str, float],
    reference: Mapping[str, Array],
    target: Target,
    peaks: Mapping[str, float],
) -> tuple[_Scaled, float]:
    """The unit with the smallest output error, and that error: the share of messages that differ. None is below `_least`."""
    sent = {name: _payloads(graph, name, values, units.get(name, 1.0)) for name, values in reference.items()}
    fine = _unit(graph, p, units)
    least = 0.0 if fine == 1.0 else _least(p, peaks, target)  # integers stay as they are
    needed = {q.name: _strength(graph, q, units)[1] for q in graph.arriving(p.name)}
    low = target.weight_exponent_low.value
    lowest = {q.name: low if graph.graded(q.source) and not np.ndim(q.delay) else 0 for q in graph.arriving(p.name)}
    exponents = {name: _exponent(n / max(fine, least), lowest[name] if fine != 1.0 else 0) for name, n in needed.items()}
    largest = max([fine, least, *(n / 2 ** exponents[name] for name, n in needed.items())])
    tried: list[tuple[float, float, _Scaled]] = []
    refused: RangeError | None = None
    shares = CANDIDATES if largest != 1.0 else CANDIDATES[:1]
    for unit in dict.fromkeys(short(max(largest * share, least)) for share in shares):  # the least bounds several alike
        try:
            scaled = _scaled(graph, p, unit, units, exponents)
        except RangeError as error:
            refused = refused or error
            continue
        trial = replace(
            graph,
            populations=tuple(scaled.population if q.name == p.name else q for q in graph.populations),
            projections=tuple(next((mine for mine in scaled.projections if mine.name == q.name), q) for q in graph.projections),
        )
        answer = run_population(trial, p.name, sent)
        real = _payloads(graph, p.name, reference[p.name], scaled.unit)
        worse = float(np.mean(answer != real))
        mean = max((float(r["mean_error"]) for r in scaled.report.values()), default=0.0)
        tried.append((worse, mean, scaled))
    if not tried:
        assert refused is not None
        raise refused
    worse, _, scaled = min(tried, key=lambda entry: entry[:2])
    return scaled, worse


def _payloads(graph: Graph, name: str, values: Array, unit: float) -> Array:
    """Messages as the integer network would carry them: graded ones in units of their population."""
    if isinstance(graph.population(name).dynamics, Graded):
        return np.round(values / unit).astype(np.int32)
    return values


def _strength(graph: Graph, q: Projection, units: Mapping[str, float]) -> tuple[Array, float]:
    """Real weights, per message of one integer, and the smallest unit that holds them without an exponent."""
    s = graph.synapses(q)
    weight = s.weight * units.get(q.source, 1.0) if graph.graded(q.source) else s.weight
    return weight, fitting_unit(weight)


def fitting_unit(weight: Array) -> float:
    """The smallest unit in which the grid holds all weights."""
    low, high, _ = GRID[sign_mode(weight)]
    top, bottom = float(weight.max(initial=0)), float(weight.min(initial=0))
    return max(top / high if high else 0.0, bottom / low if low else 0.0)


def _unit(graph: Graph, p: Population, units: Mapping[str, float]) -> float:
    """Unit with which the weakest of the population's projections uses the whole grid; 1 if all are integers already."""
    found = [_strength(graph, q, units) for q in graph.arriving(p.name)]
    d = p.dynamics
    assert isinstance(d, Lif | Graded)
    whole = all(np.array_equal(on_grid(w, 1.0, sign_mode(w)), w) for w, _ in found)
    numbers = [d.vth] if isinstance(d, Graded) or d.vth_lo is None else [d.vth, d.vth_lo]
    if whole and all(v == round(v) for v in numbers):
        return 1.0
    needed = [n for _, n in found if n > 0]
    return short(max(min(needed), max(needed) / 2**7)) if needed else 1.0


def short(unit: float) -> float:
    """The next unit of 12 significant bits, so that float64 adds weights in this unit without rounding and, like the chip,
    tells v = vth from v > vth.
    """
    mantissa, exponent = math.frexp(unit)
    return max(math.ldexp(math.ceil(mantissa * 4096), exponent - 12), SMALLEST_UNIT)


def _exponent(ratio: float, lowest: int) -> int:
    """Weight exponent, at least `lowest`, of a projection whose largest weight is `ratio` times what the unit holds.

    Payloads make sums so large that the unit has to be coarse for them to fit; below 0 their weights stay fine all the same.
    With several delays the simulator shifts each delay's sum by itself, so there it cannot be.
    """
    if ratio > 1:
        return min(max(math.ceil(math.log2(ratio) - 0.5), 0), 7)
    return max(math.ceil(math.log2(ratio)), lowest) if ratio > 0 else 0


def _scaled(graph: Graph, p: Population, unit: float, units: Mapping[str, float], exponents: Mapping[str, int]) -> _Scaled:
    report: dict[str, Any] = {}
    projections: list[Projection] = []
    d = p.dynamics
    assert isinstance(d, Lif | Graded)
    registers = _registers(p.name, d, unit, graph.read == "voltage" and p.name == graph.output)
    for q in graph.arriving(p.name):
        s = graph.synapses(q)
        assert not isinstance(q.synapses, Borrowed)
        weight, _ = _strength(graph, q, units)
        exponent, mode = exponents[q.name], sign_mode(weight)
        whole = on_grid(weight, unit * 2.0**exponent, mode)
        payload = units.get(q.source, 1.0) if graph.graded(q.source) else 1.0
        grid = Grid(exponent, mode, unit / payload)
        projections.append(replace(q, synapses=with_weight(s, whole, grid)))
        report[q.name] = weight_report(s.weight, whole, unit * 2.0**exponent / payload, grid)
        report[q.name] |= _register_errors(d, registers, unit)
    return _Scaled(replace(p, dynamics=registers), tuple(projections), unit, report)


def _register_errors(d: Lif | Graded, registers: LifInt | GradedInt, unit: float) -> dict[str, Any]:
    found: dict[str, Any] = {"vth": registers.vth, "vth_error": abs(registers.vth * unit - d.vth)}
    if isinstance(d, Lif) and isinstance(registers, LifInt):
        found |= {"du_error": abs((registers.du + 1) / 4096 - d.du), "dv_error": abs(registers.dv / 4096 - d.dv)}
    return found


def _registers(name: str, d: Lif | Graded, unit: float, silent: bool = False) -> LifInt | GradedInt:
    """Threshold in weight units, bias in 1/64 of them, decays in 1/4096.

    What is read as a voltage (`silent`) is not meant to spike: the register's end is as far out of reach as it gets.
    """
    top = LifInt.RANGES["vth"][1] if isinstance(d, Lif) else 2**23 - 1
    wanted = min(d.vth / unit, top) if silent else d.vth / unit
    if not max(wanted, -(d.vth_lo or 0.0) / unit if isinstance(d, Lif) else 0.0) < top + 0.5:
        raise RangeError(
            f"quantize: population {name!r} needs vth {wanted:.7g} in weight units of {unit:.4g}, the register holds up to "
            f"{top:,} ({top.bit_length()} bits); larger weights or a lower threshold help"
        )
    if isinstance(d, Graded):
        return GradedInt(math.floor(wanted), d.relu)
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
        vth_lo=None if d.vth_lo is None else round(d.vth_lo / unit),
    )
