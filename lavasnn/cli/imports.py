"""`import`: networks of other tools, NIR and lava-dl's netx, as Graph files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lavasnn.cli.common import FILE, OUTPUT, OUTPUT_FILE, show, table
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.ir import Graph


@click.command("import")
@click.argument("file", type=FILE)
@click.option("-o", "--output", type=OUTPUT_FILE, help="Graph file; default FILE's name with .safetensors.")
@click.option("--steps", type=click.IntRange(min=1), required=True, help="Steps that a sample takes.")
@click.option("--dt", type=click.FloatRange(min=0, min_open=True), help="NIR: seconds of one step; its times are in seconds.")
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    help="NIR: make integers at once, weights and thresholds times SCALE, instead of real numbers to compile.",
)
@click.option(
    "--levels", type=click.IntRange(min=1), default=1, show_default=True, help="Largest payload of the input; 1 means spikes."
)
@click.option(
    "--groups", type=click.IntRange(min=1), default=64, show_default=True, help="NIR: most populations that one node becomes."
)
@click.option(
    "--code",
    type=click.Choice(["given", "bernoulli"]),
    default="given",
    show_default=True,
    help="What samples are: messages, or images drawn as random spikes (--levels is then their brightest pixel, 255 if 1).",
)
@click.option("--input-layer", is_flag=True, help="netx: keep the input's own neurons; samples then drive their biases.")
@click.option("--layers", type=click.IntRange(min=1), help="netx: read the first N layers alone, the input layer counted.")
@click.option("--image", help="netx: C,H,W of the input of a file that starts with a convolution.")
@OUTPUT
def import_command(
    file: Path,
    output: Path | None,
    steps: int,
    dt: float | None,
    scale: float | None,
    levels: int,
    groups: int,
    code: str,
    input_layer: bool,
    layers: int | None,
    image: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Read a network of another tool: NIR (.nir), or lava-dl's netx (.net), and write it as a Graph.

    Example: lavasnn import network.nir --dt 1e-4 --steps 1000 -o graph.safetensors
    """
    payload = 1 if code == "bernoulli" else levels
    if file.suffix == ".net":
        if dt is not None or scale is not None:
            raise InputError("import: --dt and --scale are for NIR; a .net file holds integers already")
        from lavasnn.interop.netx import read_net

        graph = read_net(
            file,
            steps=steps,
            levels=payload,
            input_layer=input_layer,
            image=_image(image),
            layers=layers,
        )
    elif file.suffix == ".nir":
        if input_layer or layers is not None or image is not None:
            raise InputError("import: --input-layer, --layers and --image are for netx files")
        graph = _read_nir(file, steps, dt, scale, payload, groups)
    else:
        raise InputError(f"import: {file} is neither .nir nor .net")
    if code == "bernoulli":
        graph = replace(graph, encoding=Encoding("bernoulli", levels=255 if levels == 1 else levels))
    path = output or Path(file.name).with_suffix(".safetensors")
    graph.save(path)
    values: dict[str, Any] = {
        "output": path,
        "populations": {p.name: p.size for p in graph.populations},
        "projections": {p.name: [p.source, p.target, type(p.synapses).__name__] for p in graph.projections},
        "integer": graph.integer,
        "seamless": graph.seamless,
        "steps": graph.steps,
    }

    def lines() -> None:
        kind = "integers" if graph.integer else "real numbers"
        click.echo(f"{path}: {len(graph.populations)} populations in {kind}, {graph.steps} steps a sample")
        rows = [[p.name, type(p.dynamics).__name__, f"{p.size:,}"] for p in graph.populations]
        table("", ["population", "kind", "neurons"], rows)

    show(as_json, values, lines)


def _image(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 3 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise InputError(f"import: --image is {text!r}, needed are channels, rows and columns, as in 3,32,32")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _read_nir(file: Path, steps: int, dt: float | None, scale: float | None, levels: int, groups: int) -> Graph:
    from lavasnn.interop.nir import read_nir

    if dt is None:
        raise InputError("import: NIR times are in seconds; --dt says how many one step has, as in --dt 1e-4")
    return read_nir(file, dt=dt, steps=steps, scale=scale, levels=levels, groups=groups)


COMMANDS = {"import": import_command}
