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
from lavasnn.ir import Graph, Population, Projection, Source, Through
from lavasnn.nn import diffpc as nn_diffpc
from lavasnn.nn import lif as nn_lif
from lavasnn.synapses import Conv, Dense, Owned, Transposed, average_pool, one_to_one

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
            any number of Linear, Conv2d, BatchNorm1d/2d (as in evaluation), AvgPool2d, Flatten and Dropout between `LIF`s.
        encoding: How images become input; None means pixels / 64 for DiffPC and Bernoulli spikes for LIF.
        steps: Steps a sample takes; needed for LIF, unused for DiffPC.
        image: Channels, rows and columns of the input; needed before a Conv2d or AvgPool2d.

    Raises:
        InputError: A module that is none of these, or layers out of turn; names the module and its place.
    """
    if not isinstance(model, nn.Sequential):
        raise InputError(f"to_graph: the model is a {type(model).__name__}, an nn.Sequential is needed")
    if any(isinstance(m, nn_lif.LIF) for m in model) and not any(isinstance(m, nn_diffpc.DiffPC) for m in model):
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


def _parameters(layer: nn.Linear | nn.Conv2d) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weight and bias, zeros without one."""
    weight = array(layer.weight)
    bias = layer.bias
    return weight, np.zeros(len(weight)) if bias is None else array(bias)  # pyright: ignore[reportUnnecessaryComparison]


def _lif_graph(model: nn.Sequential, encoding: Encoding | None, steps: int, image: tuple[int, int, int] | None) -> Graph:
    """Graph of a torch model with LIF neurons; `chain` follows the layers, `shape` what a sample looks like between them."""
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
                chain.neuron(Lif(float(module.du), float(module.dv), float(module.vth)), i == last)
            case _:
                raise InputError(
                    f"{where}; known are Linear, Conv2d, BatchNorm1d, BatchNorm2d, AvgPool2d, Flatten, Dropout and "
                    "lavasnn.nn's DiffPC and LIF"
                )
    if chain.pending is not None:
        raise InputError(f"to_graph: the model ends with {type(model[-1]).__name__}, a neuron is needed there")
    return chain.graph(encoding, steps)


def _image_layer(module: nn.Conv2d | nn.AvgPool2d, shape: tuple[int, ...], where: str) -> tuple[Conv, NDArray[Any]]:
    channels, rows, columns = shape
    if isinstance(module, nn.AvgPool2d):
        if module.ceil_mode or module.divisor_override is not None or not module.count_include_pad:
            raise InputError(f"{where} with ceil_mode, divisor_override or count_include_pad=False, which are not supported")
        size, padding = _pair(module.kernel_size), _pair(module.padding)
        pool = average_pool((channels, rows, columns), size, _pair(module.stride), padding)
        return pool, np.zeros(channels)
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise InputError(f"{where} with padding {module.padding!r} ({module.padding_mode}); allowed are numbers, with zeros")
    if module.in_channels != channels:
        raise InputError(f"{where} of {module.in_channels} channels, it gets {channels}")
    weight, bias = _parameters(module)
    pairs = (_pair(module.stride), _pair(module.padding), _pair(module.dilation))
    return Conv(weight, (channels, rows, columns), *pairs, module.groups), bias


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
        self.bias: NDArray[Any] = np.zeros(0)
        self.hidden = 0

    def linear(self, synapses: Owned, bias: NDArray[Any]) -> None:
        """Weighted sums; `bias` has one entry for each receiver, or for each of a convolution's channels."""
        if not self.populations:
            self.populations.append(Population("input", synapses.shape[1], Source()))
        if self.pending is not None:
            self._close(Through(bias=self.bias), f"linear{len(self.projections) + 1}")
        self.pending = synapses
        self.bias = np.repeat(bias, int(np.prod(synapses.image_out[1:]))) if isinstance(synapses, Conv) else bias

    def affine(self, scale: NDArray[Any], shift: NDArray[Any]) -> None:
        """Each value scaled and shifted."""
        if self.pending is not None:
            self._close(Through(scale, scale * self.bias + shift), f"linear{len(self.projections) + 1}")
        elif self.populations:
            n = self.populations[-1].size
            self.projections.append(
                Projection(f"w{len(self.projections) + 1}", self.populations[-1].name, f"scale{n}", one_to_one(np.ones(n)))
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
        source = self.populations[-1].name
        self.populations.append(Population(name, self.pending.shape[0], dynamics))
        self.projections.append(Projection(f"w{len(self.projections) + 1}", source, name, self.pending))
        self.pending = None

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
