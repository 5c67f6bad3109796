"""`lavasnn layers` and what training writes down of the two pathways, against matrices and counts made by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from lavasnn.architecture import layers
from lavasnn.cli import cli
from lavasnn.cli.layers import chance, embedded
from lavasnn.learning.bsd import alignment
from lavasnn.learning.model import load_model
from lavasnn.nn.bsd import BSDNet
from lavasnn.nn.bsd_layers import Link

TOML = """
name = "l"
[data]
name = "digits"
[network]
neuron = "pyramidal"
hidden = [64]
[training]
epochs = 3
batch = 16
"""


def matrix(link: Link, weight: Tensor, inputs: int) -> Tensor:
    """Of the linear map, shape (post, pre), a unit vector at a time."""
    with torch.no_grad():
        return link.voltages(weight, torch.eye(inputs, dtype=weight.dtype)).T


@pytest.mark.parametrize("hidden", [(9, 5), ("3c3s1", "2c5s1", 6)])
def test_alignment_is_the_cosine_of_one_matrix_and_the_other_transposed(hidden: tuple[int | str, ...]) -> None:
    net = BSDNet(layers((2, 4, 4), hidden, 3), generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        for W, Theta in zip(net.W, net.Theta, strict=True):
            back = Theta.transpose(0, 1)
            W += 0.5 * (back.flip([2, 3]) if Theta.dim() == 4 else back)
    for i, found in enumerate(alignment(net)):
        up = matrix(net.up[i], net.W[i], net.sizes[i])
        down = matrix(net.down[i], net.Theta[i], net.sizes[i + 1]).T
        if net.W[i].dim() == 4:  # at the edge kernels are cut, so only a pixel that sees all of them is compared
            kernel = net.W[i].shape[2]
            rows = [c * 16 + (kernel // 2) * 4 + kernel // 2 for c in range(net.W[i].shape[0])]
            if kernel > 3:
                continue
            up, down = up[rows], down[rows]
        assert found == pytest.approx(float((up * down).sum() / (up.norm() * down.norm())), abs=1e-12)
        assert found > 0.2


def test_weights_drawn_apart_are_not_aligned() -> None:
    net = BSDNet((300, 200, 100), generator=torch.Generator().manual_seed(0))
    for found, W in zip(alignment(net), net.W, strict=True):
        assert abs(found) < 4 / math.sqrt(W.numel())


def test_chance() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random(200_000) < 0.3, generator.random(200_000) < 0.8
    assert chance(0.3, 0.8) == pytest.approx(float((a == b).mean()), abs=0.01)
    assert chance(0.0, 0.0) == chance(1.0, 1.0) == 1.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers")
    (folder / "l.toml").write_text(TOML + "[bsd]\nthreshold_recall = 0.05\n")
    done = CliRunner().invoke(cli, ["train", str(folder / "l.toml"), "-q", "-o", str(folder / "m.safetensors")])
    assert done.exit_code == 0, done.output
    return folder / "m.safetensors"


def test_training_writes_down_how_the_pathways_come_closer(model: Path) -> None:
    history = load_model(model).history
    assert len(history) == 3
    for epoch in history:
        assert [len(layer) for layer in epoch.layers] == [5, 5, 4]
    assert history[-1].layers[1]["alignment"] > history[0].layers[1]["alignment"] > 0
    net = load_model(model).net
    assert isinstance(net, BSDNet)
    assert [layer["alignment"] for layer in history[-1].layers[:-1]] == alignment(net)


def test_the_command(model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "layers.png"
    command = ["layers", str(model), "--samples", "60", "-o", str(picture)]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert all(title in done.output for title in ("send the same", "by chance", "W and Theta"))


def test_the_command_takes_pyramidal_networks_alone(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text(TOML.replace("pyramidal", "lif").replace("epochs = 3", "epochs = 1"))
    runner = CliRunner()
    assert runner.invoke(cli, ["train", str(tmp_path / "d.toml"), "-q", "-o", str(tmp_path / "m.safetensors")]).exit_code == 0
    done = runner.invoke(cli, ["layers", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "p.png")])
    assert done.exit_code != 0 and "lif neurons, needed is one of pyramidal ones" in str(done.exception)
    assert not (tmp_path / "p.png").exists()


def test_a_summary_of_what_fits_no_board_keeps_its_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = TOML.replace("hidden = [64]", "hidden = [4200, 8]").replace("epochs = 3", "epochs = 1")
    Path("l.toml").write_text(text.replace("[data]", "seeds = [0]\n[data]"))
    done = CliRunner().invoke(cli, ["train", "l.toml", "-q", "--summary", "s.json"])
    assert done.exit_code == 0, done.output
    summary = json.loads(Path("s.json").read_text())
    row = summary["results"]["bsd"]["seeds"][0]
    assert "input axons, the target has 4,096" in row["not_compiled"]
    assert 0 < row["test_by_voltage"] < 1 and "test_int8" not in row and summary["lava"] is None


def test_maps_of_layers_that_say_nothing_or_little() -> None:
    assert np.array_equal(embedded(np.ones((50, 8))), np.zeros((50, 2)))
    line = embedded(np.random.default_rng(0).random((50, 1)))
    assert line.shape == (50, 2) and np.isfinite(line).all() and np.ptp(line[:, 0]) > 0


def test_without_a_number_there_are_as_many_samples_as_the_set_has(model: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["layers", str(model), "--json", "-o", str(tmp_path / "l.png")])
    assert done.exit_code == 0 and json.loads(done.stdout)["samples"] == 360
