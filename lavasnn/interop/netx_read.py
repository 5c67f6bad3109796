"""lava-dl's netx HDF5 (`.net`), read into networks of integers that spike as netx has them spike. Format: see `netx`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from lavasnn.dynamics.lif import LifInt
from lavasnn.encode import Encoding
from lavasnn.errors import FileFormatError, InputError, RangeError
from lavasnn.interop.hdf5 import check_hdf5
from lavasnn.interop.netx_fields import one_of, pair_of, shape_of, text_of, whole_of
from lavasnn.interop.netx_weights import on_grid, run_by_netx
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.synapses import Conv, Dense, Grid, Owned, Sparse, one_to_one

BIAS_EXP = 6
"""Left shift of every bias in netx."""
LONGEST_DELAY = 62
"""Steps; netx clamps longer ones."""
NEURONS = ("CUBA", "LOIHI")
"""Names of the neuron that is Lava's LIF."""
INTEGRATOR = LifInt(4095, 0, 131071)
"""What a layer without neurons becomes: its voltage is the running sum of what arrives.

netx takes du = -1, dv = 4096 and vth = 131072, two of which no register holds: there u is the sum, v equals u, and no spike is
possible. Here v is the sum itself, and the highest threshold stands where a 24-bit state ends.
"""
Image = tuple[int, int, int]


def read_net(
    path: Path,
    *,
    steps: int,
    levels: int = 1,
    input_layer: bool = False,
    image: Image | None = None,
    layers: int | None = None,
) -> Graph:
    """Read a network as lava-dl's netx runs it.

    Args:
        path: The `.net` file.
        steps: Steps that a sample takes.
        levels: Largest magnitude of what samples give in each step; 1 for spikes.
        input_layer: Keep the neurons of the input layer. Samples then give their biases in every step (see `read_drive`);
            else they give the spikes that these neurons would send.
        image: Channels, rows and columns of what is given, for a file that starts with a convolution and does not say.
        layers: Read only so many layers, like netx's `num_layers`.

    Returns:
        Populations "input", then "conv1", "dense2", ...; samples are messages (sample, step, neuron), images in C order.

    Raises:
        InputError: Everything in the file that has no place in a network, by layer, or no such file.
        FileFormatError: No netx file, or one that is damaged or unsafe to read.
    """
    check_hdf5(path)
    chain = _Chain(image, input_layer)
    problems: list[str] = []
    with h5py.File(path, "r") as file:
        for i, layer in enumerate(_layers(file, path)[: None if layers is None else max(layers, 0)]):
            try:
                chain.add(i, layer)
            except FileFormatError:
                raise
            except InputError as error:
                problems.append(f"layer {i} {error}")
                chain.shape, chain.broken = None, True
            except OSError as error:
                raise FileFormatError(f"{path}: layer {i} cannot be read ({error})") from error
    if not problems and not chain.projections:
        problems.append("no layer behind the input has neurons, at least 1 is needed")
    elif not problems and input_layer and chain.populations[0].name != "drive":
        problems.append("the input layer has no neurons that could be kept")
    if problems:
        raise InputError(f"{path}: " + "; ".join(problems))
    last = chain.populations[-1]
    return Graph(
        tuple(chain.populations),
        tuple(chain.projections),
        Encoding("given", levels=levels),
        last.name,
        steps,
        "voltage" if last.dynamics == INTEGRATOR else "messages",
    )


def read_drive(path: Path) -> tuple[int, int]:
    """Weight and bias of a file's input layer, 64 and 0 if it says nothing: its neurons are driven by weight · pixel + bias.

    netx leaves that to whoever uses it, and so does `read_net`: pixels here are what the network was trained on, often
    fractions around 0, and how the result was rounded to an integer the file does not say.

    Raises:
        InputError: The file does not start with an input layer, or as in `read_net`.
    """
    check_hdf5(path)
    with h5py.File(path, "r") as file:
        first = _layers(file, path)[0]
        try:
            if text_of(first, "type") != "input":
                raise InputError(f"is of type {text_of(first, 'type')!r}, needed is 'input'")
            weight = one_of(first, "weight", cut=True) if "weight" in first else 64
            return weight, one_of(first, "bias", cut=True) if "bias" in first else 0
        except InputError as error:
            raise InputError(f"{path}: layer 0 {error}") from error


@dataclass
class _Chain:
    """A network as far as it has been read.

    Args:
        shape: Of the last layer: (channel, row, column) or (neuron,); None while that is not known.
        input_layer: See `read_net`.
        populations: From the input on.
        projections: In any order.
        flat: False behind a layer of images, which has to be flattened before a dense one.
        broken: Whether a layer before was refused, so that nothing can be said of what arrives.
    """

    shape: tuple[int, ...] | None
    input_layer: bool
    populations: list[Population] = field(default_factory=list)
    projections: list[Projection] = field(default_factory=list)
    flat: bool = True
    broken: bool = False

    def add(self, i: int, layer: Any) -> None:
        """Read the next layer.

        Raises:
            InputError: What is wrong with it.
        """
        match text_of(layer, "type"):
            case "input" if i == 0:
                self._input(layer)
            case "input":
                raise InputError("is of type 'input', which has to come first")
            case "flatten":
                self._flatten(layer)
            case "dense" | "dense_rec" as kind:
                self._dense(layer, kind == "dense_rec")
            case "conv":
                self._conv(layer)
            case other:
                raise InputError(f"is of type {other!r}, allowed are input, dense, dense_rec, conv and flatten")

    def _input(self, layer: Any) -> None:
        if "shape" not in layer and "neuron" not in layer:
            return
        self.shape = shape_of(layer)
        if "neuron" not in layer or not self.input_layer:
            return
        neurons = _lif(layer, np.zeros(0, np.int64))
        size = math.prod(self.shape)
        # In netx nothing arrives at these neurons but their bias, so u is free to carry it: du = 4095 keeps nothing of it.
        identity = one_to_one(np.ones(size, np.int16), Grid(0, "excitatory"))
        self.populations = [Population("drive", size, Source()), Population("input", size, replace(neurons, du=4095))]
        self.projections = [Projection("drive", "drive", "input", identity)]
        self.flat = len(self.shape) == 1

    def _flatten(self, layer: Any) -> None:
        self.flat = True
        if "shape" in layer and self.shape is not None and math.prod(shape_of(layer)) != math.prod(self.shape):
            raise InputError(f"flattens {self.shape} into {shape_of(layer)}")
        self.shape = None if self.shape is None else (math.prod(self.shape),)

    def _dense(self, layer: Any, recurrent: bool) -> None:
        size = math.prod(shape_of(layer))
        if isinstance(layer.get("weight"), h5py.Group):
            raise InputError("has complex weights, allowed are real ones")
        if not recurrent and "weight_rec" in layer:
            raise InputError("has recurrent weights, which netx leaves out unless its type is 'dense_rec'")
        neurons = _lif(layer, _spread(layer, size))
        weights = [_matrix(layer, "weight", size), *([_matrix(layer, "weight_rec", size)] if recurrent else [])]
        if not self.flat:
            raise InputError("is dense and follows a layer of images, with no flatten layer between them")
        if self.shape is not None and math.prod(self.shape) != weights[0].shape[1]:
            raise InputError(
                f"has weights of shape {weights[0].shape} for the {math.prod(self.shape)} neurons of the layer before"
            )
        (weight, grid), *loop = run_by_netx(*weights)
        delay = _delays(layer, weight.shape)
        if recurrent and delay.any():
            raise InputError("is recurrent and has delays, with which netx loses the scale of its weights")
        name, number = self._append("dense", weight.shape[1], neurons, size)
        before = self.populations[-2].name
        for label, part, late in _by_delay(Dense(weight, grid), delay):
            self.projections.append(Projection(f"w{number}{label}", before, name, part, delay=late))
        for w, g in loop:
            self.projections.append(Projection(f"r{number}", name, name, Dense(w, g)))
        self.shape = (size,)

    def _conv(self, layer: Any) -> None:
        declared = shape_of(layer)
        kernel = whole_of(layer, "weight")
        if kernel.ndim == 5 and kernel.shape[4] == 1:
            kernel = kernel[..., 0]
        if kernel.ndim != 4 or len(declared) != 3 or 0 in kernel.shape:
            raise InputError(f"is a convolution of shape {declared} with a kernel of shape {kernel.shape}")
        if "neuron" not in layer:
            raise InputError("is a convolution without neurons")
        if "delay" in layer and whole_of(layer, "delay").any():
            raise InputError("is a convolution with delays, which netx leaves out")
        neurons = _lif(layer, _spread(layer, math.prod(declared), declared))
        pairs = {name: pair_of(layer, name) for name in ("stride", "padding", "dilation")}
        groups = one_of(layer, "groups")
        weight, grid = on_grid(kernel)
        if self.broken:
            self.shape = declared
            return
        if self.shape is None or len(self.shape) != 3:
            found = "nothing says their shape; give it as image" if self.shape is None else f"they are {self.shape}"
            raise InputError(f"is a convolution and needs images (channel, row, column), but {found}")
        channels, rows, columns = self.shape
        try:
            synapses = Conv(weight, (channels, rows, columns), groups=groups, grid=grid, **pairs)
        except InputError as error:
            raise InputError(f"does not fit together ({error})") from error
        if synapses.image_out != declared:
            raise InputError(f"says that its shape is {declared}, but its kernel makes {synapses.image_out}")
        name, number = self._append("conv", synapses.shape[1], neurons, synapses.shape[0])
        self.projections.append(Projection(f"w{number}", self.populations[-2].name, name, synapses))
        self.shape, self.flat = declared, False

    def _append(self, kind: str, before: int, neurons: LifInt, size: int) -> tuple[str, int]:
        """Add a population, and the input in front of the first one."""
        if not self.populations:
            self.populations.append(Population("input", before, Source()))
        number = len(self.populations) - (self.populations[0].name == "drive")
        self.populations.append(Population(f"{kind}{number}", size, neurons))
        return f"{kind}{number}", number


def _layers(file: Any, path: Path) -> list[Any]:
    """The groups layer/0, layer/1, ..."""
    group = file.get("layer")
    if not isinstance(group, h5py.Group) or len(group) == 0:
        raise FileFormatError(f"{path}: no netx file, needed is a group 'layer' with the layers 0, 1, ...")
    names = [str(i) for i in range(len(group))]
    if set(names) != set(group) or not all(isinstance(group[n], h5py.Group) for n in names):
        raise FileFormatError(f"{path}: 'layer' holds {sorted(map(str, group))[:8]}, needed are groups 0..{len(group) - 1}")
    return [group[n] for n in names]


def _lif(layer: Any, bias: NDArray[np.int64]) -> LifInt:
    """Neurons of a layer; `bias` is empty or one for each neuron."""
    if "neuron" not in layer:
        if bias.any():
            raise InputError("has biases and no neurons, which would add them to their sum once in netx and in every step here")
        return INTEGRATOR
    neuron = layer["neuron"]
    if not isinstance(neuron, h5py.Group):
        raise InputError("has a 'neuron' that is an array, needed is a group")
    kind = text_of(neuron, "type", "neuron ")
    if kind not in NEURONS:
        raise InputError(f"has neurons of type {kind!r}, allowed are {' and '.join(NEURONS)}")
    exponent = BIAS_EXP
    low, high = LifInt.RANGES["bias_mant"]
    if bias.size and (bias.min() < low or bias.max() > high) and not (bias % 2).any():
        bias, exponent = bias // 2, BIAS_EXP + 1
    d = {name: one_of(neuron, name) for name in ("iDecay", "vDecay", "vThMant")}
    given = (bias, exponent) if bias.any() else (0, 0)
    try:
        return LifInt(d["iDecay"] - 1, d["vDecay"], d["vThMant"], *given)
    except RangeError as error:
        raise InputError(f"has neurons that no register holds ({error})") from error


def _spread(layer: Any, size: int, image: tuple[int, ...] | None = None) -> NDArray[np.int64]:
    """Biases, one for each neuron; empty if there are none. Convolutions have one a channel, or (column, row, channel)."""
    if "bias" not in layer:
        return np.zeros(0, np.int64)
    bias = whole_of(layer, "bias")
    if image is None and bias.size in (1, size):
        return np.broadcast_to(bias.reshape(-1), (size,))
    if image is not None and bias.shape == image[::-1]:
        return bias.transpose(2, 1, 0).reshape(-1)
    if image is not None and bias.shape == image[:1]:
        return np.repeat(bias, size // image[0])
    needed = (size,) if image is None else f"{image[:1]} or {image[::-1]}"
    raise InputError(f"has biases of shape {bias.shape}, needed is {needed}")


def _delays(layer: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Delays of all synapses, shape (post, pre) or one that spreads to it: netx takes a vector as receivers' where it can."""
    if "delay" not in layer:
        return np.zeros((1, 1), np.int64)
    delay = whole_of(layer, "delay")
    if delay.min(initial=0) < 0:
        raise InputError(f"has a delay of {delay.min()}, allowed are 0..{LONGEST_DELAY}")
    delay = np.minimum(delay, LONGEST_DELAY)
    if delay.ndim == 0:
        return delay.reshape(1, 1)
    if delay.shape == shape[:1]:
        return delay[:, None]
    if delay.shape == shape[1:]:
        return delay[None]
    if delay.shape == shape:
        return delay
    raise InputError(f"has delays of shape {delay.shape} for weights of shape {shape}")


def _by_delay(s: Dense, delay: NDArray[np.int64]) -> list[tuple[str, Owned, int | NDArray[np.int64]]]:
    """Projections of a delayed layer, each with the end of its name, its synapses and its delay.

    One if the delays are one number or belong to the senders; else one for each delay that occurs, with its synapses alone.
    """
    if (delay == delay[:1, :1]).all():
        return [("", s, int(delay[0, 0]))]
    assert s.grid is not None
    divides = s.grid.exponent >= 0 or not (s.weight % (1 << -s.grid.exponent)).any()  # else each sum is rounded by itself
    if (delay == delay[:1]).all() and divides:
        return [("", s, delay[0])]
    whole = np.broadcast_to(delay, s.shape)
    return [(f"_delay{d}", _part(s, whole == d), int(d)) for d in np.unique(whole)]


def _part(s: Dense, kept: NDArray[np.bool_]) -> Sparse:
    """Some of the synapses of a matrix, zeros among them too."""
    start = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64)
    return Sparse(s.weight[kept], np.nonzero(kept)[1].astype(np.int32), start, s.shape[1], s.grid)


def _matrix(layer: Any, name: Literal["weight", "weight_rec"], post: int) -> NDArray[np.int64]:
    weight = whole_of(layer, name)
    if weight.ndim == 1 and weight.size % post == 0:
        weight = weight.reshape(post, -1)
    if weight.ndim != 2 or len(weight) != post or weight.size == 0 or (name == "weight_rec" and weight.shape[1] != post):
        raise InputError(f"has {post} neurons and a {name!r} of shape {weight.shape}")
    return weight
