"""The tables of results, made from `sim_runs/summaries`: `python -m lavasnn.report.tables sim_runs/summaries`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lavasnn.architecture import layers
from lavasnn.config import RunConfig, load, read_toml
from lavasnn.data import SETS
from lavasnn.errors import InputError

COLUMNS = (
    "configuration",
    "network",
    "DiffPC, float",
    "DiffPC, 8-bit program",
    "backpropagation",
    "bits per neuron, error phase",
    "all messages",
)
SPIKING_COLUMNS = (
    "configuration",
    "network",
    "neuron",
    "parameters",
    "float",
    "float, k = 0",
    "8-bit program",
    "synaptic operations a sample",
    "of these for pairs",
    "energy estimate a sample, µJ: dynamic; static",
)
SWEEP_COLUMNS = (
    "pairs",
    "of all pairs left out",
    "number of pairs",
    "float",
    "8-bit program",
    "synaptic operations a sample",
    "percent right per 1,000 operations",
)


METHOD_COLUMNS = (
    "method",
    "configuration",
    "network",
    "float",
    "8-bit program",
    "Lava; values compared: mismatches",
    "bits per neuron, all messages",
    "synaptic operations a sample",
    "cores",
    "the paper's",
)
PYRAMIDAL_COLUMNS = (
    "configuration",
    "network",
    "float, by voltage",
    "by spikes",
    "8-bit program, by voltage",
    "by spikes",
    "Lava; values compared: mismatches",
    "cores",
    "the paper's",
)
ABLATION_COLUMNS = (
    "changed",
    "float, by voltage",
    "by spikes",
    "8-bit program",
    "rates of hidden layers, Type 1; Type 2",
    "both send the same; by chance",
    "bits per neuron",
    "synaptic operations a sample",
)
METHODS = ("diffpc", "bsd", "dlif")
PAPERS = {
    "mnist-diffpc-s": "98.3",
    "mnist-diffpc-l": "99.3",
    "fashion-diffpc-m": "89.6",
    "mnist-bsd": "95.62",
    "fashion-bsd": "86.39",
}
"""Accuracies that the papers give for the very sizes of a configuration, percent."""
NO_FIGURE = "no figure for this"


def methods(folder: Path) -> str:
    """Markdown table of the three methods side by side: summaries whose program was run on Lava, by data set.

    Of DiffPC, operations are those of inference, and messages those of both phases; of BSD both with both pathways running, and
    operations of perception alone too.
    """
    found = [(name, s) for name, s in _summaries(folder) if s.get("lava") and not _swept(s)]
    found.sort(key=lambda entry: (entry[1]["config"]["data"]["name"], METHODS.index(_method(entry[1]))))
    return _table(METHOD_COLUMNS, [_method_row(name, s) for name, s in found])


def _swept(summary: dict[str, Any]) -> bool:
    return any("changes" in row for row in summary["results"].values())


def _method(summary: dict[str, Any]) -> str:
    return next(label for label in METHODS if label in summary["results"])


def _method_row(name: str, summary: dict[str, Any]) -> list[str]:
    label, config, lava = _method(summary), summary["config"], summary["lava"]
    found = summary["results"][label]
    mean = found["mean"]
    operations = f"{mean['syn_ops_per_sample']:,.0f}"
    if "syn_ops_of_perception_per_sample" in mean:
        operations += f"; perception alone {mean['syn_ops_of_perception_per_sample']:,.0f}"
    return [
        {"diffpc": "DiffPC", "bsd": "BSD", "dlif": "DLIF"}[label],
        _told(name, summary),
        _network(config["data"]["name"], config["network"]["hidden"]),
        _percent(found, "test_float"),
        _percent(found, "test_int8"),
        _on_lava(lava),
        f"{mean['bits_total_test']:.2f}",
        operations,
        str(found["seeds"][0]["cores"]),
        PAPERS.get(name, NO_FIGURE),
    ]


def results(folder: Path) -> str:
    """Markdown table of all DiffPC summaries in a folder, one line each, in the order of their names.

    Accuracies are percent of the test images, mean and (with several seeds) standard deviation over seeds.
    """
    return _table(COLUMNS, [_row(name, s) for name, s in _summaries(folder) if "diffpc" in s["results"]])


def spiking(folder: Path) -> str:
    """Markdown table of all summaries of LIF and DLIF networks, one line for each network and each of its baselines.

    Accuracies as in `results`. Synaptic operations are those of the program on the test samples, pairs included. Energies are
    estimates: dynamic at Loihi 1's constants, a lower bound, and static of one board at 1 µs a step. A configuration beside the
    folder that has no summary was not run, and its row says so; sweeps are left to `sweep`.
    """
    found = dict(_summaries(folder))
    rows: list[list[str]] = []
    for path in sorted(folder.parent.glob("*.toml")):
        if "task" in read_toml(path):
            continue
        run = load(path)
        if not run.network.spiking or run.sweep.spiking:
            continue
        rows += _spiking_rows(path.stem, found[path.stem]) if path.stem in found else [_not_run(path.stem, run)]
    return _table(SPIKING_COLUMNS, rows)


def sweep(path: Path) -> str:
    """Markdown table of one summary's sweep over sparsities or numbers of pairs, the fewest pairs last.

    Raises:
        InputError: The summary has no sweep.
    """
    summary = json.loads(path.read_text())
    config = summary["config"]
    found = {label: row for label, row in summary["results"].items() if label == "dlif" or "changes" in row}
    if len(found) < 2:
        raise InputError(f"{path}: no sweep in this summary")
    kind = SETS[config["data"]["name"]]
    pixel = config["spiking"]["pair_field"] == "pixel"
    plan = layers(kind.shape, config["network"]["hidden"], kind.classes, pixel)
    possible = sum(layer.heard * (layer.heard - 1) // 2 for layer in plan)
    rows: list[tuple[int, str, list[str]]] = []
    for row in found.values():
        choice = row.get("changes", {}).get("pair_choice", config["spiking"]["pair_choice"])
        number, ops = sum(row["seeds"][0]["pairs"]), row["mean"]["syn_ops_per_sample"]
        cells = [
            choice if number else "none (LIF)",
            f"{1 - number / possible:.1%}",
            f"{number:,}",
            _percent(row, "test_float"),
            _percent(row, "test_int8"),
            f"{ops:,.0f}",
            f"{1e5 * row['mean']['test_int8'] / ops:.3f}",
        ]
        rows.append((-number, choice, cells))
    return _table(SWEEP_COLUMNS, [cells for *_, cells in sorted(rows, key=lambda row: row[:2])])


def pyramidal(folder: Path) -> str:
    """Markdown table of all summaries of BSD networks, one line each; accuracies as in `results`.

    A configuration beside the folder that has no summary was not run, and its row says so; sweeps are left to `ablation`.
    """
    found, rows = dict(_summaries(folder)), list[list[str]]()
    for path in sorted(folder.parent.glob("*.toml")):
        if "task" in read_toml(path):
            continue
        run = load(path)
        if run.network.neuron != "pyramidal" or run.sweep.all:
            continue
        name, network = path.stem, _network(run.data.name, run.network.hidden)
        if name not in found:
            rows.append([f"`{name}`", network, *["*not run*"] * (len(PYRAMIDAL_COLUMNS) - 3), PAPERS.get(name, NO_FIGURE)])
            continue
        row = found[name]["results"]["bsd"]
        first = row["seeds"][0]
        if "not_compiled" in first:
            floats = [_percent(row, key) for key in ("test_by_voltage", "test_by_spikes")]
            rows.append([_told(name, found[name]), network, *floats, *["*does not fit*"] * 4, PAPERS.get(name, NO_FIGURE)])
            continue
        rows.append(
            [
                _told(name, found[name]),
                network,
                *(_percent(row, key) for key in ("test_by_voltage", "test_by_spikes", "test_int8", "test_int8_by_spikes")),
                _on_lava(found[name]["lava"]),
                f"{first['cores']:,}" + (f" ({first['target']})" if first.get("target", "loihi2") != "loihi2" else ""),
                PAPERS.get(name, NO_FIGURE),
            ]
        )
    return _table(PYRAMIDAL_COLUMNS, rows)


def _told(name: str, summary: dict[str, Any]) -> str:
    epochs, seeds = summary["config"]["training"]["epochs"], len(summary["config"]["seeds"])
    return f"`{name}`, {epochs} epochs, {seeds} seed{'s' if seeds > 1 else ''}"


def _on_lava(lava: dict[str, Any]) -> str:
    return f"{100 * lava['accuracy']:.1f} of the first {lava['samples']}; {lava['compared']:,}: {lava['mismatches']}"


def ablation(path: Path) -> str:
    """Markdown table of one summary's sweep over entries of a BSD network, in the order of its configuration.

    Rates, and how often the two types send the same, are means over hidden layers and seeds; chance is what two populations of
    these rates would have if they fired independently.

    Raises:
        InputError: The summary has no sweep, or is of other neurons.
    """
    summary = json.loads(path.read_text())
    if not _swept(summary) or "bsd" not in summary["results"]:
        raise InputError(f"{path}: no sweep of a BSD network in this summary")
    rows: list[list[str]] = []
    for label, row in summary["results"].items():
        hidden = [layer for seed in row["seeds"] for layer in seed["likeness"][1:-1]]
        a, b, same = (fmean(layer[key] for layer in hidden) for key in ("rate", "rate_recall", "hamming"))
        chance = fmean(r * s + (1 - r) * (1 - s) for r, s in ((layer["rate"], layer["rate_recall"]) for layer in hidden))
        rows.append(
            [
                "nothing" if label == "bsd" else label,
                *(_percent(row, key) for key in ("test_float", "test_by_spikes", "test_int8")),
                f"{a:.2f}; {b:.2f}",
                f"{same:.2f}; {chance:.2f}",
                f"{row['mean']['bits_total_test']:.2f}",
                f"{row['mean']['syn_ops_per_sample']:,.0f}",
            ]
        )
    return _table(ABLATION_COLUMNS, rows)


def _summaries(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    return [(path.stem, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _spiking_rows(name: str, summary: dict[str, Any]) -> list[list[str]]:
    config = summary["config"]
    rows: list[list[str]] = []
    for label, found in summary["results"].items():
        first, mean = found["seeds"][0], found["mean"]
        pairs = "syn_ops_of_pairs_per_sample" in mean
        rows.append(
            [
                _told(name, summary),
                _network(config["data"]["name"], first["hidden"]),
                label,
                f"{first['parameters']:,}",
                _percent(found, "test_float"),
                _percent(found, "test_float_without_pairs") if pairs else "",
                _percent(found, "test_int8"),
                f"{mean['syn_ops_per_sample']:,.0f}",
                f"{mean['syn_ops_of_pairs_per_sample']:,.0f}" if pairs else "",
                f"{mean['dynamic_energy_uj']:.2f}; {mean['static_energy_uj']:.0f}",
            ]
        )
    return rows


def _not_run(name: str, run: RunConfig) -> list[str]:
    hidden = list(run.network.hidden)
    return [f"`{name}`", _network(run.data.name, hidden), run.network.neuron, *["*not run*"] * (len(SPIKING_COLUMNS) - 3)]


def _network(data: str, hidden: Sequence[int | str]) -> str:
    kind = SETS[data]
    inputs = "x".join(map(str, kind.shape)) if any(isinstance(h, str) for h in hidden) else math.prod(kind.shape)
    return f"{data.replace('_', '-')} {'-'.join(map(str, [inputs, *hidden, kind.classes]))}"


def _row(name: str, summary: dict[str, Any]) -> list[str]:
    config, found = summary["config"], summary["results"]
    return [
        _told(name, summary),
        _network(config["data"]["name"], config["network"]["hidden"]),
        _percent(found["diffpc"], "test_float"),
        _percent(found["diffpc"], "test_int8"),
        _percent(found["backprop"], "test_float") if "backprop" in found else "not run",
        f"{found['diffpc']['mean']['bits_error_phase_training']:.3f}",
        f"{found['diffpc']['mean']['bits_total_test']:.2f}",
    ]


def _percent(found: dict[str, Any], key: str) -> str:
    spread = found["deviation"]
    return f"{100 * found['mean'][key]:.2f}" + (f" ± {100 * spread[key]:.2f}" if spread else "")


if __name__ == "__main__":
    summaries = Path(sys.argv[1])
    swept = [(summaries / f"{name}.json", "bsd" in s["results"]) for name, s in _summaries(summaries) if _swept(s)]
    varied = [ablation(path) if of_bsd else sweep(path) for path, of_bsd in swept]
    print(methods(summaries), results(summaries), spiking(summaries), pyramidal(summaries), *varied, sep="\n\n")
