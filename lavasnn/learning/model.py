"""Model files: a trained network, its configuration and history, in one file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lavasnn.architecture import Layer, layers
from lavasnn.config import OWN, RunConfig, parse
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.files import read_tensors, write_tensors
from lavasnn.learning.spiking import SpikingNet, build, planned, stored_pairs
from lavasnn.nn.bsd import BSDNet
from lavasnn.nn.diffpc import DiffPCNet
from lavasnn.nn.dlif import PairPool
from lavasnn.sections import BSDSection

Net = DiffPCNet | SpikingNet | BSDNet


def bsd_net(section: BSDSection, plan: Sequence[Layer], generator: torch.Generator | None = None) -> BSDNet:
    """An untrained network of pyramidal neurons."""
    thresholds, entry = (section.threshold, section.threshold_recall), section.threshold_entry
    return BSDNet(plan, section.steps, section.tau, thresholds, generator, entry=entry, norm=section.norm)


@dataclass(frozen=True)
class EpochReport:
    """One epoch in numbers.

    Attributes:
        epoch: Counted from 1.
        train_accuracy: Fraction right before each update, on the augmented samples.
        validation_accuracy: Fraction of the validation images, or None without any.
        error_spikes: Mean number of error spikes a sample, for layers 1..L; empty for all but DiffPC.
        peak: DiffPC: largest hidden activity in the first phase; beyond 2**(m + 1) one cycle does not reach it.
        seconds: Wall time.
        layers: BSD: by layer what `lavasnn.learning.bsd.likeness` says of the first training images, and but for the last layer
            the `alignment` of the weights to the next one.
    """

    epoch: int
    train_accuracy: float
    validation_accuracy: float | None
    error_spikes: list[float]
    peak: float
    seconds: float
    layers: list[dict[str, float]] = field(default_factory=list)


def _tensors(net: Net) -> dict[str, Tensor]:
    if not isinstance(net, DiffPCNet):
        return dict(net.state_dict(keep_vars=True))
    return {f"{l}.{name}": getattr(layer, name) for l, layer in enumerate(net.linears, start=1) for name in ("weight", "bias")}


def arrays(net: Net) -> dict[str, NDArray[Any]]:
    """What a network has learned.

    DiffPC: weights and biases by layer, "1.weight" (post, pre) and "1.bias" (post,) onwards. Spiking: the state dict, where
    synapses are modules 0, 2, 4, ... (with batch norm and convolutions see `lavasnn.learning.spiking.build`): "0.weight"
    (post, pre), with pairs "0.k" (post, pair) and "0.pairs" (pair, 2). BSD: "W.0" and "Theta.0" (post, pre) onwards,
    of convolutions (post, pre, row, column), and of batch norm "norm_up.0.mean" and "norm_up.0.var" (channel,) onwards, with
    "norm_down" the same.
    """
    return {name: value.detach().cpu().numpy() for name, value in _tensors(net).items()}


def load_arrays(net: Net, values: Mapping[str, NDArray[Any]]) -> None:
    """Undo `arrays`.

    Raises:
        InputError: An array is missing, has the wrong shape, or is none of the network's.
    """
    own = _tensors(net)
    if unknown := sorted(set(values) - set(own)):
        raise InputError(f"model: the file holds {unknown[0]}, which the network does not have")
    with torch.no_grad():
        for name, mine in own.items():
            shape = tuple(mine.shape)
            if name not in values or values[name].shape != shape:
                found = values[name].shape if name in values else "nothing"
                raise InputError(f"model: {name} needs shape {shape}, the file has {found}")
            mine.copy_(torch.from_numpy(values[name].copy()))


def sizes(net: Net) -> list[int]:
    """Inputs and outputs of a spiking network; neurons of all layers, the input included, of others."""
    if not isinstance(net, SpikingNet):
        return list(net.sizes)
    last = net.synapses[-1]
    assert isinstance(last, nn.Linear | PairPool)
    return [math.prod(net.shape), last.out_features]


_NEVER = {"timing", "choose", "sweep"}
_LATER = {"training": {"randaugment": 0}, "bsd": {"threshold_entry": None, "norm": False}}
"""Entries that files of earlier versions lack, with the values that mean what those did: they are left out."""


def dump(config: RunConfig) -> dict[str, Any]:
    """What a run does as JSON values; how its settings were chosen and what its neurons do not have is left out."""
    own = OWN[config.network.neuron]
    entries = json.loads(json.dumps(config.model_dump(exclude=_NEVER | ({"spiking", "bsd"} - {own}))))
    for section, names in _LATER.items():
        for name, value in names.items():
            if section in entries and entries[section][name] == value:
                del entries[section][name]
    if own != "timing":
        return entries
    del entries["network"]["neuron"]
    return entries | {"timing": asdict(config.timing)}


def save_model(
    path: Path, net: Net, config: RunConfig, code: Encoding, history: list[dict[str, Any]], seed: int, data: str = ""
) -> None:
    """Write a network, how and on which images (their checksum) it was trained, and how its input is coded."""
    header = {
        "config": dump(config),
        "sizes": sizes(net),
        "encoding": code.to_json(),
        "history": history,
        "seed": seed,
        "data": data,
    }
    if not isinstance(net, DiffPCNet):
        header["shape"] = list(net.shape)
    write_tensors(path, "model", header, arrays(net))


@dataclass(frozen=True)
class Model:
    """A trained network as read from its file."""

    net: Net
    config: RunConfig
    encoding: Encoding
    history: list[EpochReport]
    seed: int
    data: str


def load_model(path: Path) -> Model:
    """Read a file that `save_model` wrote.

    Raises:
        InputError: Not a model file, or one whose entries do not fit together.
    """
    _, header, tensors = read_tensors(path, "model")
    if (task := header.get("task", header["config"].get("task"))) is not None:
        raise InputError(f"{path}: a model of task {task!r}; needed is one that tells classes apart")
    config = parse(header["config"], str(path))
    net: Net
    if config.network.neuron != "diffpc":
        ends = header["sizes"]
        shape = header.get("shape", ends[:1] if isinstance(ends, list) else None)
        if not all(isinstance(part, list) and part and all(type(n) is int and n > 0 for n in part) for part in (ends, shape)):
            raise InputError(f"{path}: sizes are {ends!r} and shape {shape!r}, needed are lists of positive integers")
        if config.network.spiking:
            plan = planned(config, shape, ends[-1])
            net = build(config.spiking, shape, plan, stored_pairs(config.spiking, plan, tensors))
        else:
            net = bsd_net(config.bsd, layers(shape, config.network.hidden, ends[-1]))
    else:
        net = DiffPCNet(header["sizes"], config.timing)
    load_arrays(net, tensors)
    net.eval()
    history = [EpochReport(**entry) for entry in header["history"]]
    return Model(net, config, Encoding.from_json(header["encoding"]), history, header["seed"], header.get("data", ""))
