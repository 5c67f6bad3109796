"""Graph: what a network is, before and after its numbers become integers.

A graph is populations (who computes), projections (who tells whom), how images become input, and where the answer is read.
Passes and executors never change one; they build another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.graded import Graded, GradedInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.dynamics.pyramidal import Pyramidal, PyramidalInt
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.errors import FileFormatError, InputError
from lavasnn.files import pack, read_tensors, unpack, write_tensors
from lavasnn.synapses import (
    Borrowed,
    Conv,
    Deconv,
    Dense,
    Grid,
    Owned,
    Shared,
    Sparse,
    Synapses,
    Transposed,
    as_dense,
    transposed,
    with_weight,
)


@dataclass(frozen=True)
class Source:
    """Messages given from outside (an encoding); has no state."""

    MESSAGES: ClassVar[tuple[str, ...]] = ("s",)
    INPUTS: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, eq=False)
class Through:
    """No neurons: passes `scale` times what arrives, plus `bias`, on within the same step; the compiler folds it away.

    Args:
        scale: One number, or shape (neuron,).
        bias: The same.
    """

    MESSAGES: ClassVar[tuple[str, ...]] = ("s",)
    INPUTS: ClassVar[tuple[str, ...]] = ("a",)

    scale: Any = 1.0
    bias: Any = 0.0


@dataclass(frozen=True)
class Coincidence:
    """Pairs of spikes: sends 1 where both of a pair arrive within the same step; the compiler makes neurons of it.

    Each receives from two neurons that send spikes, with weights of 1.
    """

    MESSAGES: ClassVar[tuple[str, ...]] = ("s",)
    INPUTS: ClassVar[tuple[str, ...]] = ("a",)


Instant = Through | Coincidence
"""What takes no step; no executor runs it."""
Spiking = Lif | LifInt | Graded | GradedInt
"""Neurons that receive "a" and send "s": stock processes of Lava."""
Dynamics = Source | Instant | Spiking | DiffPC | DiffPCInt | Pyramidal | PyramidalInt


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
class Projection:
    """Synapses between two populations; a message sent at step t arrives at t + 1 + delay.

    Args:
        name: Unique in its graph.
        source: Sending population.
        target: Receiving population.
        synapses: Weights.
        carries: Which of the source's messages ("s", "s_A", "s_e").
        into: Which of the target's inputs ("a", "a_x", "a_e", "basal", "apical").
        delay: Further steps: one number, or one for each sending neuron, shape (pre,).
    """

    name: str
    source: str
    target: str
    synapses: Synapses
    carries: str = "s"
    into: str = "a"
    delay: int | NDArray[np.integer[Any]] = 0


GRADED_BITS = 24
"""Width of a graded payload (lava-nc 0.10.0, proc/graded/models.py)."""


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
        output: Population whose state ("x_F", DiffPC) or messages are the answer.
        steps: Steps a sample takes; 0 for DiffPC, whose timing says it.
        read: What of the output's is the answer: "messages" (their sum over the window) or "voltage" (of LIF, at its end; of
            pyramidal neurons what their basal dendrites added up, which also breaks ties of their messages).

    Raises:
        InputError: Names that repeat or lead nowhere, shapes that do not fit, weights that are not finite: all at once.
    """

    populations: tuple[Population, ...]
    projections: tuple[Projection, ...]
    encoding: Encoding
    output: str
    steps: int = 0
    read: Literal["messages", "voltage"] = "messages"

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

    def synapses(self, projection: Projection) -> Owned:
        """Synapses that this graph holds for a projection of that name, its own or another's."""
        s = self.projection(projection.name).synapses
        if not isinstance(s, Borrowed):
            return s
        owner = self.projection(s.of).synapses
        assert not isinstance(owner, Borrowed)
        if isinstance(s, Shared):
            return owner
        turned = transposed(owner)
        return turned if turned.grid is None else with_weight(turned, turned.weight, replace(turned.grid, exponent=s.exponent))

    def weight(self, projection: Projection) -> NDArray[Any]:
        """The same as a full matrix, shape (post, pre)."""
        return as_dense(self.synapses(projection))

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
    def pyramidal(self) -> bool:
        """Whether its neurons are pyramidal, which run in two pathways."""
        return isinstance(self.source.dynamics, Pyramidal | PyramidalInt)

    def heard_of(self, drive: str) -> tuple[str, ...]:
        """Names of the pyramidal populations that a stimulus or a concept reaches through basal dendrites."""
        found: list[str] = []
        for p in self.populations:
            senders = [q.source for q in self.arriving(p.name) if q.into == "basal"]
            if getattr(p.dynamics, "drive", "") == drive or any(name in found for name in senders):
                found.append(p.name)
        return tuple(found)

    @property
    def integer(self) -> bool:
        """True once all numbers are the chip's."""
        real = Lif | Graded | DiffPC | Pyramidal | Instant
        return not any(isinstance(p.dynamics, real) for p in self.populations) and not any(
            getattr(p.synapses, "grid", True) is None for p in self.projections
        )

    def graded(self, population: str) -> bool:
        """Whether a population's messages carry payloads beyond -1..1."""
        dynamics = self.population(population).dynamics
        return isinstance(dynamics, Graded | GradedInt) or (isinstance(dynamics, Source) and self.encoding.graded)

    @property
    def unheard(self) -> tuple[str, ...]:
        """Messages ("population.kind") that no projection carries on."""
        carried = {f"{p.source}.{p.carries}" for p in self.projections}
        return tuple(key for key in self.payloads if key not in carried)

    @property
    def payloads(self) -> dict[str, int]:
        """Bits that one message carries, by "population.kind": 1 of a spike, 2 of a ternary one, 24 of a graded one."""
        found: dict[str, int] = {}
        for p in self.populations:
            ternary = getattr(p.dynamics, "vth_lo", None) is not None
            stock = GRADED_BITS if self.graded(p.name) else 2 if ternary else 1
            found |= {f"{p.name}.{kind}": stock if kind == "s" else 2 for kind in p.dynamics.MESSAGES}
        return found

    @property
    def seamless(self) -> bool:
        """True if windows follow each other without a gap: all paths to a population take equally long, none is a loop, and
        all neurons have a reset, which Lava's ternary ones lack.

        Then each population's window opens as many steps late as its messages are under way (`offsets`), so none of a
        sample's messages can reach the next one. Otherwise all windows open together and what is in flight at their end
        is discarded. In a DiffPC network they open together too, and the first step discards what arrives.
        """
        resets = all(getattr(p.dynamics, "vth_lo", None) is None for p in self.populations)
        return self.timing is None and resets and self._paths() is not None

    @property
    def offsets(self) -> dict[str, int]:
        """Steps after the input's at which each population's window opens."""
        paths = self._paths() if self.seamless else None
        return paths or {p.name: 0 for p in self.populations}

    @property
    def apical_offsets(self) -> dict[str, int]:
        """Steps at which the apical windows of pyramidal neurons open; 0 where nothing arrives."""
        offsets, found = self.offsets, dict.fromkeys(self.offsets, 0)
        for p in self.projections:
            if p.into == "apical":
                found[p.target] = offsets[p.source] + 1
        return found

    def _paths(self) -> dict[str, int] | None:
        """Steps that messages take to each population, or None if that depends on the way."""
        if self.timing is not None:
            return None
        opens = {self.source.name: 0}
        for p in self.populations[1:]:
            found: set[int] = set()
            for q in self.arriving(p.name):
                if q.into == "apical":  # listens, whenever that is, and drives nothing
                    continue
                if q.source not in opens or np.ndim(q.delay):
                    return None
                found.add(opens[q.source] + (0 if isinstance(p.dynamics, Instant) else 1) + int(q.delay))
            if len(found) > 1:
                return None
            opens[p.name] = found.pop() if found else 0
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
        Through,
        Coincidence,
        Lif,
        LifInt,
        Graded,
        GradedInt,
        DiffPC,
        DiffPCInt,
        Pyramidal,
        PyramidalInt,
        Timing,
        Grid,
        Dense,
        Sparse,
        Conv,
        Deconv,
        Transposed,
        Shared,
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
        for entry in ("bias", "bias_u", "bias_apical", "scale"):
            shape = np.shape(getattr(population.dynamics, entry, 0))
            if shape not in ((), (population.size,)):
                yield f"population {population.name!r} has {population.size} neurons and a {entry} of shape {shape}"
    labels = [p.name for p in graph.projections]
    for name in sorted({n for n in labels if labels.count(n) > 1}):
        yield f"projection name {name!r} is used {labels.count(name)} times"
    if graph.output not in names:
        yield f"output {graph.output!r} is no population"
    elif graph.read == "voltage" and not isinstance(sizes[graph.output].dynamics, Lif | LifInt | Pyramidal | PyramidalInt):
        kind = type(sizes[graph.output].dynamics).__name__
        yield f"output {graph.output!r} is {kind}; a voltage is read of LIF and pyramidal neurons alone"
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
        if isinstance(p.synapses, Borrowed):
            owner = next((q for q in graph.projections if q.name == p.synapses.of), None)
            verb = "transposes" if isinstance(p.synapses, Transposed) else "shares"
            if owner is None or isinstance(owner.synapses, Borrowed):
                yield f"projection {p.name!r} {verb} {p.synapses.of!r}, which holds no weights"
                continue
            if isinstance(p.synapses, Shared) and (owner.source, owner.carries) != (p.source, p.carries):
                yield f"projection {p.name!r} shares {p.synapses.of!r}, which carries something else"
        synapses = graph.synapses(p)
        if synapses.shape != (target.size, source.size):
            yield f"projection {p.name!r} has weights of shape {synapses.shape}, needed is {(target.size, source.size)}"
        elif not isinstance(p.synapses, Borrowed) and not np.isfinite(synapses.weight).all():
            bad = int((~np.isfinite(synapses.weight)).sum())
            yield f"projection {p.name!r} has {bad} weights that are not finite, out of {synapses.weight.size}"
        delay = np.asarray(p.delay)
        if delay.dtype.kind not in "iu" or delay.shape not in ((), (source.size,)) or delay.min() < 0:
            yield f"projection {p.name!r} has delays of {delay.dtype} and shape {delay.shape}, needed are integers of 0 or more"
