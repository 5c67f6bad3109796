"""`cost`: what a run of a program costs on its cores, counted, and estimated with ranges and sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from compile.cost import count
from lavasnn.cli.common import (
    BATCH,
    DATA,
    FILE,
    INPUT,
    OUTPUT,
    SAMPLES,
    SEEDS,
    counted,
    open_network,
    open_samples,
    show,
    table,
)
from lavasnn.cli.execute import PHASES, both_phases, execute, seeded
from lavasnn.errors import InputError
from lavasnn.measure import energy, neurobench
from lavasnn.measure.energy import COUNTED, Counts, Estimate

PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p"))


@click.command("cost")
@click.argument("file", type=FILE)
@DATA
@INPUT
@SAMPLES
@PHASES
@BATCH
@click.option("--seed", type=SEEDS, help="Of random input encodings.")
@OUTPUT
def cost_command(
    file: Path,
    spec: str | None,
    data_dir: Path | None,
    download: bool,
    given: str | None,
    samples: int | None,
    phases: str,
    batch: int,
    seed: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Count synaptic operations, neuron updates, messages and their hops; estimate latency and energy.

    Example: lavasnn cost program.safetensors --data mnist --samples 1000
    """
    network = open_network(file)
    program = network.program
    if program is None:
        raise InputError(f"cost: {file} is a {network.kind}, a program is needed; run `lavasnn compile` on it")
    images = open_samples(network, spec, given, data_dir, download, samples, seed)
    graph = seeded(program.graph, seed)
    result = execute("exact", graph, images, both_phases(graph, phases), batch, False, quiet, measure=True)
    counts = count(program, result)
    guesses = energy.estimates(counts)
    values: dict[str, Any] = {
        "file": file,
        "data": images.label,
        "phases": [p.name for p in result.phases],
        "counts": counts.to_json(),
        "proxy_per_sample": energy.proxy(counts),
        "estimates": [e.to_json() for e in guesses],
        "neurobench": neurobench.metrics(graph, result),
    }
    show(as_json, values, lambda: print_cost(counts, guesses, values))


def print_cost(counts: Counts, guesses: tuple[Estimate, ...], values: dict[str, Any]) -> None:
    """The same for a person: counts first, then the proxy, then estimates."""
    click.echo(
        f"{values['data']}: {counts.samples:,} samples of {counts.steps} steps ({', '.join(values['phases'])}) on "
        f"{counted(counts.cores, 'core')} of {counted(counts.chips, 'chip')}"
    )
    names = [name.replace("_", " ") for name in COUNTED]
    rows = [
        [layer.population, f"{layer.neurons:,}", *(f"{getattr(layer, c) / counts.samples:,.1f}" for c in COUNTED)]
        for layer in counts.layers
    ]
    rows.append(["all", "", *(f"{counts.total(c) / counts.samples:,.1f}" for c in COUNTED)])
    table("Counted, per sample", ["population", "neurons", *names], rows)
    hops = [[counted(h, "hop"), f"{n:,}", _each(n, counts)] for h, n in counts.messages_by_hops.items()]
    hops.append(
        ["from the host, hops unknown", f"{counts.messages_from_outside:,}", _each(counts.messages_from_outside, counts)]
    )
    if counts.chips > 1:
        hops.append(["of all: across chips", f"{counts.messages_across_chips:,}", _each(counts.messages_across_chips, counts)])
    table("Messages between cores, by distance", ["distance", "all samples", "per sample"], hops)
    bench = values["neurobench"]
    operations = ", ".join(f"{name} {n:,.1f}" for name, n in bench["synaptic_operations"].items())
    click.echo(
        f"NeuroBench: footprint {bench['footprint']:,} bytes, connection sparsity {bench['connection_sparsity']:.4f}, "
        f"activation sparsity {bench['activation_sparsity']:.4f}, {operations}"
    )
    click.echo(f"Intel's proxy, SynOPS + 10 NeuronOPS: {values['proxy_per_sample']:,.1f} per sample, no unit")
    for e in guesses:
        click.echo(
            f"{e.name}: {_amount(e.low, e.unit)} to {_amount(e.high, e.unit)} per sample ({e.label})\n  source: {e.source}"
        )


def _each(n: int, counts: Counts) -> str:
    return f"{n / counts.samples:,.1f}"


def _amount(value: float, unit: str) -> str:
    """Three digits with a decimal prefix."""
    size, prefix = next((p for p in PREFIXES if value >= p[0]), PREFIXES[-1])
    return f"{value / size:.3g} {prefix}{unit}"


COMMANDS = {"cost": cost_command}
