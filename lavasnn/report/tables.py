"""The results table of the README, made from `sim_runs/summaries`: `python -m lavasnn.report.tables sim_runs/summaries`."""

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
INPUTS = {"digits": 64, "mnist": 784, "fashion_mnist": 784}


def results(folder: Path) -> str:
    """Markdown table of all summaries in a folder, one line each, in the order of their names.

    Accuracies are percent of the test images, mean and (with several seeds) standard deviation over seeds.
    """
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for path in sorted(folder.glob("*.json")):
        summary = json.loads(path.read_text())
        lines.append("| " + " | ".join(_row(path.stem, summary)) + " |")
    return "\n".join(lines)


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
    print(results(Path(sys.argv[1])))
