"""The compiler: rules, passes in order, rules again."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compile import rules
from compile.passes.calibrate import Calibrate
from compile.passes.partition import Partition
from compile.passes.quantize import Quantize
from compile.passes.schedule import Schedule
from compile.passes.state import Pass, State
from compile.program import Program
from compile.target import LOIHI2, Target
from lavasnn.errors import InputError
from lavasnn.ir import Graph

PASSES: tuple[Pass, ...] = (Quantize(), Calibrate(), Schedule(), Partition())


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
        LimitError: The network does not fit.
    """
    if len(pixels) < 1:
        raise InputError("compile: 0 calibration samples, at least 1 is needed")
    rules.check(graph, target, rules.BEFORE)
    state = State(graph, target, pixels, labels)
    seconds: dict[str, float] = {}
    for step in passes:
        started = time.perf_counter()
        state = step.apply(state)
        seconds[type(step).__name__.lower()] = round(time.perf_counter() - started, 3)
    rules.check(state.graph, target, rules.AFTER)
    report = {**state.report, "seconds": seconds, "warnings": list(state.warnings)}
    return Program(state.graph, target.name, state.slices, state.offsets, report, source)
