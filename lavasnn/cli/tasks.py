"""`train` for configurations with an entry `task`: sequences and reconstructions, which end in no class."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from lavasnn.cli.common import note, show
from lavasnn.cli.train import Unfinished, over_seeds, provenance, train_loop
from lavasnn.errors import ConfigError

if TYPE_CHECKING:
    from lavasnn.learning.loop import Loop

TASKS: Mapping[str, str] = {
    "sequence": "lavasnn.learning.sequences",
    "reconstruction": "lavasnn.learning.reconstruction",
}
"""Where each task's `load_task` is, which reads and checks a configuration file."""


class Task(Protocol):
    """A configuration of a task, read and checked.

    Attributes:
        name: Of the run and its files.
        seeds: One run each; a single run uses the first.
        label: What tells its files from those of its variants.
    """

    @property
    def name(self) -> str: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def label(self) -> str: ...

    def with_epochs(self, epochs: int) -> Task:
        """The same task with another number of epochs."""
        ...

    def variants(self) -> Mapping[str, Task]:
        """What a summary trains, by label, the task itself first."""
        ...

    def data(self, folder: Path | None, download: bool) -> Any:
        """What is learned from and tested on.

        Raises:
            InputError: It is not there, or not readable.
        """
        ...

    def loop(self, data: Any, seed: int, device: str) -> Loop[Any]:
        """The training of a network from one seed."""
        ...

    def measure(self, loop: Loop[Any], data: Any) -> dict[str, Any]:
        """What a trained network does on test data; a summary averages what is a float."""
        ...

    def references(self, data: Any) -> dict[str, Any]:
        """What needs no training does on the same test data."""
        ...

    def dump(self) -> dict[str, Any]:
        """What a run does, in JSON values."""
        ...

    def line(self, report: Any) -> str:
        """An epoch's report in a line."""
        ...


def load_task(kind: object, path: Path) -> Task:
    """Read a configuration of a task.

    Raises:
        ConfigError: An unknown task, or entries that are wrong.
    """
    if not isinstance(kind, str) or kind not in TASKS:
        raise ConfigError(f"{path}: task is {kind!r}, allowed are {', '.join(map(repr, TASKS))}, or no such entry")
    return importlib.import_module(TASKS[kind]).load_task(path)


def train_task(
    task: Task, path: Path, data: Any, seed: int, device: str, unfinished: Unfinished, quiet: bool
) -> dict[str, Any]:
    """Train one network of a task, write its model file and measure it on test data."""
    loop = task.loop(data, seed, device)
    seconds = train_loop(loop, path, unfinished, quiet, task.line)
    return {"seed": seed, "seconds": round(seconds, 1)} | task.measure(loop, data)


def show_task(
    task: Task,
    output: Path | None,
    seed: int | None,
    device: str,
    unfinished: Unfinished,
    data_dir: Path | None,
    download: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train one network of a task and tell what it does on test data."""
    used = task.seeds[0] if seed is None else seed
    path = output or model_file(task, used)
    row = train_task(task, path, task.data(data_dir, download), used, device, unfinished, quiet)
    told = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if isinstance(value, float))
    show(as_json, row | {"files": {"model": str(path)}}, lambda: click.echo(f"{path}: {told}"))


def summarise_task(task: Task, data: Any, device: str, quiet: bool) -> dict[str, Any]:
    """Train every seed of a task and of its variants; finished models in runs/ are taken over."""
    results: dict[str, Any] = {}
    for label, variant in task.variants().items():
        rows: list[dict[str, Any]] = []
        for seed in task.seeds:
            note(quiet, f"{task.name}, {label}, seed {seed}")
            rows.append(train_task(variant, model_file(variant, seed), data, seed, device, "resume", quiet))
        results[label] = over_seeds(rows)
    return {"config": task.dump(), **provenance(device), "results": results, "references": task.references(data)}


def model_file(task: Task, seed: int) -> Path:
    """Where the model of a run is written, unless it is said."""
    return Path("runs") / f"{task.name}-{task.label}-s{seed}.safetensors"
