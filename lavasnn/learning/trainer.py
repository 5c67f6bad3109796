"""The training loop of all methods, with checkpoints from which a run goes on exactly.

Every random number of a batch comes from (seed, epoch, batch), so the position in the run is the whole generator state.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field
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
from lavasnn.errors import InputError, LavasnnError
from lavasnn.files import read_tensors, write_tensors
from lavasnn.learning.augment import augmented, check_randaugment, randaugmented
from lavasnn.learning.backprop import bptt, drawn, presented
from lavasnn.learning.bsd import bsd
from lavasnn.learning.model import EpochReport, Net, arrays, bsd_net, dump, load_arrays, load_model, save_model
from lavasnn.learning.rules import RULES, Batch, Seen
from lavasnn.learning.spiking import SpikingNet, build, choose_pairs, pair_numbers, planned
from lavasnn.nn.bsd import BSDNet
from lavasnn.nn.diffpc import DiffPCNet, check_depth

METHODS: Mapping[str, Callable[[Any, Batch, Any], Seen]] = {**RULES, "bptt": bptt, "bsd": bsd}
"""By name; a configuration gives each the network it is for. They take the section `training`, BSD its own."""


EVALUATED = 64_000_000
"""Numbers of the widest layer that an evaluation holds at a time, at most."""


def _checksum(images: Images) -> str:
    found = hashlib.sha256(np.ascontiguousarray(images.pixels).data)
    found.update(np.ascontiguousarray(images.labels).data)
    return found.hexdigest()


@dataclass
class Progress:
    """Position in a run and the sums of the epoch under way."""

    epoch: int = 0
    batch: int = 0
    correct: int = 0
    seconds: float = 0.0
    error_spikes: list[int] = field(default_factory=list)
    peak: float = 0.0
    history: list[EpochReport] = field(default_factory=list)


class Trainer:
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
        self.config, self.seed = config, seed
        self.device = _device(device)
        torch.set_num_threads(config.threads)
        generator = torch.Generator().manual_seed(seed)
        self.encoding = encoding(config, train.levels, seed)
        self.net: Net
        if config.normed and len(train) % config.training.batch == 1:
            raise InputError(
                f"training.batch is {config.training.batch}, which leaves 1 of {len(train):,} samples for the last batch; "
                "batch norm needs more"
            )
        if config.training.randaugment:
            check_randaugment()
        if config.network.spiking:
            pairs = choose_pairs(config, train, self.encoding, seed)
            plan = planned(config, train.shape, train.classes)
            self.net = build(config.spiking, train.shape, plan, pairs, generator).to(self.device)
        elif config.network.neuron == "pyramidal":
            self.net = bsd_net(config.bsd, layers(train.shape, config.network.hidden, train.classes), generator).to(self.device)
        else:
            sizes = (train.features, *config.network.sizes, train.classes)
            self.net = DiffPCNet(sizes, config.timing, generator).to(self.device)
            check_depth(config.timing, len(sizes) - 1, settle=config.training.method == "diffpc")
        self.labels = torch.from_numpy(train.labels).to(self.device)
        self.pixels = torch.from_numpy(train.pixels).to(self.device)
        self.shape, self.classes = train.shape, train.classes
        self._fingerprint = _checksum(train)
        self.validation = validation
        self.optimizer = self._optimizer()
        self.progress = Progress()

    def _optimizer(self) -> torch.optim.Optimizer:
        t = self.config.training
        if t.optimizer == "sgd":
            return torch.optim.SGD(self.net.parameters(), t.learning_rate, t.momentum, weight_decay=t.weight_decay)
        return torch.optim.AdamW(self.net.parameters(), t.learning_rate, weight_decay=t.weight_decay, foreach=True)

    @property
    def batches(self) -> int:
        """Batches of an epoch; the last one takes what is left."""
        return -(-len(self.labels) // self.config.training.batch)

    def run(
        self,
        on_epoch: Callable[[EpochReport], None] | None = None,
        on_batch: Callable[[int, int], None] | None = None,
        checkpoint: Path | None = None,
        every_s: float = 60.0,
    ) -> list[EpochReport]:
        """Train to the end, from wherever the run stands.

        Args:
            on_epoch: Called after every epoch.
            on_batch: Called now and then with (batches done, batches in all).
            checkpoint: File to save to every `every_s` seconds, and when interrupted.
            every_s: Seconds between checkpoints.

        Raises:
            KeyboardInterrupt: After the batch under way, once the checkpoint is written; a second one stops at once.
        """
        saved = time.monotonic()

        def after_batch() -> None:
            nonlocal saved
            if on_batch is not None and self.progress.batch % 20 == 0:
                on_batch(self.progress.epoch * self.batches + self.progress.batch, self._total())
            if checkpoint is not None and (stop.is_set() or time.monotonic() - saved > every_s):
                self.save_checkpoint(checkpoint)
                saved = time.monotonic()
            if stop.is_set():
                raise KeyboardInterrupt

        with interrupts_between_batches() as stop:
            while self.progress.epoch < self.config.training.epochs:
                report = self.run_epoch(after_batch)
                if on_epoch is not None:
                    on_epoch(report)
        return self.progress.history

    def run_epoch(self, after_batch: Callable[[], None] | None = None) -> EpochReport:
        """Train to the end of the epoch under way; `after_batch` is called after each of its batches."""
        order = self._order(self.progress.epoch)
        while self.progress.batch < self.batches:
            self._batch(order)
            if after_batch is not None:
                after_batch()
        return self._close_epoch()

    def _total(self) -> int:
        return self.config.training.epochs * self.batches

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(_mixed(self.seed, epoch, 0))
        return torch.randperm(len(self.labels), generator=generator).to(self.device)

    def _batch(self, order: Tensor) -> None:
        p, t = self.progress, self.config.training
        started = time.perf_counter()
        index = order[p.batch * t.batch : (p.batch + 1) * t.batch]
        batch = self._prepare(index, p.epoch, p.batch)
        seen = METHODS[t.method](self.net, batch, self.config.bsd if t.method == "bsd" else t)
        if t.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), t.clip_norm)
        done = (p.epoch * self.batches + p.batch) / self._total()
        rate = t.learning_rate * (0.5 * (1 + np.cos(np.pi * done)) if t.schedule == "cosine" else 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        p.correct += int((seen.output.argmax(1) == self.labels[index]).sum())
        spikes = seen.error_spikes
        p.error_spikes = [a + b for a, b in zip(p.error_spikes or [0] * len(spikes), spikes, strict=True)]
        p.peak = max([p.peak, *(float(v) for v in seen.peak)])
        p.batch += 1
        p.seconds += time.perf_counter() - started

    def _prepare(self, index: Tensor, epoch: int, batch: int) -> Batch:
        t = self.config.training
        generator = torch.Generator(self.device).manual_seed(_mixed(self.seed, epoch, batch + 1))
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

    def _close_epoch(self) -> EpochReport:
        p, n = self.progress, len(self.labels)
        accuracy = None if self.validation is None else self.evaluate(self.validation)
        spikes = [s / n for s in p.error_spikes]
        report = EpochReport(p.epoch + 1, p.correct / n, accuracy, spikes, p.peak, p.seconds)
        if not all(bool(torch.isfinite(w).all()) for w in self.net.parameters()):
            raise LavasnnError(
                f"training: weights left the finite numbers in epoch {p.epoch + 1}; a lower learning_rate "
                f"(now {self.config.training.learning_rate}) or clip_norm > 0 helps"
            )
        self.progress = Progress(epoch=p.epoch + 1, history=[*p.history, report])
        return report

    def evaluate(self, images: Images) -> float:
        """Fraction of images whose largest output is their label; float arithmetic, of DiffPC the first phase alone."""
        return float(np.mean(predict(self.net, images, self.encoding, self.config) == images.labels))

    def save_checkpoint(self, path: Path) -> None:
        """Write everything the rest of the run depends on: weights, optimiser moments, position and history."""
        tensors = {f"net/{k}": v for k, v in arrays(self.net).items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                if value is not None:
                    tensors[f"optimizer/{i}/{name}"] = torch.as_tensor(value).cpu().numpy()
        header = {
            "config": dump(self.config),
            "seed": self.seed,
            "progress": asdict(self.progress),
            "data": self._fingerprint,
        }
        write_tensors(path, "checkpoint", header, tensors)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of the same configuration, data and seed.

        Raises:
            InputError: The checkpoint belongs to another run.
        """
        _, header, tensors = read_tensors(path, "checkpoint")
        mine = {"config": dump(self.config), "seed": self.seed, "data": self._fingerprint}
        for name, value in mine.items():
            if header.get(name) != value:
                raise InputError(f"{path}: a checkpoint of another run, its {name} differs from this one's")
        load_arrays(self.net, {k[4:]: v for k, v in tensors.items() if k.startswith("net/")})
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, i, name = key.split("/")
                state.setdefault(int(i), {})[name] = torch.from_numpy(value.copy())
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
        progress = dict(header["progress"])
        progress["history"] = [EpochReport(**entry) for entry in progress["history"]]
        self.progress = Progress(**progress)

    def adopt(self, path: Path) -> bool:
        """Take over a finished model if it is of this very configuration, seed and data; tells whether it is."""
        model = load_model(path)
        mine, theirs = (dump(self.config), self.seed, self._fingerprint), (dump(model.config), model.seed, model.data)
        if mine != theirs:
            return False
        load_arrays(self.net, arrays(model.net))
        self.progress = Progress(epoch=len(model.history), history=model.history)
        return True

    def save_model(self, path: Path) -> None:
        """Write the network to a file of kind "model"."""
        history = [asdict(r) for r in self.progress.history]
        save_model(path, self.net, self.config, self.encoding, history, self.seed, self._fingerprint)


@contextlib.contextmanager
def interrupts_between_batches() -> Generator[threading.Event, None, None]:
    """Turn the first Ctrl-C into an event, so that no batch is left half done; works in the main thread alone."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _mixed(seed: int, epoch: int, batch: int) -> int:
    """Seed of a batch's generator; SeedSequence spreads neighbouring positions apart."""
    return int(np.random.SeedSequence((seed, epoch, batch)).generate_state(1, np.uint64)[0]) >> 1


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"device {name!r}: torch finds no CUDA device here; use 'cpu'")
    except RuntimeError as error:
        raise InputError(f"device {name!r}: {str(error).splitlines()[0]}") from None
    return device


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
