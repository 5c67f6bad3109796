"""Model files: a trained network, its configuration and history, in one file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from lavasnn.config import RunConfig, parse
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.files import read_tensors, write_tensors
from lavasnn.learning.backprop import SpikingNet, build
from lavasnn.nn.diffpc import DiffPCNet

Net = DiffPCNet | SpikingNet


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
    """

    epoch: int
    train_accuracy: float
    validation_accuracy: float | None
    error_spikes: list[float]
    peak: float
    seconds: float


def _tensors(net: Net) -> dict[str, Tensor]:
    if isinstance(net, SpikingNet):
        return dict(net.state_dict(keep_vars=True))
    return {f"{l}.{name}": getattr(layer, name) for l, layer in enumerate(net.linears, start=1) for name in ("weight", "bias")}


def arrays(net: Net) -> dict[str, NDArray[Any]]:
    """What a network has learned.

    DiffPC: weights and biases by layer, "1.weight" (post, pre) and "1.bias" (post,) onwards. Spiking: the state dict, where
    synapses are modules 0, 2, 4, ...: "0.weight" (post, pre), with pairs "0.k" (post, pair) and "0.pairs" (pair, 2).
    """
    return {name: value.detach().cpu().numpy() for name, value in _tensors(net).items()}


def load_arrays(net: Net, values: dict[str, NDArray[Any]]) -> None:
    """Undo `arrays`.

    Raises:
        InputError: An array is missing or has the wrong shape.
    """
    with torch.no_grad():
        for name, mine in _tensors(net).items():
            shape = tuple(mine.shape)
            if name not in values or values[name].shape != shape:
                found = values[name].shape if name in values else "nothing"
                raise InputError(f"model: {name} needs shape {shape}, the file has {found}")
            mine.copy_(torch.from_numpy(values[name].copy()))


_OTHERS = {"timing": True, "choose": True, "spiking": True, "network": {"neuron": True}}


def dump(config: RunConfig) -> dict[str, Any]:
    """What a run does as JSON values; how its settings were chosen and what its neurons do not have is left out."""
    if config.network.spiking:
        return json.loads(json.dumps(config.model_dump(exclude={"timing", "choose"})))
    entries = json.loads(json.dumps(config.model_dump(exclude=_OTHERS)))
    return entries | {"timing": asdict(config.timing)}


def save_model(
    path: Path, net: Net, config: RunConfig, code: Encoding, history: list[dict[str, Any]], seed: int, data: str = ""
) -> None:
    """Write a network, how and on which images (their checksum) it was trained, and how its input is coded."""
    header = {
        "config": dump(config),
        "sizes": list(net.sizes),
        "encoding": code.to_json(),
        "history": history,
        "seed": seed,
        "data": data,
    }
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
    config = parse(header["config"], str(path))
    net: Net
    if config.network.spiking:
        pairs = [tensors.get(f"{2 * l}.pairs") for l in range(len(header["sizes"]) - 1)]
        net = build(config.spiking, header["sizes"], [None if p is None else torch.from_numpy(p.copy()) for p in pairs])
    else:
        net = DiffPCNet(header["sizes"], config.timing)
    load_arrays(net, tensors)
    history = [EpochReport(**entry) for entry in header["history"]]
    return Model(net, config, Encoding.from_json(header["encoding"]), history, header["seed"], header.get("data", ""))
