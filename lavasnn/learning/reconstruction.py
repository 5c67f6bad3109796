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
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PlainValidator, ValidationError
from pydantic_core import PydanticCustomError
from torch import Tensor

from lavasnn import config as configs
from lavasnn import data
from lavasnn.architecture import as_image, autoencoder, parsed
from lavasnn.data import Images
from lavasnn.data.samples import SETS
from lavasnn.errors import ConfigError, InputError
from lavasnn.learning.augment import augmented, check_randaugment, randaugmented
from lavasnn.learning.bsd_autoencoder import AutoencoderSection, distil
from lavasnn.learning.loop import Loop, device_named
from lavasnn.learning.trainer import Trainer, checksum, shown_values
from lavasnn.measure.pictures import WINDOW, frechet, mse, principal, psnr, ssim
from lavasnn.nn.bsd import BSDNet
from lavasnn.nn.diffpc import DiffPCNet
from lavasnn.sections import DataSection, Section, Seed

TASK = "reconstruction"
Variant = Literal["bptt", "primitive", "infonce", "mse"]
Float = NDArray[np.float64]


def _convolution(value: Any) -> str:
    sizes = parsed(value) if isinstance(value, str) else None
    if sizes is None or sizes[1] % 2 == 0:
        raise PydanticCustomError("hidden", "allowed is a convolution with an odd kernel, such as '32c3s2'")
    return value


class EncoderSection(Section):
    """The convolutions of the encoder, in the notation of `lavasnn.architecture`; the decoder is their mirror."""

    hidden: tuple[Annotated[str, PlainValidator(_convolution)], ...] = Field(
        default=("16c3s2", "32c3s2", "64c3s2"), strict=False, min_length=1
    )


class PictureTraining(Section):
    """How to train; entries as in `lavasnn.sections.TrainingSection`.

    Attributes:
        method: "bsd", or "bptt": the squared error backpropagated through the same network and all its steps.
    """

    method: Literal["bsd", "bptt"] = "bsd"
    epochs: int = Field(default=1, ge=1)
    batch: int = Field(default=32, ge=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, lt=100)
    weight_decay: float = Field(default=0.01, ge=0, lt=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    clip_norm: float = Field(default=1.0, ge=0)
    shift: int = Field(default=0, ge=0, le=8)
    flip: bool = False
    randaugment: int = Field(default=0, ge=0, le=30)


class ClassifierSection(Section):
    """The network of ReLUs whose features the Frechet distance compares.

    Attributes:
        hidden: Neurons of its hidden layers; the last one's are the features.
        epochs, batch, learning_rate: How it is trained, by backpropagation with AdamW; its seed is 0.
    """

    hidden: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = Field(default=(256, 64), strict=False, min_length=1)
    epochs: int = Field(default=5, ge=1)
    batch: int = Field(default=128, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, lt=100)


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


class Reconstruction(Section):
    """A whole training run.

    Attributes:
        name: Of the run and its files.
        seeds: One run each; a single run uses the first.
        variants: What a summary trains besides: "bptt", see `PictureTraining`; "primitive", one lambda for all frequencies;
            "infonce" and "mse", other losses of hidden layers.
        components: What a summary compares with: principal components of the training images, so many numbers an image.
        threads: Of torch.
    """

    name: str = Field(default="autoencoder", pattern=r"^[A-Za-z0-9_.-]+$")
    seeds: tuple[Seed, ...] = Field(default=(0,), strict=False, min_length=1)
    variants_: tuple[Variant, ...] = Field(default=(), strict=False, alias="variants")
    components: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(), strict=False)
    threads: int = Field(default=1, ge=1, le=64)
    data_: DataSection = Field(default=DataSection(name="mnist"), alias="data")
    network: EncoderSection = EncoderSection()
    training: PictureTraining = PictureTraining()
    bsd: AutoencoderSection = AutoencoderSection()
    classifier: ClassifierSection = ClassifierSection()
