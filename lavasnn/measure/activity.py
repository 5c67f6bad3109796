"""Populations that say nothing, or the same in every step: the commonest reason why a network answers nothing useful."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.graded import Graded, GradedInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.dynamics.pyramidal import Pyramidal, PyramidalInt
from lavasnn.ir import Graph
from lavasnn.results import RunResult


def thresholds(graph: Graph) -> dict[str, float]:
    """Each population's threshold, in units of its input; of DiffPC the smallest one for activity."""
    found: dict[str, float] = {}
    for p in graph.populations:
        match p.dynamics:
            case Lif(vth=vth) | LifInt(vth=vth) | Graded(vth=vth) | GradedInt(vth=vth):
                found[p.name] = vth
            case Pyramidal(tau=tau, threshold=threshold):
                found[p.name] = tau * threshold
            case PyramidalInt(vth=vth):
                found[p.name] = vth
            case DiffPC(timing=timing):
                found[p.name] = float(timing.thresholds("activity").min())
            case DiffPCInt(timing=timing, point=point):
                found[p.name] = float(timing.thresholds("activity").min()) * 2**point
            case _:
                pass
    return found


def quiet(result: RunResult, thresholds: Mapping[str, float]) -> tuple[str, ...]:
    """One line for each population that sends nothing at all in a run, or something from every neuron in every step.

    Args:
        result: A run; of the exact executor with `measure` (DiffPC: always) the lines tell the range of the input, too.
        thresholds: By population, see `thresholds`.
    """
    found: list[str] = []
    for name, size in result.sizes.items():
        kinds = [counts for key, counts in result.messages.items() if key.rsplit(".", 1)[0] == name]
        sent = [int(counts.sum(dtype=np.int64)) for counts in kinds]
        where = f"in {result.samples:,} sample{'s' if result.samples > 1 else ''} of {result.steps} steps"
        if not any(sent):
            found.append(f"population {name!r} never sends anything {where}{_range(result, name, thresholds)}")
        elif any(n == counts.size * size for n, counts in zip(sent, kinds, strict=True)):
            found.append(
                f"population {name!r}: all {size:,} neurons send in every step {where}{_range(result, name, thresholds)}"
            )
    return tuple(found)


def remarks(graph: Graph, result: RunResult) -> tuple[str, ...]:
    """The lines of `quiet` for a network; an output whose state is read need not send, and what hears nothing may always."""
    expected = [f"population {p.name!r}: all" for p in graph.populations[1:] if not graph.arriving(p.name)]
    if graph.timing is not None or graph.read == "voltage":
        expected.append(f"population {graph.output!r} never")
    if graph.pyramidal and not len(result.labels):
        expected += [f"population {name!r} never" for name in graph.heard_of("concept")]
    return tuple(line for line in quiet(result, thresholds(graph)) if not line.startswith(tuple(expected)))


def _range(result: RunResult, name: str, thresholds: Mapping[str, float]) -> str:
    """What is known of a population's input and threshold."""
    peaks: Mapping[str, float] = result.meta.get("peaks", {})
    parts: list[str] = []
    if f"{name}.least" in peaks:
        parts.append(f"inputs from {_number(peaks[f'{name}.least'])} to {_number(peaks[f'{name}.most'])}")
    elif f"{name}.x_T" in peaks:
        parts.append(f"targets up to {_number(peaks[f'{name}.x_T'])} in magnitude")
    if name in thresholds:
        parts.append(f"the threshold is {_number(thresholds[name])}")
    return f": {', '.join(parts)}" if parts else ""


def _number(value: float) -> str:
    """Integers of the chip in full, real numbers in four digits."""
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"
