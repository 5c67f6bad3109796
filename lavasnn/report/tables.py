"""The tables of results, made from `sim_runs/summaries`: `python -m lavasnn.report.tables sim_runs/summaries`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

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
    "8-bit program",
    "synaptic operations a sample",
)
INPUTS = {"digits": 64, "mnist": 784, "fashion_mnist": 784}


def results(folder: Path) -> str:
    """Markdown table of all DiffPC summaries in a folder, one line each, in the order of their names.

    Accuracies are percent of the test images, mean and (with several seeds) standard deviation over seeds.
    """
    return _table(COLUMNS, [_row(name, s) for name, s in _summaries(folder) if "diffpc" in s["results"]])


def spiking(folder: Path) -> str:
    """Markdown table of all summaries of LIF and DLIF networks, one line for each network and each of its baselines.

    Accuracies as in `results`. Synaptic operations are those of the program, pairs included, counted on the test images.
    """
    found = [row for name, s in _summaries(folder) if "diffpc" not in s["results"] for row in _spiking_rows(name, s)]
    return _table(SPIKING_COLUMNS, found)


def _summaries(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    return [(path.stem, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _spiking_rows(name: str, summary: dict[str, Any]) -> list[list[str]]:
    config = summary["config"]
    data, epochs, seeds = config["data"]["name"], config["training"]["epochs"], len(config["seeds"])
    rows: list[list[str]] = []
    for label, found in summary["results"].items():
        first = found["seeds"][0]
        rows.append(
            [
                f"`{name}`, {epochs} epochs, {seeds} seed{'s' if seeds > 1 else ''}",
                f"{data.replace('_', '-')} {'-'.join(map(str, [INPUTS[data], *first['hidden'], 10]))}",
                label,
                f"{first['parameters']:,}",
                _percent(found, "test_float"),
                _percent(found, "test_int8"),
                f"{found['mean']['syn_ops_per_sample']:,.0f}",
            ]
        )
    return rows


def _row(name: str, summary: dict[str, Any]) -> list[str]:
    config, found = summary["config"], summary["results"]
    sizes = [INPUTS[config["data"]["name"]], *config["network"]["hidden"], 10]
    epochs, seeds = config["training"]["epochs"], len(config["seeds"])
    return [
        f"`{name}`, {epochs} epochs, {seeds} seed{'s' if seeds > 1 else ''}",
        f"{config['data']['name'].replace('_', '-')} {'-'.join(map(str, sizes))}",
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
    print(results(Path(sys.argv[1])), spiking(Path(sys.argv[1])), sep="\n\n")
