"""`train`: networks of DiffPC, LIF or DLIF and their baselines, from one configuration file."""

from __future__ import annotations

import datetime
import json
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from compile.backends import exact
from compile.cost import count, operations
from compile.program import Program
from compile.target import LOIHI2
from lavasnn import config as configs
from lavasnn import data
from lavasnn.cli.common import FILE, OUTPUT, OUTPUT_FILE, SEEDS, machine, note, open_network, show, ticker
from lavasnn.cli.deploy import build
from lavasnn.config import DataSection, RunConfig
from lavasnn.data import Images
from lavasnn.errors import InputError, LavasnnError
from lavasnn.files import write_text
from lavasnn.measure import traffic
from lavasnn.measure.energy import estimates

if TYPE_CHECKING:
    from lavasnn.learning.model import EpochReport
    from lavasnn.learning.trainer import Trainer

Unfinished = Literal["refuse", "resume", "replace"]


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
@click.option("--restart", "unfinished", flag_value="replace", help="Throw an unfinished run away.")
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
    run = configs.load(config)
    run = run if method is None else run.with_training(method=method)
    run = run if epochs is None else run.with_training(epochs=epochs)
    _check_device(device)
    if summary is not None or choose is not None:
        if (output, seed, unfinished) != (None, None, None) or (summary is not None and choose is not None):
            raise InputError(
                "--summary and --choose train several networks and resume by themselves: only one of them, and no --output, "
                "--seed, --resume or --restart"
            )
        several = summary or choose
        assert several is not None
        _check_writable(several)
        changes = {"method": method, "epochs": epochs, "device": None if device == "cpu" else device}
        flag = "--summary" if summary is not None else "--choose"
        command = " ".join(["lavasnn train", config.name, *(f"--{k} {v}" for k, v in changes.items() if v), flag, "FILE"])
        if summary is not None:
            found = summarise(run, *load_splits(run, data_dir, download), device, quiet)
        else:
            found = compare_candidates(run, _load(run, "train", data_dir, download), device, quiet)
        values = {"command": command} | found
        write_text(several, json.dumps(values, indent=1) + "\n")
        show(as_json, values, lambda: click.echo(json.dumps(values.get("results", values.get("candidates")), indent=1)))
        return
    train, validation, test = load_splits(run, data_dir, download)
    used = run.seeds[0] if seed is None else seed
    path = output or _model_path(run, run.label, used)
    trainer, seconds = train_one(run, train, validation, used, device, path, unfinished or "refuse", quiet)
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

    show(as_json, values, lines)


def _model_path(run: RunConfig, label: str, seed: int) -> Path:
    return Path("runs") / f"{run.name}-{label}-s{seed}.safetensors"


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
    return *held_out(run.data, train), test


def _load(run: RunConfig, split: str, data_dir: Path | None, download: bool) -> Images:
    return data.load(f"{run.data.name}:{split}", data_dir, download=download, steps=run.spiking.steps)


def held_out(section: DataSection, train: Images) -> tuple[Images, Images | None]:
    """Training images cut to the configuration's limit, and those held out of them.

    Raises:
        InputError: More are to be held out than there are.
    """
    if section.limit:
        train = train.take(min(section.limit, len(train)))
    if not section.validation:
        return train, None
    if section.validation >= len(train):
        raise InputError(f"data.validation is {section.validation:,}, the training set has {len(train):,} images")
    return data.validation_split(train, section.validation, seed=0)


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
        InputError: There is an unfinished run and `unfinished` is "refuse", or it belongs to another configuration.
    """
    from lavasnn.learning.trainer import Trainer

    trainer = Trainer(run, train, validation, seed, device)
    checkpoint = path.with_suffix(".checkpoint.safetensors")
    if unfinished == "resume" and path.is_file() and trainer.adopt(path):
        note(quiet, f"{path} is finished already")
        return trainer, sum(e.seconds for e in trainer.progress.history)
    if unfinished != "replace" and checkpoint.is_file():
        if unfinished == "refuse":
            raise InputError(f"{checkpoint} belongs to an unfinished run: --resume goes on, --restart starts anew")
        trainer.resume(checkpoint)
        note(quiet, f"resumed {checkpoint} in epoch {trainer.progress.epoch + 1}")
    started = time.monotonic()

    def report(epoch: EpochReport) -> None:
        note(quiet, _epoch_line(epoch, run))

    trainer.save_checkpoint(checkpoint)  # an unwritable place shows now, not after an hour
    try:
        trainer.run(report, ticker(quiet, "batches"), checkpoint)
    except LavasnnError:
        checkpoint.unlink(missing_ok=True)
        raise
    except KeyboardInterrupt:
        if unfinished == "replace":
            checkpoint.unlink(missing_ok=True)
            raise
        spent = time.monotonic() - started
        raise KeyboardInterrupt(f"interrupted after {spent:.0f} s; --resume goes on from {checkpoint}") from None
    trainer.save_model(path)
    checkpoint.unlink(missing_ok=True)
    return trainer, sum(e.seconds for e in trainer.progress.history)


def _epoch_line(epoch: EpochReport, run: RunConfig) -> str:
    held = "" if epoch.validation_accuracy is None else f", validation {100 * epoch.validation_accuracy:.2f} %"
    sent = f", error spikes a sample {sum(epoch.error_spikes):.2f}" if epoch.error_spikes else ""
    high = f", activity up to {epoch.peak:.1f} (one cycle reaches {2.0 ** (run.timing.m + 1):g})"
    far = high if epoch.peak > 2.0 ** (run.timing.m + 1) else ""
    return f"epoch {epoch.epoch}: train {100 * epoch.train_accuracy:.2f} %{held}{sent}{far}, {epoch.seconds:.1f} s"


def summarise(
    run: RunConfig, train: Images, validation: Images | None, test: Images, device: str, quiet: bool
) -> dict[str, Any]:
    """Train every seed of a configuration, of its baselines and of its sweep; measure float, integers, messages, operations."""
    from lavasnn.learning.model import dump

    results: dict[str, Any] = {}
    variants = _variants(run, train)
    for other, _, _ in variants.values():
        _check_pairs(other, train)
    for label, (other, stem, changes) in variants.items():
        rows = [_measure(other, label, stem, train, validation, test, s, device, quiet) for s in run.seeds]
        numbers = {key: [r[key] for r in rows] for key in rows[0] if isinstance(rows[0][key], float)}
        results[label] = {
            **({"changes": changes} if changes else {}),
            "mean": {key: round(statistics.fmean(v), 6) for key, v in numbers.items()},
            "deviation": {key: round(statistics.stdev(v), 6) for key, v in numbers.items()} if len(rows) > 1 else None,
            "seeds": rows,
        }
    return {
        "config": dump(run),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine(),
        "device": device,
        "test_samples": len(test),
        "results": results,
    }


def _variants(run: RunConfig, train: Images) -> dict[str, tuple[RunConfig, str, dict[str, Any]]]:
    """The configuration, its baselines and its sweep, by label, each with the name of its files and what it changes."""
    from lavasnn.learning.spiking import widened

    found: dict[str, tuple[RunConfig, str, dict[str, Any]]] = {run.label: (run, run.label, {})}
    for label in run.baselines:
        match label:
            case "lif":
                found[label] = run.with_lif(run.network.hidden), label, {}
            case "lif-wide":
                found[label] = widened(run, train.shape, train.classes), label, {}
            case method:
                found[label] = run.with_training(method=method), label, {}
    for changes in run.sweep.spiking:
        label = ", ".join(f"{name} {value}" for name, value in changes.items())
        found[label] = run.with_spiking(**changes), re.sub(r"[^A-Za-z0-9._]+", "-", label).strip("-"), changes
    return found


def _check_pairs(run: RunConfig, train: Images) -> None:
    """Refuse before hours of training what would be refused after.

    Raises:
        InputError: More pairs than a layer's inputs have, or than a core takes beside them.
    """
    if not run.network.spiking:
        return
    from lavasnn.architecture import Full
    from lavasnn.learning.spiking import pair_numbers, planned

    plan, axons = planned(run, train.shape, train.classes), LOIHI2.fan_in_per_core.value
    for place, (layer, pairs) in enumerate(zip(plan, pair_numbers(run, plan), strict=True), start=1):
        if isinstance(layer, Full) and layer.inputs + pairs > axons:
            raise InputError(
                f"{run.name}: layer {place} has {layer.inputs:,} inputs and {pairs:,} pairs, a core takes {axons:,} axons"
            )


def compare_candidates(run: RunConfig, images: Images, device: str, quiet: bool) -> dict[str, Any]:
    """Train every candidate with the first seed and compare their accuracies on images held out of the training set.

    Raises:
        InputError: The configuration names no candidates, or its own settings are not among them.
    """
    from lavasnn.learning.model import dump

    runs = [run.with_training(**changes) for changes in run.choose.candidates]
    if run.training not in [r.training for r in runs]:
        raise InputError(f"{run.name}: choose.candidates has {len(runs)} entries, none with the settings of the run itself")
    held = DataSection.model_validate(run.data.model_dump() | {"validation": run.choose.held_out})
    train, validation = held_out(held, images)
    rows: list[dict[str, Any]] = []
    for i, (changes, candidate) in enumerate(zip(run.choose.candidates, runs, strict=True), start=1):
        path = Path("runs") / f"{run.name}-{run.label}-candidate{i}.safetensors"
        note(quiet, f"{run.name}, candidate {i} of {len(runs)}: {changes}")
        trainer, seconds = train_one(
            candidate.model_copy(update={"data": held}), train, validation, run.seeds[0], device, path, "resume", quiet
        )
        by_epoch = [round(e.validation_accuracy or 0.0, 5) for e in trainer.progress.history]
        rows.append({"changes": changes, "validation": by_epoch[-1], "seconds": round(seconds, 1), "by_epoch": by_epoch})
    best = max(range(len(rows)), key=lambda i: rows[i]["validation"])
    if runs[best].training != run.training:
        note(quiet, f"{rows[best]['changes']} did best, which the configuration does not have")
    return {
        "config": dump(run),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine(),
        "device": device,
        "seed": run.seeds[0],
        "held_out": len(validation or ()),
        "candidates": rows,
        "best": rows[best]["changes"],
    }


def _measure(
    run: RunConfig,
    label: str,
    stem: str,
    train: Images,
    validation: Images | None,
    test: Images,
    seed: int,
    device: str,
    quiet: bool,
) -> dict[str, Any]:
    path = _model_path(run, stem, seed)
    note(quiet, f"{run.name}, {label}, seed {seed}")
    trainer, seconds = train_one(run, train, validation, seed, device, path, "resume", quiet)
    row: dict[str, Any] = {"seed": seed, "test_float": trainer.evaluate(test), "seconds": round(seconds, 1)}
    row["accuracy_by_epoch"] = [
        round(e.train_accuracy if e.validation_accuracy is None else e.validation_accuracy, 5) for e in trainer.progress.history
    ]
    if run.network.neuron == "pyramidal":
        return row | _bsd_row(trainer, test)
    if run.training.method not in ("diffpc", "bptt"):
        return row
    network = open_network(path)
    program = build(network, train, 256, LOIHI2, path.name)
    if run.network.spiking:
        return row | _spiking_row(trainer, program, test)
    both = exact.run(program.graph, test.pixels, test.labels, settle=True)
    sent = traffic.summary(both)
    assert network.training is not None
    row |= {
        "test_int8": both.accuracy,  # read at the end of the first phase
        "bits_error_phase_training": network.training["error_phase"],
        "bits_error_phase_training_heard": network.training["error_phase_heard"],
        "bits_error_phase_last_epoch": network.training["last_epoch"],
        "bits_error_phase_test": sent["error_phase"],
        "bits_total_test": sent["total"],
        "bits_total_with_address_test": sent["total_with_address"],
        "peak_activity": max(e.peak for e in trainer.progress.history),
        "cores": program.cores,
        "state_headroom_bits": program.report["calibrate"]["headroom_bits"],
    }
    return row


def _spiking_row(trainer: Trainer, program: Program, test: Images) -> dict[str, Any]:
    """The test set on the program of a spiking network: accuracy, and what a sample costs, pairs included."""
    from lavasnn.learning.spiking import silenced

    result = exact.run(program.graph, test.pixels, test.labels, measure=True)
    counts = count(program, result)
    energies = {e.name: e for e in estimates(counts)}
    pairs = program.report["lower"]["pairs"]
    row = {
        "test_int8": result.accuracy,
        "syn_ops_per_sample": counts.total("syn_ops") / counts.samples,
        "spikes_per_sample": sum(float(sent.sum()) for sent in result.messages.values()) / result.samples,
        "dynamic_energy_uj": 1e6 * energies["dynamic energy"].high,
        "static_energy_uj": 1e6 * energies["static energy"].low,
        "hidden": list(trainer.config.network.hidden),
        "parameters": sum(w.numel() for w in trainer.net.parameters()),
        "pairs": [program.graph.population(name).size for name in pairs],
        "neurons": sum(layer.neurons for layer in counts.layers),
        "synapses": program.fit["synapses"],
        "cores": program.cores,
        "latency_steps": counts.latency_steps,
    }
    if not pairs:
        return row
    with silenced(trainer.net):
        without = trainer.evaluate(test)
    each = operations(program.graph, result.by_neuron)
    own = [each[p.name] for p in program.graph.projections if p.source in pairs or p.target in pairs]
    return row | {"test_float_without_pairs": without, "syn_ops_of_pairs_per_sample": sum(own) / result.samples}


def _bsd_row(trainer: Trainer, test: Images) -> dict[str, Any]:
    """Both readouts, and by layer how alike the two pathways are on the test images, with their rates beside it."""
    import numpy as np

    from lavasnn.learning.bsd import likeness
    from lavasnn.learning.trainer import predict
    from lavasnn.nn.bsd import BSDNet

    answers = {
        readout: predict(trainer.net, test, trainer.encoding, trainer.config.with_bsd(readout=readout))
        for readout in ("voltage", "spikes")
    }
    assert isinstance(trainer.net, BSDNet)
    found = {f"test_by_{name}": float(np.mean(answer == test.labels)) for name, answer in answers.items()}
    return found | {"likeness": likeness(trainer.net, test.pixels / test.levels, test.labels)}


COMMANDS = {"train": train_command}
