"""NeuroBench's figures of a network and a run, without NeuroBench: the same numbers as its harness gives on the torch module.

    footprint               bytes of all parameters
    connection_sparsity     zero weights / weights, rounded to 4 places
    activation_sparsity     values not sent / values that could be sent, of all populations but the input
    synaptic_operations     a sample's messages times weights other than zero: Effective_ACs for spikes (-1, 0, 1),
                            Effective_MACs for payloads; Dense counts every input and every weight, zeros included

Biases are parameters but no operations. Sparse synapses count as the full matrix that `nn.Linear` would hold.

Source: neurobench 2.3.0, metrics/static and metrics/workload. Where it differs from ours is told in docs/measuring.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.errors import InputError
from lavasnn.ir import Graph, Population
from lavasnn.results import RunResult
from lavasnn.synapses import Borrowed, Conv, Deconv, Dense, Owned, Sparse, count, loud_fan_out

FLOAT32_BYTES = 4


def metrics(graph: Graph, result: RunResult, parameter_bytes: int = FLOAT32_BYTES) -> dict[str, Any]:
    """All four, under NeuroBench's names, as JSON values.

    Args:
        graph: The network.
        result: A run of it by the exact executor with `measure`.
        parameter_bytes: Of one parameter: 4 in torch's float32.

    Raises:
        InputError: The run kept no messages of single neurons, or is of another network.
    """
    return {
        "footprint": footprint(graph, parameter_bytes),
        "connection_sparsity": connection_sparsity(graph),
        "activation_sparsity": activation_sparsity(graph, result),
        "synaptic_operations": synaptic_operations(graph, result),
    }


def footprint(graph: Graph, parameter_bytes: int = FLOAT32_BYTES) -> int:
    """Bytes of weights and biases; those of a program's cores are `memory_bytes`, which is another thing."""
    weights = sum(_weights(s) for s in _owned(graph))
    return parameter_bytes * (weights + sum(_biases(p) for p in graph.populations))


def connection_sparsity(graph: Graph) -> float:
    """Zero weights over all weights, divided in float32 and rounded to 4 places, as NeuroBench does."""
    owned = _owned(graph)
    total = sum(_weights(s) for s in owned)
    zeros = total - sum(int(np.count_nonzero(s.weight)) for s in owned)
    return round(float(np.float32(zeros) / np.float32(total)), 4) if total else 0.0


def activation_sparsity(graph: Graph, result: RunResult) -> float:
    """Share of the values (sample, step, neuron, kind of message) that are 0, of all populations but the input."""
    sent = values = 0
    for key, counts in result.messages.items():
        name = key.rsplit(".", 1)[0]
        if name != graph.source.name:
            sent += int(counts.sum(dtype=np.int64))
            values += counts.size * result.sizes[name]
    return (values - sent) / values if values else 0.0


def synaptic_operations(graph: Graph, result: RunResult) -> dict[str, float]:
    """Operations of a sample, mean over the run.

    Raises:
        InputError: See `metrics`.
    """
    done = {"Effective_MACs": 0, "Effective_ACs": 0, "Dense": 0}
    for p in graph.projections:
        s = graph.synapses(p)
        kind = "Effective_MACs" if graph.graded(p.source) else "Effective_ACs"
        done[kind] += int(messages(result, f"{p.source}.{p.carries}", s.shape[1]) @ loud_fan_out(s))
        done["Dense"] += result.samples * result.steps * (_weights(s) if isinstance(s, Sparse) else count(s))
    return {name: n / result.samples for name, n in done.items()}


def messages(result: RunResult, key: str, neurons: int) -> NDArray[np.int64]:
    """Messages of each neuron of "population.kind", all samples and steps together, shape (neuron,).

    Raises:
        InputError: The run kept none, or is of another network.
    """
    if key not in result.by_neuron:
        raise InputError(f"counting needs the messages of each neuron of {key!r}; run with measure=True keeps them")
    sent = result.by_neuron[key].astype(np.int64)
    if sent.shape != (neurons,):
        raise InputError(f"the run has {len(sent)} neurons of {key!r}, the network {neurons}; it is of another network")
    return sent


def _owned(graph: Graph) -> list[Owned]:
    return [p.synapses for p in graph.projections if not isinstance(p.synapses, Borrowed)]


def _weights(s: Owned) -> int:
    """Weights that a torch layer holds for these synapses."""
    return s.weight.size if isinstance(s, Dense | Conv | Deconv) else s.shape[0] * s.shape[1]


def _biases(p: Population) -> int:
    """Numbers that a population's bias takes: one for each neuron unless there is none."""
    d: Any = p.dynamics
    bias = np.asarray(getattr(d, "bias", 0))
    return p.size if bias.ndim or bias.any() else 0
