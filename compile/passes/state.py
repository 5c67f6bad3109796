"""What a pass takes and returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compile.passes.links import NO_LINKS, Links
from compile.program import Order, Route, Slice
from compile.target import Target
from lavasnn.errors import Violation
from lavasnn.ir import Graph


@dataclass(frozen=True)
class State:
    """A network on its way to a chip.

    Args:
        graph: The network so far.
        target: Where it goes.
        pixels: Calibration images, shape (sample, pixel); empty if there are none.
        labels: Their classes, shape (sample,).
        report: What each pass did and found, by pass.
        warnings: Lines for the user.
        slices: Neurons on cores, once partitioned.
        orders: How slices count the neurons of populations, where it is not as these do.
        offsets: Window starts, once scheduled.
        traffic: For "population.kind" each neuron's messages per sample on the calibration samples, shape (neuron,).
        links: Who tells whom, between slices, once partitioned.
        violations: What does not fit the target.
        places: Chip, column and row of each core, once placed.
        routes: The links with their ways through the mesh, once routed.
    """

    graph: Graph
    target: Target
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    report: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    slices: tuple[Slice, ...] = ()
    orders: Mapping[str, Order] = field(default_factory=dict)
    offsets: Mapping[str, int] = field(default_factory=dict)
    traffic: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    links: Links = NO_LINKS
    violations: tuple[Violation, ...] = ()
    places: tuple[tuple[int, int, int], ...] = ()
    routes: tuple[Route, ...] = ()


class Pass(Protocol):
    """A step of compilation."""

    def apply(self, state: State) -> State:
        """Return the state after this pass; the one given stays as it is."""
        ...
