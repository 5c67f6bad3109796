"""The compiler: rules, passes in order, rules again."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compile import rules
from compile.backends import exact
from compile.fit import fit
from compile.passes.calibrate import Calibrate
from compile.passes.fold import Fold
from compile.passes.lower import Lower
from compile.passes.partition import Partition
from compile.passes.place import Place
from compile.passes.quantize import Quantize
from compile.passes.route import Route
from compile.passes.schedule import Schedule
from compile.passes.state import Pass, State
from compile.program import Program
from compile.target import LOIHI2, Target
from lavasnn.errors import InputError, LimitError
from lavasnn.ir import Graph

PASSES: tuple[Pass, ...] = (Fold(), Lower(), Quantize(), Calibrate(), Schedule(), Partition(), Place(), Route())


def compile_graph(
    graph: Graph,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    target: Target = LOIHI2,
    passes: Sequence[Pass] = PASSES,
    source: str = "",
) -> Program:
    """Compile a network.

    Args:
        graph: Real or already in integers.
        pixels: Calibration images, shape (sample, pixel).
        labels: Their classes.
        target: The chip.
        passes: What to do, in order.
        source: Named in the program.

    Returns:
        The program; its report says for each pass what it did and how long it took, and holds the warnings.

    Raises:
        InputError: A design rule is violated, before or after, or there is nothing to calibrate on.
        RangeError: Numbers that no register holds.
        LimitError: The network does not fit; holds everything that it needs too much of.
    """
    if len(pixels) < 1:
        raise InputError("compile: 0 calibration samples, at least 1 is needed")
    exact.check_samples(graph, pixels, None, settle=False)
    rules.check(graph, target, rules.BEFORE)
    state = State(graph, target, pixels, labels)
    seconds: dict[str, float] = {}
    for step in passes:
        started = time.perf_counter()
        state = step.apply(state)
        seconds[type(step).__name__.lower()] = round(time.perf_counter() - started, 3)
        if state.violations:
            raise LimitError(state.violations)
    rules.check(state.graph, target, rules.AFTER)
    report = {**state.report, "seconds": seconds, "warnings": list(state.warnings)}
    program = Program(
        state.graph, target.name, state.slices, state.offsets, report, source, state.places, state.routes, state.orders
    )
    if over := fit(program, target).violations:
        raise LimitError(over)
    return program
