"""Somebody else's trained weights, or untrained ones from a seed: what a TOML file beside them says about the network."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file

from lavasnn.config import read_toml
from lavasnn.dynamics.lif import Lif
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.errors import ConfigError, FileFormatError, InputError
from lavasnn.export import Layer, Neuron, array, from_layers
from lavasnn.ir import Graph


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
    return array(tensors[name])
