"""Program: what a chip would hold, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.errors import FileFormatError, InputError
from lavasnn.files import pack, read_tensors, unpack, write_tensors
from lavasnn.ir import GRAPH_TYPES, Graph


@dataclass(frozen=True)
class Order:
    """How the neurons of an image are counted where cores are filled.

    In blocks of channels one after another; in a block position by position, row by row; at a position channel by channel.
    With blocks of one channel that is the numbers they have in their population.

    Args:
        channels: Of the image.
        positions: Its rows times its columns.
        block: Channels of a block; divides `channels`.

    Raises:
        InputError: It does not, or one of them is no whole number of 1 or more.
    """

    channels: int
    positions: int
    block: int

    def __post_init__(self) -> None:
        numbers = (self.channels, self.positions, self.block)
        if any(type(n) is not int or n < 1 for n in numbers) or self.channels % self.block:
            raise InputError(
                f"order: {self.channels} channels of {self.positions} positions in blocks of {self.block}; allowed are whole "
                "blocks"
            )

    def neurons(self) -> NDArray[np.int64]:
        """Their numbers in the population, in this order, shape (neuron,)."""
        numbers = np.arange(self.channels * self.positions, dtype=np.int64)
        return numbers.reshape(-1, self.block, self.positions).transpose(0, 2, 1).reshape(-1)


@dataclass(frozen=True)
class Slice:
    """Neurons start..stop-1 of a population on one core, as the population's `Order` counts them, if the program names one.

    Args:
        core: Index of the core.
        population: Whose neurons.
        start: First of them.
        stop: One past the last.
        synapses: That lead into them.
        memory_bytes: Estimate of weights, states and axons; see `compile.passes.partition`.
        axons_in: Entries in the core's table of input axons, one for each sender that reaches it; the channels of a
            convolution share one for each position of their image.
        weights: Weights held in memory; fewer than synapses where a kernel is shared.
    """

    core: int
    population: str
    start: int
    stop: int
    synapses: int
    memory_bytes: int
    axons_in: int = 0
    weights: int = 0


@dataclass(frozen=True)
class Route:
    """What one slice tells another.

    Args:
        source: Index of the sending slice.
        target: Index of the receiving one.
        axons: Entries that this takes in the sending core's table of output axons: one for each neuron that has a synapse in
            the target; the channels of a convolution share one for each position of their image.
        messages: What goes this way per sample (mean of the calibration samples; 0 if nothing was measured).
        hops: Links of the mesh between the two cores, those within chips; 0 on one core.
        chips: Borders of chips that are crossed.
    """

    source: int
    target: int
    axons: int
    messages: float
    hops: int
    chips: int


@dataclass(frozen=True)
class Program:
    """A compiled network.

    Args:
        graph: The network in integers.
        target: Name of the target it was compiled for.
        slices: Which neurons sit on which core.
        offsets: Steps by which each population's window starts after the input's.
        report: What the passes did and found, JSON values.
        source: Name of what it was compiled from.
        places: Chip, column and row of each core, once placed.
        routes: Who tells whom, once routed.
        orders: Populations whose slices count neurons otherwise than the population does, by name.

    Raises:
        InputError: An order of a population that is not there, or of another number of neurons.
    """

    graph: Graph
    target: str
    slices: tuple[Slice, ...]
    offsets: Mapping[str, int]
    report: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    places: tuple[tuple[int, int, int], ...] = ()
    routes: tuple[Route, ...] = ()
    orders: Mapping[str, Order] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.orders, Mapping):
            raise InputError(f"orders are {self.orders!r}, needed is one by population")
        sizes = {p.name: p.size for p in self.graph.populations}
        for name, order in self.orders.items():
            if not isinstance(order, Order) or order.channels * order.positions != sizes.get(name):
                raise InputError(f"order of {name!r}: {order}, the population has {sizes.get(name, 0):,} neurons")

    @property
    def cores(self) -> int:
        """Number of cores used."""
        return len({s.core for s in self.slices})

    @property
    def fit(self) -> dict[str, int]:
        """Cores, neurons, synapses and estimated bytes used."""
        return {
            "cores": self.cores,
            "neurons": sum(p.size for p in self.graph.populations),
            "synapses": sum(s.synapses for s in self.slices),
            "memory_bytes": sum(s.memory_bytes for s in self.slices),
        }

    def neurons(self, piece: Slice) -> NDArray[np.int64]:
        """Numbers that the neurons of a slice have in their population, shape (neuron,)."""
        order = self.orders.get(piece.population)
        return np.arange(piece.start, piece.stop) if order is None else order.neurons()[piece.start : piece.stop]

    def save(self, path: Path) -> None:
        """Write to a file of kind "program"."""
        tensors: dict[str, NDArray[Any]] = {}
        write_tensors(path, "program", pack(self, tensors), tensors)

    @staticmethod
    def load(path: Path) -> Program:
        """Read a file that `save` wrote.

        Raises:
            FileFormatError: Damaged, of another kind or of a newer schema.
        """
        _, header, tensors = read_tensors(path, "program")
        ours = {"Program": Program, "Slice": Slice, "Route": Route, "Order": Order}
        program = unpack(header, tensors, GRAPH_TYPES | ours, str(path))
        if not isinstance(program, Program):
            raise FileFormatError(f"{path}: holds no program")
        return program
