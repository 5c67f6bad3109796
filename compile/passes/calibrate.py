"""Run the integers on calibration samples: refuse what leaves a register there, warn of what provably could."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.backends import exact
from compile.cost import operations
from compile.passes.state import State
from lavasnn.dynamics.diffpc import DiffPCInt
from lavasnn.dynamics.fixedpoint import ALIGN_BITS, STATE_MAX
from lavasnn.dynamics.graded import GradedInt
from lavasnn.dynamics.lif import LifInt
from lavasnn.dynamics.pyramidal import PyramidalInt
from lavasnn.dynamics.timing import Timing
from lavasnn.errors import RangeError
from lavasnn.ir import Graph
from lavasnn.measure.activity import remarks
from lavasnn.results import RunResult
from lavasnn.synapses import strengths


@dataclass(frozen=True)
class Calibrate:
    """Check 24-bit states (DiffPC, both phases) or 16-bit dendritic inputs (all others) on data and in the worst case."""

    def apply(self, state: State) -> State:
        """See the class.

        Raises:
            RangeError: A state or input beyond its register on the calibration samples; names the population.
        """
        if state.graph.pyramidal:
            return _pyramidal(state)
        return _diffpc(state) if state.graph.timing is not None else _stock(state)


def _diffpc(state: State) -> State:
    graph = state.graph
    timing = graph.timing
    assert timing is not None
    run = exact.run(graph, state.pixels, state.labels, settle=timing.settle_cycles > 0, measure=True)
    peaks = run.meta["peaks"]
    worst = worst_states(graph, timing)
    summary = {
        "samples": len(state.pixels),
        "state_bits": {key: _bits(value) for key, value in peaks.items()},
        "headroom_bits": round(24 - max(_bits(v) for v in peaks.values()), 2),
        "worst_state_bits": {key: _bits(value) for key, value in worst.items()},
    }
    name = max(worst, key=lambda key: worst[key])
    warnings = state.warnings
    if worst[name] > STATE_MAX:
        warnings = (
            *warnings,
            f"calibrate: in the worst case {name} needs {_bits(worst[name]):.1f} bits of 24; "
            f"the {len(state.pixels)} calibration samples needed {max(_bits(v) for v in peaks.values()):.1f} "
            f"({summary['headroom_bits']:.1f} bits of headroom); a run that leaves 24 bits stops and says where",
        )
    warnings = (*warnings, *(f"calibrate: {line}" for line in remarks(graph, run)))
    return replace(state, report={**state.report, "calibrate": summary}, warnings=warnings, traffic=_traffic(run))


def _traffic(run: RunResult) -> dict[str, NDArray[np.float64]]:
    """Messages per sample of each neuron."""
    return {key: counts / run.samples for key, counts in run.by_neuron.items()}


def _bits(magnitude: float) -> float:
    """Width of a signed register that holds +-magnitude."""
    return round(float(np.log2(max(magnitude, 1.0))) + 1, 2)


def worst_states(graph: Graph, timing: Timing) -> dict[str, float]:
    """Provable bounds on the states of every population in both phases, in its units.

    An announced activity or error is at most what all thresholds of its phases add up to, an input's at most its largest
    pixel. So x_F <= |b| + sum |W| x_A and e_in <= sum |W^T| e_A; a hidden target lies between what it was and x_F + e_in.
    """
    settle = slice(timing.init_steps, timing.init_steps + timing.settle_steps)
    reach = {"s_A": float(timing.thresholds("activity").sum()), "s_e": float(timing.thresholds("error")[settle].sum())}
    pixel = float(np.ldexp(graph.encoding.levels, graph.encoding.scale_exponent))
    bound: dict[str, float] = {}
    for p in graph.populations:
        d = p.dynamics
        assert isinstance(d, DiffPCInt)
        one = 2.0**d.point
        sums = {"a_x": np.abs(np.broadcast_to(np.asarray(d.bias, np.float64), (p.size,))).copy(), "a_e": np.zeros(p.size)}
        for q in graph.arriving(p.name):
            s = graph.synapses(q)
            assert s.grid is not None
            unit = 2.0 ** (s.grid.exponent - timing.lowest("activity" if q.carries == "s_A" else "error"))
            most = min(pixel, reach["s_A"]) if q.source == graph.source.name else reach[q.carries]
            sums[q.into] += strengths(s) * unit * most
        x_F, e_in = float(sums["a_x"].max()), float(sums["a_e"].max())
        # Clamped to a pixel; clamped to 0 or 1 after following x_F; moved as far as errors push.
        x_T = {"input": pixel * one, "output": max(x_F, one), "hidden": float((sums["a_x"] + sums["a_e"]).max())}[d.role]
        bound[f"{p.name}.x_F"], bound[f"{p.name}.e_in"], bound[f"{p.name}.x_T"] = x_F, e_in, x_T
        bound[f"{p.name}.e_T"] = 0.0 if d.role == "input" else x_T + x_F
        bound[f"{p.name}.x_A"], bound[f"{p.name}.e_A"] = reach["s_A"] * one, reach["s_e"] * one
    return bound


def _stock(state: State) -> State:
    """Stock neurons: 16-bit dendritic inputs, currents that wrap and voltages that saturate at 24 bits."""
    graph, limit, top = state.graph, state.target.dendrite_input.value, 2 ** (state.target.state_bits.value - 1) - 1
    names = [p.name for p in graph.populations[1:]]
    run = exact.run(graph, state.pixels, batch=64, measure=True)
    peaks = run.meta["peaks"]
    worst = worst_inputs(graph)
    refused: list[str] = []
    warnings: list[str] = []
    entries: dict[str, Any] = {}
    for name in names:
        d = graph.population(name).dynamics
        most = {key: round(peaks.get(f"{name}.{key}", 0.0)) for key in "auv"}
        room = limit if isinstance(d, LifInt) else top
        entries[name] = {
            "largest_input": most["a"],
            "worst_input": worst[name],
            "input_limit": room,
            "input_headroom_bits": _headroom(most["a"], room),
            "worst_input_headroom_bits": _headroom(worst[name], room),
        }
        if most["a"] > room:
            refused.append(
                f"population {name!r} receives sums up to {most['a']:,}, its input holds +-{room:,} "
                f"({room.bit_length() + 1} bits)"
            )
        elif worst[name] > room:
            warnings.append(
                f"calibrate: if all its inputs spike at once, population {name!r} receives {worst[name]:,}; "
                f"{room.bit_length() + 1} bits hold +-{room:,} (largest on {len(state.pixels)} calibration samples: "
                f"{most['a']:,})"
            )
        if not isinstance(d, LifInt):
            continue
        # A current that keeps (4095 - du) / 4096 of itself comes to at most its input over what it loses.
        reach = worst[name] * 64 * min(4096 / (d.du + 1) if d.du >= 0 else graph.steps, graph.steps)
        entries[name] |= {
            "largest_u": most["u"],
            "largest_v": most["v"],
            "state_headroom_bits": _headroom(max(most["u"], most["v"]), top),
            "worst_state_headroom_bits": _headroom(reach, top),
        }
        if most["u"] > top:
            refused.append(f"population {name!r} has currents up to {most['u']:,}, which wrap beyond +-{top:,} (24 bits)")
        if graph.read == "voltage" and name == graph.output and most["v"] > d.vth << ALIGN_BITS:
            warnings.append(
                f"calibrate: population {name!r} is read as a voltage and reaches {most['v']:,}, beyond its threshold of "
                f"{d.vth << ALIGN_BITS:,}, where it spikes and starts anew"
            )
        if most["v"] >= top:
            warnings.append(f"calibrate: voltages of population {name!r} saturate at +-{top:,} (24 bits)")
    if refused:
        raise RangeError(
            f"calibrate, on {len(state.pixels)} samples: " + "; ".join(refused) + ". Smaller weights or fewer inputs help"
        )
    return _told(state, run, entries, warnings)


def _pyramidal(state: State) -> State:
    """Pyramidal neurons: 16-bit inputs of both dendrites, whose sums and somata then fit 24 bits."""
    graph, room, top = state.graph, state.target.dendrite_input.value, 2 ** (state.target.state_bits.value - 1) - 1
    run = exact.run(graph, state.pixels, state.labels, batch=64, measure=True)
    peaks, worst = run.meta["peaks"], worst_inputs(graph)
    entries: dict[str, Any] = {}
    warnings: list[str] = []
    for p in graph.populations:
        d = p.dynamics
        assert isinstance(d, PyramidalInt)
        most = {key: round(peaks[f"{p.name}.{key}"]) for key in "av"}
        entries[p.name] = {
            "largest_input": most["a"],
            "worst_input": worst[p.name],
            "input_limit": room,
            "input_headroom_bits": _headroom(most["a"], room),
            "worst_input_headroom_bits": _headroom(worst[p.name], room),
            "largest_v": most["v"],
            "state_headroom_bits": _headroom(max(most["v"], most["a"] * graph.steps), top),
        }
        if worst[p.name] > room:
            warnings.append(
                f"calibrate: if all its inputs spike at once, population {p.name!r} receives {worst[p.name]:,}; "
                f"{room.bit_length() + 1} bits hold +-{room:,} (largest on {len(state.pixels)} calibration samples: "
                f"{most['a']:,}); a run that leaves them stops and says where"
            )
    return _told(state, run, entries, warnings)


def _told(state: State, run: RunResult, entries: dict[str, Any], warnings: list[str]) -> State:
    """The state with what a run of the calibration samples showed of each population."""
    traffic = _traffic(run)
    each = {name: round(n, 3) for name, n in operations(state.graph, traffic).items()}
    summary = {"samples": len(state.pixels), "populations": entries, "syn_ops_per_sample": each}
    said = (*warnings, *(f"calibrate: {line}" for line in remarks(state.graph, run)))
    report = {**state.report, "calibrate": summary}
    return replace(state, report=report, warnings=(*state.warnings, *said), traffic=traffic)


def _headroom(magnitude: float, limit: int) -> float:
    """Factors of two between a magnitude and its limit; below 0 it does not fit."""
    return round(float(np.log2(limit / max(magnitude, 1.0))), 2)


def worst_inputs(graph: Graph) -> dict[str, int]:
    """Largest sum that could arrive at each population but DiffPC's, were all its inputs to speak at once; of pyramidal
    neurons at their basal dendrites, bias and current included.
    """
    payload = {p.name: 1 for p in graph.populations}
    payload[graph.source.name] = graph.encoding.levels if graph.encoding.graded and not graph.pyramidal else 1
    worst: dict[str, int] = {}
    for p in graph.populations if graph.pyramidal else graph.populations[1:]:
        total = np.zeros(p.size, np.int64)
        if isinstance(d := p.dynamics, PyramidalInt):
            current = {"stimulus": graph.encoding.levels, "concept": 1, "": 0}[d.drive] << d.shift
            total += np.abs(np.asarray(d.bias, np.int64)) + current
        for q in graph.arriving(p.name):
            if q.into == "apical":
                continue
            s = graph.synapses(q)
            assert s.grid is not None
            part = strengths(s) * payload[q.source]
            total += part << s.grid.exponent if s.grid.exponent > 0 else part >> -s.grid.exponent
        worst[p.name] = int(total.max(initial=0))
        if isinstance(p.dynamics, GradedInt):
            payload[p.name] = min(worst[p.name], STATE_MAX)
    return worst
