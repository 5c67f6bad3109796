"""`export` and `compile`: from trained weights to a Graph, and from there to a Loihi 2 program."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from compile.pipeline import compile_graph
from compile.program import Program
from compile.target import named
from lavasnn.cli.common import (
    DATA,
    FILE,
    OUTPUT,
    OUTPUT_FILE,
    SEEDS,
    Loaded,
    note,
    open_data,
    open_network,
    show,
    table,
)
from lavasnn.data import Images
from lavasnn.errors import InputError
from lavasnn.ir import Graph


@click.command("export")
@click.argument("weights", type=FILE, required=False)
@click.option("--network", type=FILE, help="TOML naming layers and neurons: needed with a foreign state dict or --init.")
@click.option("--init", type=SEEDS, help="Seed of an untrained network instead of WEIGHTS.")
@click.option(
    "-o", "--output", type=OUTPUT_FILE, required=True, help="Graph file, or .net for lava-dl's netx (feed-forward LIF)."
)
@OUTPUT
def export_command(
    weights: Path | None, network: Path | None, init: int | None, output: Path, as_json: bool, quiet: bool
) -> None:
    """Write a network as a Graph file, or as lava-dl's netx `.net`.

    WEIGHTS is a lavasnn model, or a state dict (.safetensors, or .pt holding tensors alone) with --network.

    Example: lavasnn export weights.pt --network net.toml -o graph.safetensors
    """
    graph = _graph(weights, network, init)
    if output.suffix == ".net":
        from lavasnn.interop.netx import write_net

        write_net(graph, output)
    else:
        graph.save(output)
    values: dict[str, Any] = {
        "output": output,
        "populations": {p.name: p.size for p in graph.populations},
        "weights": sum(int(graph.weight(p).size) for p in graph.projections if hasattr(p.synapses, "weight")),
    }
    shape = "-".join(str(p.size) for p in graph.populations)
    show(as_json, values, lambda: click.echo(f"{output}: {shape}, {values['weights']:,} weights"))


def _graph(weights: Path | None, network: Path | None, init: int | None) -> Graph:
    from lavasnn import export

    if (weights is None) == (init is None):
        raise InputError("export: give either WEIGHTS or --init SEED")
    if init is not None:
        if network is None:
            raise InputError("export: --init needs --network FILE with neuron and sizes")
        return export.untrained(network, init)
    assert weights is not None
    if network is not None:
        return export.from_state_dict(weights, network)
    if weights.suffix in (".pt", ".pth"):
        raise InputError(f"export: {weights} is a state dict; --network FILE has to name its layers and neurons")
    return open_network(weights).graph


@click.command("compile")
@click.argument("file", type=FILE)
@click.option("-o", "--output", type=OUTPUT_FILE, required=True, help="Program file.")
@click.option("--target", default="loihi2", show_default=True, help="Chip to compile for.")
@click.option("--calibrate", type=click.IntRange(min=1), default=256, show_default=True, help="Calibration samples.")
@DATA
@OUTPUT
def compile_command(
    file: Path,
    output: Path,
    target: str,
    calibrate: int,
    spec: str | None,
    data_dir: Path | None,
    download: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compile a model or graph for Loihi 2: 8-bit weights, 24-bit states, neurons on cores.

    Ranges are checked on calibration samples: the training split of the set a model was trained on, or --data.

    Example: lavasnn compile model.safetensors -o program.safetensors
    """
    network = open_network(file)
    if network.kind == "program":
        raise InputError(f"{file} is compiled already")
    images = open_data(spec, network.trained_on, data_dir, download, None, "train")
    program = build(network, images, calibrate, target, str(file.name))
    program.save(output)
    for warning in program.report["warnings"]:
        note(quiet, f"warning: {warning}")
    values = {"output": output, "fit": program.fit, "target": program.target, "report": program.report}
    show(as_json, values, lambda: print_program(program, output))


def build(network: Loaded, images: Images, calibrate: int, target: str, source: str) -> Program:
    """Compile, and remember where the network came from."""
    some = images.take(min(calibrate, len(images)))
    program = compile_graph(network.graph, some.pixels, some.labels, named(target), source=source)
    origin = {"trained_on": network.trained_on, "training": network.training, "iterations": network.iterations}
    return replace(program, report={**program.report, "origin": origin})


def print_program(program: Program, output: Path) -> None:
    """What a person wants to know of a compiled program."""
    fit, q = program.fit, program.report["quantize"]
    click.echo(
        f"{output}: {fit['cores']} cores of {program.target}, {fit['neurons']:,} neurons, {fit['synapses']:,} synapses, "
        f"{fit['memory_bytes']:,} bytes (estimate)"
    )
    rows = [
        [
            name,
            r["sign_mode"],
            f"{r['unit']:.4g}",
            f"{r['changed']:,} of {r['weights']:,}",
            str(r["saturated"]),
            f"{r['largest_error']:.3g}",
        ]
        for name, r in q["projections"].items()
    ]
    table("Weights in 8 bits", ["projection", "sign mode", "unit", "changed", "saturated", "largest error"], rows)


COMMANDS = {"export": export_command, "compile": compile_command}
