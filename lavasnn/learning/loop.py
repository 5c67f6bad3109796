"""The training loop of everything that is trained, with checkpoints from which a run goes on exactly.

Every random number of a batch comes from (seed, epoch, batch), so the position in the run is the whole generator state.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lavasnn.errors import InputError, LavasnnError
from lavasnn.files import read_tensors, write_tensors
from lavasnn.sections import OptimizerSection


class Report(Protocol):
    """The numbers of one epoch: a dataclass of JSON values."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def seconds(self) -> float:
        """Wall time."""
        ...


R = TypeVar("R", bound=Report)


@dataclass
class Progress(Generic[R]):
    """Position in a run, the merged numbers of the epoch under way, and the epochs before it."""

    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    sums: dict[str, list[float]] = field(default_factory=dict)
    history: list[R] = field(default_factory=list)


class Loop(ABC, Generic[R]):
    """Trains one network from one seed. A subclass says what a batch is and what it teaches.

    `kind` is what its model files hold, see `lavasnn.files`.

    Args:
        net: What is trained, on its device.
        settings: Epochs and optimiser.
        seed: Of order and everything else that is random.
        identity: JSON values that belong to the run; a checkpoint has to have the same.
        report: The type of an epoch's numbers.
    """

    kind = "model"

    def __init__(
        self, net: nn.Module, settings: OptimizerSection, seed: int, identity: Mapping[str, Any], report: type[R]
    ) -> None:
        self._module, self._settings, self._report = net, settings, report
        self.seed, self.identity = seed, dict(identity)
        self.device = next(net.parameters()).device
        self.optimizer = _optimizer(net, settings)
        self.progress: Progress[R] = Progress()
        self._orders: dict[tuple[int, int], Tensor] = {}

    @property
    @abstractmethod
    def batches(self) -> int:
        """Of an epoch."""

    @abstractmethod
    def learn(self, epoch: int, batch: int) -> Mapping[str, list[float]]:
        """Fill in the gradients of one batch, both counted from 0; returns numbers to be merged over the epoch."""

    @abstractmethod
    def close(self, number: int, sums: Mapping[str, list[float]], seconds: float) -> R:
        """The numbers of an epoch, counted from 1, that is over."""

    def merge(self, name: str, a: float, b: float) -> float:
        """What two batches' numbers make together; none is 0."""
        return a + b

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the network has learned."""
        return {name: value.detach().cpu().numpy() for name, value in self._module.state_dict().items()}

    def load_arrays(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Undo `arrays`.

        Raises:
            InputError: They are of another network.
        """
        load_state(self._module, values)

    def run(
        self,
        on_epoch: Callable[[R], None] | None = None,
        on_batch: Callable[[int, int], None] | None = None,
        checkpoint: Path | None = None,
        every_s: float = 60.0,
    ) -> list[R]:
        """Train to the end, from wherever the run stands.

        Args:
            on_epoch: Called after every epoch.
            on_batch: Called now and then with (batches done, batches in all).
            checkpoint: File to save to every `every_s` seconds, and when interrupted.
            every_s: Seconds between checkpoints.

        Raises:
            KeyboardInterrupt: After the batch under way, once the checkpoint is written; a second one stops at once.
            LavasnnError: Weights that are no numbers any more.
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
            while self.progress.epoch < self._settings.epochs:
                report = self.run_epoch(after_batch)
                if on_epoch is not None:
                    on_epoch(report)
        return self.progress.history

    def run_epoch(self, after_batch: Callable[[], None] | None = None) -> R:
        """Train to the end of the epoch under way; `after_batch` is called after each of its batches."""
        while self.progress.batch < self.batches:
            self.run_batch()
            if after_batch is not None:
                after_batch()
        p = self.progress
        report = self.close(p.epoch + 1, p.sums, p.seconds)
        if not all(bool(torch.isfinite(w).all()) for w in self._module.parameters()):
            raise LavasnnError(
                f"training: weights left the finite numbers in epoch {p.epoch + 1}; a lower learning_rate "
                f"(now {self._settings.learning_rate}) or clip_norm > 0 helps"
            )
        self.progress = Progress(epoch=p.epoch + 1, history=[*p.history, report])
        return report

    def run_batch(self) -> None:
        """Learn from the next batch of the epoch under way."""
        p, t = self.progress, self._settings
        started = time.perf_counter()
        for name, values in self.learn(p.epoch, p.batch).items():
            p.sums[name] = [
                self.merge(name, a, b) for a, b in zip(p.sums.get(name) or [0.0] * len(values), values, strict=True)
            ]
        if t.clip_norm:
            torch.nn.utils.clip_grad_norm_(self._module.parameters(), t.clip_norm)
        rate = learning_rate(t, p.epoch * self.batches + p.batch, self._total())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        p.batch += 1
        p.seconds += time.perf_counter() - started

    def order(self, epoch: int, samples: int) -> Tensor:
        """The samples of an epoch in the order they are learned from, shape (sample,), int64."""
        if (epoch, samples) not in self._orders:  # asked for with every batch, drawn with every epoch
            generator = torch.Generator().manual_seed(_mixed(self.seed, epoch, 0))
            self._orders = {(epoch, samples): torch.randperm(samples, generator=generator).to(self.device)}
        return self._orders[epoch, samples]

    def generator(self, epoch: int, batch: int) -> torch.Generator:
        """Random numbers of one batch."""
        return torch.Generator(self.device).manual_seed(_mixed(self.seed, epoch, batch + 1))

    def save_checkpoint(self, path: Path) -> None:
        """Write everything the rest of the run depends on: weights, optimiser moments, position and history."""
        tensors = {f"net/{k}": v for k, v in self.arrays().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                if value is not None:
                    tensors[f"optimizer/{i}/{name}"] = torch.as_tensor(value).cpu().numpy()
        write_tensors(path, "checkpoint", self._own() | {"progress": asdict(self.progress)}, tensors)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of the same configuration, data and seed.

        Raises:
            InputError: The checkpoint belongs to another run.
        """
        _, header, tensors = read_tensors(path, "checkpoint")
        if (name := self._difference(header)) is not None:
            raise InputError(f"{path}: a checkpoint of another run, its {name} differs from this one's")
        self.load_arrays({k[4:]: v for k, v in tensors.items() if k.startswith("net/")})
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, i, name = key.split("/")
                state.setdefault(int(i), {})[name] = torch.from_numpy(value.copy())
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
        progress = dict(header["progress"])
        progress["history"] = [self._report(**entry) for entry in progress["history"]]
        self.progress = Progress(**progress)

    def save_model(self, path: Path) -> None:
        """Write what the network has learned, from what and how."""
        write_tensors(path, self.kind, self._own() | {"history": [asdict(r) for r in self.progress.history]}, self.arrays())

    def difference(self, path: Path) -> str | None:
        """What of a finished model differs from what this run would make (its configuration, seed or data), or None.

        Raises:
            InputError: Not a model file of this kind.
        """
        return self._difference(self.described(path))

    def described(self, path: Path) -> Mapping[str, Any]:
        """What made a finished model, at least what `identity` names and the seed."""
        return read_tensors(path, self.kind)[1]

    def adopt(self, path: Path) -> None:
        """Take over a finished model of this very configuration, seed and data.

        Raises:
            InputError: Not a model file of this kind.
        """
        _, header, tensors = read_tensors(path, self.kind)
        self.load_arrays(tensors)
        self.progress = Progress(epoch=len(header["history"]), history=[self._report(**entry) for entry in header["history"]])

    def _difference(self, header: Mapping[str, Any]) -> str | None:
        return next((name for name, value in self._own().items() if header.get(name) != value), None)

    def _own(self) -> dict[str, Any]:
        return {**self.identity, "seed": self.seed}

    def _total(self) -> int:
        return self._settings.epochs * self.batches


def load_state(net: nn.Module, values: Mapping[str, NDArray[Any]]) -> None:
    """Set all that a network has learned.

    Raises:
        InputError: The values are of another network.
    """
    try:
        net.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in values.items()})
    except RuntimeError as error:
        raise InputError(f"model: {' '.join(str(error).split())}") from None


def learning_rate(settings: OptimizerSection, update: int, updates: int) -> float:
    """Of one of all updates, counted from 0."""
    fallen = 0.5 * (1 + np.cos(np.pi * update / updates)) if settings.schedule == "cosine" else 1.0
    risen = min(1.0, (update + 1) / settings.warmup) if settings.warmup else 1.0
    return settings.learning_rate * fallen * risen


def _optimizer(net: nn.Module, settings: OptimizerSection) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(net.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(net.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)


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


def device_named(name: str) -> torch.device:
    """A device that is here.

    Raises:
        InputError: It is not.
    """
    try:
        found = torch.device(name)
        if found.type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"device {name!r}: torch finds no CUDA device here; use 'cpu'")
    except RuntimeError as error:
        raise InputError(f"device {name!r}: {str(error).splitlines()[0]}") from None
    return found
