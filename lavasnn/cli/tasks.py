"""`train` for configurations with an entry `task`: sequences and reconstructions, which end in no class."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lavasnn.cli.common import note, show
from lavasnn.cli.train import Single, Unfinished, over_seeds, provenance, train_loop
from lavasnn.errors import ConfigError

if TYPE_CHECKING:
    from lavasnn.learning.task import Task

TASKS: Mapping[str, str] = {
    "sequence": "lavasnn.learning.sequences",
    "reconstruction": "lavasnn.learning.reconstruction",
}
"""Where each task's `load_task` is, which reads and checks a configuration file."""


def load_task(kind: object, path: Path) -> Task[Any, Any]:
    """Read a configuration of a task.

    Raises:
        ConfigError: An unknown task, or entries that are wrong.
    """
    if not isinstance(kind, str) or kind not in TASKS:
        raise ConfigError(f"{path}: task is {kind!r}, allowed are {', '.join(map(repr, TASKS))}, or no such entry")
    return importlib.import_module(TASKS[kind]).load_task(path)


def train_task(
    task: Task[Any, Any], path: Path, data: Any, seed: int, device: str, unfinished: Unfinished, quiet: bool
) -> dict[str, Any]:
    """Train one network of a task, write its model file and measure it on test data."""
    loop = task.loop(data, seed, device)
    seconds = train_loop(loop, path, unfinished, quiet, task.line)
    return {"seed": seed, "seconds": round(seconds, 1)} | task.measure(loop, data)


def show_task(task: Task[Any, Any], single: Single) -> None:
    """Train one network of a task and tell what it does on test data."""
    used = task.config.seeds[0] if single.seed is None else single.seed
    path = single.output or model_file(task, used)
    found = task.data(single.data_dir, single.download)
    row = train_task(task, path, found, used, single.device, single.unfinished, single.quiet)
    told = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if isinstance(value, float))
    show(single.as_json, row | {"files": {"model": str(path)}}, lambda: click.echo(f"{path}: {told}"))


def summarise_task(task: Task[Any, Any], data: Any, device: str, quiet: bool) -> dict[str, Any]:
    """Train every seed of a task and of its variants; finished models in runs/ are taken over."""
    results: dict[str, Any] = {}
    for label, variant in task.variants().items():
        rows: list[dict[str, Any]] = []
        for seed in task.config.seeds:
            note(quiet, f"{task.config.name}, {label}, seed {seed}")
            rows.append(train_task(variant, model_file(variant, seed), data, seed, device, "resume", quiet))
        results[label] = over_seeds(rows)
    return {"config": task.dump(), **provenance(device), "results": results, "references": task.references(data)}


def model_file(task: Task[Any, Any], seed: int) -> Path:
    """Where the model of a run is written, unless it is said."""
    return Path("runs") / f"{task.config.name}-{task.config.label}-s{seed}.safetensors"
