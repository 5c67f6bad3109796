"""From torch to Graph: trained networks and plain Sequentials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lavasnn.dynamics.diffpc import DiffPC, Role
from lavasnn.dynamics.lif import Lif
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.ir import Coincidence, Graph, Population, Projection, Source, Through
from lavasnn.nn import diffpc as nn_diffpc
from lavasnn.nn import dlif as nn_dlif
from lavasnn.nn import lif as nn_lif
from lavasnn.synapses import Conv, Dense, Owned, Sparse, Transposed, average_pool, one_to_one

Neuron = Lif | Timing


@dataclass(frozen=True)
class Layer:
    """One weight layer: weight (post, pre), bias (post,), and the neurons behind it."""

    weight: NDArray[Any]
    bias: NDArray[Any]
    neuron: Neuron


def to_graph(
    model: nn.Sequential, encoding: Encoding | None = None, steps: int = 0, image: tuple[int, int, int] | None = None
) -> Graph:
    """Graph of torch layers with `lavasnn.nn` neurons between them.

    Args:
        model: DiffPC: Linear and `DiffPC` in turn; a `DiffPC("input")` may come first, the last is a `DiffPC("output")`. LIF:
            any number of Linear, Conv2d, BatchNorm1d/2d (as in evaluation), AvgPool2d, Flatten and Dropout between `LIF`s; a
            `DLIF` or `ConvDLIF`, or a `PairPool`, `PrivatePairs` or `PairConv2d`, only upon spikes.
        encoding: How images become input; None means pixels / 64 for DiffPC and Bernoulli spikes for LIF.
        steps: Steps a sample takes; needed for LIF, unused for DiffPC.
        image: Channels, rows and columns of the input; needed before a Conv2d or AvgPool2d.

    Raises:
        InputError: A module that is none of these, or layers out of turn; names the module and its place.
    """
    if not isinstance(model, nn.Sequential):
        raise InputError(f"to_graph: the model is a {type(model).__name__}, an nn.Sequential is needed")
    if any(isinstance(m, nn_lif.LIF | nn_dlif.DLIF | nn_dlif.ConvDLIF) for m in model) and not any(
        isinstance(m, nn_diffpc.DiffPC) for m in model
    ):
        return _lif_graph(model, encoding, steps, image)
    places = [(i, m) for i, m in enumerate(model) if not isinstance(m, nn.Dropout | nn.Flatten | nn.Identity)]
    shown = places.pop(0)[1] if places and getattr(places[0][1], "role", "") == "input" else None
    if not places or len(places) % 2:
        raise InputError(f"to_graph: {len(places)} layers; needed are Linear and neuron in turn, ending with a neuron")
    layers: list[Layer] = []
    for (i, linear), (j, neuron) in zip(places[::2], places[1::2], strict=True):
        if not isinstance(linear, nn.Linear):
            raise InputError(f"to_graph: layer {i} is {type(linear).__name__}, a Linear is needed there")
        weight, bias = _parameters(linear)
        layers.append(Layer(weight, bias, _neuron(neuron, j, "output" if neuron is places[-1][1] else "hidden")))
    if shown is not None and shown.timing != layers[0].neuron:
        raise InputError("to_graph: the input's timing is not that of the neurons behind it")
    return from_layers(layers, encoding, steps)


def _parameters(layer: nn.Module) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weight and bias, zeros without one."""
    weight, bias = array(layer.weight), layer.bias
    return weight, np.zeros(len(weight)) if bias is None else array(bias)


def _lif_graph(model: nn.Sequential, encoding: Encoding | None, steps: int, image: tuple[int, int, int] | None) -> Graph:
    """Graph of a torch model with LIF neurons; `chain` follows the layers, `shape` what a sample looks like between them."""
    model = _flat(model)
    chain = Chain()
    shape: tuple[int, ...] | None = image
    last = max(i for i, m in enumerate(model) if isinstance(m, nn_lif.LIF))
    for i, module in enumerate(model):
        where = f"to_graph: layer {i} is {type(module).__name__}"
        match module:
            case nn.Dropout() | nn.Dropout2d() | nn.Identity():
                pass
            case nn.Flatten():
                shape = None if shape is None else (int(np.prod(shape)),)
            case nn.Linear():
                weight, bias = _parameters(module)
                if shape is not None and int(np.prod(shape)) != weight.shape[1]:
                    raise InputError(f"{where} of {weight.shape[1]} inputs, it gets {int(np.prod(shape))}")
                chain.linear(Dense(weight), bias)
                shape = (len(weight),)
            case nn_dlif.PairPool() | nn_dlif.PrivatePairs():
                weight, bias = _parameters(module)
                if shape is not None and int(np.prod(shape)) != weight.shape[1]:
                    raise InputError(f"{where} of {weight.shape[1]} inputs, it gets {int(np.prod(shape))}")
                chain.pair_pool(Dense(weight), bias, *_pairs(module, weight.shape[1]))
                shape = (len(weight),)
            case nn_dlif.PairConv2d():
                if shape is None or len(shape) != 3:
                    raise InputError(f"{where}, which needs images; give image=(channels, rows, columns) of the input")
                synapses, bias = _image_layer(module, shape, where)
                chain.pair_pool(synapses, bias, *_pair_maps(module, synapses))
                shape = synapses.image_out
            case nn.Conv2d() | nn.AvgPool2d():
                if shape is None or len(shape) != 3:
                    raise InputError(f"{where}, which needs images; give image=(channels, rows, columns) of the input")
                synapses, bias = _image_layer(module, shape, where)
                chain.linear(synapses, bias)
                shape = synapses.image_out
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                if shape is None:
                    raise InputError(f"{where}, which cannot come first")
                scale, shift = _batch_norm(module, where)
                each = int(np.prod(shape)) // len(scale)
                chain.affine(np.repeat(scale, each), np.repeat(shift, each))
            case nn_lif.LIF():
                if chain.pending is None:
                    raise InputError(f"{where}, a Linear or Conv2d is needed before it")
                if module.reset != "hard":
                    raise InputError(f"{where} with a soft reset, which Lava's LIF has not; allowed is 'hard'")
                chain.neuron(Lif(float(module.du), float(module.dv), float(module.vth)), i == last)
            case _:
                raise InputError(
                    f"{where}; known are Linear, Conv2d, BatchNorm1d, BatchNorm2d, AvgPool2d, Flatten, Dropout and "
                    "lavasnn.nn's DiffPC, LIF, DLIF, ConvDLIF, PairPool, PrivatePairs and PairConv2d"
                )
    if chain.pending is not None:
        raise InputError(f"to_graph: the model ends with {type(model[-1]).__name__}, a neuron is needed there")
    return chain.graph(encoding, steps)


def _flat(model: nn.Sequential) -> nn.Sequential:
    """The same layers with every `DLIF` as its synapses and its neurons."""
    layers: list[nn.Module] = []
    for module in model:
        layers += [module.synapses, module.neuron] if isinstance(module, nn_dlif.DLIF | nn_dlif.ConvDLIF) else [module]
    return nn.Sequential(*layers)


def _pairs(module: nn_dlif.PairPool | nn_dlif.PrivatePairs, n: int) -> tuple[Sparse, Owned]:
    """Which two inputs each pair joins, and the weights of pairs; private pairs that are equal become one."""
    pairs, k = module.pairs.detach().cpu().numpy(), array(module.k)
    if isinstance(module, nn_dlif.PairPool):
        return _select(pairs, n), Dense(k)
    pool, index = np.unique(pairs.reshape(-1, 2), axis=0, return_inverse=True)
    mine = index.reshape(k.shape)
    order = np.argsort(mine, axis=1)
    rows = np.arange(len(k) + 1, dtype=np.int64) * k.shape[1]
    weights = np.take_along_axis(k, order, axis=1).reshape(-1)
    senders = np.take_along_axis(mine, order, axis=1).reshape(-1).astype(np.int32)
    return _select(pool, n), Sparse(weights, senders, rows, len(pool))


def _select(pairs: NDArray[Any], n: int) -> Sparse:
    senders = np.sort(pairs, axis=1).reshape(-1).astype(np.int32)
    return Sparse(np.ones(len(senders)), senders, np.arange(len(pairs) + 1, dtype=np.int64) * 2, n)


def _pair_maps(module: nn_dlif.PairConv2d, synapses: Conv) -> tuple[Sparse, Conv]:
    """The senders of each pair at each position, and the weights of pairs there.

    Kernels with two weights of 1 would say the same, but each spike would visit every pair of its positions. What lies
    beyond the image is silent and has no synapse.
    """
    pairs, k = module.pairs.detach().cpu().numpy(), array(module.k)
    (_, rows, columns), (_, rows_out, columns_out) = synapses.image, synapses.image_out
    channel, row, column = (part[..., None, None] for part in np.moveaxis(pairs.reshape(-1, 2, 3), 2, 0))
    y = row * synapses.dilation[0] - synapses.padding[0] + np.arange(rows_out)[:, None] * synapses.stride[0]
    x = column * synapses.dilation[1] - synapses.padding[1] + np.arange(columns_out) * synapses.stride[1]
    inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    sender = (channel * rows + y) * columns + x
    # (pair, row, column, which of both): a pair's first input comes before its second in any image.
    inside, sender = (np.moveaxis(part, 1, 3) for part in (inside, sender))
    start = np.concatenate(([0], np.cumsum(inside.sum(3).reshape(-1)))).astype(np.int64)
    pre = sender[inside].astype(np.int32)
    select = Sparse(np.ones(len(pre)), pre, start, synapses.shape[1])
    return select, Conv(k[:, :, None, None], (len(pairs), rows_out, columns_out))


def _image_layer(
    module: nn.Conv2d | nn.AvgPool2d | nn_dlif.PairConv2d, shape: tuple[int, ...], where: str
) -> tuple[Conv, NDArray[Any]]:
    channels, rows, columns = shape
    if isinstance(module, nn.AvgPool2d):
        if module.ceil_mode or module.divisor_override is not None or not module.count_include_pad:
            raise InputError(f"{where} with ceil_mode, divisor_override or count_include_pad=False, which are not supported")
        size, padding = _pair(module.kernel_size), _pair(module.padding)
        pool = average_pool((channels, rows, columns), size, _pair(module.stride), padding)
        return pool, np.zeros(channels)
    if getattr(module, "padding_mode", "zeros") != "zeros" or isinstance(module.padding, str):
        raise InputError(f"{where} with padding {module.padding!r} ; allowed are numbers, with zeros")
    if module.in_channels != channels:
        raise InputError(f"{where} of {module.in_channels} channels, it gets {channels}")
    weight, bias = _parameters(module)
    pairs = (_pair(module.stride), _pair(module.padding), _pair(module.dilation))
    return Conv(weight, (channels, rows, columns), *pairs, getattr(module, "groups", 1)), bias


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scale and shift of each channel, with the running statistics."""
    if module.running_mean is None or module.running_var is None:
        raise InputError(f"{where} without running statistics, which a chip needs")
    mean, variance = array(module.running_mean), array(module.running_var)
    scale = (np.ones(len(mean)) if module.weight is None else array(module.weight)) / np.sqrt(variance + module.eps)  # pyright: ignore[reportUnnecessaryComparison]
    shift = (np.zeros(len(mean)) if module.bias is None else array(module.bias)) - mean * scale  # pyright: ignore[reportUnnecessaryComparison]
    return scale, shift


class Chain:
    """Builds a graph layer by layer: synapses wait until it is known whether neurons or more synapses follow."""

    def __init__(self) -> None:
        self.populations: list[Population] = []
        self.projections: list[Projection] = []
        self.pending: Owned | None = None
        self.pairs: tuple[str, Owned] | None = None  # what else arrives there: a population of pairs and its synapses
        self.bias: NDArray[Any] = np.zeros(0)
        self.hidden = self.layers = 0
        self.heard = ""  # the population before the pairs

    def linear(self, synapses: Owned, bias: NDArray[Any]) -> None:
        """Weighted sums; `bias` has one entry for each receiver, or for each of a convolution's channels."""
        if not self.populations:
            self.populations.append(Population("input", synapses.shape[1], Source()))
        if self.pending is not None:
            self._close(Through(bias=self.bias), f"linear{self.layers + 1}")
        self.pending = synapses
        self.bias = np.repeat(bias, int(np.prod(synapses.image_out[1:]))) if isinstance(synapses, Conv) else bias

    def pair_pool(self, synapses: Owned, bias: NDArray[Any], select: Owned, weight: Owned) -> None:
        """Weighted sums of spikes and of pairs of them; `select` has each pair's two senders, `weight` what pairs add.

        Raises:
            InputError: Something other than neurons or the input comes before.
        """
        if self.pending is not None:
            raise InputError("to_graph: a pair pool has to follow neurons or the input; pairs need spikes of 0 or 1")
        self.linear(synapses, bias)
        source, name = self.populations[-1].name, f"pairs{self.hidden + 1}"
        self.populations.append(Population(name, select.shape[0], Coincidence()))
        self.projections.append(Projection(f"{name}-of", source, name, select))
        self.pairs, self.heard = (name, weight), source

    def affine(self, scale: NDArray[Any], shift: NDArray[Any]) -> None:
        """Each value scaled and shifted."""
        if self.pending is not None:
            self._close(Through(scale, scale * self.bias + shift), f"linear{self.layers + 1}")
        elif self.populations:
            n = self.populations[-1].size
            self.layers += 1
            self.projections.append(
                Projection(f"w{self.layers}", self.populations[-1].name, f"scale{n}", one_to_one(np.ones(n)))
            )
            self.populations.append(Population(f"scale{n}", n, Through(scale, shift)))
        n = self.populations[-1].size
        self.pending, self.bias = one_to_one(np.ones(n)), np.zeros(n)

    def neuron(self, neuron: Lif, last: bool) -> None:
        """Neurons behind what waits."""
        self.hidden += 1
        own = {"bias": self.bias} if neuron.du == 1 else {"bias_u": self.bias}
        self._close(replace(neuron, **own), "output" if last else f"hidden{self.hidden}")

    def _close(self, dynamics: Through | Lif, name: str) -> None:
        assert self.pending is not None
        source = self.populations[-1].name if self.pairs is None else self.heard
        self.populations.append(Population(name, self.pending.shape[0], dynamics))
        self.layers += 1
        self.projections.append(Projection(f"w{self.layers}", source, name, self.pending))
        if self.pairs is not None:
            self.projections.append(Projection(f"k{self.layers}", self.pairs[0], name, self.pairs[1]))
        self.pending = self.pairs = None

    def graph(self, encoding: Encoding | None, steps: int) -> Graph:
        """The graph of all layers."""
        if steps < 1:
            raise InputError(
                f"to_graph: a LIF network shows each sample for `steps` steps; {steps} given, at least 1 is needed"
            )
        code = encoding or Encoding("bernoulli", levels=255)
        return Graph(tuple(self.populations), tuple(self.projections), code, self.populations[-1].name, steps)


def array(value: torch.Tensor) -> NDArray[Any]:
    """A tensor's numbers in float64.

    Raises:
        InputError: Complex numbers, or a tensor that is not stored densely.
    """
    if value.is_complex() or value.layout != torch.strided:
        raise InputError(f"export: a tensor of {value.dtype} in layout {value.layout}; weights are dense real numbers")
    return value.detach().cpu().to(torch.float64).numpy().copy()


def _neuron(module: nn.Module, place: int, role: Role) -> Neuron:
    match module:
        case nn_diffpc.DiffPC():
            if module.role != role:
                raise InputError(f"to_graph: layer {place} is DiffPC({module.role!r}), DiffPC({role!r}) is needed there")
            return module.timing
        case nn_lif.LIF():
            return Lif(du=float(module.du), dv=float(module.dv), vth=float(module.vth))
        case _:
            raise InputError(
                f"to_graph: layer {place} is {type(module).__name__}; known neurons are lavasnn.nn's DiffPC and LIF"
            )


def from_layers(layers: Sequence[Layer], encoding: Encoding | None = None, steps: int = 0) -> Graph:
    """Graph of fully connected layers.

    Raises:
        InputError: Neurons of different kinds or timings, or shapes that do not follow one another.
    """
    first = layers[0].neuron
    if isinstance(first, Timing):
        nn_diffpc.check_depth(first, len(layers))
        if any(layer.neuron != first for layer in layers):
            raise InputError("to_graph: all DiffPC layers of a network need the same timing")
        return _diffpc(layers, first, encoding or Encoding("value", -6, 255))
    if any(isinstance(layer.neuron, Timing) for layer in layers):
        raise InputError("to_graph: LIF and DiffPC neurons in one network are not supported")
    chain = Chain()
    for layer in layers:
        assert isinstance(layer.neuron, Lif)
        chain.linear(Dense(layer.weight), layer.bias)
        chain.neuron(layer.neuron, layer is layers[-1])
    return chain.graph(encoding, steps)


def _names(layers: int) -> list[str]:
    return [*(f"hidden{l}" for l in range(1, layers)), "output"]


def _diffpc(layers: Sequence[Layer], timing: Timing, encoding: Encoding) -> Graph:
    names = ["input", *_names(len(layers))]
    populations = [Population("input", layers[0].weight.shape[1], DiffPC("input", 0, timing))]
    projections: list[Projection] = []
    for l, layer in enumerate(layers, start=1):
        dynamics = DiffPC("output" if l == len(layers) else "hidden", l, timing, layer.bias)
        populations.append(Population(names[l], len(layer.weight), dynamics))
        projections.append(Projection(f"w{l}", names[l - 1], names[l], Dense(layer.weight), "s_A", "a_x"))
        if l > 1:
            projections.append(Projection(f"w{l}t", names[l], names[l - 1], Transposed(f"w{l}"), "s_e", "a_e"))
    return Graph(tuple(populations), tuple(projections), encoding, names[-1])
