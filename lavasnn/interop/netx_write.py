"""lava-dl's netx HDF5 (`.net`), written from chains of LIF populations in integers. Format: see `netx`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lavasnn.dynamics.lif import LifInt
from lavasnn.errors import InputError
from lavasnn.files import replacing
from lavasnn.interop.netx_fields import LARGEST_LAYER
from lavasnn.interop.netx_read import BIAS_EXP, LONGEST_DELAY
from lavasnn.interop.netx_weights import run_by_netx
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.synapses import GRID, Conv, Dense, Grid

CHAIN = "which is no chain: allowed is an input, then LIF populations, each fed by the one before and dense ones by themselves"
LARGEST_FIELD = 127
"""Stride, padding, dilation and groups are signed bytes in Lava's Conv (lava-nc 0.10.0, proc/conv/models.py)."""


@dataclass(frozen=True)
class _Layer:
    """One population and what arrives there: from the one before, and, if it is recurrent, from itself."""

    population: Population
    feed: Projection
    loop: Projection | None


def write_net(graph: Graph, path: Path) -> None:
    """Write a network for lava-dl's netx.

    Args:
        graph: An input, then LIF populations in a chain, dense ones also recurrent, in integers; what the file holds is spike
            for spike the same.
        path: The `.net` file; an existing one is replaced only once the new one is complete.

    Raises:
        InputError: A network that netx cannot hold, with every reason, or a place that cannot be written.
    """
    if graph.timing is not None:
        raise InputError("netx: DiffPC populations have no form in netx; allowed are LIF networks")
    if not graph.integer:
        raise InputError(
            "netx: the network holds real numbers, netx needs integers; run `lavasnn compile` on it, "
            "then `lavasnn export program.safetensors -o x.net`"
        )
    layers = _layers(graph)
    problems = list(_chain_problems(graph))
    for i, layer in enumerate(layers):
        problems += _layer_problems(layer, layers[i - 1] if i else None)
    if problems:
        raise InputError("netx: " + "; ".join(problems))
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        first = layers[0].feed.synapses
        shape: tuple[int, ...] = first.image if isinstance(first, Conv) else (graph.source.size,)
        _write_head(file, "input", shape)
        for layer in layers:
            synapses = layer.feed.synapses
            if isinstance(synapses, Conv):
                shape = synapses.image_out
                _write_conv(_write_head(file, "conv", shape), layer, synapses)
                continue
            if len(shape) == 3:
                _write_head(file, "flatten", (1, 1, int(np.prod(shape))))
            shape = (layer.population.size,)
            assert isinstance(synapses, Dense)
            _write_dense(_write_head(file, "dense_rec" if layer.loop else "dense", shape), layer, synapses)


def _layers(graph: Graph) -> list[_Layer]:
    """Populations that the one before feeds."""
    found: list[_Layer] = []
    for before, population in pairwise(graph.populations):
        arriving = {p.source: p for p in reversed(graph.arriving(population.name))}
        if before.name in arriving:
            found.append(_Layer(population, arriving[before.name], arriving.get(population.name)))
    return found


def _chain_problems(graph: Graph) -> Iterator[str]:
    names = [p.name for p in graph.populations]
    if not isinstance(graph.source.dynamics, Source):
        yield f"population {names[0]!r} is {type(graph.source.dynamics).__name__}, {CHAIN}"
    if len(names) < 2:
        yield "the network has no LIF population behind its input, at least 1 is needed"
    pairs = Counter((p.source, p.target) for p in graph.projections)
    for before, name in pairwise(names):
        if not pairs[before, name]:
            yield f"population {name!r} is not fed by {before!r}, {CHAIN}"
    for p in graph.projections:
        if names.index(p.target) - names.index(p.source) not in (0, 1):
            yield f"projection {p.name!r} leads from {p.source!r} to {p.target!r}, {CHAIN}"
    for (source, target), n in pairs.items():
        if n > 1:
            yield f"{n} projections lead from {source!r} to {target!r}, {CHAIN}"
    if graph.output != names[-1]:
        yield f"the output is {graph.output!r}, netx reads its answer from the last layer {names[-1]!r}"


def _layer_problems(layer: _Layer, before: _Layer | None) -> Iterator[str]:
    d = layer.population.dynamics
    if not isinstance(d, LifInt):
        yield f"population {layer.population.name!r} is {type(d).__name__}, allowed is LifInt"
        return
    if layer.population.size > LARGEST_LAYER:
        yield f"population {layer.population.name!r} has {layer.population.size:,} neurons, allowed are {LARGEST_LAYER:,}"
    parts = [layer.feed] if layer.loop is None else [layer.feed, layer.loop]
    own = [problem for p in parts for problem in _own_problems(p)]
    yield from own
    if not own:
        yield from _conv_problems(layer, before) if isinstance(layer.feed.synapses, Conv) else _dense_problems(parts)
    if d.vth_lo is not None:
        yield f"population {layer.population.name!r} is ternary, allowed are spikes of +1"
    bias = np.atleast_1d(np.asarray(d.bias, np.int64))
    odd = bias[bias % 2**BIAS_EXP != 0]
    low, high = LifInt.RANGES["bias_mant"]
    beyond = bias[(bias >> BIAS_EXP < low) | (bias >> BIAS_EXP > high)]
    if odd.size:
        yield f"population {layer.population.name!r} has a bias of {odd[0]}, allowed are multiples of {2**BIAS_EXP}"
    elif beyond.size:
        yield (
            f"population {layer.population.name!r} has a bias of {beyond[0]:,}, allowed is {low * 2**BIAS_EXP:,}.."
            f"{high * 2**BIAS_EXP:,} (13 bits shifted by {BIAS_EXP})"
        )


def _own_problems(p: Projection) -> Iterator[str]:
    """What is wrong with a projection whatever surrounds it."""
    s = p.synapses
    if not isinstance(s, Dense | Conv) or s.grid is None:
        yield f"projection {p.name!r} is {type(s).__name__}, allowed are Dense and Conv in integers"
        return
    weight: NDArray[Any] = s.weight
    if weight.dtype.kind not in "iu":
        yield f"projection {p.name!r} has weights of {weight.dtype}, allowed are integers"
        return
    e, mode = s.grid.exponent, s.grid.sign_mode
    low, high, spacing = GRID[mode]
    if int(weight.min()) < low or int(weight.max()) > high or (weight % spacing).any():
        yield f"projection {p.name!r} has weights off the {mode} grid {low}..{high} in steps of {spacing}"
    if (e > 0 and isinstance(s, Dense)) or (e < 0 and (weight.astype(np.int64) % (1 << -e)).any()):
        hint = "" if e > 0 else ", or less where that leaves whole weights"
        yield f"projection {p.name!r} has weight exponent {e}, allowed is 0{hint}"
    late = np.asarray(p.delay)
    if late.max() > LONGEST_DELAY:
        yield f"projection {p.name!r} has a delay of {late.max()} steps, allowed are {LONGEST_DELAY}"
    if late.any() and isinstance(s, Conv):
        yield f"projection {p.name!r} is a convolution with delays, which netx leaves out"


def _conv_problems(layer: _Layer, before: _Layer | None) -> Iterator[str]:
    s, name = layer.feed.synapses, layer.feed.name
    assert isinstance(s, Conv)
    if layer.loop is not None:
        yield f"projection {layer.loop.name!r} makes a layer of images recurrent, allowed is that of dense layers"
    if before is not None:
        given = before.feed.synapses
        if not isinstance(given, Conv):
            yield f"projection {name!r} is a convolution behind a dense layer, allowed is one behind the input or a convolution"
        elif given.image_out != s.image:
            yield f"projection {name!r} takes images of {s.image}, the layer before makes {given.image_out}"
    for entry in ("stride", "padding", "dilation", "groups"):
        most = int(np.max(getattr(s, entry)))
        if most > LARGEST_FIELD:
            yield f"projection {name!r} has a {entry} of {most}, allowed in Lava's Conv are {LARGEST_FIELD}"


def _dense_problems(parts: list[Projection]) -> Iterator[str]:
    """Why netx would not run these very weights: one matrix, or a recurrent layer's two, which share a scale.

    Of matrices without positive weights netx scales the most negative one up towards -256, which Lava then clips to -255;
    a zero makes netx count a bit for the sign as well, one too many if odd weights need all eight.
    """
    names = " and ".join(repr(p.name) for p in parts)
    who = f"projection {names} has" if len(parts) == 1 else f"projections {names} have"
    odd_ones = [p for p in parts if not isinstance(p.synapses, Dense)]
    if odd_ones:
        yield f"projection {odd_ones[0].name!r} is {type(odd_ones[0].synapses).__name__} inside a dense layer"
        return
    if len(parts) > 1 and any(np.any(p.delay) for p in parts):
        yield f"projections {names} are recurrent and delayed, with which netx loses the scale of their weights"
    weights = [_plain(p.synapses) for p in parts]
    every = np.concatenate([w.reshape(-1) for w in weights])
    least, most = int(every.min()), int(every.max())
    if least == most == 0:
        yield f"{who} only weights of 0, which netx cannot read"
        return
    try:
        run = run_by_netx(*weights)
        same = all(np.array_equal(held * 2.0**grid.exponent, w) for (held, grid), w in zip(run, weights, strict=True))
    except InputError:
        same = False
    if same:
        return
    if most <= 0 and -least & (-least - 1) == 0:
        yield f"{who} no positive weight and {least} as its lowest, a power of two, which netx would change"
    elif most == 0 and least < -128:
        yield (f"{who} no positive weight, zeros and odd weights down to {least}, which netx would change; allowed is -127")
    else:
        yield f"{who} weights {least}..{most}, which netx would change by the scale that they share"


def _plain(s: Any) -> NDArray[np.int64]:
    """Weights with their exponent worked in."""
    grid, weight = s.grid, s.weight.astype(np.int64)
    assert isinstance(grid, Grid)
    return weight << grid.exponent if grid.exponent >= 0 else weight >> -grid.exponent


def _write_head(file: Any, kind: str, shape: tuple[int, ...]) -> Any:
    """Begin the next layer."""
    layers = file.require_group("layer")
    group = layers.create_group(str(len(layers)))
    group.create_dataset("type", data=np.array([kind], "S10"))
    group.create_dataset("shape", data=np.array(shape, np.int64))
    return group


def _write_dense(group: Any, layer: _Layer, synapses: Dense) -> None:
    group.create_dataset("weight", data=_plain(synapses).astype(np.int32))
    if layer.loop is not None:
        group.create_dataset("weight_rec", data=_plain(layer.loop.synapses).astype(np.int32))
    delay = np.asarray(layer.feed.delay, np.int64)
    if delay.any():
        # netx takes a vector as the receivers' delays where it can, so where both numbers agree the matrix has to be written.
        square = delay.ndim and synapses.shape[0] == synapses.shape[1]
        group.create_dataset("delay", data=np.tile(delay, (synapses.shape[0], 1)) if square else delay)
    bias = _biases(layer)
    if bias.any():
        group.create_dataset("bias", data=bias)
    _write_neurons(group, layer)


def _write_conv(group: Any, layer: _Layer, synapses: Conv) -> None:
    group.create_dataset("weight", data=_plain(synapses).astype(np.int32))
    for name in ("stride", "padding", "dilation"):
        group.create_dataset(name, data=np.array(getattr(synapses, name), np.int64))
    group.create_dataset("groups", data=np.int64(synapses.groups))
    bias = _biases(layer).reshape(synapses.image_out)
    if bias.any():
        of_channel = bias[:, :1, :1]
        group.create_dataset("bias", data=of_channel[:, 0, 0] if (bias == of_channel).all() else bias.transpose(2, 1, 0))
    _write_neurons(group, layer)


def _biases(layer: _Layer) -> NDArray[np.int32]:
    d = layer.population.dynamics
    assert isinstance(d, LifInt)
    return np.broadcast_to(np.asarray(d.bias, np.int32) >> BIAS_EXP, (layer.population.size,))


def _write_neurons(group: Any, layer: _Layer) -> None:
    d = layer.population.dynamics
    assert isinstance(d, LifInt)
    neuron = {"iDecay": d.du + 1, "vDecay": d.dv, "vThMant": d.vth, "refDelay": 1, "gradedSpike": 0}
    group.create_dataset("neuron/type", data=np.array(["CUBA"], "S10"))
    for name, value in neuron.items():
        group.create_dataset(f"neuron/{name}", data=np.int64(value))
