"""Neurons onto cores.

Memory of a slice (an estimate: Intel publishes no layout): its weights at 8 bits each, kept with the receiving neurons;
3 bytes for each 24-bit state of a neuron; 4 bytes for each axon that leads in. A DiffPC neuron holds x_F, x_T, x_A, e_in, e_T,
e_A and a byte for its ReLU mask, an input only x_T and x_A; the activity that a weight update would latch is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from compile.passes.state import State
from compile.program import Slice
from compile.target import Target
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.errors import LimitError
from lavasnn.ir import Graph, Population, Source

STATE_BYTES = 3
AXON_BYTES = 4
DIFFPC_BYTES = 6 * STATE_BYTES + 1
INPUT_BYTES = 2 * STATE_BYTES
LIF_BYTES = 2 * STATE_BYTES


@dataclass(frozen=True)
class Partition:
    """Fill cores population by population, as few as possible, in order."""

    def apply(self, state: State) -> State:
        """See the class.

        Raises:
            LimitError: A single neuron needs more than a core has, or the network more cores than the target.
        """
        slices: list[Slice] = []
        core = 0
        for population in state.graph.populations:
            if isinstance(population.dynamics, Source):
                continue
            for piece in pieces(state.graph, population, state.target):
                slices.append(replace(piece, core=core))
                core += 1
        if core > state.target.cores.value:
            most = max(state.graph.populations, key=lambda p: sum(s.population == p.name for s in slices))
            raise LimitError(
                f"the network on {state.target.name}",
                "cores",
                core,
                state.target.cores.value,
                f"population {most.name!r} alone takes {sum(s.population == most.name for s in slices)}; make it smaller",
            )
        used = {"cores": [core, state.target.cores.value]}
        return replace(state, slices=tuple(slices), report={**state.report, "partition": used})


def neuron_bytes(graph: Graph, population: Population) -> tuple[int, int, int]:
    """Weights of one neuron, bytes of one neuron, and axons that lead into its population."""
    arriving = graph.arriving(population.name)
    weights = sum(graph.population(p.source).size for p in arriving)
    match population.dynamics:
        case DiffPC(role="input") | DiffPCInt(role="input"):
            states = INPUT_BYTES
        case DiffPC() | DiffPCInt():
            states = DIFFPC_BYTES
        case _:
            states = LIF_BYTES
    return weights, weights + states, weights


def pieces(graph: Graph, population: Population, target: Target) -> list[Slice]:
    """Slices of one population, of equal size but for the last."""
    weights, size, axons = neuron_bytes(graph, population)
    if axons > target.fan_in_per_core.value:
        raise LimitError(
            f"population {population.name!r}",
            "input axons",
            axons,
            target.fan_in_per_core.value,
            "give it fewer inputs",
        )
    room = target.memory_per_core.value - axons * AXON_BYTES
    most = min(room // size, target.neurons_per_core.value)
    if most < 1:
        raise LimitError(
            f"population {population.name!r}",
            "bytes for one neuron and its axons",
            size + axons * AXON_BYTES,
            target.memory_per_core.value,
            "give it fewer inputs",
        )
    count = -(-population.size // most)
    share = -(-population.size // count)
    return [
        Slice(
            core=0,
            population=population.name,
            start=start,
            stop=(stop := min(start + share, population.size)),
            synapses=(stop - start) * weights,
            memory_bytes=(stop - start) * size + axons * AXON_BYTES,
        )
        for start in range(0, population.size, share)
    ]
