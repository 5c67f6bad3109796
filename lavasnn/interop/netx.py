"""lava-dl's netx HDF5 (`.net`), written from feed-forward LIF networks in integers.

    layer/0           type = "input", shape (neuron,)
    layer/1, 2, ...   type = "dense", shape (neuron,), weight (post, pre), bias (post,) unless all are 0,
                      neuron/type = "CUBA", iDecay = du + 1, vDecay = dv, vThMant = vth, refDelay = 1, gradedSpike = 0

netx reads iDecay back as du = iDecay - 1 and shifts every bias left by 6. It scales weights up to 8 bits and the sums down
again, which leaves excitatory and mixed-sign matrices as they are, but not every inhibitory one: see `_weight_problem`.

The n-th dense layer answers n steps after its input (each synapse adds one). netx resets nothing between samples unless
told to: `Network(path, reset_interval=graph.steps, reset_offset=1)` starts each sample from rest. Without a reset, biases
charge the n-th layer during the n steps before its first input arrives, so that even the first sample differs.

Source: lava-dl 0.6.0, lava/lib/dl/netx/hdf5.py, Network.create_dense and get_neuron_params; netx/utils.py,
optimize_weight_bits; lava-nc 0.10.0, lava/utils/weightutils.py, clip_weights and truncate_weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lavasnn.dynamics.lif import LifInt
from lavasnn.errors import InputError
from lavasnn.files import replacing
from lavasnn.ir import GRID, DenseInt, Graph, Population, Projection, Source

BIAS_EXP = 6
"""Left shift of every bias in netx."""


def write_net(graph: Graph, path: Path) -> None:
    """Write a network for lava-dl's netx.

    Args:
        graph: Input spikes and LIF populations in a chain, in integers; what the file holds is spike for spike the same.
        path: The `.net` file; an existing one is replaced only once the new one is complete.

    Raises:
        InputError: A network that netx cannot hold, with every reason, or a place that cannot be written.
    """
    _check_kind(graph)
    layers = [(p, graph.arriving(p.name)[0]) for p in graph.populations[1:]]
    problems = [problem for p, projection in layers for problem in _problems(p, projection)]
    if problems:
        raise InputError("netx: " + "; ".join(problems))
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        first = file.create_group("layer/0")
        _write_head(first, "input", graph.source.size)
        for i, (population, projection) in enumerate(layers, start=1):
            _write_dense(file.create_group(f"layer/{i}"), population, projection)


def _check_kind(graph: Graph) -> None:
    """Refuse what is no chain of LIF populations in integers."""
    if graph.timing is not None:
        raise InputError("netx: DiffPC populations have no form in netx; allowed are LIF networks")
    if not graph.integer:
        raise InputError(
            "netx: the network holds real numbers, netx needs integers; run `lavasnn compile` on it, "
            "then `lavasnn export program.safetensors -o x.net`"
        )
    names = [p.name for p in graph.populations]
    hops = sorted((names.index(p.source), names.index(p.target)) for p in graph.projections)
    if hops != [(i, i + 1) for i in range(len(names) - 1)] or not isinstance(graph.source.dynamics, Source):
        raise InputError("netx: the network is no chain: allowed is input, then LIF populations, each fed by the one before")
    if len(names) < 2:
        raise InputError("netx: the network has no LIF population behind its input, at least 1 is needed")
    if graph.output != names[-1]:
        raise InputError(f"netx: the output is {graph.output!r}, netx reads its answer from the last layer {names[-1]!r}")


def _problems(population: Population, projection: Projection) -> list[str]:
    d, synapses, found = population.dynamics, projection.synapses, list[str]()
    if not isinstance(d, LifInt):
        return [f"population {population.name!r} is {type(d).__name__}, allowed is LifInt"]
    if not isinstance(synapses, DenseInt):
        return [f"projection {projection.name!r} is {type(synapses).__name__}, allowed is DenseInt"]
    if synapses.exponent != 0:
        found.append(f"projection {projection.name!r} has weight exponent {synapses.exponent}, allowed is 0")
    if (problem := _weight_problem(synapses)) is not None:
        found.append(f"projection {projection.name!r} {problem}")
    bias = np.atleast_1d(np.asarray(d.bias, np.int64))
    odd = bias[bias % 2**BIAS_EXP != 0]
    low, high = LifInt.RANGES["bias_mant"]
    beyond = bias[(bias >> BIAS_EXP < low) | (bias >> BIAS_EXP > high)]
    if odd.size:
        found.append(f"population {population.name!r} has a bias of {odd[0]}, allowed are multiples of {2**BIAS_EXP}")
    elif beyond.size:
        found.append(
            f"population {population.name!r} has a bias of {beyond[0]:,}, allowed is {low * 2**BIAS_EXP:,}.."
            f"{high * 2**BIAS_EXP:,} (13 bits shifted by {BIAS_EXP})"
        )
    return found


def _weight_problem(synapses: DenseInt) -> str | None:
    """Why netx would not run these very weights, or None.

    For a matrix without positive weights netx scales the most negative one up towards -256, which Lava then clips to -255;
    a zero in it makes netx count a bit for the sign as well, one too many if odd weights need all eight.
    """
    weight: NDArray[Any] = synapses.weight
    if weight.dtype.kind not in "iu":
        return f"has weights of {weight.dtype}, allowed are integers"
    low, high, spacing = GRID[synapses.sign_mode]
    least, most = int(weight.min()), int(weight.max())
    if least < low or most > high or (weight % spacing).any():
        return f"has weights off the {synapses.sign_mode} grid {low}..{high} in steps of {spacing}"
    if least == most == 0:
        return "has only weights of 0, which netx cannot read"
    if most > 0:
        return None
    if -least & (-least - 1) == 0:
        return f"has no positive weight and {least} as its lowest, a power of two, which netx would change"
    if most == 0 and least < -128 and (weight % 2).any():
        return f"has no positive weight, zeros and odd weights down to {least}, which netx would change; allowed is -127"
    return None


def _write_head(group: Any, kind: str, size: int) -> None:
    group.create_dataset("type", data=np.array([kind], "S10"))
    group.create_dataset("shape", data=np.array([size], np.int64))


def _write_dense(group: Any, population: Population, projection: Projection) -> None:
    d, synapses = population.dynamics, projection.synapses
    assert isinstance(d, LifInt)
    assert isinstance(synapses, DenseInt)
    _write_head(group, "dense", population.size)
    group.create_dataset("weight", data=synapses.weight.astype(np.int32))
    bias = np.broadcast_to(np.asarray(d.bias, np.int32) >> BIAS_EXP, (population.size,))
    if bias.any():
        group.create_dataset("bias", data=bias)
    neuron = {"iDecay": d.du + 1, "vDecay": d.dv, "vThMant": d.vth, "refDelay": 1, "gradedSpike": 0}
    group.create_dataset("neuron/type", data=np.array(["CUBA"], "S10"))
    for name, value in neuron.items():
        group.create_dataset(f"neuron/{name}", data=np.int64(value))
