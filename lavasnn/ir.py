"""Graph: what a network is, before and after its numbers become integers.

A graph is populations (who computes), projections (who tells whom), how images become input, and where the answer is read.
Passes and executors never change one; they build another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.errors import FileFormatError, InputError
from lavasnn.files import pack, read_tensors, unpack, write_tensors


@dataclass(frozen=True)
class Source:
    """Input spikes given from outside (an encoding); has no state."""

    MESSAGES: ClassVar[tuple[str, ...]] = ("s",)
    INPUTS: ClassVar[tuple[str, ...]] = ()


Dynamics = Source | Lif | LifInt | DiffPC | DiffPCInt


@dataclass(frozen=True)
class Population:
    """Neurons of one kind.

    Args:
        name: Unique in its graph.
        size: Number of neurons.
        dynamics: Their parameters.
    """

    name: str
    size: int
    dynamics: Dynamics


@dataclass(frozen=True)
class Dense:
    """All-to-all synapses with real weights, shape (post, pre)."""

    weight: NDArray[Any]


SignMode = Literal["mixed", "excitatory", "inhibitory"]

GRID: dict[SignMode, tuple[int, int, int]] = {
    "mixed": (-256, 254, 2),
    "excitatory": (0, 255, 1),
    "inhibitory": (-255, 0, 1),
}
"""Smallest and largest 8-bit weight and their spacing (lava-nc 0.10.0, utils/weightutils.py: a mixed sign costs a bit)."""


@dataclass(frozen=True)
class DenseInt:
    """All-to-all synapses as a neurocore holds them (Lava's Dense, fixed_pt).

    Args:
        weight: Integers, shape (post, pre), on the `GRID` of `sign_mode`.
        exponent: The accumulated sum is shifted left by this many bits (right, rounding down, if negative).
        sign_mode: Lava's SignMode.
        unit: What one weight unit is worth in the real network.
    """

    weight: NDArray[Any]
    exponent: int = 0
    sign_mode: SignMode = "mixed"
    unit: float = 1.0


@dataclass(frozen=True)
class Transposed:
    """The synapses of another projection, used from its targets back to its sources.

    Args:
        of: Name of that projection.
        exponent: As in `DenseInt`; unused with real weights.
    """

    of: str
    exponent: int = 0


Synapses = Dense | DenseInt | Transposed


@dataclass(frozen=True)
class Projection:
    """Synapses between two populations; a message sent at step t arrives at t + 1.

    Args:
        name: Unique in its graph.
        source: Sending population.
        target: Receiving population.
        synapses: Weights.
        carries: Which of the source's messages ("s", "s_A", "s_e").
        into: Which of the target's inputs ("a", "a_x", "a_e").
    """

    name: str
    source: str
    target: str
    synapses: Synapses
    carries: str = "s"
    into: str = "a"


@dataclass(frozen=True)
class Phase:
    """Steps start..stop-1 of a window."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Graph:
    """A network.

    Args:
        populations: In order from input to output.
        projections: In any order.
        encoding: How images become input of the first population.
        output: Population whose state ("x_F", DiffPC) or spike count (LIF) is the answer.
        steps: Steps a sample takes; 0 for DiffPC, whose timing says it.

    Raises:
        InputError: Names that repeat or lead nowhere, shapes that do not fit, weights that are not finite: all at once.
    """

    populations: tuple[Population, ...]
    projections: tuple[Projection, ...]
    encoding: Encoding
    output: str
    steps: int = 0

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise InputError("graph: " + "; ".join(problems))

    def population(self, name: str) -> Population:
        """The population of that name."""
        return next(p for p in self.populations if p.name == name)

    def projection(self, name: str) -> Projection:
        """The projection of that name."""
        return next(p for p in self.projections if p.name == name)

    def weight(self, projection: Projection) -> NDArray[Any]:
        """Weights that this graph holds for a projection of that name, shape (post, pre), its own or another's transposed."""
        match self.projection(projection.name).synapses:
            case Transposed(of=name):
                return self.weight(self.projection(name)).T
            case Dense(weight=weight) | DenseInt(weight=weight):
                return weight

    def arriving(self, population: str) -> tuple[Projection, ...]:
        """Projections that end at a population."""
        return tuple(p for p in self.projections if p.target == population)

    @property
    def source(self) -> Population:
        """The population that receives the samples."""
        return self.populations[0]

    @property
    def timing(self) -> Timing | None:
        """Phases and thresholds of a DiffPC graph, None for others."""
        dynamics = self.source.dynamics
        return dynamics.timing if isinstance(dynamics, DiffPC | DiffPCInt) else None

    @property
    def integer(self) -> bool:
        """True once all numbers are the chip's."""
        return not any(isinstance(p.dynamics, Lif | DiffPC) for p in self.populations) and not any(
            isinstance(p.synapses, Dense) for p in self.projections
        )

    @property
    def offsets(self) -> dict[str, int]:
        """Steps after the input's at which each population's window opens: one per synapse on the way.

        So a feed-forward window never meets what is still in flight. DiffPC populations open together: in their first step
        they discard what arrives.
        """
        opens = {self.source.name: 0}
        for p in self.populations[1:]:
            before = [opens[q.source] for q in self.arriving(p.name) if q.source in opens]
            opens[p.name] = 0 if self.timing is not None else max(before) + 1
        return opens

    def phases(self, settle: bool) -> tuple[Phase, ...]:
        """Phases of a sample's window; `settle` asks for the second phase of DiffPC too."""
        timing = self.timing
        if timing is None:
            return (Phase("run", 0, self.steps),)
        end = timing.window(settle) - 1
        settling = (Phase("settle", timing.init_steps, end),) if settle else ()
        return (Phase("init", 0, timing.init_steps), *settling, Phase("drain", end, end + 1))

    def save(self, path: Path) -> None:
        """Write the graph to a file of kind "graph"."""
        tensors: dict[str, NDArray[Any]] = {}
        write_tensors(path, "graph", pack(self, tensors), tensors)

    @staticmethod
    def load(path: Path) -> Graph:
        """Read a file that `save` wrote."""
        _, header, tensors = read_tensors(path, "graph")
        graph = unpack(header, tensors, GRAPH_TYPES, str(path))
        if not isinstance(graph, Graph):
            raise FileFormatError(f"{path}: holds no graph")
        return graph


GRAPH_TYPES: dict[str, type] = {
    t.__name__: t
    for t in (
        Graph,
        Population,
        Projection,
        Source,
        Lif,
        LifInt,
        DiffPC,
        DiffPCInt,
        Timing,
        Dense,
        DenseInt,
        Transposed,
        Encoding,
    )
}


def _problems(graph: Graph) -> Iterator[str]:
    names = [p.name for p in graph.populations]
    sizes = {p.name: p for p in graph.populations}
    if not names:
        yield "it has no populations"
        return
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield f"population name {name!r} is used {names.count(name)} times"
    for population in graph.populations:
        if not isinstance(population.size, int) or population.size < 1:
            yield f"population {population.name!r} has {population.size} neurons, at least 1 is needed"
        shape = np.shape(getattr(population.dynamics, "bias", 0))
        if shape not in ((), (population.size,)):
            yield f"population {population.name!r} has {population.size} neurons and a bias of shape {shape}"
    labels = [p.name for p in graph.projections]
    for name in sorted({n for n in labels if labels.count(n) > 1}):
        yield f"projection name {name!r} is used {labels.count(name)} times"
    if graph.output not in names:
        yield f"output {graph.output!r} is no population"
    if graph.timing is None and graph.steps < 1:
        yield f"a sample takes {graph.steps} steps, at least 1 is needed"
    for p in graph.projections:
        if p.source not in sizes or p.target not in sizes:
            yield f"projection {p.name!r} leads from {p.source!r} to {p.target!r}, one of which does not exist"
            continue
        source, target = sizes[p.source], sizes[p.target]
        if p.carries not in source.dynamics.MESSAGES:
            yield f"projection {p.name!r}: {source.name!r} sends {source.dynamics.MESSAGES}, not {p.carries!r}"
        if p.into not in target.dynamics.INPUTS:
            yield f"projection {p.name!r}: {target.name!r} receives {target.dynamics.INPUTS}, not {p.into!r}"
        if isinstance(p.synapses, Transposed):
            owner = next((q for q in graph.projections if q.name == p.synapses.of), None)
            if owner is None or isinstance(owner.synapses, Transposed):
                yield f"projection {p.name!r} transposes {p.synapses.of!r}, which holds no weights"
                continue
        weight = graph.weight(p)
        if weight.shape != (target.size, source.size):
            yield f"projection {p.name!r} has weights of shape {weight.shape}, needed is {(target.size, source.size)}"
        elif not isinstance(p.synapses, Transposed) and not np.isfinite(weight).all():
            bad = int((~np.isfinite(weight)).sum())
            yield f"projection {p.name!r} has {bad} weights that are not finite, out of {weight.size}"
