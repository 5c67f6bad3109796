"""`verify`: whether all executors agree, and how far the integers follow the real network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from compile.agreement import Agreement, agreement
from compile.passes.fold import folded
from compile.passes.lower import lowered
from compile.pipeline import compile_graph
from compile.verify import Verification, compare
from lavasnn.cli.common import (
    DATA,
    FILE,
    INPUT,
    OUTPUT,
    PRECISION,
    SEEDS,
    Loaded,
    note,
    open_network,
    open_samples,
    show,
    table,
)
from lavasnn.cli.execute import both_phases, execute, seeded, silence
from lavasnn.data import Images
from lavasnn.errors import InputError, NotEqual
from lavasnn.ir import Graph
from lavasnn.recordings import Recording


def prove(graph: Graph, images: Images | Recording, batch: int, quiet: bool) -> list[Verification]:
    """Compare torch, exact and Lava on the same samples, batch by batch; both phases where there are two."""
    settle = both_phases(graph, "both")
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


def follow(reference: Graph, graph: Graph, images: Images | Recording, name: str) -> Agreement:
    """How far integers follow the real network of that name, which torch runs."""
    settle = both_phases(graph, "both")
    real_run = execute("torch", reference, images, settle, len(images), True, True)
    return agreement(real_run, execute("exact", graph, images, settle, len(images), True, True), name)


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
@INPUT
@click.option("--samples", type=click.IntRange(min=1), default=50, show_default=True, help="Use the first N samples.")
@PRECISION
@click.option("--reference", type=FILE, help="Model or graph of real numbers that a program has to follow.")
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Samples for each start of Lava.")
@click.option("--seed", type=SEEDS, help="Of random input encodings.")
@OUTPUT
def verify_command(
    file: Path,
    spec: str | None,
    data_dir: Path | None,
    download: bool,
    given: str | None,
    samples: int,
    precision: str | None,
    reference: Path | None,
    batch: int,
    seed: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare torch, the exact executor and Lava in every message and announced state of every population and step.

    In integers: those of a program, or those that a model or graph compiles to, calibrated on the samples themselves. Then also
    how far they follow the real network, layer by layer: a model's or graph's own numbers, or --reference for a program.
    With --precision float the real network itself is compared.

    Example: lavasnn verify program.safetensors --data mnist --samples 50
    """
    network = open_network(file)
    images = open_samples(network, spec, given, data_dir, download, samples if given is None else None, seed)
    images = images.take(min(samples, len(images)))
    graph, real_graph = _to_verify(network, images, precision, reference)
    graph = seeded(graph, seed)
    proofs = prove(graph, images, batch, quiet)
    values = proof_json(proofs) | {"precision": "fixed" if graph.integer else "float"}
    of = f"{reference or file}" if reference is not None or not network.graph.integer else "its own integers as real numbers"
    followed = None if real_graph is None else follow(seeded(real_graph, seed), graph, images, of)
    for warning in silence(graph, execute("exact", graph, images, False, batch, False, True), images):
        note(quiet, f"warning: {warning}")
    values["agreement"] = None if followed is None else followed.to_json()

    def lines() -> None:
        for p in proofs:
            ties = f", {p.ties} steps too close to call" if p.ties else ""
            click.echo(
                f"{p.backends[0]} = {p.backends[1]} ({values['precision']}): {p.compared:,} values of {len(p.populations)} "
                f"populations, {p.samples} samples x {p.steps} steps: {p.mismatches} mismatches{ties}"
            )
        if followed is not None:
            _print_agreement(followed)

    show(as_json, values, lines)
    bad = next((p for p in proofs if not p.equal), None)
    if bad is not None:
        raise NotEqual(f"{' and '.join(bad.backends)} differ in {bad.mismatches:,} values, first: {bad.first or 'outputs'}")


def _to_verify(
    network: Loaded, images: Images | Recording, precision: str | None, reference: Path | None
) -> tuple[Graph, Graph | None]:
    """What to run everywhere, and the real network it should follow (None where real numbers are compared themselves).

    Raises:
        InputError: A reference of integers, or one beside --precision float.
    """
    if precision == "float":
        if reference is not None:
            raise InputError("verify: --reference is for integers; with --precision float the network is its own")
        return network.as_precision("float"), None
    if reference is not None:
        other = open_network(reference)
        if other.graph.integer:
            raise InputError(f"verify: --reference {reference} holds integers; a model or a graph of real numbers is needed")
        wanted = lowered(folded(other.graph))
    else:
        wanted = network.as_precision("float")
    if network.graph.integer:
        return network.graph, wanted
    labels = images.labels if len(images.labels) else np.zeros(len(images), np.int64)
    return compile_graph(network.graph, images.pixels, labels).graph, wanted


def _print_agreement(found: Agreement) -> None:
    rows = [
        [
            v.population,
            v.kind,
            f"{100 * v.equal:.3f} %",
            f"{v.real:,.1f}",
            f"{v.integer:,.1f}",
            f"{v.apart:.4f}",
            "never" if v.first is None else f"sample {v.first[0]}, step {v.first[1]}, neuron {v.first[2]}",
        ]
        for v in found.layers
    ]
    columns = ["population", "kind", "equal", "real/sample", "integer/sample", "apart/neuron", "first parts at"]
    table(f"How far the integers follow {found.reference}", columns, rows)
    click.echo(f"{100 * found.predictions:.2f} % of answers are the same")


COMMANDS = {"verify": verify_command}
