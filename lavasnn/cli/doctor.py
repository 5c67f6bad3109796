"""`doctor`: what is installed, what works, and what to do about the rest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from compile.target import TARGETS, Target, named
from lavasnn import data
from lavasnn.cli.common import FILE, OUTPUT, machine, show, table, version
from lavasnn.data import NAMES
from lavasnn.errors import InputError, LavasnnError, NotEqual


@click.command("doctor")
@click.argument("file", type=FILE, required=False)
@click.option("--targets", is_flag=True, help="Print the chips, or that of FILE (.toml), with the source of every limit.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where image files are; else LAVASNN_DATA, else cache.")
@OUTPUT
def doctor_command(file: Path | None, targets: bool, data_dir: Path | None, as_json: bool, quiet: bool) -> None:
    """Check this installation: packages, Lava in a short guarded run, data sets.

    Example: lavasnn doctor --targets
    """
    if targets:
        _targets(list(TARGETS.values()) if file is None else [named(str(file))], as_json)
        return
    if file is not None:
        raise InputError(f"doctor: {file} is given without --targets; nothing else takes a file")
    checks = {"lava": _lava(), **{f"data {name}": _dataset(name, data_dir) for name in NAMES}}
    values: dict[str, Any] = {"machine": machine(), "checks": checks, "ok": checks["lava"]["ok"]}

    def lines() -> None:
        click.echo(f"{values['machine']['processor']}, {values['machine']['cores']} cores, Python {sys.version.split()[0]}")
        click.echo(", ".join(f"{k} {v or 'missing'}" for k, v in values["machine"]["versions"].items()))
        for name, check in checks.items():
            click.echo(f"{'ok ' if check['ok'] else 'no '} {name}: {check['text']}")

    show(as_json, values, lines)
    if version("lava-nc") is not None and not checks["lava"]["ok"]:
        raise NotEqual(f"Lava is installed and does not work: {checks['lava']['text']}")


def _lava() -> dict[str, Any]:
    """Run three steps of a tiny network on Lava and compare with the exact executor."""
    import numpy as np

    from compile.backends import exact, lava
    from lavasnn.dynamics.lif import LifInt
    from lavasnn.encode import Encoding
    from lavasnn.ir import Graph, Population, Projection, Source
    from lavasnn.synapses import Dense, Grid

    graph = Graph(
        populations=(Population("input", 2, Source()), Population("output", 2, LifInt(du=4095, dv=0, vth=5))),
        projections=(Projection("w", "input", "output", Dense(np.array([[4, 2], [-2, 8]], np.int16), Grid())),),
        encoding=Encoding("bernoulli", levels=2),
        output="output",
        steps=3,
    )
    pixels = np.array([[2, 1]], np.uint8)
    try:
        same = np.array_equal(exact.run(graph, pixels).outputs, lava.run(graph, pixels).outputs)
    except LavasnnError as error:
        return {"ok": False, "text": str(error)}
    return {
        "ok": same,
        "text": "runs here and agrees with the exact executor" if same else "runs, but its spikes differ",
    }


def _dataset(name: str, data_dir: Path | None) -> dict[str, Any]:
    try:
        images = data.load(f"{name}:test", data_dir, steps=1)
    except LavasnnError as error:
        return {"ok": False, "text": str(error)}
    return {"ok": True, "text": f"{len(images):,} test samples of {'x'.join(map(str, images.shape))}"}


def _targets(targets: list[Target], as_json: bool) -> None:
    limits = {t.name: {k: vars(v) for k, v in t.limits.items()} for t in targets}

    def lines() -> None:
        for name, entries in limits.items():
            rows = [
                [k.replace("_", " "), f"{e['value']:,} {e['unit']}", e["confidence"], e["source"]] for k, e in entries.items()
            ]
            table(name, ["limit", "value", "confidence", "source"], rows)

    show(as_json, limits, lines)


COMMANDS = {"doctor": doctor_command}
