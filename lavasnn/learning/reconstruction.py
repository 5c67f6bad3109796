"""Training autoencoders of pyramidal neurons on images, by BSD or end to end, and measuring what they bring back.

A configuration has `task = "reconstruction"`. A reconstruction is the mean voltage of the last layer of Type 1, cut to 0..1; it
is compared with the image itself. The Frechet distance is that of the features of a classifier trained here: the hidden layer
below the classes of a network of ReLUs, from the same training images. It is no FID, whose features are Inception's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from lavasnn import config as configs
from lavasnn import data
from lavasnn.architecture import as_image, autoencoder
from lavasnn.data import Images
from lavasnn.data.samples import SETS
from lavasnn.errors import InputError
from lavasnn.files import read_tensors
from lavasnn.learning.augment import augmented, check_randaugment, randaugmented
from lavasnn.learning.bsd_autoencoder import distil
from lavasnn.learning.loop import Loop, device_named, load_state
from lavasnn.learning.reconstruction_config import ReconstructionConfig, dump, parse
from lavasnn.learning.task import Task
from lavasnn.learning.trainer import Trainer, checksum, shown_values
from lavasnn.measure.pictures import frechet, mse, principal, psnr, ssim
from lavasnn.nn.bsd import BSDNet
from lavasnn.nn.diffpc import DiffPCNet

TASK = "reconstruction"
AT_ONCE = 64
"""Images that are evaluated at a time; more take twice as long on a CPU, whose cache they leave."""
Float = NDArray[np.float64]


@dataclass(frozen=True)
class PictureReport:
    """One epoch in numbers.

    Attributes:
        epoch: Counted from 1.
        error: Mean squared error of the reconstructions before each update, on the augmented images, not cut.
        error_recall: The same of what Type 2 brings to the bottom; 0 with "bptt", which has no Type 2.
        validation: Of the validation images, cut to 0..1; None without any.
        seconds: Wall time.
    """

    epoch: int
    error: float
    error_recall: float
    validation: float | None
    seconds: float


@dataclass(frozen=True)
class Collection:
    """Images to learn from, to choose settings by (or None) and to test on."""

    train: Images
    validation: Images | None
    test: Images
    judge: Callable[[Images], Trainer]

    @cached_property
    def classifier(self) -> Trainer:
        """Trained on `train` when it is first asked for."""
        return self.judge(self.train)

    @cached_property
    def test_features(self) -> Float:
        """Of the test images."""
        return self.features(as_floats(self.test))

    def features(self, x: Float) -> Float:
        """What the classifier's last hidden layer makes of pictures from 0 to 1, shape (picture, neuron)."""
        net, code = self.classifier.net, self.classifier.encoding
        assert isinstance(net, DiffPCNet)
        with torch.no_grad():
            found = shown_values(torch.from_numpy(x * self.test.levels), code).to(self.classifier.device)
            for layer in list(net.linears)[:-1]:
                found = torch.relu(layer(found))
        return found.cpu().numpy().astype(np.float64)

    def compare(self, x: Float) -> dict[str, float]:
        """Measures of pictures from 0 to 1 that stand for the test images, shape (picture, pixel)."""
        truth = as_floats(self.test)
        shape = (-1, *(as_image(self.test.shape) or ()))
        error = mse(x, truth)
        return {
            "mse": error,
            "psnr": psnr(error),
            "ssim": ssim(x.reshape(shape), truth.reshape(shape)),
            "frechet": frechet(self.features(x), self.test_features),
        }


def as_floats(images: Images) -> Float:
    """Pixels from 0 to 1, shape (picture, pixel)."""
    return images.pixels / np.float64(images.levels)


class PictureLoop(Loop[PictureReport]):
    """Trains one autoencoder from one seed.

    Args:
        config: What to do.
        data: Images.
        seed: Of weights, order, shifts and other changes of images.
        device: "cpu", "cuda" or any torch device.

    Raises:
        InputError: An unknown device, or RandAugment without torchvision.
    """

    def __init__(self, config: ReconstructionConfig, data: Collection, seed: int = 0, device: str = "cpu") -> None:
        where = device_named(device)
        torch.set_num_threads(config.threads)
        if config.training.randaugment:
            check_randaugment()
        self.config = config
        self.net = network(config, data.train.shape, torch.Generator().manual_seed(seed)).to(where)
        identity = {"task": TASK, "config": dump(config), "data": checksum(data.train)}
        super().__init__(self.net, config.training, seed, identity, PictureReport)
        self.images, self.validation = data.train, data.validation
        self.pixels = torch.from_numpy(data.train.pixels).to(where)

    @property
    def batches(self) -> int:
        """Of an epoch; the last one takes what is left."""
        return -(-len(self.pixels) // self.config.training.batch)

    def learn(self, epoch: int, batch: int) -> Mapping[str, list[float]]:
        """Fill in the gradients of one batch; returns the squared errors of both pathways, added up."""
        t = self.config.training
        index = self.order(epoch, len(self.pixels))[batch * t.batch : (batch + 1) * t.batch]
        generator, pixels = self.generator(epoch, batch), self.pixels[index]
        if t.randaugment:
            pixels = randaugmented(pixels, self.images.shape, t.randaugment, generator)
        if t.shift or t.flip:
            pixels = augmented(pixels, self.images.shape, t.shift, t.flip, generator)
        x = pixels.to(torch.float32) / self.images.levels
        if t.method == "bsd":
            v, u = distil(self.net, x, self.config.bsd)
            return {"errors": [_apart(v, x), _apart(u, x)]}
        return {"errors": [_apart(end_to_end(self.net, x), x), 0.0]}

    def close(self, number: int, sums: Mapping[str, list[float]], seconds: float) -> PictureReport:
        """The numbers of an epoch that is over."""
        error, recall = (total / self.pixels.numel() for total in sums["errors"])
        held = None if self.validation is None else mse(brought_back(self.net, self.validation).x, as_floats(self.validation))
        return PictureReport(number, error, recall, held, seconds)


def network(config: ReconstructionConfig, shape: tuple[int, ...], generator: torch.Generator | None = None) -> BSDNet:
    """An untrained autoencoder of images of that shape."""
    s = config.bsd
    plan, thresholds = autoencoder(shape, config.network.hidden), (s.threshold, s.threshold_recall)
    return BSDNet(plan, s.steps, s.tau, thresholds, generator, entry=s.threshold_entry, norm=True)


def end_to_end(net: BSDNet, x: Tensor) -> Tensor:
    """The baseline: fills in the gradients of W alone, by backpropagation; returns the reconstructions, (sample, pixel)."""
    net.train()
    for p in net.parameters():
        p.grad = None
    v = net.unrolled(x)
    (v - x).square().sum().backward()
    return v.detach()


def _apart(v: Tensor, x: Tensor) -> float:
    return float((v - x).square().sum())


@dataclass(frozen=True)
class Brought:
    """What an autoencoder makes of images, cut to 0..1.

    Attributes:
        x: Of Type 1, at the top, shape (picture, pixel).
        u: Of Type 2, at the bottom, likewise.
        rates: Mean spike rate of each layer of Type 1, bottom first.
        rates_recall: The same of Type 2.
        cosine: Of the two types' voltages of the same image, mean, by layer.
        cosine_others: The same of Type 1's with those that Type 2 has of other images, of the 64 evaluated together.
    """

    x: Float
    u: Float
    rates: list[float]
    rates_recall: list[float]
    cosine: list[float]
    cosine_others: list[float]


@torch.no_grad()
def brought_back(net: BSDNet, images: Images) -> Brought:
    """Show images to both ends of an autoencoder."""
    net.eval()
    device = next(net.parameters()).device
    ends: tuple[list[Tensor], list[Tensor]] = ([], [])
    rates, alike = np.zeros((2, len(net.sizes))), np.zeros((2, len(net.sizes)))
    pairs = 0
    for start in range(0, len(images), AT_ONCE):
        pixels = torch.from_numpy(images.pixels[start : start + AT_ONCE]).to(device)
        x = pixels.to(torch.float32) / images.levels
        up, down = net.perceive(x), net.recall(x)
        for found, v in zip(ends, (up.v[-1], down.v[0]), strict=True):
            found.append(v.clamp(0, 1).cpu())
        rates += [[float(r.mean()) * len(x) for r in path.r] for path in (up, down)]
        cosines = [normalize(v) @ normalize(u).T for v, u in zip(up.v, down.v, strict=True)]
        alike += [[float(c.trace()) for c in cosines], [float(c.sum() - c.trace()) for c in cosines]]
        pairs += len(x) * (len(x) - 1)
    x, u = (torch.cat(found).numpy().astype(np.float64) for found in ends)
    alike /= [[len(images)], [max(pairs, 1)]]
    return Brought(x, u, *(rates / len(images)).tolist(), *alike.tolist())


def load_autoencoder(path: Path) -> tuple[BSDNet, ReconstructionConfig]:
    """A trained network and its configuration.

    Raises:
        InputError: Not a model file of this task, or one whose entries do not fit together.
    """
    _, header, arrays = read_tensors(path, "model")
    if header.get("task") != TASK:
        raise InputError(f"{path}: a model of task {header.get('task')!r}, needed is {TASK!r}")
    config = parse(header["config"], str(path))
    net = network(config, SETS[config.data.name].shape)
    load_state(net, arrays)
    return net, config


class ReconstructionTask(Task[ReconstructionConfig, Collection]):
    """What `lavasnn train` does with such a configuration."""

    def variants(self) -> Mapping[str, ReconstructionTask]:
        """By label, the configuration itself first."""
        others = [self.config.variant(name) for name in self.config.variants]
        return {self.config.label: self} | {other.label: ReconstructionTask(other) for other in others}

    def data(self, folder: Path | None, download: bool) -> Collection:
        """Images of the configuration's set.

        Raises:
            InputError: They are not there, or fewer than are to be held out.
        """
        section = self.config.data
        train, test = (data.load(f"{section.name}:{split}", folder, download=download) for split in ("train", "test"))
        kept, held = section.held_out(train)
        if len(kept) < 2:
            raise InputError(f"{section.name}: {len(kept)} training image; needed are 2 or more")
        return Collection(kept, held, test, self._judge)

    def loop(self, data: Collection, seed: int, device: str) -> PictureLoop:
        """The training of a network from one seed."""
        return PictureLoop(self.config, data, seed, device)

    def measure(self, loop: PictureLoop, data: Collection) -> dict[str, Any]:
        """How close the test images' reconstructions come, how often neurons spike, how alike both pathways are, and the
        errors on the way there.
        """
        found = brought_back(loop.net, data.test)
        row: dict[str, Any] = {**data.compare(found.x), "rates": found.rates}
        if self.config.training.method == "bsd":
            row |= {"mse_recall": mse(found.u, as_floats(data.test)), "rates_recall": found.rates_recall}
            row |= {"cosine": found.cosine, "cosine_others": found.cosine_others}
        return row | {"error_by_epoch": [report.error for report in loop.progress.history]}

    def references(self, data: Collection) -> dict[str, Any]:
        """The mean training image, principal components, and the distance that other images of the same kind have."""
        train, test = as_floats(data.train), as_floats(data.test)
        found: dict[str, Any] = {"mean image": data.compare(np.broadcast_to(train.mean(0), test.shape))}
        for n, x in principal(train, test, self.config.components).items():
            found[f"{n} principal components"] = data.compare(x.clip(0, 1))
        distance = frechet(data.features(train[: len(test)]), data.test_features)
        return found | {
            "training images": {"frechet": distance},
            "classifier": {"accuracy": data.classifier.evaluate(data.test)},
        }

    def dump(self) -> dict[str, Any]:
        """Everything that a summary's numbers depend on, in JSON values."""
        return json.loads(self.config.model_dump_json())

    def line(self, report: PictureReport) -> str:
        """An epoch's report in a line."""
        recall = f", of recall {report.error_recall:.4f}" if self.config.training.method == "bsd" else ""
        held = "" if report.validation is None else f", validation {report.validation:.4f}"
        return f"epoch {report.epoch}: error {report.error:.4f}{recall}{held}, {report.seconds:.1f} s"

    def _judge(self, train: Images) -> Trainer:
        c = self.config.classifier
        entries = {
            "data": {"name": train.name},
            "network": {"neuron": "diffpc", "hidden": c.hidden},
            "training": {"method": "backprop", "epochs": c.epochs, "batch": c.batch, "learning_rate": c.learning_rate},
            "timing": {"init_cycles": len(c.hidden) + 1},  # so many it takes to settle, which nothing asks for here
            "threads": self.config.threads,
        }
        trainer = Trainer(configs.parse(entries, "classifier"), train)
        trainer.run()
        return trainer


def load_task(path: Path) -> ReconstructionTask:
    """Read and check a configuration file.

    Raises:
        InputError: It is not there.
        ConfigError: See `parse`.
    """
    entries = configs.read_toml(path)
    return ReconstructionTask(parse({name: value for name, value in entries.items() if name != "task"}, str(path)))
