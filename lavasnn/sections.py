"""The sections of a run configuration: what each part of a training run may say.

`lavasnn.config` puts them together and refuses entries that mean nothing to a network.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic_core import PydanticCustomError

from lavasnn.architecture import parsed
from lavasnn.data.samples import NAMES, Images, validation_split
from lavasnn.errors import ConfigError

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


class Section(BaseModel):
    """Unknown entries are refused, and nothing is changed once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _known(name: str) -> str:
    if name not in NAMES:
        raise PydanticCustomError("data", "allowed are {names}", {"names": ", ".join(NAMES)})
    return name


class DataSection(Section):
    """Which samples, and how they become input.

    Attributes:
        name: A data set, see `lavasnn.data`.
        validation: Training samples held out to choose settings on; 0 trains on all.
        limit: Use only that many training samples (0: all).
        input_exponent: DiffPC: a pixel p becomes the activity p * 2**input_exponent; None maps the largest pixel near 4.
    """

    name: Annotated[str, AfterValidator(_known)] = "digits"
    validation: int = Field(default=0, ge=0)
    limit: int = Field(default=0, ge=0)
    input_exponent: int | None = Field(default=None, ge=-16, le=8)

    def held_out(self, train: Images) -> tuple[Images, Images | None]:
        """Training images cut to the limit, and those held out of them.

        Raises:
            ConfigError: More are to be held out than there are.
        """
        if self.limit:
            train = train.take(min(self.limit, len(train)))
        if not self.validation:
            return train, None
        if self.validation >= len(train):
            raise ConfigError(f"data.validation is {self.validation:,}, the training set has {len(train):,} images")
        return validation_split(train, self.validation, seed=0)


def _hidden(value: Any) -> int | str:
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, str) and parsed(value))):
        raise PydanticCustomError("hidden", "allowed is a number of neurons, or a convolution such as '32c3s2'")
    return value


class NetworkSection(Section):
    """Hidden layers, input side first, and the neurons of all layers; convolutions as in `lavasnn.architecture`."""

    hidden: tuple[Annotated[int | str, PlainValidator(_hidden)], ...] = Field(default=(400,), strict=False)
    neuron: Literal["diffpc", "lif", "dlif", "pyramidal"] = "diffpc"

    @property
    def sizes(self) -> tuple[int, ...]:
        """The hidden layers of a network without convolutions."""
        return tuple(n for n in self.hidden if isinstance(n, int))

    @property
    def spiking(self) -> bool:
        """Whether its neurons are LIF or DLIF, which run through time."""
        return self.neuron in ("lif", "dlif")


MOST_PAIRS = 2**24
"""Of a layer."""


def _pairs(value: Any) -> int | tuple[int, ...]:
    several = isinstance(value, list | tuple)
    each: tuple[Any, ...] = tuple(value) if several else (value,)
    least = 0 if several else 1
    if not each or any(isinstance(n, bool) or not isinstance(n, int) or not least <= n <= MOST_PAIRS for n in each):
        raise PydanticCustomError(
            "pairs",
            "allowed are an integer 1..{most}, or a list of integers 0..{most}, one for each layer",
            {"most": MOST_PAIRS},
        )
    return each if several else each[0]


class SpikingSection(Section):
    """Networks of LIF and DLIF neurons.

    Attributes:
        steps: Steps that each image is shown for, or that events are binned into.
        dv: Share of the voltage that leaks away in a step.
        du: Share of the current that leaks away in a step; 1 means no synaptic memory.
        vth: Threshold.
        surrogate: Whose derivative stands for that of a spike.
        code: How pixels become input, see `lavasnn.encode`; "events" of data sets of events, and of them alone.
        pairs: DLIF: pairs of inputs in each layer, or a list with a number for each layer; a layer with 0 is plain LIF. With
            the direct code the first layer always is, for pairs need spikes.
        sparsity: DLIF: instead of `pairs`, the share of all unordered pairs that each layer leaves out.
        pair_choice: How the first layer's pairs are chosen: by the classes' covariances, at random, or at random among
            inputs that spike. Hidden spikes say nothing before training, so deeper layers and convolutions draw at random.
        pair_field: What the pairs of a convolution join: channels at one "pixel", or anything under its "kernel".
        bias: Whether neurons have biases.
        norm: Whether hidden layers have batch norm behind their synapses; compiling folds it into weights and biases.
    """

    steps: int = Field(default=4, ge=1, le=1000)
    dv: float = Field(default=0.5, ge=0, le=1)
    du: float = Field(default=1.0, ge=0, le=1)
    vth: float = Field(default=1.0, gt=0)
    surrogate: Literal["atan", "triangle", "sigmoid"] = "atan"
    code: Literal["bernoulli", "direct", "latency", "events"] = "bernoulli"
    pairs: Annotated[int | tuple[int, ...], PlainValidator(_pairs)] = 128
    sparsity: float | None = Field(default=None, ge=0, le=1)
    pair_choice: Literal["covariance", "random", "active"] = "covariance"
    pair_field: Literal["pixel", "kernel"] = "pixel"
    bias: bool = False
    norm: bool = False


COLDEST = 0.025
"""Temperature of InfoNCE, at least: e^(-2 / temperature), for opposite voltages, is a float32."""


class BSDSection(Section):
    """Networks of pyramidal neurons, which BSD trains.

    Attributes:
        steps: T, for which stimulus and concept are shown.
        tau: Time constant of all somata in steps.
        threshold: Of Type 1 neurons, which perceive.
        threshold_recall: Of Type 2 neurons, which recall.
        threshold_entry: Of the neurons that a current from 0 to 1 drives: of Type 1 by the stimulus, of Type 2 by the concept;
            None takes the threshold of their type.
        norm: Whether hidden layers of both types have batch norm behind their synapses.
        loss: Of all layers but the top one.
        penalty: ReCo: lambda, the weight of pairs that do not belong together.
        temperature: InfoNCE: what similarities are divided by.
        negatives: Which pairs do not belong together: "literal" as in the paper, all others of the batch; "other_class" leaves
            those of the same class out.
        readout: By the mean "voltage" of the top layer, or by its "spikes", ties then by voltage.
    """

    steps: int = Field(default=4, ge=1, le=1000)
    tau: float = Field(default=2.0, ge=1, le=1000)
    threshold: float = Field(default=0.2, gt=0, le=1000)
    threshold_recall: float = Field(default=0.1, gt=0, le=1000)
    threshold_entry: float | None = Field(default=None, gt=0, le=1000)
    norm: bool = False
    loss: Literal["reco", "infonce", "mse"] = "reco"
    penalty: float = Field(default=0.6, ge=0, le=1000)
    temperature: float = Field(default=0.1, ge=COLDEST, le=1000)
    negatives: Literal["literal", "other_class"] = "literal"
    readout: Literal["voltage", "spikes"] = "voltage"


class OptimizerSection(Section):
    """How weights follow gradients.

    Attributes:
        epochs: Times that every sample is learned from.
        batch: Samples of an update.
        learning_rate: At most; warmup and schedule lower it.
        schedule: The learning rate falls to 0 along a cosine, or stays.
        warmup: Updates in which the learning rate rises from 0 along a line.
        clip_norm: Largest norm of the whole gradient; 0 means no clipping.
    """

    epochs: int = Field(default=10, ge=1)
    batch: int = Field(default=128, ge=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, lt=100)
    weight_decay: float = Field(default=0.01, ge=0, lt=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = Field(default=0, ge=0)
    clip_norm: float = Field(default=1.0, ge=0)

    @model_serializer(mode="wrap")
    def _as_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a warmup of 0, which files of earlier versions do not name."""
        entries = serialize(self)
        if not self.warmup:
            entries.pop("warmup", None)
        return entries


class TrainingSection(OptimizerSection):
    """How to train on images or events.

    Attributes:
        method: "diffpc", or a baseline of the same architecture: "backprop", "predictive-coding". Networks of LIF and DLIF
            have "bptt" alone, those of pyramidal neurons "bsd", and it is their default.
        form: "collapsed" (a cycle at a time) or "literal" (every step).
        dropout: Fraction of neurons dropped in each hidden layer; input_dropout the same for the input.
        shift: Each image moves by up to this many pixels in both directions.
        flip: Mirror half of the images left to right.
        randaugment: Magnitude of torchvision's RandAugment, two random changes of each image, before shift and flip; 0: none.
        iterations: Relaxation steps of float predictive coding, and relaxation_rate their size.
    """

    method: Literal["diffpc", "backprop", "predictive-coding", "bptt", "bsd"] = "diffpc"
    form: Literal["collapsed", "literal"] = "collapsed"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    input_dropout: float = Field(default=0.0, ge=0, lt=1)
    shift: int = Field(default=0, ge=0, le=8)
    flip: bool = False
    randaugment: int = Field(default=0, ge=0, le=30)
    iterations: int = Field(default=15, ge=1, le=1000)
    relaxation_rate: float = Field(default=0.1, gt=0, le=1)


class ChooseSection(Section):
    """What was compared before the settings were fixed.

    Attributes:
        held_out: Training images to compare on; the test images are not read.
        candidates: Entries of `training` that each comparison changes; the run's own settings have to be among them.
    """

    held_out: int = Field(default=10_000, ge=1)
    candidates: tuple[dict[str, Any], ...] = Field(default=(), strict=False)


class SweepSection(Section):
    """What else a summary trains.

    Attributes:
        spiking: LIF and DLIF: entries of `spiking` that each further network changes.
        bsd: Pyramidal neurons: entries of `bsd`.
        training: Entries of `training`.
    """

    spiking: tuple[dict[str, Any], ...] = Field(default=(), strict=False)
    bsd: tuple[dict[str, Any], ...] = Field(default=(), strict=False)
    training: tuple[dict[str, Any], ...] = Field(default=(), strict=False)

    @property
    def all(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Each further network: whose entries, and which."""
        each = (("spiking", self.spiking), ("bsd", self.bsd), ("training", self.training))
        return tuple((name, changes) for name, several in each for changes in several)
