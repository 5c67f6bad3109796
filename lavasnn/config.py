"""Run configurations: one TOML file says everything a training run needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lavasnn.dynamics.timing import Timing
from lavasnn.errors import ConfigError, InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataSection(_Section):
    """Which images, and how they become input.

    Attributes:
        name: "digits", "mnist" or "fashion_mnist".
        validation: Training images held out to choose settings on; 0 trains on all.
        limit: Use only that many training images (0: all).
        input_exponent: A pixel p becomes the activity p * 2**input_exponent; None maps the largest pixel near 4.
    """

    name: Literal["digits", "mnist", "fashion_mnist"] = "digits"
    validation: int = Field(default=0, ge=0)
    limit: int = Field(default=0, ge=0)
    input_exponent: int | None = Field(default=None, ge=-16, le=8)


class NetworkSection(_Section):
    """Hidden layer sizes, input side first."""

    hidden: tuple[int, ...] = Field(default=(400,), strict=False)


class TrainingSection(_Section):
    """How to train.

    Attributes:
        method: "diffpc", or a baseline of the same architecture: "backprop", "predictive-coding".
        form: "collapsed" (a cycle at a time) or "literal" (every step).
        dropout: Fraction of neurons dropped in each hidden layer; input_dropout the same for the input.
        shift: Each image moves by up to this many pixels in both directions.
        flip: Mirror half of the images left to right.
        schedule: The learning rate falls to 0 along a cosine, or stays.
        clip_norm: Largest norm of the whole gradient; 0 means no clipping.
        iterations: Relaxation steps of float predictive coding, and relaxation_rate their size.
    """

    method: Literal["diffpc", "backprop", "predictive-coding"] = "diffpc"
    form: Literal["collapsed", "literal"] = "collapsed"
    epochs: int = Field(default=10, ge=1)
    batch: int = Field(default=128, ge=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, lt=100)
    weight_decay: float = Field(default=0.01, ge=0, lt=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    clip_norm: float = Field(default=1.0, ge=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    input_dropout: float = Field(default=0.0, ge=0, lt=1)
    shift: int = Field(default=0, ge=0, le=8)
    flip: bool = False
    iterations: int = Field(default=15, ge=1, le=1000)
    relaxation_rate: float = Field(default=0.1, gt=0, le=1)


class ChooseSection(_Section):
    """What was compared before the settings were fixed.

    Attributes:
        held_out: Training images to compare on; the test images are not read.
        candidates: Entries of `training` that each comparison changes; the run's own settings have to be among them.
    """

    held_out: int = Field(default=10_000, ge=1)
    candidates: tuple[dict[str, Any], ...] = Field(default=(), strict=False)


class RunConfig(_Section):
    """A whole training run.

    Attributes:
        name: Of the run and its files.
        seeds: One run each; a single run uses the first.
        baselines: Methods that a summary compares with.
        choose: How its settings are chosen; no part of what a run does.
        threads: Of torch.
        timing: Fields of `lavasnn.dynamics.diffpc.Timing`.
    """

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9_.-]+$")
    seeds: tuple[Seed, ...] = Field(default=(0,), strict=False, min_length=1)
    baselines: tuple[Literal["backprop", "predictive-coding"], ...] = Field(default=(), strict=False)
    threads: int = Field(default=1, ge=1, le=64)
    data: DataSection = DataSection()
    network: NetworkSection = NetworkSection()
    training: TrainingSection = TrainingSection()
    timing: Timing = Timing()
    choose: ChooseSection = ChooseSection()

    def with_training(self, **changes: Any) -> RunConfig:
        """The same run with other training entries.

        Raises:
            ConfigError: An unknown entry or a value out of range.
        """
        try:
            training = TrainingSection.model_validate(self.training.model_dump() | changes)
        except ValidationError as error:
            raise ConfigError("training: " + "; ".join(_complaint(e, TrainingSection) for e in error.errors())) from None
        return self.model_copy(update={"training": training})


_SECTIONS: dict[str, type[_Section]] = {
    "data": DataSection,
    "network": NetworkSection,
    "training": TrainingSection,
    "choose": ChooseSection,
}


def parse(entries: dict[str, Any], where: str) -> RunConfig:
    """Check a configuration read from anywhere.

    Raises:
        ConfigError: An unknown name, a wrong type or a value out of range; names the entry and `where`.
    """
    try:
        timing = Timing(**_timing(entries.get("timing", {}), where))
        config = RunConfig.model_validate({**entries, "timing": timing})
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(_complaint(e) for e in error.errors())) from None
    except InputError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"{where}: {error}") from None
    for i, size in enumerate(config.network.hidden):
        if size < 1:
            raise ConfigError(f"{where}: network.hidden[{i}] is {size}; a layer needs at least 1 neuron")
    for i, changes in enumerate(config.choose.candidates):
        try:
            config.with_training(**changes)
        except ConfigError as error:
            raise ConfigError(f"{where}: choose.candidates[{i}]: {error}") from None
    return config


def _timing(entries: Any, where: str) -> dict[str, Any]:
    known = Timing.__dataclass_fields__
    if not isinstance(entries, dict):
        raise ConfigError(f"{where}: timing is {entries!r}, needed is a table")
    for name in entries:
        if name not in known:
            raise ConfigError(f"{where}: unknown entry timing.{name}; allowed are {', '.join(known)}")
    for name in ("final", "gamma"):
        value = entries.get(name, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{where}: timing.{name} is {value!r}, needed is a number above 0 up to 1")
    return entries


def _complaint(error: Any, top: type[_Section] = RunConfig) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        section = _SECTIONS.get(str(error["loc"][0]), top) if len(error["loc"]) > 1 else top
        return f"unknown entry {place}; allowed are {', '.join(section.model_fields)}"
    return f"{place} is {error['input']!r}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def read_toml(path: Path) -> dict[str, Any]:
    """Entries of a TOML file.

    Raises:
        InputError: No such file.
        ConfigError: Not TOML.
    """
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def load(path: Path) -> RunConfig:
    """Read and check a run configuration.

    Raises:
        InputError: See `read_toml` and `parse`.
    """
    return parse(read_toml(path), str(path))


__all__ = [
    "ChooseSection",
    "DataSection",
    "NetworkSection",
    "RunConfig",
    "TrainingSection",
    "load",
    "parse",
    "read_toml",
]
