"""Compare two runs of the same samples, value by value, and say where and why they part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.dynamics.fixedpoint import STATE_MAX
from lavasnn.errors import InputError
from lavasnn.ir import Graph
from lavasnn.results import RunResult
from lavasnn.synapses import strengths

TOLERANCE = 1e-9
"""Largest difference of float64 states that counts as equal; sums are formed in different orders."""


@dataclass(frozen=True)
class Difference:
    """The first place where two runs disagree.

    Args:
        population: Where.
        variable: What: "s_A", "x_F", ...
        sample: Which sample.
        step: Step within its window.
        neuron: Which neuron.
        values: What each run has, by backend.
        cause: The likeliest reason.
    """

    population: str
    variable: str
    sample: int
    step: int
    neuron: int
    values: Mapping[str, float]
    cause: str

    def __str__(self) -> str:
        pair = ", ".join(f"{name} {value:g}" for name, value in self.values.items())
        return (
            f"population {self.population!r}, {self.variable} of neuron {self.neuron}, sample {self.sample}, "
            f"step {self.step}: {pair} (likely cause: {self.cause})"
        )


@dataclass(frozen=True)
class Verification:
    """Outcome of a comparison.

    Args:
        backends: Names of the runs compared.
        samples: How many.
        steps: Steps of a window.
        populations: Names of the populations compared.
        compared: Values compared in all.
        mismatches: How many of them differ.
        first: The first of them.
        ties: Float runs only: steps at which some |d| came within 1e-9 of its threshold, so that rounding decides; samples
            are compared up to their first such step.
    """

    backends: tuple[str, ...]
    samples: int
    steps: int
    populations: tuple[str, ...]
    compared: int
    mismatches: int
    first: Difference | None = None
    ties: int = 0

    @property
    def equal(self) -> bool:
        """True if something was compared and nothing differs."""
        return self.compared > 0 and self.mismatches == 0

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "backends": list(self.backends),
            "samples": self.samples,
            "steps": self.steps,
            "populations": len(self.populations),
            "compared": self.compared,
            "mismatches": self.mismatches,
            "ties": self.ties,
            "first": str(self.first) if self.first else None,
        }


@dataclass
class _Tally:
    compared: int = 0
    mismatches: int = 0
    first: tuple[tuple[int, int, int], str, tuple[int, ...]] | None = field(default=None)


def compare(graph: Graph, one: RunResult, other: RunResult) -> Verification:
    """Compare all traces of two runs.

    Integers have to be equal. Float64 states have to agree within 1e-9 and messages exactly, for each sample up to the
    first step with a |d| (LIF: a v) within 1e-9 of its threshold; there the order of additions decides.

    Args:
        graph: The network both ran.
        one: First run, with traces; if float, the exact executor's, whose margins tell where a decision was too close.
        other: Second run of the same samples, with traces.

    Raises:
        InputError: The runs cannot be compared: different samples, windows or variables.
    """
    recorded = [{key for key in r.traces if not key.endswith(".margin")} for r in (one, other)]
    if recorded[0] != recorded[1] or not recorded[0]:
        missing = sorted(recorded[0] ^ recorded[1]) or ["all traces"]
        raise InputError(f"verify: {one.backend} and {other.backend} did not record the same; differing: {', '.join(missing)}")
    for what in ("precision", "phases"):
        mine, theirs = getattr(one, what), getattr(other, what)
        if mine != theirs:
            raise InputError(f"verify: {one.backend} and {other.backend} differ in their {what}: {mine} and {theirs}")
    if one.outputs.shape != other.outputs.shape or not np.array_equal(one.labels, other.labels):
        raise InputError(f"verify: {one.backend} and {other.backend} did not run the same samples")
    for key in recorded[0]:
        if one.traces[key].shape != other.traces[key].shape:
            raise InputError(f"verify: {key} has shape {one.traces[key].shape} and {other.traces[key].shape}")
    upto, ties = _comparable(graph, one)
    order = {p.name: i for i, p in enumerate(graph.populations)}
    tally = _Tally()
    for key in sorted(recorded[0]):
        _count(tally, key, order, one.traces[key], other.traces[key], upto)
    _count_outputs(tally, one, other, upto)
    first = None if tally.first is None else _difference(tally.first[1], tally.first[2], one, other)
    names = tuple(p.name for p in graph.populations if any(key.rsplit(".", 1)[0] == p.name for key in recorded[0]))
    return Verification(
        (one.backend, other.backend), one.samples, one.steps, names, tally.compared, tally.mismatches, first, ties
    )


def _comparable(graph: Graph, run: RunResult) -> tuple[NDArray[np.int64], int]:
    """For each sample the steps to compare, and the number of steps with a comparison too close to call."""
    steps = next(iter(run.traces.values())).shape[1]
    upto = np.full(run.samples, steps)
    if run.precision != "float" or dyadic(graph):
        return upto, 0
    close = np.zeros((run.samples, steps), bool)
    for key, margin in run.traces.items():
        if key.endswith(".margin"):
            close |= margin.min(axis=2) < TOLERANCE
    hit = close.any(axis=1)
    upto[hit] = close.argmax(axis=1)[hit]
    return upto, int(close.sum())


def dyadic(graph: Graph) -> bool:
    """True if float64 adds this network's numbers without rounding, in any order.

    Only a neuron's weighted sum of messages -1, 0, 1 is formed in an order that executors choose. With weights that are
    multiples of 2**-24 and add up to less than 2**12 it never needs more than 36 bits; biases join by themselves.
    """
    biases = [np.asarray(getattr(p.dynamics, "bias", 0.0), np.float64) for p in graph.populations]
    owned = [graph.synapses(p) for p in graph.projections]
    numbers = [*biases, *(s.weight.astype(np.float64) for s in owned)]
    whole = all(np.array_equal(np.ldexp(v, 24), np.round(np.ldexp(v, 24))) for v in numbers)
    return whole and all(float(strengths(s).max(initial=0)) < 4096 for s in owned)


def _count(
    tally: _Tally, key: str, order: Mapping[str, int], a: NDArray[Any], b: NDArray[Any], upto: NDArray[np.int64]
) -> None:
    name, variable = key.rsplit(".", 1)
    valid = np.arange(a.shape[1])[None, :] < upto[:, None]
    if a.dtype.kind == "f" and not variable.startswith("s"):
        wrong = ~(np.abs(a - b) <= TOLERANCE)
    else:
        wrong = a != b
    wrong &= valid[:, :, None]
    tally.compared += int(valid.sum()) * a.shape[2]
    n = int(np.count_nonzero(wrong))
    if not n:
        return
    tally.mismatches += n
    sample, step, neuron = (int(i) for i in np.argwhere(wrong)[0])
    place = (sample, step, order[name])
    if tally.first is None or place < tally.first[0]:
        tally.first = (place, key, (sample, step, neuron))


def _count_outputs(tally: _Tally, one: RunResult, other: RunResult, upto: NDArray[np.int64]) -> None:
    """Outputs are states, counted where no tie came before they were read."""
    whole = upto >= one.steps
    a, b = one.outputs[whole], other.outputs[whole]
    wrong = ~(np.abs(a - b) <= TOLERANCE) if one.precision == "float" else a != b
    tally.compared += a.size
    tally.mismatches += int(wrong.sum())


def _difference(key: str, place: tuple[int, ...], one: RunResult, other: RunResult) -> Difference:
    name, variable = key.rsplit(".", 1)
    sample, step, neuron = place
    values = {r.backend: float(r.traces[key][place]) for r in (one, other)}
    return Difference(name, variable, sample, step, neuron, values, _cause(name, place, one, other))


def _cause(name: str, place: tuple[int, ...], one: RunResult, other: RunResult) -> str:
    """The likeliest reason for a first difference (what arrived was equal): the size of the values, and the steps around."""
    sample, step, _ = place
    mine = {k: v for k, v in one.traces.items() if k.rsplit(".", 1)[0] == name and not k.endswith(".margin")}
    if any(abs(float(r.traces[k][place])) >= STATE_MAX for k in mine for r in (one, other)):
        return "saturation: a value at the end of its register"
    for shift in (-1, 1):
        pairs = [(step - shift, step)] + ([(step, step + shift)] if step or shift > 0 else [])  # steps of one and of other
        if all(0 <= t < one.steps for pair in pairs for t in pair) and all(
            np.array_equal(one.traces[k][sample, a], other.traces[k][sample, b]) for k in mine for a, b in pairs
        ):
            return f"ordering: {other.backend} is {abs(shift)} step {'behind' if shift > 0 else 'ahead'}"
    states = [k for k in mine if not k.rsplit(".", 1)[1].startswith("s")]
    if not states:
        return "a state that is not recorded"
    gap = max(abs(float(one.traces[k][place]) - float(other.traces[k][place])) for k in states)
    if gap == 0:
        return "threshold or an input that is not recorded: the recorded states agree"
    if gap <= (2 if one.precision == "fixed" else 1e-6):
        return "rounding: the values differ in the last bits"
    return "decay or accumulation: states differ although the same messages arrived"
