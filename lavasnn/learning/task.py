"""What the command line needs of a configuration that ends in no class: sequences, reconstructions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from lavasnn.learning.loop import Loop
from lavasnn.sections import OptimizerSection


class TaskConfig(Protocol):
    """A configuration, read and checked.

    Attributes:
        name: Of the run and its files.
        seeds: One run each; a single run uses the first.
        label: What tells its files from those of its variants.
        training: How weights follow gradients.
    """

    @property
    def name(self) -> str: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def label(self) -> str: ...
    @property
    def training(self) -> OptimizerSection: ...
    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Any: ...


C = TypeVar("C", bound=TaskConfig)
D = TypeVar("D")
"""What is learned from and tested on."""


@dataclass(frozen=True)
class Task(ABC, Generic[C, D]):
    """A configuration and what is done with it; `lavasnn.cli.tasks` trains, measures and sums up."""

    config: C

    def with_epochs(self, epochs: int) -> Task[C, D]:
        """The same run with another number of epochs."""
        training = self.config.training.model_copy(update={"epochs": epochs})
        return replace(self, config=self.config.model_copy(update={"training": training}))

    @abstractmethod
    def variants(self) -> Mapping[str, Task[C, D]]:
        """What a summary trains, by label, the task itself first."""

    @abstractmethod
    def data(self, folder: Path | None, download: bool) -> D:
        """What is learned from and tested on.

        Raises:
            InputError: It is not there, not readable, or too little.
        """

    @abstractmethod
    def loop(self, data: D, seed: int, device: str) -> Loop[Any]:
        """The training of a network from one seed."""

    @abstractmethod
    def measure(self, loop: Any, data: D) -> dict[str, Any]:
        """What a trained network does on test data; a summary averages what is a float."""

    @abstractmethod
    def references(self, data: D) -> dict[str, Any]:
        """What needs no training does on the same test data."""

    @abstractmethod
    def dump(self) -> dict[str, Any]:
        """What a run does, in JSON values."""

    @abstractmethod
    def line(self, report: Any) -> str:
        """An epoch's report in a line."""
