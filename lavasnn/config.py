"""Run configurations: one TOML file says everything a training run needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from lavasnn.architecture import Convolution, layers
from lavasnn.data.samples import SETS
from lavasnn.dynamics.timing import Timing
from lavasnn.errors import ConfigError, InputError
from lavasnn.sections import (
    BSDSection,
    ChooseSection,
    DataSection,
    NetworkSection,
    Section,
    Seed,
    SpikingSection,
    SweepSection,
    TrainingSection,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


MOST_WEIGHTS = 2**27
"""Of a layer: half a gigabyte of float32."""


class RunConfig(Section):
    """A whole training run.

    Attributes:
        name: Of the run and its files.
        seeds: One run each; a single run uses the first.
        baselines: What a summary compares with. DiffPC: methods. DLIF: "lif", the same network without pairs, and
            "lif-wide", see `lavasnn.learning.backprop.widened`.
        choose: How its settings are chosen; no part of what a run does.
        sweep: What a summary varies; no part of what a single run does.
        threads: Of torch.
        timing: Of DiffPC alone: fields of `lavasnn.dynamics.diffpc.Timing`.
        spiking: Of LIF and DLIF alone.
        bsd: Of pyramidal neurons alone.
    """

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9_.-]+$")
    seeds: tuple[Seed, ...] = Field(default=(0,), strict=False, min_length=1)
    baselines: tuple[Literal["backprop", "predictive-coding", "lif", "lif-wide"], ...] = Field(default=(), strict=False)
    threads: int = Field(default=1, ge=1, le=64)
    data: DataSection = DataSection()
    network: NetworkSection = NetworkSection()
    training: TrainingSection = TrainingSection()
    timing: Timing = Timing()
    spiking: SpikingSection = SpikingSection()
    bsd: BSDSection = BSDSection()
    choose: ChooseSection = ChooseSection()
    sweep: SweepSection = SweepSection()

    @property
    def label(self) -> str:
        """What tells its files and results from those of its baselines: the neuron if it spikes, else the method."""
        return self.network.neuron if self.network.spiking else self.training.method

    @property
    def normed(self) -> bool:
        """Whether its hidden layers have batch norm."""
        return self.spiking.norm if self.network.spiking else self.bsd.norm

    def with_training(self, **changes: Any) -> RunConfig:
        """The same run with other training entries.

        Raises:
            ConfigError: An unknown entry, a value out of range, or one that means nothing to the network.
        """
        return self._with("training", TrainingSection, changes)

    def with_spiking(self, **changes: Any) -> RunConfig:
        """The same run with other entries of `spiking`, where numbers of pairs and a sparsity replace each other.

        Raises:
            ConfigError: As in `with_training`.
        """
        if ("pairs" in changes) != ("sparsity" in changes):
            default = {"sparsity": None} if "pairs" in changes else {"pairs": SpikingSection().pairs}
            changes = default | changes
        return self._with("spiking", SpikingSection, changes)

    def with_bsd(self, **changes: Any) -> RunConfig:
        """The same run with other entries of `bsd`; errors as in `with_training`."""
        return self._with("bsd", BSDSection, changes)

    def varied(self, section: str, changes: dict[str, Any]) -> RunConfig:
        """The same run with other entries of a section that `sweep` has."""
        change = {"spiking": self.with_spiking, "bsd": self.with_bsd, "training": self.with_training}
        return change[section](**changes)

    def _with(self, name: str, section: type[Section], changes: dict[str, Any]) -> RunConfig:
        try:
            other = section.model_validate(getattr(self, name).model_dump() | changes)
        except ValidationError as error:
            raise ConfigError(f"{name}: " + "; ".join(complaint(e, section) for e in error.errors())) from None
        changed = self.model_copy(update={name: other})
        if wrong := _misplaced(changed):
            raise ConfigError("; ".join(wrong))
        return changed

    def with_lif(self, hidden: tuple[int | str, ...]) -> RunConfig:
        """The same run with plain LIF neurons and other hidden layers."""
        network = NetworkSection(hidden=hidden, neuron="lif")
        return self.model_copy(update={"network": network, "baselines": ()})


METHODS = {
    "diffpc": ("diffpc", "backprop", "predictive-coding"),
    "lif": ("bptt",),
    "dlif": ("bptt",),
    "pyramidal": ("bsd",),
}
OWN = {"diffpc": "timing", "lif": "spiking", "dlif": "spiking", "pyramidal": "bsd"}
"""The section of each kind of neurons."""
BASELINES = {"diffpc": ("backprop", "predictive-coding"), "lif": (), "dlif": ("lif", "lif-wide"), "pyramidal": ()}


def _misplaced(config: RunConfig) -> list[str]:
    """Entries that mean nothing to the configuration's neurons."""
    neuron, t = config.network.neuron, config.training
    found: list[str] = []
    if t.method not in METHODS[neuron]:
        allowed = ", ".join(repr(m) for m in METHODS[neuron])
        found.append(f"training.method is {t.method!r}, with neuron {neuron!r} allowed is {allowed}")
    for name in config.baselines:
        if name not in BASELINES[neuron]:
            allowed = ", ".join(repr(b) for b in BASELINES[neuron]) or "none"
            found.append(f"baselines has {name!r}, with neuron {neuron!r} allowed is {allowed}")
    for section in ("spiking", "bsd"):
        if getattr(config.sweep, section) and section != OWN[neuron]:
            found.append(f"sweep.{section} has entries, with neuron {neuron!r} allowed are none")
    events, name = SETS[config.data.name].events, config.data.name
    if t.randaugment and (events or SETS[name].levels != 255):
        found.append(f"training.randaugment is {t.randaugment}, with data {name!r} allowed is 0; it is for images of 8 bits")
    try:
        for place, layer in enumerate(layers(SETS[name].shape, config.network.hidden, SETS[name].classes), start=1):
            if max(layer.weights, layer.size) > MOST_WEIGHTS:
                sizes = f"{layer.weights:,} weights and {layer.size:,} neurons"
                found.append(f"network: layer {place} has {sizes}, allowed are up to {MOST_WEIGHTS:,} of each")
            if neuron == "pyramidal" and isinstance(layer, Convolution) and layer.kernel % 2 == 0:
                entry = f"network.hidden[{place - 1}] has a kernel of {layer.kernel}"
                found.append(f"{entry}; with neuron 'pyramidal' allowed are odd ones, which have a centre")
    except InputError as error:
        found.append(str(error))
    if not config.network.spiking:
        if events:
            found.append(f"data.name is {name!r}, events; neuron {neuron!r} takes images")
        if neuron != "pyramidal" and config.network.hidden != config.network.sizes:
            found.append(f"network.hidden has convolutions, which neuron {neuron!r} does not have")
        if neuron == "pyramidal":
            if not config.network.hidden:
                found.append("network.hidden is empty; a network of pyramidal neurons needs a hidden layer")
            found += _without(config, neuron)
        return found
    if events != (config.spiking.code == "events"):
        needed = "'events'" if events else "'bernoulli', 'direct' or 'latency'"
        found.append(f"spiking.code is {config.spiking.code!r}, with data {name!r} allowed is {needed}")
    if config.spiking.sparsity is not None and config.spiking.pairs != SpikingSection().pairs:
        found.append("spiking has pairs and sparsity; one of them says how many pairs there are")
    if config.spiking.norm and not config.network.hidden:
        found.append("spiking.norm is true and network.hidden is empty; batch norm stands in hidden layers")
    found += _without(config, neuron)
    pairs, depth = config.spiking.pairs, len(config.network.hidden) + 1
    if neuron == "dlif" and isinstance(pairs, tuple) and config.spiking.sparsity is None:
        if len(pairs) != depth:
            found.append(f"spiking.pairs has {len(pairs)} numbers, the network {depth} layers")
        elif not any(pairs):
            found.append("spiking.pairs has 0 pairs in all layers, which is neuron 'lif'")
        elif config.spiking.code == "direct" and pairs[0]:
            found.append(f"spiking.pairs[0] is {pairs[0]}; with code 'direct' it has to be 0, for pairs need spikes")
    if neuron == "dlif" and config.spiking.code == "direct" and depth == 1:
        found.append("network.hidden is empty; with code 'direct' a dlif network needs a hidden layer, for pairs need spikes")
    return found


def _without(config: RunConfig, neuron: str) -> list[str]:
    """Entries of DiffPC that other neurons do not have."""
    found: list[str] = []
    for name in ("dropout", "input_dropout"):
        if value := getattr(config.training, name):
            found.append(f"training.{name} is {value}, with neuron {neuron!r} allowed is 0")
    if config.data.input_exponent is not None:
        found.append(f"data.input_exponent is {config.data.input_exponent}, which neuron {neuron!r} does not have")
    return found


def parse(entries: dict[str, Any], where: str) -> RunConfig:
    """Check a configuration read from anywhere.

    Raises:
        ConfigError: An unknown name, a wrong type, a value out of range, or an entry that means nothing to the network; names
            it and `where`.
    """
    try:
        timing = Timing(**_timing(entries.get("timing", {}), where))
        config = RunConfig.model_validate({**_with_method(entries), "timing": timing})
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(complaint(e) for e in error.errors())) from None
    except InputError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"{where}: {error}") from None
    for i, size in enumerate(config.network.hidden):
        if isinstance(size, int) and size < 1:
            raise ConfigError(f"{where}: network.hidden[{i}] is {size}; a layer needs at least 1 neuron")
    wrong = _misplaced(config)
    neuron = config.network.neuron
    foreign = [name for name in dict.fromkeys(OWN.values()) if name in entries and name != OWN[neuron]]
    wrong = [*(f"there is a section {name}, which neuron {neuron!r} does not have" for name in foreign), *wrong]
    if wrong:
        raise ConfigError(f"{where}: " + "; ".join(wrong))
    for i, changes in enumerate(config.choose.candidates):
        try:
            config.with_training(**changes)
        except ConfigError as error:
            raise ConfigError(f"{where}: choose.candidates[{i}]: {error}") from None
    for name, changes in config.sweep.all:
        i = getattr(config.sweep, name).index(changes)
        entry = f"{where}: sweep.{name}[{i}]"
        if not changes or config.sweep.all.count((name, changes)) > 1:
            raise ConfigError(f"{entry} is {changes}, which changes nothing or stands there twice")
        if "steps" in changes and SETS[config.data.name].events:
            raise ConfigError(f"{entry} changes steps, into which events are binned once for all")
        try:
            config.varied(name, changes)
        except ConfigError as error:
            raise ConfigError(f"{entry}: {error}") from None
    return config


def _with_method(entries: dict[str, Any]) -> dict[str, Any]:
    """The same entries, with the first method of its neurons where a network names none."""
    network, training = entries.get("network", {}), entries.get("training", {})
    if not isinstance(network, dict) or not isinstance(training, dict) or network.get("neuron") not in METHODS:
        return entries
    return {**entries, "training": {"method": METHODS[network["neuron"]][0], **training}}


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


def complaint(error: Any, top: type[Section] = RunConfig) -> str:
    """What pydantic found wrong in `top`, in a line that names the entry."""
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        below = top.model_fields[str(error["loc"][0])].annotation if len(error["loc"]) > 1 else top
        section = below if isinstance(below, type) and issubclass(below, Section) else top
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


__all__ = ["BASELINES", "METHODS", "MOST_WEIGHTS", "OWN", "RunConfig", "complaint", "load", "parse", "read_toml"]
