"""`run` and `bits`: what a network does, and what its neurons exchange."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from compile.backends import exact
from lavasnn.cli.common import (
    BACKEND,
    BATCH,
    DATA,
    FILE,
    INPUT,
    OUTPUT,
    OUTPUT_FILE,
    PRECISION,
    SAMPLES,
    SEEDS,
    Loaded,
    machine,
    note,
    open_network,
    open_samples,
    show,
    table,
    ticker,
)
from lavasnn.data import Images
from lavasnn.errors import InputError
from lavasnn.ir import Graph
from lavasnn.measure import traffic
from lavasnn.measure.activity import remarks
from lavasnn.recordings import Recording
from lavasnn.results import RunResult


def execute(
    backend: str,
    graph: Graph,
    images: Images | Recording,
    settle: bool,
    batch: int,
    record: bool,
    quiet: bool,
    first: int = 0,
    measure: bool = False,
) -> RunResult:
    """Run samples on a backend ("exact", "lava" or "torch"); `first` is the first one's index in its data set.

    `measure` has the exact executor count each neuron's messages and note the largest inputs and states.
    """
    labels = images.labels if len(images.labels) else None
    indices, progress = np.arange(first, first + len(images)), ticker(quiet, backend)
    if backend == "torch":
        from lavasnn.nn.run import run as torch_run

        return torch_run(graph, images.pixels, labels, settle=settle, record=record, indices=indices)
    if backend == "lava":
        from compile.backends import lava

        run = lava.run
    else:
        run = partial(exact.run, measure=measure)
    return run(graph, images.pixels, labels, settle=settle, batch=batch, record=record, indices=indices, progress=progress)


def silence(graph: Graph, result: RunResult, images: Images | Recording) -> list[str]:
    """Warnings of populations that never or always send, with what their inputs come to on a few samples."""
    if not remarks(graph, result):
        return []
    peaks = exact.run(graph, images.take(min(16, len(images))).pixels, measure=True).meta["peaks"]
    return list(remarks(graph, replace(result, meta={**result.meta, "peaks": peaks})))


def both_phases(graph: Graph, phases: str) -> bool:
    """Whether to run the second phase too: it is asked for and the network has one."""
    return phases == "both" and graph.timing is not None and graph.timing.settle_cycles > 0


PHASES = click.option(
    "--phases",
    type=click.Choice(["init", "both"]),
    default="init",
    show_default=True,
    help="DiffPC: inference alone, or the training phase with labels too.",
)


@click.command("run")
@click.argument("file", type=FILE)
@DATA
@INPUT
@SAMPLES
@BACKEND
@PRECISION
@PHASES
@BATCH
@click.option("--traces", is_flag=True, help="Keep every message and state of every step in the output file.")
@click.option("-o", "--output", type=OUTPUT_FILE, help="Write the result (outputs, message counts) to this file.")
@click.option("--seed", type=SEEDS, help="Of random input encodings.")
@OUTPUT
def run_command(
    file: Path,
    spec: str | None,
    data_dir: Path | None,
    download: bool,
    given: str | None,
    samples: int | None,
    backend: str,
    precision: str | None,
    phases: str,
    batch: int,
    traces: bool,
    output: Path | None,
    seed: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run a program, graph or model on images, or on given messages, and tell its accuracy.

    Example: lavasnn run program.safetensors --data mnist --samples 1000
    """
    if traces and output is None:
        raise InputError("run: --traces needs --output FILE to keep them in")
    network = open_network(file)
    images = open_samples(network, spec, given, data_dir, download, samples, seed)
    graph = seeded(network.as_precision(precision), seed)
    settle = both_phases(graph, phases)
    started = time.perf_counter()
    result = execute(backend, graph, images, settle, batch, traces, quiet)
    seconds = time.perf_counter() - started
    values: dict[str, Any] = {
        "file": file,
        "data": images.label,
        "samples": result.samples,
        "backend": backend,
        "precision": result.precision,
        "steps": result.steps,
        "accuracy": result.accuracy if len(result.labels) else None,
        "seconds": round(seconds, 3),
        "messages_per_sample": {
            k: float(v.sum(axis=1).mean()) for k, v in result.messages.items() if settle or not k.endswith(".s_e")
        },
    }
    if output is not None:
        target = network.program.target if network.program else None
        meta = machine() | {"file": str(file), "data": values["data"], "seed": graph.encoding.seed, "target": target}
        replace(result, meta=meta).save(output)
        values["output"] = output
    values["warnings"] = silence(graph, result, images)
    for warning in values["warnings"]:
        note(quiet, f"warning: {warning}")
    rows = [[k, f"{v:,.1f}"] for k, v in values["messages_per_sample"].items()]
    right = (
        f"{100 * result.accuracy:.2f} % of {result.samples:,} right" if len(result.labels) else f"{result.samples:,} samples"
    )

    def lines() -> None:
        click.echo(f"{backend} {result.precision}, {values['data']}: {right}, {result.steps} steps a sample, {seconds:.1f} s")
        table("", ["messages from", "a sample"], rows)

    show(as_json, values, lines)


def seeded(graph: Graph, seed: int | None) -> Graph:
    """The network with another seed of its random input, if one is given."""
    return graph if seed is None else replace(graph, encoding=replace(graph.encoding, seed=seed))


@click.command("bits")
@click.argument("file", type=FILE)
@DATA
@INPUT
@SAMPLES
@BACKEND
@PRECISION
@BATCH
@click.option("--seed", type=SEEDS, help="Of random input encodings.")
@OUTPUT
def bits_command(
    file: Path,
    spec: str | None,
    data_dir: Path | None,
    download: bool,
    given: str | None,
    samples: int | None,
    backend: str,
    precision: str | None,
    batch: int,
    seed: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Count the messages that neurons exchange: spikes and bits per neuron, by phase, kind and layer.

    Example: lavasnn bits program.safetensors --data mnist --samples 1000
    """
    network = open_network(file)
    images = open_samples(network, spec, given, data_dir, download, samples, seed)
    graph = seeded(network.as_precision(precision), seed)
    result = execute(backend, graph, images, both_phases(graph, "both"), batch, False, quiet)
    values = bits_json(result, network)
    show(as_json, values | {"file": file, "data": images.label}, lambda: print_bits(values))


def bits_json(result: RunResult, network: Loaded) -> dict[str, Any]:
    """Message figures of a run, beside those of the network's training."""
    return {"training": network.training, **traffic.summary(result, network.iterations)}


def print_bits(values: dict[str, Any]) -> None:
    """The same for a person."""
    rows = [
        [
            f"{r['phase']} {r['population']}",
            r["kind"] + ("" if r["heard"] else " (unheard)"),
            f"{r['spikes_per_sample']:.3f}",
            f"{r['spikes_per_neuron']:.5f}",
            f"{r['bits_per_neuron']:.5f}",
        ]
        for r in values["rows"]
    ]
    n = values["samples"]
    title = f"Messages of {n:,} samples ({values['backend']}, {values['precision']})"
    table(title, ["phase, from", "kind", "spikes/sample", "spikes/neuron", "bits/neuron"], rows)
    against = values["compared_with"]
    found: list[list[str]] = []
    if values["training"]:
        t = values["training"]
        found += [
            ["error phase, all training samples of all epochs (the figure beside the paper's)", f"{t['error_phase']:.4f}"],
            ["  without error spikes that no one receives", f"{t['error_phase_heard']:.4f}"],
            ["error phase, last epoch", f"{t['last_epoch']:.4f}"],
        ]
    if values["error_phase"] is not None:
        found += [
            ["error phase, these samples with labels clamped", f"{values['error_phase']:.4f}"],
            ["  without error spikes that no one receives", f"{values['error_phase_heard']:.4f}"],
        ]
    found += [
        ["everything: all phases, input included", f"{values['total']:.4f}"],
        ["  without messages that no one receives", f"{values['total_heard']:.4f}"],
        ["  with address bits", f"{values['total_with_address']:.4f}"],
        ["backpropagation (float32 errors)", f"{against['backpropagation']}"],
        [f"float predictive coding, {against['iterations']} iterations", f"{against['float_predictive_coding']}"],
    ]
    table("Bits per neuron and sample", ["what", "bits"], found)


COMMANDS = {"run": run_command, "bits": bits_command}
