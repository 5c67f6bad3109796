"""`export` and `compile`: from trained weights to a Graph, and from there to a Loihi 2 program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from compile.fit import CHIP, CORE, Report, fit, pair_costs, populations_by_core, traffic_by_core
from compile.hardware import Readiness, missing, readiness
from compile.hardware import build as build_for_chip
from compile.passes.fold import folded
from compile.passes.quantize import real
from compile.pipeline import compile_graph
from compile.program import Program
from compile.target import Target, named
from lavasnn.cli.common import (
    DATA,
    FILE,
    INPUT,
    OUTPUT,
    OUTPUT_FILE,
    SEEDS,
    Loaded,
    counted,
    note,
    open_network,
    open_samples,
    show,
    table,
)
from lavasnn.data import Images
from lavasnn.errors import InputError, LimitError
from lavasnn.ir import Graph
from lavasnn.recordings import Recording
from lavasnn.synapses import Borrowed

CALIBRATION_SEED = 1
"""Of random calibration input; what is then run on random input is drawn with 0 unless told otherwise."""
MOST_TOTALS = 24
"""Totals that are printed."""
MOST_CORES = 6


@click.command("export")
@click.argument("weights", type=FILE, required=False)
@click.option("--network", type=FILE, help="TOML naming layers and neurons: needed with a foreign state dict or --init.")
@click.option("--init", type=SEEDS, help="Seed of an untrained network instead of WEIGHTS.")
@click.option(
    "-o",
    "--output",
    type=OUTPUT_FILE,
    required=True,
    help="Graph file, .nir, or .net for lava-dl's netx (chains of LIF).",
)
@click.option("--dt", type=click.FloatRange(min=0, min_open=True), help="NIR: seconds of one step; its times are in seconds.")
@OUTPUT
def export_command(
    weights: Path | None,
    network: Path | None,
    init: int | None,
    output: Path,
    dt: float | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write a network as a Graph file, as NIR (`.nir`), or as lava-dl's netx (`.net`).

    WEIGHTS is a lavasnn model, or a state dict (.safetensors, or .pt holding tensors alone) with --network.

    Example: lavasnn export weights.pt --network net.toml -o graph.safetensors
    """
    graph = _graph(weights, network, init)
    if output.suffix == ".net":
        from lavasnn.interop.netx import write_net

        write_net(graph, output)
    elif output.suffix == ".nir":
        from lavasnn.interop.nir import write_nir

        if dt is None:
            raise InputError("export: NIR times are in seconds; --dt says how many one step has, as in --dt 1e-4")
        write_nir(real(graph) if graph.integer else folded(graph), output, dt=dt)
    else:
        graph.save(output)
    values: dict[str, Any] = {
        "output": output,
        "populations": {p.name: p.size for p in graph.populations},
        "weights": sum(int(p.synapses.weight.size) for p in graph.projections if not isinstance(p.synapses, Borrowed)),
    }
    shape = "-".join(str(p.size) for p in graph.populations)
    show(as_json, values, lambda: click.echo(f"{output}: {shape}, {values['weights']:,} weights"))


def _graph(weights: Path | None, network: Path | None, init: int | None) -> Graph:
    from lavasnn import weights as foreign

    if (weights is None) == (init is None):
        raise InputError("export: give either WEIGHTS or --init SEED")
    if init is not None:
        if network is None:
            raise InputError("export: --init needs --network FILE with neuron and sizes")
        return foreign.untrained(network, init)
    assert weights is not None
    if network is not None:
        return foreign.from_state_dict(weights, network)
    if weights.suffix in (".pt", ".pth"):
        raise InputError(f"export: {weights} is a state dict; --network FILE has to name its layers and neurons")
    return open_network(weights).graph


@click.command("compile")
@click.argument("file", type=FILE)
@click.option("-o", "--output", type=OUTPUT_FILE, required=True, help="Program file.")
@click.option(
    "--target", default="loihi2", show_default=True, help="Chips to compile for: a name of `doctor --targets`, or a .toml file."
)
@click.option("--calibrate", type=click.IntRange(min=1), default=256, show_default=True, help="Calibration samples.")
@click.option("--figure", type=OUTPUT_FILE, help="Picture of the cores on the mesh (.png, .svg, .pdf).")
@click.option("--hardware", is_flag=True, help="Also build with Lava's Loihi2HwCfg, or say what is missing for it.")
@DATA
@INPUT
@OUTPUT
def compile_command(
    file: Path,
    output: Path,
    target: str,
    calibrate: int,
    figure: Path | None,
    hardware: bool,
    spec: str | None,
    data_dir: Path | None,
    download: bool,
    given: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compile a model or graph for Loihi 2: 8-bit weights, 24-bit states, neurons on cores of the mesh.

    A network that does not fit is refused with everything that it needs too much of (exit 1), and no program is written.
    Ranges are checked on calibration samples: the training split of the set a model was trained on, --data or --input.

    Example: lavasnn compile model.safetensors -o program.safetensors
    """
    if figure is not None:
        from lavasnn.report.coremap import check_format

        check_format(figure)
    network = open_network(file)
    if network.kind == "program":
        raise InputError(f"{file} is compiled already")
    images = open_samples(network, spec, given, data_dir, download, None, CALIBRATION_SEED, "train")
    chips = named(target)
    try:
        program = build(network, images, calibrate, chips, str(file.name))
    except LimitError as error:
        refused = [asdict(v) for v in error.violations]
        show(as_json, {"output": None, "target": chips.name, "fit": {"violations": refused}}, lambda: print_refusal(refused))
        raise
    report = fit(program, chips)
    if figure is not None:
        draw(program, chips, report, figure)
    program.save(output)
    for warning in program.report["warnings"]:
        note(quiet, f"warning: {warning}")
    values: dict[str, Any] = {
        "output": output,
        "fit": {**program.fit, **report.to_json()},
        "pairs": [asdict(p) for p in pair_costs(program)],
        "placement": {key: program.report["place"][key] for key in ("hops", "hops_row_major")},
        "target": program.target,
        "report": program.report,
    }
    if figure is not None:
        values["figure"] = figure
    rows = readiness(program.graph) if hardware else ()
    if hardware:
        values["hardware"] = {"processes": [r.to_json() for r in rows], "missing": list(missing())}
    show(as_json, values, lambda: print_program(program, report, output, rows))
    if hardware:
        built = build_for_chip(program.graph, images.take(1).pixels)
        note(quiet, f"hardware: built; models {', '.join(sorted(set(built.models.values())))}")
        for name in built.on_host:
            note(quiet, f"warning: {name!r} has no neurocore model here and would run on the host")


def build(network: Loaded, images: Images | Recording, calibrate: int, target: Target, source: str) -> Program:
    """Compile, and remember where the network came from."""
    some = images.take(min(calibrate, len(images)))
    program = compile_graph(network.graph, some.pixels, some.labels, target, source=source)
    origin = {"trained_on": network.trained_on, "training": network.training, "iterations": network.iterations}
    return replace(program, report={**program.report, "origin": origin})


def draw(program: Program, target: Target, report: Report, path: Path) -> None:
    """Picture of the cores, see `lavasnn.report.coremap`."""
    from lavasnn.report.coremap import core_map

    across, wide, high = target.board_width.value, target.mesh_width.value, target.mesh_height.value
    places = np.array([(chip % across * wide + x, chip // across * high + y) for chip, x, y in program.places])
    cores = [s.core for s in program.slices]
    core_map(
        path,
        f"{program.source or path.stem} on {program.target}",
        (wide, high),
        places.reshape(-1, 2),
        report.loads,
        traffic_by_core(program),
        [(cores[r.source], cores[r.target], r.messages) for r in program.routes],
        [names[0] for names in populations_by_core(program)],
    )


def print_refusal(violations: list[dict[str, Any]]) -> None:
    """Everything that a network needs too much of, as a table; the error's one line follows on stderr."""
    rows = [[v["who"], v["resource"], f"{v['needed']:,}", f"{v['limit']:,}", v["hint"]] for v in violations]
    table("Does not fit", ["", "resource", "needed", "limit", "what helps"], rows)


def print_program(program: Program, report: Report, output: Path, ready: Sequence[Readiness] = ()) -> None:
    """What a person wants to know of a compiled program."""
    used, q = program.fit, program.report["quantize"]
    click.echo(
        f"{output}: {counted(used['cores'], 'core')} of {program.target}, {used['neurons']:,} neurons, input included, "
        f"{used['synapses']:,} synapses, "
        f"{used['memory_bytes']:,} bytes (estimate)"
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
    if costs := pair_costs(program):
        pairs = [[p.population, f"{p.neurons:,}", f"{p.synapses:,}", f"{p.syn_ops:,.1f}", f"{p.share:+.1%}"] for p in costs]
        all_of = [sum(p.neurons for p in costs), sum(p.synapses for p in costs), sum(p.syn_ops for p in costs)]
        share = sum(p.share for p in costs)
        pairs.append(["all", f"{all_of[0]:,}", f"{all_of[1]:,}", f"{all_of[2]:,.1f}", f"{share:+.1%}"])
        steps = counted(program.report["lower"]["extra_steps"], "step")
        title = f"What pairs of spikes cost, beside {steps} more to the output"
        table(title, ["pairs", "neurons", "synapses", "synaptic operations/sample", "of all others"], pairs)
    print_fit(program, report)
    if ready:
        parts = [[r.name, r.process, r.support.status, r.support.confidence, r.support.source] for r in ready]
        table("On the chip", ["part", "Lava process", "status", "confidence", "source"], parts)


def print_fit(program: Program, report: Report) -> None:
    """What chips and the fullest cores use, and how far messages travel; every core is in the JSON."""
    totals = [*report.of("whole"), *(report.of("chip") if len(report.of("chip")) > len(CHIP) else ())][:MOST_TOTALS]
    rows = [
        ["all chips" if r.scope == "whole" else f"chip {r.index}", r.resource, f"{r.used:,} of {r.limit:,}", f"{r.share:.1%}"]
        for r in totals
    ]
    names, loads, each = populations_by_core(program), report.loads, report.of("core")
    for core in sorted(range(len(loads)), key=lambda i: (-loads[i], i))[:MOST_CORES]:
        r = max(each[core * len(CORE) : (core + 1) * len(CORE)], key=lambda r: r.share)
        where = "chip {}, column {}, row {}".format(*program.places[core])
        rows.append(
            [f"core {core} ({', '.join(names[core])}; {where})", r.resource, f"{r.used:,} of {r.limit:,}", f"{r.share:.1%}"]
        )
    table("Fit (memory is an estimate)", ["totals, then the fullest cores", "fullest in", "used", "share"], rows)
    place = program.report["place"]
    click.echo(f"messages travel {place['hops']:,.0f} hops per sample; placed row by row {place['hops_row_major']:,.0f}")


COMMANDS = {"export": export_command, "compile": compile_command}
