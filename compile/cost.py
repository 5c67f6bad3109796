"""What a run costs on a program's cores, counted exactly: synaptic operations, neuron updates, messages and their hops.

A message counts where it is sent, and all of its synaptic operations with it, also if the window ends before it arrives.
Executors keep the messages of each neuron; which of them reach a core follows from the synapses stored there, and how far
they travel from the program's routes. `lavasnn.measure.energy` turns the counts into estimates.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.passes.links import Wires
from compile.program import Program, Slice
from lavasnn.errors import InputError
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.measure.energy import Counts, LayerCounts
from lavasnn.measure.neurobench import messages
from lavasnn.results import RunResult
from lavasnn.synapses import fan_out, loud_fan_out


def count(program: Program, result: RunResult) -> Counts:
    """Count a run.

    Args:
        program: What was run; without routes (it was never placed) messages have no hops.
        result: What the exact executor gave with `measure`.

    Raises:
        InputError: The run is of another network or kept no messages of single neurons, or a route is missing.
    """
    graph = program.graph
    sizes = {p.name: p.size for p in graph.populations}
    if sizes != dict(result.sizes):
        raise InputError(f"cost: the run is of {dict(result.sizes)}, the program of {sizes}; they have to be the same network")
    syn_ops, nonzero = Counter[str](), Counter[str]()
    spikes_in, axon_out = Counter[str](), Counter[str]()
    sent = {f"{p.source}.{p.carries}": messages(result, f"{p.source}.{p.carries}", sizes[p.source]) for p in graph.projections}
    stored = operations(graph, sent)
    for p in graph.projections:
        syn_ops[p.target] += int(stored[p.name])
        nonzero[p.target] += int(sent[f"{p.source}.{p.carries}"] @ loud_fan_out(graph.synapses(p)))
    hops: defaultdict[str, Counter[int]] = defaultdict(Counter)
    across = outside = 0
    routes = {(r.source, r.target): r for r in program.routes}
    for p, origin, target, n in deliveries(program, result):
        spikes_in[p.target] += n
        axon_out[p.source] += n
        if origin is None:
            outside += n
        elif routes and n:
            if (origin, target) not in routes:
                raise InputError(f"cost: {p.name!r} has no route from slice {origin} to slice {target}; compile it again")
            route = routes[origin, target]
            hops[p.source][route.hops] += n
            across += n if route.chips else 0
    windows = result.samples * result.steps
    return Counts(
        samples=result.samples,
        steps=result.steps,
        latency_steps=result.steps + program.offsets.get(graph.output, 0),
        layers=tuple(
            LayerCounts(
                population=p.name,
                neurons=_neurons(p),
                syn_ops=syn_ops[p.name],
                syn_ops_nonzero=nonzero[p.name],
                dendrite_updates=_neurons(p) * windows,
                active_updates=_active(p, result),
                spikes_in=spikes_in[p.name],
                axon_out=axon_out[p.name],
                messages_by_hops=dict(sorted(hops[p.name].items())),
            )
            for p in graph.populations
        ),
        messages_by_hops=dict(sorted(sum(hops.values(), Counter[int]()).items())),
        messages_across_chips=across,
        messages_from_outside=outside,
        cores=program.cores,
        chips=len({chip for chip, _, _ in program.places}) or 1,
        memory_bytes=program.fit["memory_bytes"],
    )


def operations(graph: Graph, sent: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Synaptic operations of each projection: messages times the synapses stored for them.

    Args:
        graph: The network.
        sent: By "population.kind" each neuron's messages, shape (neuron,).
    """
    return {p.name: float(sent[f"{p.source}.{p.carries}"] @ fan_out(graph.synapses(p))) for p in graph.projections}


def deliveries(program: Program, result: RunResult) -> Iterator[tuple[Projection, int | None, int, int]]:
    """Messages between slices: projection, index of the sending slice (None: from the host) and of the receiving one, number.

    A message goes to every slice in which its sender has a synapse, once for each projection.
    """
    homes: defaultdict[str, list[tuple[int, Slice, NDArray[np.int64]]]] = defaultdict(list)
    for k, piece in enumerate(program.slices):
        homes[piece.population].append((k, piece, program.neurons(piece)))
    for p in program.graph.projections:
        order = program.orders.get(p.target)
        wires = Wires(p, program.graph.synapses(p), post=None if order is None else order.neurons())
        sent = messages(result, f"{p.source}.{p.carries}", wires.synapses.shape[1])
        for target, piece, _ in homes[p.target]:
            arriving = np.where(wires.by_sender(wires.needed(piece.start, piece.stop)), sent, 0)
            if not homes[p.source]:
                yield p, None, target, int(arriving.sum())
            for origin, _, neurons in homes[p.source]:
                yield p, origin, target, int(arriving[neurons].sum())


def _neurons(p: Population) -> int:
    """Neurons on cores: an input from outside has none."""
    return 0 if isinstance(p.dynamics, Source) else p.size


def _active(p: Population, result: RunResult) -> int:
    """Updates in which a neuron surely sent: of two kinds of messages, those of the more frequent one."""
    if _neurons(p) == 0:
        return 0
    sent = [result.by_neuron[key] for key in (f"{p.name}.{kind}" for kind in p.dynamics.MESSAGES) if key in result.by_neuron]
    return int(np.max(sent, axis=0).sum()) if sent else 0
