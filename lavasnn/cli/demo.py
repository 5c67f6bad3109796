"""`demo`: train, compile, run on Lava, prove, count; everything on scikit-learn's bundled digits."""

from __future__ import annotations

import time
from importlib import resources
from pathlib import Path
from typing import Any

import click
import numpy as np

from compile.passes.lower import lowered
from compile.program import Program
from compile.target import LOIHI2
from lavasnn import config as configs
from lavasnn import data
from lavasnn.cli.common import OUTPUT, SEEDS, Loaded, counted, note, open_network, require_lava, show, table
from lavasnn.cli.deploy import build
from lavasnn.cli.execute import bits_json, both_phases, execute
from lavasnn.cli.recall import draw, recalled
from lavasnn.cli.train import train_one
from lavasnn.cli.verify import proof_json, prove
from lavasnn.data import Images
from lavasnn.errors import NotEqual
from lavasnn.ir import Graph
from lavasnn.measure import traffic
from lavasnn.results import RunResult
from lavasnn.synapses import Borrowed

VERIFIED = 60
"""Samples of the proof, both phases."""
METHODS = {
    "diffpc": ("DiffPC", "local rules, no backpropagation"),
    "bsd": ("BSD", "local rules, no backpropagation"),
    "dlif": ("DLIF", "backpropagation through time"),
}
"""Name and way of training of what the demo shows."""


@click.command("demo")
@click.option("--method", type=click.Choice(list(METHODS)), default="diffpc", show_default=True, help="Which neurons and rule.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/demo"), show_default=True)
@click.option("--seed", type=SEEDS, default=0, show_default=True)
@OUTPUT
def demo_command(method: str, out: Path, seed: int, as_json: bool, quiet: bool) -> None:
    """Train on real digits, compile for Loihi 2, run on Lava's simulator, prove it spike for spike.

    Takes about half a minute on two cores and downloads nothing.

    Example: lavasnn demo --out runs/demo
    """
    started = time.perf_counter()
    require_lava()
    title, rule = METHODS[method]
    note(quiet, f"1/5 training 64 pixels -> hidden -> 10 digits with {rule}")
    train, test = data.load("digits:train", seed=0), data.load("digits:test", seed=0)
    with resources.as_file(resources.files("lavasnn.cli") / f"digits-{method}.toml") as path:
        run = configs.load(path)
    learning, validation = data.validation_split(train, len(train) // 10, seed=0)
    model = out / f"{method}.safetensors"
    trainer, _ = train_one(run, learning, validation, seed, "cpu", model, "replace", True)
    note(quiet, "2/5 compiling for Loihi 2: 8-bit weights, 24-bit states, cores")
    network = open_network(model)
    program = build(network, train, 256, LOIHI2, model.name)
    program.save(out / "program.safetensors")
    note(quiet, f"3/5 running {len(test)} held-out digits on Lava's fixed-point Loihi 2 simulator")
    lava = execute("lava", program.graph, test, False, len(test), False, True)
    settle = both_phases(program.graph, "both")
    phases = ", both phases" if settle else ""
    note(quiet, f"4/5 comparing torch, exact and Lava: every message and announced state of {VERIFIED} digits{phases}")
    proofs = prove(program.graph, test.take(VERIFIED), VERIFIED, True)
    note(quiet, "5/5 counting messages")
    both = execute("exact", program.graph, test, settle, 512, False, True)
    figure = out / "demo.png"
    _draw(figure, title, trainer.progress.history, both, network.graph, program)
    files = {"model": str(model), "program": str(out / "program.safetensors"), "figure": str(figure)}
    if program.graph.pyramidal:
        files["recall"] = str(out / "recall.png")
        draw(out / "recall.png", recalled(Loaded("program", program.graph, program), test, "exact", None, True), test)
    bits = bits_json(both, network)
    accuracy = {"float": trainer.evaluate(test), "exact": both.accuracy, "lava_fixed": lava.accuracy}
    values: dict[str, Any] = {
        "method": method,
        "seed": seed,
        "accuracy": accuracy,
        "accuracy_n": dict.fromkeys(accuracy, len(test)),
        "verify": proof_json(proofs),
        "bits_per_neuron": {
            "error_phase": network.training["error_phase"] if network.training else None,
            "error_phase_test": bits["error_phase"],
            "total": bits["total"],
            "total_with_address": bits["total_with_address"],
        },
        "fit": program.fit,
        "files": files,
        "seconds": round(time.perf_counter() - started, 1),
    }
    show(as_json, values, lambda: _print(values, title, program, test))
    bad = next((p for p in proofs if not p.equal), None)
    if bad is not None:
        raise NotEqual(f"{' and '.join(bad.backends)} differ: {bad.first or 'outputs'}")


def _draw(path: Path, title: str, history: list[Any], both: RunResult, graph: Graph, program: Program) -> None:
    from lavasnn.report.figures import overview

    errors: dict[str, np.ndarray[Any, Any]] = {}
    real = lowered(graph)
    for name, report in program.report["quantize"]["projections"].items():
        if not isinstance(real.projection(name).synapses, Borrowed):
            before, after = (g.synapses(g.projection(name)).weight for g in (real, program.graph))
            errors[name] = before / report["unit"] - after
    curves = [("training", [e.train_accuracy for e in history])]
    if history[0].validation_accuracy is not None:
        curves.append(("held out from training", [e.validation_accuracy for e in history]))
    overview(path, f"{title} on digits: trained in torch, compiled for Loihi 2", curves, both, errors)


def _print(values: dict[str, Any], title: str, program: Program, test: Images) -> None:
    accuracy, proof, bits, fit = (values[k] for k in ("accuracy", "verify", "bits_per_neuron", "fit"))
    q = program.report["quantize"]
    errors: list[list[str]] = []
    if bits["error_phase"] is not None:
        errors = [
            ["bits per neuron, error phase, training", f"{bits['error_phase']:.4f}", "mean over all samples and epochs"],
            ["bits per neuron, error phase, held-out digits", f"{bits['error_phase_test']:.4f}", "labels clamped"],
            [
                "  backpropagation, float predictive coding",
                f"{traffic.BACKPROP_BITS} and {traffic.predictive_coding_bits(15)}",
                "",
            ],
        ]
    phases = ", both phases" if program.graph.timing is not None else ""
    rows = [
        ["accuracy, float (torch)", f"{100 * accuracy['float']:.2f} %", f"{len(test)} held-out digits"],
        ["accuracy, 8-bit integers (exact executor)", f"{100 * accuracy['exact']:.2f} %", "the same"],
        ["accuracy, Lava's Loihi 2 simulator, fixed point", f"{100 * accuracy['lava_fixed']:.2f} %", "the same"],
        [
            "torch = exact = Lava, spike for spike",
            f"{proof['mismatches']} mismatches",
            f"{proof['compared']:,} values: {proof['samples']} digits x {proof['steps']} steps{phases}",
        ],
        *errors,
        ["bits per neuron, everything", f"{bits['total']:.3f}", f"with addresses {bits['total_with_address']:.3f}"],
        [
            "fits on",
            counted(fit["cores"], "core"),
            f"{fit['neurons']} neurons, {fit['synapses']:,} synapses, {fit['memory_bytes']:,} bytes (estimate)",
        ],
        [
            "largest weight error of 8 bits",
            f"{max(p['largest_error'] for p in q['projections'].values()):.2g}",
            f"states use {24 - _headroom(program.report['calibrate']):.1f} of 24 bits",
        ],
    ]
    table(f"{title} on real digits", ["", "measured", ""], rows)
    if "recall" in values["files"]:
        click.echo(f"recall   {values['files']['recall']}")
    click.echo(f"picture  {values['files']['figure']}\nmodel    {values['files']['model']}")
    click.echo(f"program  {values['files']['program']}\n{values['seconds']} s in all")


def _headroom(report: dict[str, Any]) -> float:
    """Bits that the largest state on the calibration samples left free."""
    if "headroom_bits" in report:
        return float(report["headroom_bits"])
    return min(float(p["state_headroom_bits"]) for p in report["populations"].values() if "state_headroom_bits" in p)


COMMANDS = {"demo": demo_command}
