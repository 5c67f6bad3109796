"""The benchmark's file has what it promises, and its equality is measured, not asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from lavasnn.cli import bench


@pytest.mark.slow
@pytest.mark.lava
def test_bench_writes_what_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "BATCH", 64)
    monkeypatch.setattr(bench, "LAVA_SAMPLES", (4, 64))
    monkeypatch.setattr(bench, "TRAIN_BATCHES", 4)
    monkeypatch.setattr(bench, "PAIR_SAMPLES", 256)
    monkeypatch.delenv("LAVASNN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = CliRunner().invoke(bench.bench, [str(tmp_path / "bench.json")])
    assert done.exit_code == 0, done.output
    values = json.loads((tmp_path / "bench.json").read_text())
    assert values["exact_vs_lava"]["spikes_equal"] is True
    assert values["exact_vs_lava"]["cpu_ratio"] > 0
    assert values["diffpc_vs_backprop"]["samples_per_s_ratio"] > 0
    assert values["diffpc_vs_backprop"]["data"] == "ten noisy prototypes"
    pool, pairs = values["pair_pool_vs_linear"], values["exact_pairs_vs_lif"]
    assert 0 < pool["ms"]["linear"] < pool["ms"]["random pairs"]
    assert pool["ratio_to_linear_of_n_plus_p"] < pool["ratio_to_linear_of_n"]
    both = ("random pairs", "covariance pairs")
    assert list(pairs["ratio_per_syn_op"]) == [*both, *(f"{name} in both layers" for name in both)]
    for name in pairs["ratio_per_syn_op"]:
        assert pairs[name]["syn_ops_per_sample"] > pairs["lif"]["syn_ops_per_sample"]
        assert pairs[name]["us_per_sample_step"] > 0
    assert values["bsd_vs_autograd"]["step_ratio"] > 0 and values["bsd_vs_autograd"]["gradient_ratio"] > 0
    assert values["machine"]["cores"] >= 1
    assert {"threads"} <= set(values["exact_vs_lava"]) & set(values["diffpc_vs_backprop"])
