"""Run the integers on calibration samples: refuse what leaves a register there, warn of what provably could."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from compile.backends import exact
from compile.passes.state import State
from lavasnn.dynamics.diffpc import DiffPCInt
from lavasnn.dynamics.fixedpoint import STATE_MAX
from lavasnn.dynamics.timing import Timing
from lavasnn.errors import RangeError
from lavasnn.ir import DenseInt, Graph, Transposed


@dataclass(frozen=True)
class Calibrate:
    """Check 24-bit states (DiffPC, both phases) or 16-bit dendritic inputs (LIF) on data and in the worst case."""

    def apply(self, state: State) -> State:
        """See the class.

        Raises:
            RangeError: A state or input beyond its register on the calibration samples; names the population.
        """
        return _diffpc(state) if state.graph.timing is not None else _lif(state)


def _diffpc(state: State) -> State:
    graph = state.graph
    timing = graph.timing
    assert timing is not None
    peaks = exact.run(graph, state.pixels, state.labels, settle=timing.settle_cycles > 0).meta["peaks"]
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
    return replace(state, report={**state.report, "calibrate": summary}, warnings=warnings)


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
            exponent = q.synapses.exponent if isinstance(q.synapses, DenseInt | Transposed) else 0
            unit = 2.0 ** (exponent - timing.lowest("activity" if q.carries == "s_A" else "error"))
            most = min(pixel, reach["s_A"]) if q.source == graph.source.name else reach[q.carries]
            sums[q.into] += np.abs(graph.weight(q)).astype(np.float64).sum(1) * unit * most
        x_F, e_in = float(sums["a_x"].max()), float(sums["a_e"].max())
        # Clamped to a pixel; clamped to 0 or 1 after following x_F; moved as far as errors push.
        x_T = {"input": pixel * one, "output": max(x_F, one), "hidden": float((sums["a_x"] + sums["a_e"]).max())}[d.role]
        bound[f"{p.name}.x_F"], bound[f"{p.name}.e_in"], bound[f"{p.name}.x_T"] = x_F, e_in, x_T
        bound[f"{p.name}.e_T"] = 0.0 if d.role == "input" else x_T + x_F
        bound[f"{p.name}.x_A"], bound[f"{p.name}.e_A"] = reach["s_A"] * one, reach["s_e"] * one
    return bound


def _lif(state: State) -> State:
    graph, limit = state.graph, state.target.dendrite_input.value
    peaks = exact.lif_input_peaks(graph, state.pixels)
    over = {name: peak for name, peak in peaks.items() if peak > limit}
    if over:
        raise RangeError(
            "calibrate: "
            + "; ".join(f"population {name!r} receives sums up to {peak:,}" for name, peak in over.items())
            + f" on the calibration samples; a stock LIF's 16-bit input holds +-{limit:,}. Smaller weights or fewer inputs help"
        )
    worst: dict[str, int] = {}
    for p in graph.projections:
        total = int(np.abs(graph.weight(p).astype(np.int64)).sum(1).max())
        exponent = getattr(p.synapses, "exponent", 0)
        worst[p.target] = total << exponent if exponent > 0 else total >> -exponent
    warnings = tuple(
        f"calibrate: if all its inputs spike at once, population {name!r} receives {total:,}; 16 bits hold +-{limit:,} "
        f"(largest on {len(state.pixels)} calibration samples: {peaks[name]:,})"
        for name, total in worst.items()
        if total > limit
    )
    summary = {"samples": len(state.pixels), "largest_input": peaks, "worst_input": worst, "limit": limit}
    return replace(state, report={**state.report, "calibrate": summary}, warnings=(*state.warnings, *warnings))
