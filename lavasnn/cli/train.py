"""`train`: networks of any of our neurons and their baselines, from one configuration file."""

from __future__ import annotations

import datetime
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from lavasnn import config as configs
from lavasnn import data
from lavasnn.cli.common import FILE, OUTPUT, OUTPUT_FILE, SEEDS, machine, note, open_network, show, ticker
from lavasnn.config import RunConfig
from lavasnn.data import Images
from lavasnn.errors import InputError, LavasnnError
from lavasnn.files import write_text

if TYPE_CHECKING:
    from lavasnn.learning.loop import Loop, Report
    from lavasnn.learning.model import EpochReport
    from lavasnn.learning.trainer import Trainer

R = TypeVar("R", bound="Report")
Unfinished = Literal["refuse", "resume", "replace"]


@dataclass(frozen=True)
class Single:
    """How one network is trained, and told of.

    Attributes:
        output: Model file, or None for a name of the configuration's.
        seed: Or None for the configuration's first.
        device: Where.
        unfinished: What to do with an unfinished run.
        data_dir: Where image files are, if it is said.
        download: Whether missing ones are fetched.
        as_json: Whether stdout has JSON.
        quiet: No progress on stderr.
    """

    output: Path | None
    seed: int | None
    device: str
    unfinished: Unfinished
    data_dir: Path | None
    download: bool
    as_json: bool
    quiet: bool


@click.command("train")
@click.argument("config", type=FILE)
@click.option(
    "-o",
    "--output",
    type=OUTPUT_FILE,
    help="Model file; default runs/NAME-METHOD-sSEED.safetensors, with the neuron for METHOD if it is LIF or DLIF.",
)
@click.option("--seed", type=SEEDS, help="Instead of the configuration's first seed.")
@click.option(
    "--method",
    type=click.Choice(["diffpc", "backprop", "predictive-coding", "bptt", "bsd"]),
    help="Instead of the configuration's.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the configuration's.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--resume", "unfinished", flag_value="resume", help="Go on with an unfinished run, if there is one.")
@click.option("--restart", "unfinished", flag_value="replace", help="Throw an unfinished run, or a model, away.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where image files are; else LAVASNN_DATA, else cache.")
@click.option("--download", is_flag=True, help="Fetch missing image files (with checksum).")
@click.option(
    "--summary", type=OUTPUT_FILE, help="Train all seeds of the configuration and its baselines, and write what came out."
)
@click.option(
    "--choose",
    type=OUTPUT_FILE,
    help="Compare the configuration's candidates on held-out images and write what came out.",
)
@OUTPUT
def train_command(
    config: Path,
    output: Path | None,
    seed: int | None,
    method: str | None,
    epochs: int | None,
    device: str,
    unfinished: Unfinished | None,
    data_dir: Path | None,
    download: bool,
    summary: Path | None,
    choose: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a network as a configuration says and tell its accuracy on the test images.

    Example: lavasnn train sim_runs/mnist-diffpc-s.toml --data-dir DIR
    """
    _check_device(device)
    several = summary or choose
    if several is not None:
        if (output, seed, unfinished) != (None, None, None) or (summary is not None and choose is not None):
            raise InputError(
                "--summary and --choose train several networks and resume by themselves: only one of them, and no --output, "
                "--seed, --resume or --restart"
            )
        _check_writable(several)
    changes = {"method": method, "epochs": epochs, "device": None if device == "cpu" else device}
    single = Single(output, seed, device, unfinished or "refuse", data_dir, download, as_json, quiet)
    flag = "--summary" if summary is not None else "--choose"
    command = " ".join(["lavasnn train", config.name, *(f"--{k} {v}" for k, v in changes.items() if v), flag, "FILE"])

    def tell(several: Path, found: dict[str, Any]) -> None:
        values = {"command": command} | found
        write_text(several, json.dumps(values, indent=1) + "\n")
        show(as_json, values, lambda: click.echo(json.dumps(values.get("results", values.get("candidates")), indent=1)))

    if (kind := configs.read_toml(config).get("task")) is not None:
        from lavasnn.cli.tasks import load_task, show_task, summarise_task

        if method is not None or choose is not None:
            raise InputError(f"{config}: task is {kind!r}, which has neither --method nor --choose")
        task = load_task(kind, config)
        task = task if epochs is None else task.with_epochs(epochs)
        if summary is None:
            show_task(task, single)
        else:
            tell(summary, summarise_task(task, task.data(data_dir, download), device, quiet))
        return
    run = configs.load(config)
    run = run if method is None else run.with_training(method=method)
    run = run if epochs is None else run.with_training(epochs=epochs)
    if several is None:
        _show_network(run, single)
        return
    from lavasnn.cli.summary import compare_candidates, summarise

    if summary is not None:
        tell(several, summarise(run, *load_splits(run, data_dir, download), device, quiet))
    else:
        tell(several, compare_candidates(run, _load(run, "train", data_dir, download), device, quiet))


def _show_network(run: RunConfig, single: Single) -> None:
    """Train one network and tell its accuracy."""
    train, validation, test = load_splits(run, single.data_dir, single.download)
    used = run.seeds[0] if single.seed is None else single.seed
    path = single.output or model_path(run, run.label, used)
    trainer, seconds = train_one(run, train, validation, used, single.device, path, single.unfinished, single.quiet)
    training = None if run.network.neuron == "pyramidal" else open_network(path).training
    accuracy = trainer.evaluate(test)
    values: dict[str, Any] = {
        "accuracy": {"test": accuracy, "validation": trainer.progress.history[-1].validation_accuracy},
        "seconds": round(seconds, 2),
        "bits_per_neuron": training or dict.fromkeys(("error_phase", "last_epoch", "error_phase_heard")),
        "epochs": len(trainer.progress.history),
        "seed": used,
        "neuron": run.network.neuron,
        "method": run.training.method,
        "form": run.training.form if run.network.neuron == "diffpc" else None,
        "update_activity": run.timing.update_activity if run.network.neuron == "diffpc" else None,
        "files": {"model": str(path)},
    }

    def lines() -> None:
        bits = f", {training['error_phase']:.4f} bits per neuron in the error phase" if training else ""
        click.echo(f"{path}: {100 * accuracy:.2f} % of {len(test):,} test images, {seconds:.1f} s{bits}")

    show(single.as_json, values, lines)


def model_path(run: RunConfig, label: str, seed: int) -> Path:
    """Where the model of a run is written, unless it is said."""
    return Path("runs") / f"{run.name}-{label}-s{seed}.safetensors"


def over_seeds(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation of what is a float in the rows of all seeds, and the rows."""
    numbers = {key: [r[key] for r in rows] for key in rows[0] if isinstance(rows[0][key], float)}
    return {
        "mean": {key: round(statistics.fmean(v), 6) for key, v in numbers.items()},
        "deviation": {key: round(statistics.stdev(v), 6) for key, v in numbers.items()} if len(rows) > 1 else None,
        "seeds": rows,
    }


def provenance(device: str) -> dict[str, Any]:
    """When and where numbers came to be."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine(),
        "device": device,
    }


def _check_device(name: str) -> None:
    """Refuse devices that are not here before anything is read.

    Raises:
        InputError: An unknown kind of device, or one that torch does not find.
    """
    import torch

    if not re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", name):
        raise InputError(f"--device is {name!r}, allowed are cpu, cuda, cuda:N and mps")
    if name.startswith("cuda"):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(name.partition(":")[2] or 0) >= found:
            raise InputError(f"--device is {name!r}, torch finds {found} CUDA devices here; cpu always works")
    if name == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device is 'mps', torch finds no such device here; cpu always works")


def _check_writable(path: Path) -> None:
    """Show an unwritable folder before hours of training, not after."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def load_splits(run: RunConfig, data_dir: Path | None, download: bool) -> tuple[Images, Images | None, Images]:
    """Training, validation (if the configuration holds some out) and test images."""
    train, test = (_load(run, split, data_dir, download) for split in ("train", "test"))
    return *run.data.held_out(train), test


def _load(run: RunConfig, split: str, data_dir: Path | None, download: bool) -> Images:
    return data.load(f"{run.data.name}:{split}", data_dir, download=download, steps=run.spiking.steps)


def train_one(
    run: RunConfig,
    train: Images,
    validation: Images | None,
    seed: int,
    device: str,
    path: Path,
    unfinished: Unfinished,
    quiet: bool,
) -> tuple[Trainer, float]:
    """Train one network and write its model file.

    Args:
        run: What to do.
        train: Images to learn from.
        validation: Images to report on after every epoch, or None.
        seed: Of everything random.
        device: Where.
        path: Model file; its checkpoint lies beside it.
        unfinished: What to do with the checkpoint of an unfinished run (or, with "resume", with a finished model).
        quiet: No progress on stderr.

    Returns:
        The trainer and the seconds of training, interruptions left out.

    Raises:
        InputError: There is an unfinished run and `unfinished` is "refuse", or it belongs to another configuration, or the
            model file does.
    """
    from lavasnn.learning.trainer import Trainer

    trainer = Trainer(run, train, validation, seed, device)
    return trainer, train_loop(trainer, path, unfinished, quiet, lambda epoch: _epoch_line(epoch, run))


def train_loop(loop: Loop[R], path: Path, unfinished: Unfinished, quiet: bool, line: Callable[[R], str]) -> float:
    """Train whatever a loop trains and write its model file; arguments and errors as in `train_one`.

    Args:
        loop: Not yet run.
        path: Model file; its checkpoint lies beside it.
        unfinished: See `train_one`.
        quiet: No progress on stderr.
        line: An epoch's report in a line.

    Returns:
        Seconds of training, interruptions left out.
    """
    checkpoint = path.with_suffix(".checkpoint.safetensors")
    if unfinished != "replace" and path.is_file() and not checkpoint.is_file():
        _check_ours(loop, path)
        if unfinished == "resume":
            loop.adopt(path)
            note(quiet, f"{path} is finished already")
            return _seconds(loop)
    if unfinished != "replace" and checkpoint.is_file():
        if unfinished == "refuse":
            raise InputError(f"{checkpoint} belongs to an unfinished run: --resume goes on, --restart starts anew")
        loop.resume(checkpoint)
        note(quiet, f"resumed {checkpoint} in epoch {loop.progress.epoch + 1}")
    started = time.monotonic()
    loop.save_checkpoint(checkpoint)  # an unwritable place shows now, not after an hour
    try:
        loop.run(lambda epoch: note(quiet, line(epoch)), ticker(quiet, "batches"), checkpoint)
    except LavasnnError:
        checkpoint.unlink(missing_ok=True)
        raise
    except KeyboardInterrupt:
        if unfinished == "replace":
            checkpoint.unlink(missing_ok=True)
            raise
        spent = time.monotonic() - started
        raise KeyboardInterrupt(f"interrupted after {spent:.0f} s; --resume goes on from {checkpoint}") from None
    loop.save_model(path)
    checkpoint.unlink(missing_ok=True)
    return _seconds(loop)


def _check_ours(loop: Loop[Any], path: Path) -> None:
    """Refuse to train over a file that this very run would not make.

    Raises:
        InputError: It is the model of another run, or no model.
    """
    advice = "move it away, or train over it with --restart"
    try:
        differs = loop.difference(path)
    except InputError as error:
        raise InputError(f"{error}; {advice}") from None
    if differs is not None:
        raise InputError(f"{path} is the model of another run, its {differs} differs from this one's; {advice}")


def _seconds(loop: Loop[Any]) -> float:
    return sum(epoch.seconds for epoch in loop.progress.history)


def _epoch_line(epoch: EpochReport, run: RunConfig) -> str:
    held = "" if epoch.validation_accuracy is None else f", validation {100 * epoch.validation_accuracy:.2f} %"
    sent = f", error spikes a sample {sum(epoch.error_spikes):.2f}" if epoch.error_spikes else ""
    high = f", activity up to {epoch.peak:.1f} (one cycle reaches {2.0 ** (run.timing.m + 1):g})"
    far = high if epoch.peak > 2.0 ** (run.timing.m + 1) else ""
    return f"epoch {epoch.epoch}: train {100 * epoch.train_accuracy:.2f} %{held}{sent}{far}, {epoch.seconds:.1f} s"


COMMANDS = {"train": train_command}
