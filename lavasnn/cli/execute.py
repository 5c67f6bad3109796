"""`run`, `verify` and `bits`: what a network does, whether all executors agree, and what its neurons exchange."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from compile.backends import exact
from compile.verify import Verification, compare
from lavasnn.cli.common import (
    BACKEND,
    BATCH,
    DATA,
    FILE,
    OUTPUT,
    OUTPUT_FILE,
    PRECISION,
    SAMPLES,
    SEEDS,
    Loaded,
    machine,
    note,
    open_data,
    open_network,
    show,
    table,
    ticker,
)
from lavasnn.data import Images
from lavasnn.errors import InputError, NotEqual
from lavasnn.ir import Graph
from lavasnn.measure import traffic
from lavasnn.results import RunResult


def execute(
    backend: str, graph: Graph, images: Images, settle: bool, batch: int, record: bool, quiet: bool, first: int = 0
) -> RunResult:
    """Run images on a backend ("exact", "lava" or "torch"); `first` is the first one's index in its data set."""
    labels, indices = images.labels, np.arange(first, first + len(images))
    progress = ticker(quiet, backend)
    if backend == "torch":
        from lavasnn.nn.run import run as torch_run

        return torch_run(graph, images.pixels, labels, settle=settle, record=record, indices=indices)
    if backend == "lava":
        from compile.backends import lava

        run = lava.run
    else:
        run = exact.run
    return run(graph, images.pixels, labels, settle=settle, batch=batch, record=record, indices=indices, progress=progress)


def _phases(graph: Graph, phases: str) -> bool:
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
    """Run a program, graph or model on images and tell its accuracy.

    Example: lavasnn run program.safetensors --data mnist --samples 1000
    """
    if traces and output is None:
        raise InputError("run: --traces needs --output FILE to keep them in")
    network = open_network(file)
    images = open_data(spec, network.trained_on, data_dir, download, samples)
    graph = _seeded(network.as_precision(precision), seed)
    settle = _phases(graph, phases)
    started = time.perf_counter()
    result = execute(backend, graph, images, settle, batch, traces, quiet)
    seconds = time.perf_counter() - started
    values: dict[str, Any] = {
        "file": file,
        "data": f"{images.name}:{images.split}",
        "samples": result.samples,
        "backend": backend,
        "precision": result.precision,
        "steps": result.steps,
        "accuracy": result.accuracy,
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
    rows = [[k, f"{v:,.1f}"] for k, v in values["messages_per_sample"].items()]

    def lines() -> None:
        click.echo(
            f"{backend} {result.precision}, {values['data']}: {100 * result.accuracy:.2f} % of {result.samples:,} right, "
            f"{result.steps} steps a sample, {seconds:.1f} s"
        )
        table("", ["messages from", "a sample"], rows)

    show(as_json, values, lines)


def _seeded(graph: Graph, seed: int | None) -> Graph:
    return graph if seed is None else replace(graph, encoding=replace(graph.encoding, seed=seed))


def prove(graph: Graph, images: Images, batch: int, quiet: bool) -> list[Verification]:
    """Compare torch, exact and Lava on the same samples, batch by batch; both phases where there are two."""
    settle = _phases(graph, "both")
    whole: dict[str, list[Verification]] = {"torch": [], "lava": []}
    for start in range(0, len(images), batch):
        part = images.take(np.arange(start, min(start + batch, len(images))))
        mine = execute("exact", graph, part, settle, batch, True, True, start)
        for other in whole:
            found = compare(graph, mine, execute(other, graph, part, settle, batch, True, True, start))
            if found.first is not None:
                found = replace(found, first=replace(found.first, sample=start + found.first.sample))
            whole[other].append(found)
        note(quiet, f"verify: {start + len(part)} of {len(images)} samples compared")
    return [_merged(parts) for parts in whole.values()]


def _merged(parts: list[Verification]) -> Verification:
    return replace(
        parts[0],
        samples=sum(p.samples for p in parts),
        compared=sum(p.compared for p in parts),
        mismatches=sum(p.mismatches for p in parts),
        ties=sum(p.ties for p in parts),
        first=next((p.first for p in parts if p.first is not None), None),
    )


def proof_json(proofs: list[Verification]) -> dict[str, Any]:
    """One object for a comparison of several executors with `exact`."""
    return {
        "samples": proofs[0].samples,
        "steps": proofs[0].steps,
        "populations": len(proofs[0].populations),
        "compared": sum(p.compared for p in proofs),
        "mismatches": sum(p.mismatches for p in proofs),
        "ties": proofs[0].ties,
        "pairs": [p.to_json() for p in proofs],
    }


@click.command("verify")
@click.argument("file", type=FILE)
@DATA
@click.option("--samples", type=click.IntRange(min=1), default=50, show_default=True, help="Use the first N samples.")
@PRECISION
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Samples for each start of Lava.")
@click.option("--seed", type=SEEDS, help="Of random input encodings.")
@OUTPUT
def verify_command(
    file: Path,
    spec: str | None,
    data_dir: Path | None,
    download: bool,
    samples: int,
    precision: str | None,
    batch: int,
    seed: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare torch, the exact executor and Lava in every message and announced state of every population and step.

    Example: lavasnn verify program.safetensors --data mnist --samples 50
    """
    network = open_network(file)
    images = open_data(spec, network.trained_on, data_dir, download, samples)
    graph = _seeded(network.as_precision(precision), seed)
    proofs = prove(graph, images, batch, quiet)
    values = proof_json(proofs) | {"precision": "fixed" if graph.integer else "float"}

    def lines() -> None:
        for p in proofs:
            ties = f", {p.ties} steps too close to call" if p.ties else ""
            click.echo(
                f"{p.backends[0]} = {p.backends[1]} ({values['precision']}): {p.compared:,} values of {len(p.populations)} "
                f"populations, {p.samples} samples x {p.steps} steps: {p.mismatches} mismatches{ties}"
            )

    show(as_json, values, lines)
    bad = next((p for p in proofs if not p.equal), None)
    if bad is not None:
        raise NotEqual(f"{' and '.join(bad.backends)} differ in {bad.mismatches:,} values, first: {bad.first or 'outputs'}")


@click.command("bits")
@click.argument("file", type=FILE)
@DATA
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
    images = open_data(spec, network.trained_on, data_dir, download, samples)
    graph = _seeded(network.as_precision(precision), seed)
    result = execute(backend, graph, images, _phases(graph, "both"), batch, False, quiet)
    values = bits_json(result, network)
    show(as_json, values | {"file": file, "data": f"{images.name}:{images.split}"}, lambda: print_bits(values))


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


COMMANDS = {"run": run_command, "verify": verify_command, "bits": bits_command}
