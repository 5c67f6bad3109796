"""Model files: a trained network, its configuration and history, in one file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from lavasnn.config import RunConfig, parse
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.files import read_tensors, write_tensors
from lavasnn.nn.diffpc import DiffPCNet


@dataclass(frozen=True)
class EpochReport:
    """One epoch in numbers.

    Attributes:
        epoch: Counted from 1.
        train_accuracy: Fraction right before each update, on the augmented samples.
        validation_accuracy: Fraction of the validation images, or None without any.
        error_spikes: Mean number of error spikes a sample, for layers 1..L; empty for the baselines.
        peak: Largest hidden activity in the first phase; beyond 2**(m + 1) one cycle does not reach it.
        seconds: Wall time.
    """

    epoch: int
    train_accuracy: float
    validation_accuracy: float | None
    error_spikes: list[float]
    peak: float
    seconds: float


def arrays(net: DiffPCNet) -> dict[str, NDArray[Any]]:
    """Weights and biases by layer, "1.weight" (post, pre) and "1.bias" (post,) onwards."""
    return {
        f"{l}.{name}": getattr(layer, name).detach().cpu().numpy()
        for l, layer in enumerate(net.linears, start=1)
        for name in ("weight", "bias")
    }


def load_arrays(net: DiffPCNet, values: dict[str, NDArray[Any]]) -> None:
    """Undo `arrays`.

    Raises:
        InputError: An array is missing or has the wrong shape.
    """
    with torch.no_grad():
        for name, mine in arrays(net).items():
            if name not in values or values[name].shape != mine.shape:
                found = values[name].shape if name in values else "nothing"
                raise InputError(f"model: {name} needs shape {mine.shape}, the file has {found}")
            layer, field_name = name.split(".")
            getattr(net.linears[int(layer) - 1], field_name).copy_(torch.from_numpy(values[name].copy()))


def dump(config: RunConfig) -> dict[str, Any]:
    """What a run does as JSON values; how its settings were chosen is left out."""
    entries = json.loads(json.dumps(config.model_dump(exclude={"timing", "choose"})))
    return entries | {"timing": asdict(config.timing)}


def save_model(
    path: Path, net: DiffPCNet, config: RunConfig, code: Encoding, history: list[dict[str, Any]], seed: int, data: str = ""
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

    net: DiffPCNet
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
    net = DiffPCNet(header["sizes"], config.timing)
    load_arrays(net, tensors)
    history = [EpochReport(**entry) for entry in header["history"]]
    return Model(net, config, Encoding.from_json(header["encoding"]), history, header["seed"], header.get("data", ""))
