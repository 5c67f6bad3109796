"""Configurations of autoencoders of pyramidal neurons: sections, defaults, and what does not go together."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, ValidationError
from pydantic_core import PydanticCustomError

from lavasnn import config as configs
from lavasnn.architecture import Convolution, as_image, autoencoder, parsed
from lavasnn.data.samples import SETS
from lavasnn.errors import ConfigError
from lavasnn.learning.bsd_autoencoder import AutoencoderSection
from lavasnn.measure.pictures import WINDOW
from lavasnn.sections import DataSection, OptimizerSection, Section, Seed

Variant = Literal["bptt", "primitive", "infonce", "mse"]


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


class PictureTraining(OptimizerSection):
    """How to train; shift, flip and randaugment as in `lavasnn.sections.TrainingSection`.

    Attributes:
        method: "bsd", or "bptt": the squared error backpropagated through the same network and all its steps.
    """

    method: Literal["bsd", "bptt"] = "bsd"
    epochs: int = Field(default=1, ge=1)
    batch: int = Field(default=32, ge=1)
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


class ReconstructionConfig(Section):
    """A whole training run.

    Attributes:
        name: Of the run and its files.
        seeds: One run each; a single run uses the first.
        variants: What a summary trains besides: "bptt", see `PictureTraining`; "primitive", one lambda for all frequencies;
            "infonce" and "mse", other losses of hidden layers.
        components: What a summary compares with: as many principal components of the training images, and their mean.
        threads: Of torch.
    """

    name: str = Field(default="autoencoder", pattern=r"^[A-Za-z0-9_.-]+$")
    seeds: tuple[Seed, ...] = Field(default=(0,), strict=False, min_length=1)
    variants: tuple[Variant, ...] = Field(default=(), strict=False)
    components: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(), strict=False)
    threads: int = Field(default=1, ge=1, le=64)
    data: DataSection = DataSection(name="mnist")
    network: EncoderSection = EncoderSection()
    training: PictureTraining = PictureTraining()
    bsd: AutoencoderSection = AutoencoderSection()
    classifier: ClassifierSection = ClassifierSection()

    @property
    def label(self) -> str:
        """What tells its files and results from those of its variants."""
        if self.training.method == "bptt":
            return "bptt"
        if self.bsd.loss != "reco":
            return self.bsd.loss
        return "bsd" if self.bsd.cutoff else "primitive"

    def variant(self, label: Variant) -> ReconstructionConfig:
        """The same run in another way, see `variants`."""
        training = {"method": "bptt"} if label == "bptt" else {}
        bsd = {} if label == "bptt" else {"cutoff": 0.0} if label == "primitive" else {"loss": label}
        return self.model_copy(
            update={"training": self.training.model_copy(update=training), "bsd": self.bsd.model_copy(update=bsd)}
        )


def dump(config: ReconstructionConfig) -> dict[str, Any]:
    """What a run does as JSON values; what it is compared with is left out."""
    return json.loads(json.dumps(config.model_dump(exclude={"seeds", "variants", "components", "classifier"})))


def parse(entries: Mapping[str, Any], where: str) -> ReconstructionConfig:
    """Check a configuration read from anywhere, without its entry `task`.

    Raises:
        ConfigError: An unknown name, a wrong type, a value out of range, or an entry that means nothing here; names it.
    """
    try:
        config = ReconstructionConfig.model_validate(entries)
    except ValidationError as error:
        said = "; ".join(configs.complaint(e, ReconstructionConfig) for e in error.errors())
        raise ConfigError(f"{where}: {said}") from None
    wrong, kind, t = list[str](), SETS[config.data.name], config.training
    image = as_image(kind.shape)
    if kind.events or image is None or min(image[1:]) < WINDOW:
        wrong.append(f"data.name is {config.data.name!r}; needed are images of {WINDOW} x {WINDOW} pixels or more")
    else:
        encoder = [layer for layer in autoencoder(image, config.network.hidden) if isinstance(layer, Convolution)]
        if (most := max(max(layer.weights, layer.size) for layer in encoder)) > configs.MOST_WEIGHTS:
            wrong.append(f"network has a layer of {most:,} weights or neurons, allowed are up to {configs.MOST_WEIGHTS:,}")
    if t.randaugment and kind.levels != 255:
        wrong.append(f"training.randaugment is {t.randaugment}, with data {config.data.name!r} allowed is 0")
    if config.data.input_exponent is not None:
        wrong.append(f"data.input_exponent is {config.data.input_exponent}, which neuron 'pyramidal' does not have")
    features = math.prod(kind.shape)
    wrong += [f"components has {n}, an image {features} pixels" for n in config.components if n > features]
    labels = [config.label, *(config.variant(name).label for name in config.variants)]
    if len(set(labels)) < len(labels):
        wrong.append(
            f"variants are {list(config.variants)}; with the run itself, {config.label!r}, these have to be {len(labels)} runs"
        )
    if t.method == "bptt" and config.variants:
        wrong.append("training.method is 'bptt', which is a variant of 'bsd' and has none of its own")
    if wrong:
        raise ConfigError(f"{where}: " + "; ".join(wrong))
    return config
