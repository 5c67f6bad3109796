"""Committed results belong to committed configurations, and the README quotes them as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lavasnn import config
from lavasnn.cli.tasks import load_task
from lavasnn.learning.model import dump
from lavasnn.learning.task import Task
from lavasnn.report.tables import ablation, methods, pyramidal, results, spiking, sweep

ROOT = Path(__file__).resolve().parents[1]
EVERY = sorted((ROOT / "sim_runs").glob("*.toml"))
TASKS = [path for path in EVERY if "task" in config.read_toml(path)]
CONFIGS = [path for path in EVERY if path not in TASKS]
CHOICES = sorted((ROOT / "sim_runs" / "choices").glob("*.json"))
EVERY_SUMMARY = sorted((ROOT / "sim_runs" / "summaries").glob("*.json"))
SUMMARIES = [path for path in EVERY_SUMMARY if path.stem not in {task.stem for task in TASKS}]


def task_of(path: Path) -> Task[Any, Any]:
    return load_task(config.read_toml(path)["task"], path)


@pytest.mark.parametrize("path", EVERY, ids=lambda p: p.stem)
def test_configurations_are_valid_and_named_after_their_file(path: Path) -> None:
    assert (task_of(path).config if path in TASKS else config.load(path)).name == path.stem


@pytest.mark.parametrize("path", EVERY_SUMMARY, ids=lambda p: p.stem)
def test_summaries_are_of_the_committed_configuration(path: Path) -> None:
    summary, source = json.loads(path.read_text()), ROOT / "sim_runs" / f"{path.stem}.toml"
    assert summary["config"] == (task_of(source).dump() if source in TASKS else dump(config.load(source)))
    if source in TASKS:
        assert list(summary["results"]) == list(task_of(source).variants())
    seeds = summary["config"]["seeds"]
    for found in summary["results"].values():
        assert [row["seed"] for row in found["seeds"]] == seeds
        for key, mean in found["mean"].items():
            assert mean == pytest.approx(sum(row[key] for row in found["seeds"]) / len(seeds), abs=1e-6)


@pytest.mark.parametrize("path", [p for p in SUMMARIES if "diffpc" in p.stem], ids=lambda p: p.stem)
def test_quoted_bits_leave_nothing_out(path: Path) -> None:
    rows = json.loads(path.read_text())["results"]["diffpc"]["seeds"]
    assert rows
    for row in rows:
        assert row["bits_error_phase_training"] >= row["bits_error_phase_training_heard"] > 0
        assert row["bits_total_with_address_test"] > row["bits_total_test"] > 0


@pytest.mark.parametrize("path", CHOICES, ids=lambda p: p.stem)
def test_settings_are_those_that_did_best_on_held_out_images(path: Path) -> None:
    run, found = config.load(ROOT / "sim_runs" / f"{path.stem}.toml"), json.loads(path.read_text())
    assert found["held_out"] == run.choose.held_out
    assert [row["changes"] for row in found["candidates"]] == list(run.choose.candidates)
    best = max(found["candidates"], key=lambda row: row["validation"])
    assert found["best"] == best["changes"]
    for name, value in best["changes"].items():
        assert getattr(run.training, name) == value


def test_pages_quote_the_summaries() -> None:
    for made in (methods, results):
        assert made(ROOT / "sim_runs" / "summaries") in (ROOT / "README.md").read_text("utf-8")
    page = (ROOT / "docs" / "dlif.md").read_text("utf-8")
    assert spiking(ROOT / "sim_runs" / "summaries") in page
    swept = [path for path in SUMMARIES if any("changes" in r for r in json.loads(path.read_text())["results"].values())]
    dlif = [path for path in swept if "dlif" in path.stem]
    assert dlif and all(sweep(path) in page for path in dlif)


def test_swept_rows_are_those_of_the_configuration() -> None:
    for path in CONFIGS:
        run, summary = config.load(path), ROOT / "sim_runs" / "summaries" / f"{path.stem}.json"
        if summary.is_file():
            found = [r["changes"] for r in json.loads(summary.read_text())["results"].values() if "changes" in r]
            assert found == [changes for _, changes in run.sweep.all]


def test_bsd_page_quotes_its_summary() -> None:
    """Tables of results and settings, and the likeness of MNIST's pathways, formatted from the committed summaries."""
    summaries = ROOT / "sim_runs" / "summaries"
    found = json.loads((summaries / "mnist-bsd.json").read_text())["results"]["bsd"]
    page = (ROOT / "docs" / "bsd.md").read_text("utf-8")
    assert pyramidal(summaries) in page and ablation(summaries / "mnist-bsd-ablation.json") in page
    layers = found["seeds"][0]["likeness"]
    for name, cells in (
        ("both send the same (Hamming)", [f"{v['hamming']:.2f}" for v in layers]),
        ("cosine of their voltages", [f"{v['cosine']:.2f}" for v in layers]),
        ("rates, Type 1 and Type 2", [f"{v['rate']:.2f}, {v['rate_recall']:.2f}" for v in layers]),
    ):
        assert f"| {name} | {' | '.join(cells)} |" in page


def test_sequence_page_quotes_its_summaries() -> None:
    """Rows of the page's two tables of results, formatted from the committed summaries; percent, and errors in deviations."""
    page = (ROOT / "docs" / "bsd-sequences.md").read_text("utf-8")
    runs = ("shakespeare-bsd", "los-speed-bsd", "exchange-bsd", "etth1-bsd")
    text, *series = (json.loads((ROOT / "sim_runs" / "summaries" / f"{name}.json").read_text()) for name in runs)
    named = {
        "reco": "BSD, ReCo",
        "infonce": "BSD, InfoNCE",
        "mse": "BSD, MSE",
        "readout": "readout alone",
        "bptt": "backpropagation through time",
        "most_frequent": "most frequent character",
        "after_one": "what follows the last character most often",
        "after_two": "what follows the last two most often",
        "mean": "training part's mean",
        "no_change": "no change",
        "linear": "least squares from x_i",
    }

    def cell(summary: dict[str, Any], label: str, key: str, times: int, digits: int) -> str:
        found = summary["results"].get(label)
        if found is None:
            return f"{times * summary['references'][label][key]:.{digits}f}"
        spread = f" ± {times * found['deviation'][key]:.{digits}f}" if found["deviation"] else ""
        return f"{times * found['mean'][key]:.{digits}f}{spread}"

    for label in (*text["results"], *text["references"]):
        nats = cell(text, label, "nats", 1, 2) if label in text["results"] else ""
        assert f"| {named[label]} | {cell(text, label, 'accuracy', 100, 1)} | {nats} |" in page
    for label in (*series[0]["results"], *series[0]["references"]):
        cells = [f"{cell(s, label, 'mse', 1, 4)} | {cell(s, label, 'mae', 1, 3)}" for s in series]
        assert f"| {named[label]} | {' | '.join(cells)} |" in page
    reco = [s["results"]["reco"]["mean"] for s in (text, *series)]
    for name, keys in (
        ("both types send the same (Hamming)", ("hamming",)),
        ("cosine of their voltages", ("cosine",)),
        ("rates, Type 1 and Type 2", ("rate", "rate_recall")),
        ("x̂: share of characters; squared error", ("recalled",)),
    ):
        assert f"| {name} | {' | '.join(', '.join(f'{mean[key]:.2f}' for key in keys) for mean in reco)} |" in page
