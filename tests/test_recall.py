"""`lavasnn recall`: pictures of concepts, and cosines against sums written out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lavasnn.cli import cli
from lavasnn.cli.recall import alike, stimulus_end
from lavasnn.data import Images, load
from lavasnn.errors import InputError
from lavasnn.files import read_tensors
from lavasnn.ir import Graph

TOML = """
name = "r"
[data]
name = "digits"
[network]
neuron = "pyramidal"
hidden = [24]
[training]
epochs = 2
batch = 64
[bsd]
threshold_recall = 0.05
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recall")
    (folder / "r.toml").write_text(TOML)
    done = CliRunner().invoke(cli, ["train", str(folder / "r.toml"), "-q", "-o", str(folder / "m.safetensors")])
    assert done.exit_code == 0, done.output
    return folder / "m.safetensors"


def by_loops(model: Path) -> np.ndarray:
    """What each concept brings to the stimulus: two layers of Type 2, a step at a time, in Python's floats."""
    theta = {name: values for name, values in read_tensors(model, "model")[2].items() if name.startswith("Theta")}
    found = np.zeros((10, 64))
    for c in range(10):
        U, V = 0.0, [0.0] * 24
        for _ in range(4):
            U += (1.0 - U) / 2
            top, U = (1.0, 0.0) if U >= 0.05 else (0.0, U)
            sent = []
            for j in range(24):
                V[j] += (float(theta["Theta.1"][j, c]) * top - V[j]) / 2
                sent.append(1.0 if V[j] >= 0.05 else 0.0)
                V[j] = 0.0 if sent[-1] else V[j]
            for i in range(64):
                found[c, i] += sum(float(w) * s for w, s in zip(theta["Theta.0"][i], sent, strict=True))
    return found


def test_recalled_pictures_and_their_cosines(model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "r.png"
    done = CliRunner().invoke(cli, ["recall", str(model), "--json", "-q", "-o", str(picture)])
    assert done.exit_code == 0, done.output
    import json

    values = json.loads(done.output)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    images, truth = load("digits:test", seed=0), by_loops(model)
    for row in values["concepts"]:
        c, cosines = row["concept"], {True: list[float](), False: list[float]()}
        length = math.sqrt(sum(v * v for v in truth[c]))
        if not length:
            assert row["cosine"] is None
            continue
        for pixels, label in zip(images.pixels.astype(float), images.labels, strict=True):
            own = bool(label == c)
            cosines[own].append(float(pixels @ truth[c]) / length / math.sqrt(float(pixels @ pixels)))
        assert row["cosine"] == pytest.approx(sum(cosines[True]) / len(cosines[True]), abs=1e-6)
        assert row["cosine_others"] == pytest.approx(sum(cosines[False]) / len(cosines[False]), abs=1e-6)
    assert any(np.linalg.norm(truth[c]) for c in range(10))


def test_the_mean_image_itself_is_recalled_perfectly() -> None:
    images = load("digits:test", seed=0)
    means = np.stack([images.pixels[images.labels == c].mean(0) for c in range(10)])
    rows = alike(7.5 * means, images)
    assert all(r["cosine_mean"] == pytest.approx(1) and r["cosine"] > r["cosine_others"] for r in rows)
    assert alike(0 * means, images)[0] == {"concept": 0, "cosine": None, "cosine_others": None, "cosine_mean": None}


def test_what_cannot_recall(model: Path, tmp_path: Path) -> None:
    def refused(message: str, *arguments: str) -> None:
        done = CliRunner().invoke(cli, ["recall", *arguments])
        assert isinstance(done.exception, InputError)
        assert message in str(done.exception)

    (tmp_path / "n.toml").write_text('neuron = "lif"\nsizes = [64, 10]\nsteps = 4\n')
    CliRunner().invoke(cli, ["export", "--init", "0", "--network", str(tmp_path / "n.toml"), "-o", str(tmp_path / "g")])
    refused("no pathway from concept to stimulus", str(tmp_path / "g"), "--data", "digits")
    with pytest.raises(InputError, match="no pathway"):
        stimulus_end(Graph.load(tmp_path / "g"))


def test_images_of_another_size(model: Path) -> None:
    from lavasnn.cli.common import open_network
    from lavasnn.cli.recall import recalled

    other = Images("x", "test", np.zeros((2, 9), np.uint8), np.array([0, 1]), (3, 3), 1, 2)
    with pytest.raises(InputError, match="x:test has 9 pixels and 2 classes, the network 64 and 10"):
        recalled(open_network(model), other, "exact", None, True)
