"""From torch to Graph: trained networks, plain Sequentials, foreign state dicts, and untrained networks from a seed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file
from torch import nn

from lavasnn.config import read_toml
from lavasnn.dynamics.diffpc import DiffPC, Role
from lavasnn.dynamics.lif import Lif
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.errors import ConfigError, FileFormatError, InputError
from lavasnn.ir import Dense, Graph, Population, Projection, Source, Transposed
from lavasnn.nn import diffpc as nn_diffpc
from lavasnn.nn import lif as nn_lif

Neuron = Lif | Timing


@dataclass(frozen=True)
class Layer:
    """One weight layer: weight (post, pre), bias (post,), and the neurons behind it."""

    weight: NDArray[Any]
    bias: NDArray[Any]
    neuron: Neuron


def to_graph(model: nn.Sequential, encoding: Encoding | None = None, steps: int = 0) -> Graph:
    """Graph of Linear layers with `lavasnn.nn` neurons between them.

    Args:
        model: Linear and neuron (`DiffPC` or `LIF`) in turn, all of one kind. DiffPC: a `DiffPC("input")` may come first,
            the last neuron is a `DiffPC("output")`.
        encoding: How images become input; None means pixels / 64 for DiffPC and Bernoulli spikes for LIF.
        steps: Steps a sample takes; needed for LIF, unused for DiffPC.

    Raises:
        InputError: A module that is neither, or layers out of turn; names the module and its place.
    """
    if not isinstance(model, nn.Sequential):
        raise InputError(f"to_graph: the model is a {type(model).__name__}, an nn.Sequential is needed")
    places = [(i, m) for i, m in enumerate(model) if not isinstance(m, nn.Dropout | nn.Flatten | nn.Identity)]
    shown = places.pop(0)[1] if places and getattr(places[0][1], "role", "") == "input" else None
    if not places or len(places) % 2:
        raise InputError(f"to_graph: {len(places)} layers; needed are Linear and neuron in turn, ending with a neuron")
    layers: list[Layer] = []
    for (i, linear), (j, neuron) in zip(places[::2], places[1::2], strict=True):
        if not isinstance(linear, nn.Linear):
            raise InputError(f"to_graph: layer {i} is {type(linear).__name__}, a Linear is needed there")
        weight = _array(linear.weight)
        bias = np.zeros(len(weight))
        if linear.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]  (with bias=False it is)
            bias = _array(linear.bias)
        layers.append(Layer(weight, bias, _neuron(neuron, j, "output" if neuron is places[-1][1] else "hidden")))
    if shown is not None and shown.timing != layers[0].neuron:
        raise InputError("to_graph: the input's timing is not that of the neurons behind it")
    return from_layers(layers, encoding, steps)


def _array(value: torch.Tensor) -> NDArray[Any]:
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
        InputError: Neurons of different kinds or timings, shapes that do not follow one another, or biases before LIF
            neurons whose current has a memory (the chip adds biases to the voltage, torch's Linear to the current).
    """
    first = layers[0].neuron
    if isinstance(first, Timing):
        nn_diffpc.check_depth(first, len(layers))
        if any(layer.neuron != first for layer in layers):
            raise InputError("to_graph: all DiffPC layers of a network need the same timing")
        return _diffpc(layers, first, encoding or Encoding("value", -6, 255))
    if any(isinstance(layer.neuron, Timing) for layer in layers):
        raise InputError("to_graph: LIF and DiffPC neurons in one network are not supported")
    names = ["input", *_names(len(layers))]
    populations = [Population("input", layers[0].weight.shape[1], Source())]
    projections: list[Projection] = []
    for l, layer in enumerate(layers, start=1):
        assert isinstance(layer.neuron, Lif)
        if layer.neuron.du != 1 and layer.bias.any():
            raise InputError(
                f"to_graph: weight layer {l} has biases and its LIF neurons du {layer.neuron.du:g}; the chip adds biases to "
                f"the voltage, so the current must not keep them: use du 1, or no biases"
            )
        neuron = Lif(du=layer.neuron.du, dv=layer.neuron.dv, vth=layer.neuron.vth, bias=layer.bias)
        populations.append(Population(names[l], len(layer.weight), neuron))
        projections.append(Projection(f"w{l}", names[l - 1], names[l], Dense(layer.weight)))
    if steps < 1:
        raise InputError(f"to_graph: a LIF network shows each sample for `steps` steps; {steps} given, at least 1 is needed")
    code = encoding or Encoding("bernoulli", levels=255)
    return Graph(tuple(populations), tuple(projections), code, names[-1], steps)


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


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _LayerEntry(_Entry):
    weight: str
    bias: str | None = None


class _LifEntry(_Entry):
    du: float = Field(default=1.0, ge=0, le=1)
    dv: float = Field(default=0.5, ge=0, le=1)
    vth: float = Field(default=1.0, gt=0)


class _InputEntry(_Entry):
    kind: Literal["value", "bernoulli"] | None = None
    scale_exponent: int | None = None
    levels: int = Field(default=255, ge=1, le=255)
    seed: int = 0


class _NetworkFile(_Entry):
    """TOML beside a state dict, or instead of one for an untrained network (then with `sizes`)."""

    neuron: Literal["lif", "diffpc"]
    steps: int = Field(default=0, ge=0)
    sizes: list[int] = Field(default_factory=list)
    layer: list[_LayerEntry] = Field(default_factory=list)
    lif: _LifEntry = _LifEntry()
    timing: dict[str, Any] = Field(default_factory=dict)
    input: _InputEntry = _InputEntry()


def from_state_dict(path: Path, network: Path) -> Graph:
    """Graph of somebody else's trained weights.

    Args:
        path: `.safetensors`, or `.pt`/`.pth` holding a state dict (read with weights_only=True).
        network: TOML naming neuron, layers and parameters; see docs/quickstart.md.

    Raises:
        InputError: A file that cannot be read, an unknown entry, a tensor that is not there or no matrix.
    """
    tensors, entry = _tensors(path), _network(network)
    if not entry.layer:
        raise ConfigError(f"{network}: no [[layer]]; name the weight of each layer, of {_some(tensors)}")
    layers: list[Layer] = []
    for i, names in enumerate(entry.layer, start=1):
        weight = _pick(tensors, names.weight, 2, f"{network}: layer {i}")
        bias = _pick(tensors, names.bias, 1, f"{network}: layer {i}") if names.bias else np.zeros(len(weight))
        if bias.shape != weight.shape[:1]:
            raise InputError(f"{network}: layer {i} has {len(weight)} neurons and a bias of shape {bias.shape}")
        layers.append(Layer(weight, bias, _neuron_of(entry, network)))
    return from_layers(layers, _encoding(entry), entry.steps)


def untrained(network: Path, seed: int) -> Graph:
    """Graph with Kaiming-uniform weights and no biases.

    Args:
        network: TOML with `neuron` and `sizes`.
        seed: Of the weights.
    """
    entry = _network(network)
    if len(entry.sizes) < 2 or min(entry.sizes) < 1:
        raise ConfigError(f"{network}: sizes is {entry.sizes}; needed are at least two layers of at least 1 neuron")
    random = np.random.default_rng(seed)
    layers = [
        Layer(random.uniform(-1, 1, (post, pre)) / pre**0.5, np.zeros(post), _neuron_of(entry, network))
        for pre, post in zip(entry.sizes[:-1], entry.sizes[1:], strict=True)
    ]
    return from_layers(layers, _encoding(entry), entry.steps)


def _network(path: Path) -> _NetworkFile:
    try:
        entry = _NetworkFile.model_validate(read_toml(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {place}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
    given = {*entry.model_fields_set, *(f"input.{name}" for name in entry.input.model_fields_set)}
    foreign = {"lif": ("timing", "input.scale_exponent"), "diffpc": ("lif", "input.seed", "steps")}[entry.neuron]
    for name in foreign:
        if name in given:
            raise ConfigError(f"{path}: {name} means nothing to neuron {entry.neuron!r}")
    kind = "bernoulli" if entry.neuron == "lif" else "value"
    if entry.input.kind not in (None, kind):
        raise ConfigError(f"{path}: input.kind is {entry.input.kind!r}, neuron {entry.neuron!r} needs {kind!r}")
    return entry


def _neuron_of(entry: _NetworkFile, path: Path) -> Neuron:
    if entry.neuron == "lif":
        return Lif(du=entry.lif.du, dv=entry.lif.dv, vth=entry.lif.vth)
    unknown = set(entry.timing) - set(Timing.__dataclass_fields__)
    if unknown:
        raise ConfigError(f"{path}: unknown entry timing.{sorted(unknown)[0]}")
    try:
        return Timing(**entry.timing)
    except TypeError:
        raise ConfigError(f"{path}: timing holds an entry of the wrong type") from None
    except InputError as error:
        raise ConfigError(f"{path}: {error}") from None


def _encoding(entry: _NetworkFile) -> Encoding:
    if entry.neuron == "lif":
        return Encoding("bernoulli", 0, entry.input.levels, entry.input.seed)
    exponent = entry.input.scale_exponent
    return Encoding("value", 2 - round(np.log2(entry.input.levels)) if exponent is None else exponent, entry.input.levels)


def _tensors(path: Path) -> Mapping[str, torch.Tensor]:
    if not Path(path).is_file():
        raise InputError(f"no file {path}")
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise FileFormatError(f"{path}: not a plain state dict, or damaged; other pickled objects are never loaded") from None
    except Exception as error:  # damaged bytes make torch's unpickler raise just anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise FileFormatError(f"{path}: no readable weights: {reason}") from None
    if not isinstance(loaded, Mapping):
        raise FileFormatError(f"{path}: holds a {type(loaded).__name__}, a state dict of tensors is needed")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise FileFormatError(f"{path}: entry {name!r} is a {type(value).__name__}, a state dict of tensors is needed")
    return loaded


def _some(tensors: Mapping[str, Any]) -> str:
    names = sorted(tensors)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _pick(tensors: Mapping[str, torch.Tensor], name: str, axes: int, where: str) -> NDArray[Any]:
    if name not in tensors:
        raise InputError(f"{where}: no tensor {name!r}; the file holds {_some(tensors)}")
    if tensors[name].ndim != axes:
        raise InputError(f"{where}: {name!r} has {tensors[name].ndim} axes, needed are {axes}")
    return _array(tensors[name])
