"""Sequences as a task: what a configuration may say, how the recurrent network of BSD is trained on it, and what is measured.

A configuration with `task = "sequence"` trains one of

    bsd       local losses, `lavasnn.learning.bsd_rnn.bsd`; its label is the loss: "reco", "infonce" or "mse"
    readout   the output alone, on a hidden layer as it was drawn
    bptt      Type 1's network by backpropagation through time

on windows of `length` positions. Evaluation has windows of the same length that follow each other, from rest each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor
from torch.nn import functional

from lavasnn.config import complaint, read_toml
from lavasnn.data import sequences
from lavasnn.data.sequences import Sequence, Stretch
from lavasnn.errors import ConfigError, InputError
from lavasnn.learning.bsd_rnn import bptt, bsd, loss, readout
from lavasnn.learning.loop import Loop, device_named
from lavasnn.learning.task import Task
from lavasnn.nn.bsd import HELD
from lavasnn.nn.bsd_rnn import BSDRNN
from lavasnn.sections import BSDSection, OptimizerSection, Section, Seed

Label = Literal["reco", "infonce", "mse", "readout", "bptt"]
FOREIGN = {"threshold_entry", "norm", "readout"}
"""Entries of `bsd` that recurrent networks do not have."""


class SequenceData(Section):
    """Which sequence, and how it is split in time.

    Attributes:
        name: See `lavasnn.data.sequences`.
        test: Share at the end that is for testing.
        validation: Share of the training part, its end, that takes the test part's place, to choose settings on; 0: none.
        own: Series: whether the inputs have the target's own column too.
    """

    name: sequences.Name
    test: float = Field(default=0.1, gt=0, lt=1)
    validation: float = Field(default=0.0, ge=0, lt=1)
    own: bool = True


class SequenceNetwork(Section):
    """Neurons of the hidden layer, of each type."""

    hidden: int = Field(default=300, ge=1, le=10_000)


class SequenceTraining(OptimizerSection):
    """How to train.

    Attributes:
        method: See the module.
        length: Positions of a window.
        stride: A window begins every so many steps, from a start that is drawn for each epoch; 0 takes `length`.
        batch: Windows of a batch, and samples of an affinity matrix.
    """

    method: Literal["bsd", "readout", "bptt"] = "bsd"
    length: int = Field(default=32, ge=1, le=10_000)
    stride: int = Field(default=0, ge=0)
    batch: int = Field(default=64, ge=1)


class SequenceConfig(Section):
    """A whole run on a sequence.

    Attributes:
        task: What tells such a configuration from one of images.
        name: Of the run and its files.
        seeds: One run each.
        threads: Of torch.
        baselines: What a summary trains besides, by label, and the entries of `training` that each of them changes.
        data, network, training, bsd: The sections; of `bsd` without threshold_entry, norm and readout.
    """

    task: Literal["sequence"] = "sequence"
    name: str = Field(default="run", pattern=r"^[A-Za-z0-9_.-]+$")
    seeds: tuple[Seed, ...] = Field(default=(0,), strict=False, min_length=1)
    threads: int = Field(default=1, ge=1, le=64)
    baselines: dict[Label, dict[str, Any]] = Field(default_factory=dict)
    data: SequenceData
    network: SequenceNetwork = SequenceNetwork()
    training: SequenceTraining = SequenceTraining()
    bsd: BSDSection = BSDSection()

    @property
    def label(self) -> Label:
        """What tells its files and results from those of its baselines."""
        return self.bsd.loss if self.training.method == "bsd" else self.training.method

    def baseline(self, label: Label) -> SequenceConfig:
        """The run of that baseline.

        Raises:
            ConfigError: It changes an unknown entry, or to a value out of range.
        """
        method = label if label in ("readout", "bptt") else "bsd"
        entries = {**self.training.model_dump(), **self.baselines[label], "method": method}
        try:
            training = SequenceTraining.model_validate(entries)
        except ValidationError as error:
            said = "; ".join(complaint(e, SequenceTraining) for e in error.errors())
            raise ConfigError(f"baselines.{label}: {said}") from None
        bsd = self.bsd.model_copy(update={"loss": label}) if method == "bsd" else self.bsd
        return self.model_copy(update={"training": training, "bsd": bsd, "baselines": {}})


@dataclass(frozen=True)
class SequenceReport:
    """One epoch.

    Attributes:
        epoch: Counted from 1.
        loss: Of the output on the batches as they were learned from: nats for a character, squared error for a number.
        accuracy: Share of characters that were the likeliest, likewise; None for numbers.
        seconds: Of learning.
    """

    epoch: int
    loss: float
    accuracy: float | None
    seconds: float


class SequenceLoop(Loop[SequenceReport]):
    """Trains one network on one sequence from one seed.

    Args:
        config: What to do.
        data: What to learn from; of it the part `train` alone.
        seed: Of weights and order.
        device: Any torch device.

    Raises:
        InputError: An unknown device, or a training part shorter than a window.
    """

    def __init__(self, config: SequenceConfig, data: Sequence, seed: int = 0, device: str = "cpu") -> None:
        where = device_named(device)
        torch.set_num_threads(config.threads)
        inputs, outputs = data.sizes
        b, generator = config.bsd, torch.Generator().manual_seed(seed)
        net = BSDRNN(inputs, config.network.hidden, outputs, b.steps, b.tau, (b.threshold, b.threshold_recall), generator)
        own = {key: value for key, value in dump(config).items() if key not in ("seeds", "baselines")}
        identity = {"config": own, "data": data.checksum}
        super().__init__(net.to(where), config.training, seed, identity, SequenceReport)
        self.net, self.config = net, config
        self.characters = len(data.symbols)
        self.x, self.y = (torch.from_numpy(a).to(self.device) for a in (data.train.x, data.train.y))
        self.every = config.training.stride or config.training.length
        # as many windows in each epoch, whatever step the first one begins at
        self.windows = (len(data.train) - config.training.length - self.every + 1) // self.every + 1
        if self.windows < 1:
            raise InputError(
                f"{data.name}: {len(data.train):,} training steps; windows of {config.training.length}, one in {self.every} "
                f"steps, need {config.training.length + self.every - 1:,}"
            )
        if len(data.test) < config.training.length:
            raise InputError(f"{data.name}: {len(data.test):,} steps for testing; a window has {config.training.length}")

    @property
    def batches(self) -> int:
        """Of an epoch; the last one takes what is left."""
        return -(-self.windows // self.config.training.batch)

    def learn(self, epoch: int, batch: int) -> Mapping[str, list[float]]:
        """Gradients of one batch, and its loss, right characters and numbers of targets."""
        t = self.config.training
        first = int(torch.randint(self.every, (1,), generator=self.generator(epoch, self.batches), device=self.device))
        some = self.order(epoch, self.windows)[batch * t.batch : (batch + 1) * t.batch]
        at = first + some * self.every + torch.arange(t.length, device=self.device)[:, None]
        x, y = _shown(self.x[at], self.characters), _shown(self.y[at], self.characters)
        characters = self.characters > 0
        if t.method == "bsd":
            out = bsd(self.net, x, y, self.config.bsd, characters=characters)
        else:
            out = (bptt if t.method == "bptt" else readout)(self.net, x, y, characters=characters)
        right = int((out.argmax(-1) == self.y[at]).sum()) if characters else 0
        return {"loss": [float(loss(out, y, characters))], "right": [right], "targets": [at.numel()]}

    def close(self, number: int, sums: Mapping[str, list[float]], seconds: float) -> SequenceReport:
        """Means of an epoch."""
        (targets,) = sums["targets"]
        accuracy = sums["right"][0] / targets if self.characters else None
        return SequenceReport(number, sums["loss"][0] / targets, accuracy, seconds)


def _shown(values: Tensor, characters: int) -> Tensor:
    """Characters one-hot, numbers as they are, float32."""
    return functional.one_hot(values, characters).to(torch.float32) if characters else values


@torch.no_grad()
def predict(net: BSDRNN, part: Stretch, length: int, characters: int) -> tuple[Tensor, dict[str, float]]:
    """Outputs for windows of `length` that follow each other, and how alike the two types are in them.

    Args:
        net: Trained or not.
        part: What to run; steps after the last whole window are left out.
        length: Of a window.
        characters: How many there are; 0 for numbers.

    Returns:
        o, shape (time, output); and `hamming`, the share of (position, step, neuron) in which both types send the same, the
        `cosine` of their voltages, their mean rates, `rate` and `rate_recall`, and how well x^ recalls the inputs,
        `recalled`: the share of characters, or the squared error.

    Raises:
        InputError: No window fits.
    """
    n = len(part) // length
    if n < 1:
        raise InputError(f"evaluation: {len(part):,} steps; a window has {length}")
    device = net.W_ih.device
    x, y = (torch.from_numpy(a[: n * length]).unflatten(0, (n, length)).transpose(0, 1).to(device) for a in (part.x, part.y))
    at_once = max(1, HELD // (2 * length * net.steps * net.W_hh.shape[0]))
    sums: dict[str, float] = dict.fromkeys(("hamming", "cosine", "rate", "rate_recall", "recalled"), 0.0)
    outputs = list[Tensor]()
    for start in range(0, n, at_once):
        given = x[:, start : start + at_once]
        shown = _shown(given, characters)
        up, down = net.perceive(shown, every=True), net.recall(_shown(y[:, start : start + at_once], characters), every=True)
        assert up.trains is not None and down.trains is not None
        outputs.append(up.out)
        share = given.shape[1] / n
        recalled = (down.out.argmax(-1) == given).float() if characters else (down.out - given).square()
        for name, value in (
            ("hamming", (up.trains == down.trains).float()),
            ("cosine", functional.cosine_similarity(up.h, down.h, dim=-1)),
            ("rate", up.r),
            ("rate_recall", down.r),
            ("recalled", recalled),
        ):
            sums[name] += share * float(value.mean())
    return torch.cat(outputs, 1).transpose(0, 1).flatten(0, 1), sums


def scores(out: Tensor, part: Stretch, characters: bool) -> dict[str, float]:
    """How well outputs of the first times of a part predict it.

    Args:
        out: Shape (time, output).
        part: With at least as many times.
        characters: Whether targets are characters.

    Returns:
        `accuracy`, the share of characters with the largest output, and `nats`, the cross-entropy of one; or `mse` and `mae`,
        in units of the training part's standard deviation (equations 23 and 24).
    """
    y = torch.from_numpy(part.y[: len(out)]).to(out.device)
    if characters:
        accuracy = float((out.argmax(-1) == y).to(torch.float64).mean())
        return {"accuracy": accuracy, "nats": float(functional.cross_entropy(out, y))}
    apart = (out - y).to(torch.float64)
    return {"mse": float(apart.square().mean()), "mae": float(apart.abs().mean())}


def references(data: Sequence, length: int) -> dict[str, dict[str, float]]:
    """What costs no training, on the times that `predict` has.

    Texts: the most frequent character, and what followed the last one or two characters most often. Series: the training
    part's mean, no change, and least squares from the inputs of one time.
    """
    n = len(data.test) // length * length
    part = data.test.take(slice(0, n))

    if data.symbols:
        made = {"most_frequent": 0, "after_one": 1, "after_two": 2}
        guesses = {name: sequences.by_context(data, context)[:n] for name, context in made.items()}
        return {name: {"accuracy": float(np.mean(guess == part.y))} for name, guess in guesses.items()}
    numbers = {
        "mean": np.zeros((n, 1)),
        "no_change": part.now[:, None].astype(np.float64),
        "linear": sequences.linear(data)[:n],
    }
    return {name: scores(torch.from_numpy(guess), part, False) for name, guess in numbers.items()}


class SequenceTask(Task[SequenceConfig, Sequence]):
    """A configuration as the command line drives it."""

    def variants(self) -> Mapping[str, SequenceTask]:
        """Itself and its baselines."""
        others = {label: SequenceTask(self.config.baseline(label)) for label in self.config.baselines}
        return {self.config.label: self, **others}

    def data(self, folder: Path | None, download: bool) -> Sequence:
        """The sequence; nothing is fetched.

        Raises:
            DataError: Missing or damaged files, or a split that leaves nothing.
        """
        d = self.config.data
        found = sequences.load(d.name, folder, test=d.test, own=d.own)
        return found.held_out(d.validation) if d.validation else found

    def loop(self, data: Sequence, seed: int, device: str) -> SequenceLoop:
        """See `SequenceLoop`."""
        return SequenceLoop(self.config, data, seed, device)

    def measure(self, loop: SequenceLoop, data: Sequence) -> dict[str, Any]:
        """Scores on the test part; of BSD, whose Type 2 has learned too, how alike the two types are."""
        characters = len(data.symbols)
        out, likeness = predict(loop.net, data.test, self.config.training.length, characters)
        found = scores(out, data.test, characters > 0)
        return found | (likeness if self.config.training.method == "bsd" else {"rate": likeness["rate"]})

    def references(self, data: Sequence) -> dict[str, Any]:
        """See `references`."""
        return references(data, self.config.training.length)

    def dump(self) -> dict[str, Any]:
        """JSON values of what the run does."""
        return dump(self.config)

    def line(self, report: SequenceReport) -> str:
        """One epoch."""
        accuracy = "" if report.accuracy is None else f", accuracy {report.accuracy:.4f}"
        return f"epoch {report.epoch}: loss {report.loss:.4f}{accuracy}, {report.seconds:.0f} s"


def dump(config: SequenceConfig) -> dict[str, Any]:
    """JSON values of what a run does."""
    return config.model_dump(mode="json", exclude={"bsd": FOREIGN})


def parse(entries: dict[str, Any], where: str) -> SequenceConfig:
    """Check a configuration read from anywhere.

    Raises:
        ConfigError: An unknown name, a wrong type, a value out of range, or an entry that means nothing here; names it and
            `where`.
    """
    try:
        config = SequenceConfig.model_validate(entries)
        for label in config.baselines:
            config.baseline(label)
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(complaint(e, SequenceConfig) for e in error.errors())) from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    wrong = [
        f"there is an entry bsd.{name}, which a sequence's network does not have"
        for name in sorted(FOREIGN & {*entries.get("bsd", {})})
    ]
    if config.label in config.baselines:
        wrong.append(f"baselines.{config.label} is what the run does itself")
    if config.bsd.negatives == "other_class" and config.data.name in sequences.SERIES:
        wrong.append("bsd.negatives is 'other_class', with numbers allowed is 'literal', as they have no classes")
    if config.data.name in sequences.TEXTS and not config.data.own:
        wrong.append("data.own is false, which says nothing of a text")
    if wrong:
        raise ConfigError(f"{where}: " + "; ".join(wrong))
    return config


def load_task(path: Path) -> SequenceTask:
    """Read and check a configuration.

    Raises:
        InputError: No such file.
        ConfigError: See `parse`; not TOML.
    """
    return SequenceTask(parse(read_toml(path), str(path)))
