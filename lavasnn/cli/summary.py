"""`train --summary` and `train --choose`: several networks of one configuration, and what came out of them."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compile.backends import exact
from compile.cost import count, operations
from compile.program import Program
from compile.target import LOIHI2, TARGETS
from lavasnn.architecture import Full
from lavasnn.cli.common import Loaded, note, open_network, version
from lavasnn.cli.deploy import build
from lavasnn.cli.execute import execute
from lavasnn.cli.train import model_path, over_seeds, provenance, train_one
from lavasnn.cli.verify import proof_json, prove
from lavasnn.config import RunConfig
from lavasnn.data import Images
from lavasnn.errors import InputError, LimitError
from lavasnn.measure import traffic
from lavasnn.measure.energy import estimates
from lavasnn.sections import DataSection

if TYPE_CHECKING:
    from lavasnn.learning.trainer import Trainer


COMPILED = ("diffpc", "bptt", "bsd")
"""Methods whose networks the compiler takes."""
PROVEN = 50
"""Test samples that a summary runs on Lava and in torch, too."""


def summarise(
    run: RunConfig, train: Images, validation: Images | None, test: Images, device: str, quiet: bool
) -> dict[str, Any]:
    """Train every seed of a configuration, of its baselines and of its sweep; measure float, integers, messages, operations."""
    from lavasnn.learning.model import dump

    results: dict[str, Any] = {}
    first: Program | None = None
    variants = _variants(run, train)
    for other, _, _ in variants.values():
        _check_pairs(other, train)
    for label, (other, stem, changes) in variants.items():
        rows: list[dict[str, Any]] = []
        for seed in run.seeds:
            row, program = _measure(other, label, stem, train, validation, test, seed, device, quiet)
            rows.append(row)
            if (label, seed) == (run.label, run.seeds[0]):
                first = program
        results[label] = ({"changes": changes} if changes else {}) | over_seeds(rows)
    return {
        "config": dump(run),
        **provenance(device),
        "test_samples": len(test),
        "results": results,
        "lava": _on_lava(first, test, quiet),
    }


def _on_lava(program: Program | None, test: Images, quiet: bool) -> dict[str, Any] | None:
    """A program on Lava and in torch against the exact executor, first test samples; None without either."""
    if program is None or version("lava-nc") is None:
        return None
    few = test.take(min(PROVEN, len(test)))
    proof = proof_json(prove(program.graph, few, PROVEN, quiet))
    lava = execute("lava", program.graph, few, False, PROVEN, False, quiet)
    return {key: proof[key] for key in ("samples", "steps", "compared", "mismatches")} | {"accuracy": lava.accuracy}


def _fitted(network: Loaded, train: Images, source: str) -> Program:
    """The program for one chip, or for the first board that it fits.

    Raises:
        LimitError: It fits none.
    """
    *smaller, largest = ("loihi2", "kapoho-point", "hala-point")
    for name in smaller:
        with contextlib.suppress(LimitError):
            return build(network, train, 256, TARGETS[name], source)
    return build(network, train, 256, TARGETS[largest], source)


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
    for section, changes in run.sweep.all:
        label = ", ".join(f"{name} {value}" for name, value in changes.items())
        found[label] = run.varied(section, changes), re.sub(r"[^A-Za-z0-9._]+", "-", label).strip("-"), changes
    return found


def _check_pairs(run: RunConfig, train: Images) -> None:
    """Refuse before hours of training what would be refused after.

    Raises:
        InputError: More pairs than a layer's inputs have, or than a core takes beside them.
    """
    if not run.network.spiking:
        return
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
    train, validation = held.held_out(images)
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
        **provenance(device),
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
) -> tuple[dict[str, Any], Program | None]:
    """Train one network and measure it; its program comes with the row, if there is one."""
    path = model_path(run, stem, seed)
    note(quiet, f"{run.name}, {label}, seed {seed}")
    trainer, seconds = train_one(run, train, validation, seed, device, path, "resume", quiet)
    row: dict[str, Any] = {"seed": seed, "test_float": trainer.evaluate(test), "seconds": round(seconds, 1)}
    row["accuracy_by_epoch"] = [
        round(e.train_accuracy if e.validation_accuracy is None else e.validation_accuracy, 5) for e in trainer.progress.history
    ]
    if run.training.method not in COMPILED:
        return row, None
    if run.network.neuron == "pyramidal":
        row |= _readouts(trainer, test)
    network = open_network(path)
    try:
        program = _fitted(network, train, path.name)
    except LimitError as error:
        note(quiet, f"{path}: {error}")
        return row | {"not_compiled": str(error)}, None
    if run.network.neuron == "pyramidal":
        return row | _bsd_row(program, test), program
    if run.network.spiking:
        return row | _spiking_row(trainer, program, test), program
    first = count(program, exact.run(program.graph, test.pixels, measure=True))
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
        "syn_ops_per_sample": first.total("syn_ops") / first.samples,
        "peak_activity": max(e.peak for e in trainer.progress.history),
        "cores": program.cores,
        "state_headroom_bits": program.report["calibrate"]["headroom_bits"],
    }
    return row, program


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
        "bits_total_test": traffic.summary(result)["total"],
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


def _readouts(trainer: Trainer, test: Images) -> dict[str, Any]:
    """Both readouts of a BSD network on the test images, and by layer how alike its pathways are, there and over training."""
    import torch

    from lavasnn.learning.bsd import likeness
    from lavasnn.learning.trainer import predict, shown_values
    from lavasnn.nn.bsd import BSDNet

    answers = {
        readout: predict(trainer.net, test, trainer.encoding, trainer.config.with_bsd(readout=readout))
        for readout in ("voltage", "spikes")
    }
    assert isinstance(trainer.net, BSDNet)
    shown = shown_values(torch.from_numpy(test.pixels), trainer.encoding).to(trainer.device)
    return {
        **{f"test_by_{name}": float(np.mean(answer == test.labels)) for name, answer in answers.items()},
        "parameters": sum(w.numel() for w in trainer.net.parameters()),
        "likeness": likeness(trainer.net, shown, torch.from_numpy(test.labels).to(trainer.device)),
        "over_training": [
            [{key: round(value, 5) for key, value in layer.items()} for layer in epoch.layers]
            for epoch in trainer.progress.history
        ],
    }


def _bsd_row(program: Program, test: Images) -> dict[str, Any]:
    """The test set on the program of a BSD network, both pathways running: both readouts, and what a sample costs."""
    both = exact.run(program.graph, test.pixels, test.labels, measure=True)
    counts, sent = count(program, both), traffic.summary(both)
    each, reached = operations(program.graph, both.by_neuron), program.graph.heard_of("stimulus")
    perceiving = [p for p in program.graph.projections if p.into == "basal" and p.target in reached]
    by_spikes = exact.run(replace(program.graph, read="messages"), test.pixels, measure=True)
    return {
        "test_int8": both.accuracy,
        "test_int8_by_spikes": float(np.mean(by_spikes.predictions == test.labels)),
        "syn_ops_per_sample": counts.total("syn_ops") / counts.samples,
        "syn_ops_of_perception_per_sample": sum(each[p.name] for p in perceiving) / counts.samples,
        "bits_total_test": sent["total"],
        "bits_total_with_address_test": sent["total_with_address"],
        "target": program.target,
        "cores": program.cores,
        "latency_steps": counts.latency_steps,
    }
