"""The command that measures claims: what it writes is what the measurement gives."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from lavasnn.cli.claims import claims, load_claim
from lavasnn.errors import ConfigError, LavasnnError
from lavasnn.measure.correlation import correlation_by_depth

ROOT = Path(__file__).resolve().parents[1]
SMALL = "seeds = [3, 4]\nlayers = 2\nn = 8\nsamples = 20\nsteps = 4\n"


def test_numbers_and_picture(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(SMALL)
    done = CliRunner().invoke(claims, [str(tmp_path / name) for name in ("c.toml", "c.json", "c.svg")])
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "c.json").read_text())["results"]
    options = {"layers": 2, "n": 8, "samples": 20, "steps": 4}
    for name, fixed in (("LIF", {"neuron": "lif"}), ("DLIF, covariance pairs", {"neuron": "dlif", "choice": "covariance"})):
        wanted = [asdict(correlation_by_depth(seed=seed, **fixed, **options)) for seed in (3, 4)]
        assert results[name] == json.loads(json.dumps(wanted))
    first = (tmp_path / "c.svg").read_bytes()
    assert (first.startswith(b"<?xml") and b"DLIF, random pairs" in first) or b"<svg" in first
    CliRunner().invoke(claims, [str(tmp_path / name) for name in ("c.toml", "c.json", "c.svg")])
    assert (tmp_path / "c.svg").read_bytes() == first


@pytest.mark.parametrize(
    ("line", "message"), [("layerz = 3", "layerz is 3"), ("n = 'x'", "n is 'x'"), ("seeds = []", "seeds is")]
)
def test_what_is_no_configuration(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(line)
    with pytest.raises(ConfigError, match=rf"{message}.*entries are seeds, layers, n, rho, pairs, samples, steps, dv"):
        load_claim(tmp_path / "c.toml")


def test_nothing_is_measured_for_a_picture_of_no_format(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(SMALL)
    done = CliRunner().invoke(claims, [str(tmp_path / "c.toml"), str(tmp_path / "c.json"), str(tmp_path / "c.doc")])
    assert isinstance(done.exception, LavasnnError)
    done = CliRunner().invoke(claims, [str(tmp_path / "c.toml"), str(tmp_path / "c.svg"), str(tmp_path / "c.svg")])
    assert isinstance(done.exception, LavasnnError) and not (tmp_path / "c.svg").exists()
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "sim_runs" / "claims").glob("*.toml")), ids=lambda p: p.stem)
def test_committed_claims_are_of_their_configuration(path: Path) -> None:
    found = json.loads((path.parent / f"{path.stem}.json").read_text())
    claim = load_claim(path)
    assert found["config"] == claim.model_dump(mode="json")
    assert all(len(rows) == len(claim.seeds) for rows in found["results"].values())
    assert (ROOT / "sim_runs" / "figures" / f"{path.stem}.svg").is_file()
