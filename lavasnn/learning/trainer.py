"""Training of networks that tell classes apart, by all methods."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavasnn.architecture import layers
from lavasnn.config import RunConfig
from lavasnn.data import Images
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.learning.augment import augmented, check_randaugment, randaugmented
from lavasnn.learning.backprop import bptt, drawn, presented
from lavasnn.learning.bsd import alignment, bsd, likeness
from lavasnn.learning.loop import Loop, Progress, device_named
from lavasnn.learning.model import EpochReport, Net, arrays, bsd_net, dump, load_arrays, load_model, save_model
from lavasnn.learning.rules import RULES, Batch, Seen
from lavasnn.learning.spiking import SpikingNet, build, choose_pairs, pair_numbers, planned
from lavasnn.nn.bsd import BSDNet
from lavasnn.nn.diffpc import DiffPCNet, check_depth

METHODS: Mapping[str, Callable[[Any, Batch, Any], Seen]] = {**RULES, "bptt": bptt, "bsd": bsd}
"""By name; a configuration gives each the network it is for. They take the section `training`, BSD its own."""


EVALUATED = 64_000_000
"""Numbers of the widest layer that an evaluation holds at a time, at most."""
COMPARED = 500
"""Training images on which the two pathways of a BSD network are compared after each epoch, at most."""


def checksum(images: Images) -> str:
    """Of pixels and labels."""
    found = hashlib.sha256(np.ascontiguousarray(images.pixels).data)
    found.update(np.ascontiguousarray(images.labels).data)
    return found.hexdigest()


class Trainer(Loop[EpochReport]):
    """Trains one network from one configuration and one seed.

    Args:
        config: What to do.
        train: Images to learn from.
        validation: Images whose accuracy is reported after every epoch, or None.
        seed: Of weights, pairs, order, dropout, shifts and random spikes.
        device: "cpu", "cuda" or any torch device.

    Raises:
        InputError: An unknown device, a timing too short for the network, or more pairs than a layer's inputs have.
    """

    def __init__(
        self, config: RunConfig, train: Images, validation: Images | None = None, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.config = config
        where = device_named(device)
        torch.set_num_threads(config.threads)
        generator = torch.Generator().manual_seed(seed)
        self.encoding = encoding(config, train.levels, seed)
        if config.normed and len(train) % config.training.batch == 1:
            raise InputError(
                f"training.batch is {config.training.batch}, which leaves 1 of {len(train):,} samples for the last batch; "
                "batch norm needs more"
            )
        if config.training.randaugment:
            check_randaugment()
        self.net: Net
        if config.network.spiking:
            pairs = choose_pairs(config, train, self.encoding, seed)
            plan = planned(config, train.shape, train.classes)
            self.net = build(config.spiking, train.shape, plan, pairs, generator).to(where)
        elif config.network.neuron == "pyramidal":
            self.net = bsd_net(config.bsd, layers(train.shape, config.network.hidden, train.classes), generator).to(where)
        else:
            sizes = (train.features, *config.network.sizes, train.classes)
            self.net = DiffPCNet(sizes, config.timing, generator).to(where)
            check_depth(config.timing, len(sizes) - 1, settle=config.training.method == "diffpc")
        self._data = checksum(train)
        super().__init__(self.net, config.training, seed, {"config": dump(config), "data": self._data}, EpochReport)
        self.labels = torch.from_numpy(train.labels).to(where)
        self.pixels = torch.from_numpy(train.pixels).to(where)
        self.shape, self.classes = train.shape, train.classes
        self.validation = validation

    @property
    def batches(self) -> int:
        """Batches of an epoch; the last one takes what is left."""
        return -(-len(self.labels) // self.config.training.batch)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `lavasnn.learning.model.arrays`."""
        return arrays(self.net)

    def load_arrays(self, values: Mapping[str, NDArray[Any]]) -> None:
        """See `lavasnn.learning.model.load_arrays`."""
        load_arrays(self.net, values)

    def learn(self, epoch: int, batch: int) -> Mapping[str, list[float]]:
        """Fill in the gradients of one batch by the configuration's method."""
        t = self.config.training
        index = self.order(epoch, len(self.labels))[batch * t.batch : (batch + 1) * t.batch]
        seen = METHODS[t.method](self.net, self._prepare(index, epoch, batch), self.config.bsd if t.method == "bsd" else t)
        right = int((seen.output.argmax(1) == self.labels[index]).sum())
        peak = max([0.0, *(float(v) for v in seen.peak)])
        return {"correct": [right], "error_spikes": [float(n) for n in seen.error_spikes], "peak": [peak]}

    def merge(self, name: str, a: float, b: float) -> float:
        """Peaks are the largest, all else is summed."""
        return max(a, b) if name == "peak" else a + b

    def close(self, number: int, sums: Mapping[str, list[float]], seconds: float) -> EpochReport:
        """The epoch's report, with the accuracy on the validation images and, of BSD, how the pathways resemble each other."""
        n = len(self.labels)
        accuracy = None if self.validation is None else self.evaluate(self.validation)
        spikes = [s / n for s in sums["error_spikes"]]
        report = EpochReport(number, sums["correct"][0] / n, accuracy, spikes, sums["peak"][0], seconds)
        if not isinstance(self.net, BSDNet):
            return report
        few = slice(0, COMPARED)
        alike = likeness(self.net, shown_values(self.pixels[few], self.encoding), self.labels[few])
        for row, value in zip(alike, alignment(self.net), strict=False):
            row["alignment"] = value
        return replace(report, layers=alike)

    def _prepare(self, index: Tensor, epoch: int, batch: int) -> Batch:
        t = self.config.training
        generator = self.generator(epoch, batch)
        pixels = self.pixels[index]
        if t.randaugment:
            pixels = randaugmented(pixels, self.shape, t.randaugment, generator)
        if t.shift or t.flip:
            pixels = augmented(pixels, self.shape, t.shift, t.flip, generator)
        if self.config.network.spiking:
            x = drawn(pixels, self.encoding, self.config.spiking.steps, generator)
        else:
            x = shown_values(pixels, self.encoding)
        target = torch.nn.functional.one_hot(self.labels[index], self.classes).to(torch.float32)
        alive: list[Tensor | None] = []
        scale: list[float] = []
        sizes = self.net.sizes if isinstance(self.net, DiffPCNet) else ()
        for rate, size in zip([t.input_dropout, *[t.dropout] * (len(sizes) - 2)], sizes, strict=False):
            keep = torch.rand(len(index), size, generator=generator, device=self.device) >= rate if rate else None
            alive.append(None if keep is None else keep.to(torch.float32))
            scale.append(1.0 / (1.0 - rate))
        return Batch(x, target, alive, scale)

    def evaluate(self, images: Images) -> float:
        """Fraction of images whose largest output is their label; float arithmetic, of DiffPC the first phase alone."""
        return float(np.mean(predict(self.net, images, self.encoding, self.config) == images.labels))

    def described(self, path: Path) -> dict[str, Any]:
        """Configuration, with what entries of later versions say by default, seed and data of a finished model."""
        model = load_model(path)
        return {"config": dump(model.config), "seed": model.seed, "data": model.data}

    def adopt(self, path: Path) -> None:
        """Take over a finished model of this very configuration, seed and data."""
        model = load_model(path)
        load_arrays(self.net, arrays(model.net))
        self.progress = Progress(epoch=len(model.history), history=model.history)

    def save_model(self, path: Path) -> None:
        """Write the network to a file of kind "model"."""
        history = [asdict(r) for r in self.progress.history]
        save_model(path, self.net, self.config, self.encoding, history, self.seed, self._data)


def encoding(config: RunConfig, levels: int, seed: int = 0) -> Encoding:
    """How pixels become input.

    DiffPC: activities p * 2**exponent, the largest near 4 unless the configuration says otherwise. Spiking networks: their
    code; random spikes of evaluation have the seed of the run. BSD: the pixel itself, a constant current.
    """
    if config.network.spiking:
        code = config.spiking.code
        if code == "events":
            return Encoding("given", 0, 1)
        return Encoding(code, 0, levels, seed if code == "bernoulli" else 0)
    if config.network.neuron == "pyramidal":
        return Encoding("direct", 0, levels)
    exponent = config.data.input_exponent
    return Encoding("value", 2 - round(np.log2(levels)) if exponent is None else exponent, levels)


def shown_values(pixels: Tensor, code: Encoding) -> Tensor:
    """Pixels as activities (DiffPC) or, from 0 to 1, as a current (BSD), float32."""
    x = pixels.to(torch.float32)
    return x / code.levels if code.kind == "direct" else x * 2.0**code.scale_exponent


@torch.no_grad()
def predict(net: Net, images: Images, code: Encoding, config: RunConfig) -> NDArray[np.int64]:
    """Predicted classes, the first of equals, shape (sample,): what the trained method itself computes, in float32."""
    device = next(net.parameters()).device
    answers: list[NDArray[np.int64]] = []
    samples = 1000
    net.eval()
    if isinstance(net, BSDNet):
        samples = net.rows()
    if isinstance(net, SpikingNet):
        plan = planned(config, images.shape, images.classes)
        widest = max(layer.held(pairs) for layer, pairs in zip(plan, pair_numbers(config, plan), strict=True))
        samples = max(1, min(16_000, EVALUATED // widest) // config.spiking.steps)
    for start in range(0, len(images), samples):
        pixels = images.pixels[start : start + samples]
        if config.network.spiking:
            x = presented(pixels, code, np.arange(start, start + len(pixels)), config.spiking.steps, device)
        else:
            x = shown_values(torch.from_numpy(pixels), code)
        # numpy takes the first of equal outputs, which spike counts often are; torch takes any.
        answers.append(outputs(net, x.to(device), config).cpu().numpy().argmax(1))
    return np.concatenate(answers)


def outputs(net: Net, x: Tensor, config: RunConfig) -> Tensor:
    """Outputs of the method that trained the network, shape (sample, class); of a spiking one the number of spikes, of a BSD
    one the mean voltage, or the number of spikes and less than one for the voltage.
    """
    if isinstance(net, SpikingNet):
        return net(x).sum(1)
    if isinstance(net, BSDNet):
        seen = net.perceive(x)
        # Spikes of the labels' code are those of one neuron, so the most similar label is the one with the most spikes.
        return seen.v[-1] if config.bsd.readout == "voltage" else seen.spikes.sum(1) + torch.sigmoid(seen.v[-1]) / 2
    if config.training.method != "diffpc":
        for l, layer in enumerate(net.linears):
            x = layer(torch.relu(x) if l else x)
        return x
    return net(x)
