"""The BSD autoencoder against the equations of its docstring as loops and as losses for autograd; its measures."""

from __future__ import annotations

import cmath
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import Tensor
from torch.nn import functional as F

from lavasnn.architecture import Convolution, Mirror, autoencoder
from lavasnn.cli import cli
from lavasnn.data import Images
from lavasnn.errors import ConfigError, InputError
from lavasnn.learning.bsd_autoencoder import AutoencoderSection, distil, hidden_gradients, low_frequencies, split
from lavasnn.learning.model import load_model
from lavasnn.learning.reconstruction import (
    PictureLoop,
    ReconstructionTask,
    as_floats,
    brought_back,
    load_autoencoder,
    load_task,
)
from lavasnn.learning.reconstruction_config import EncoderSection, PictureTraining, parse
from lavasnn.learning.trainer import predict
from lavasnn.measure.pictures import frechet, mse, principal, psnr, ssim
from lavasnn.nn.bsd import BSDNet
from lavasnn.nn.diffpc import DiffPCNet

T, FIRST, SECOND, EPSILON = 5, 0.3, 0.25, 1e-5
SHAPES = {"7 to 4 to 2": ((2, 7, 7), ["3c3s2", "4c3s2"]), "oblong, stride 3": ((1, 9, 5), ["3c5s3", "2c3"])}
LOSSES = [("reco", 0.6), ("reco", 0.0), ("infonce", 0.6), ("infonce", 0.0), ("mse", 0.6)]


def network(name: str, seed: int = 0) -> BSDNet:
    image, hidden = SHAPES[name]
    generator = torch.Generator().manual_seed(seed)
    return BSDNet(autoencoder(image, hidden), T, 2.0, (FIRST, SECOND), generator, norm=True).double()


def images(net: BSDNet, samples: int = 6, seed: int = 1) -> Tensor:
    return torch.rand(samples, net.sizes[0], generator=torch.Generator().manual_seed(seed)).double()


# Layers


def test_the_decoder_is_the_encoder_mirrored() -> None:
    plan = autoencoder((28, 28), ["16c3s2", "32c3s2", "64c3s2"])
    assert [layer.size for layer in plan] == [16 * 14 * 14, 32 * 7 * 7, 64 * 4 * 4, 32 * 7 * 7, 16 * 14 * 14, 28 * 28]
    assert [isinstance(layer, Mirror) for layer in plan] == [False] * 3 + [True] * 3
    net = BSDNet(plan, 2, norm=True)
    for i, j in zip(range(6), reversed(range(6)), strict=True):  # what one pathway narrows the other widens
        assert net.W[i].shape == net.Theta[j].shape
        assert net.up[i].image == net.down[j].image
    paper = BSDNet(autoencoder((1, 28, 28), ["128c3s2", "256c3s2", "512c3s2"]))
    assert [link.image for link in paper.up] == [
        (128, 14, 14),
        (256, 7, 7),
        (512, 4, 4),
        (256, 7, 7),
        (128, 14, 14),
        (1, 28, 28),
    ]


@pytest.mark.parametrize("hidden", [["8c3s2", 40], [40], []])
def test_an_autoencoder_is_made_of_convolutions(hidden: list[Any]) -> None:
    with pytest.raises(InputError, match="an autoencoder has one convolution or more, and no full layers"):
        autoencoder((28, 28), hidden)


def arrived(layer: Convolution, widens: bool, weight: np.ndarray, spikes: np.ndarray) -> np.ndarray:
    """What the spikes of one end of a convolution, shape (neuron,), add up to at the other, each synapse by itself."""
    low, high, half = layer.image, layer.image_out, layer.kernel // 2
    post, pre = (low, high) if widens else (high, low)
    found, sent = np.zeros(post), spikes.reshape(pre)
    for channel, row, column in np.ndindex(*post):
        for source, i, j in np.ndindex(pre[0], layer.kernel, layer.kernel):
            stride = 1 if widens else layer.stride
            y, x = row * stride + i - half, column * stride + j - half
            if 0 <= y < low[1] and 0 <= x < low[2]:
                y, x = (y // layer.stride, x // layer.stride) if widens else (y, x)
                found[channel, row, column] += weight[channel, source, i, j] * sent[source, y, x]
    return found.reshape(-1)


@pytest.mark.parametrize("name", SHAPES)
def test_both_pathways_synapse_by_synapse(name: str) -> None:
    net, x = network(name).train(), images(network(name), 3)
    for down, found in ((False, net.perceive(x, every=True)), (True, net.recall(x, every=True))):
        order = slice(None, None, -1) if down else slice(None)
        parts = list(zip(net.plan, net.Theta if down else net.W, strict=True))[order]
        drive = before = np.repeat(x.numpy()[None], T, 0)
        for place, (v, s) in enumerate(zip(found.v[order], found.trains[order], strict=True)):
            if place:
                layer, weight = parts[place - 1]
                widens = isinstance(layer, Mirror) != down
                convolution = layer.layer if isinstance(layer, Mirror) else layer
                assert isinstance(convolution, Convolution)
                drive = np.array(
                    [[arrived(convolution, widens, weight.detach().numpy(), one) for one in step] for step in before]
                )
                if place < len(parts):  # batch norm of each channel, over steps, samples and positions
                    cells = drive.reshape(T, len(x), len(weight), -1)
                    mean, var = cells.mean((0, 1, 3), keepdims=True), cells.var((0, 1, 3), keepdims=True)
                    drive = ((cells - mean) / np.sqrt(var + EPSILON)).reshape(drive.shape)
            np.testing.assert_allclose(v, drive.mean(0), rtol=0, atol=1e-9)
            U, sent = np.zeros(drive.shape[1:]), []
            for a in drive:
                H = U + (a - U) / 2.0
                sent.append((H >= (SECOND if down else FIRST)).astype(float))
                U = H * (1 - sent[-1])
            before = np.array(sent)
            assert np.array_equal(s, before)  # zeros and ones, and nothing else is sent
            assert place == len(parts) or 0 < before.mean() < 1


# Frequencies


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (7, 7), (5, 8), (1, 3)])
def test_bands_are_those_of_a_literal_fourier_transform(rows: int, columns: int) -> None:
    cutoff = 0.6
    v = torch.rand(2, 3 * rows * columns, generator=torch.Generator().manual_seed(0)).double()
    low, high = split(v, (3, rows, columns), cutoff)
    torch.testing.assert_close(low + high, v, rtol=0, atol=1e-12)
    for sample in range(2):
        for channel in range(3):
            picture = v[sample].view(3, rows, columns)[channel]
            wanted = np.zeros((rows, columns))
            for ky in range(-(rows // 2), rows - rows // 2):
                for kx in range(-(columns // 2), columns - columns // 2):
                    if math.hypot(ky / rows, kx / columns) > cutoff / 2:
                        continue

                    def wave(y: int, x: int, ky: int = ky, kx: int = kx) -> complex:
                        return cmath.exp(2j * math.pi * (ky * y / rows + kx * x / columns))

                    places = list(np.ndindex(rows, columns))
                    c = sum(float(picture[y, x]) * wave(y, x).conjugate() for y, x in places) / (rows * columns)
                    for y, x in places:
                        wanted[y, x] += (c * wave(y, x)).real
            np.testing.assert_allclose(low[sample].view(3, rows, columns)[channel], wanted, rtol=0, atol=1e-9)


def test_how_many_frequencies_are_low() -> None:
    whole = sum(math.hypot(y, x) <= 8.4 for y in range(-14, 14) for x in range(-14, 14))  # 0.6 of the highest, 14
    half = low_frequencies(28, 28, 0.6)
    assert half.shape == (28, 15)
    assert int(half[:, 0].sum() + half[:, 14].sum() + 2 * half[:, 1:14].sum()) == whole
    assert low_frequencies(28, 28, 1.5).all() and int(low_frequencies(28, 28, 0).sum()) == 1


# Gradients


def loss(v: Tensor, w: Tensor, kind: str, penalty: float, temperature: float) -> Tensor:
    """Equation 7 over a batch, or InfoNCE, or the squared distance: v learns, w is what it is compared with."""
    total = v.new_zeros(())
    for k in range(len(v)):
        if kind == "mse":
            total = total + ((v[k] - w[k]) ** 2).sum()
            continue
        cosines = torch.stack([v[k] @ w[j] / (v[k].norm() * w[j].norm()) for j in range(len(w))])
        if kind == "reco":
            others = [cosines[j].clamp(min=0) ** 2 for j in range(len(w)) if j != k]
            total = total + (1 - cosines[k]) ** 2 + penalty * sum(others)
        else:
            total = total - torch.log_softmax(cosines / temperature, 0)[k]
    return total


def bands(v: Tensor, image: tuple[int, int, int], cutoff: float) -> list[Tensor]:
    """By the whole spectrum, not the half of it."""
    if not cutoff:
        return [v]
    spectrum = torch.fft.fft2(v.view(-1, *image))
    fy, fx = torch.fft.fftfreq(image[1]).double(), torch.fft.fftfreq(image[2]).double()
    low = (fy[:, None] ** 2 + fx**2).sqrt() <= cutoff / 2
    return [torch.fft.ifft2(spectrum * mask).real.flatten(1) for mask in (low, ~low)]


@pytest.mark.parametrize(("kind", "cutoff"), LOSSES)
@pytest.mark.parametrize("name", SHAPES)
def test_closed_form_gradients_are_those_of_autograd(name: str, kind: Any, cutoff: float) -> None:
    """Of the losses written out, layer by layer with everything else detached, and batch variances as given numbers."""
    section = AutoencoderSection(loss=kind, cutoff=cutoff, penalty_low=0.3, penalty_high=0.9, temperature=0.3)
    net, same = network(name, 7), network(name, 7)
    x = images(net)
    distil(net, x, section)
    up, down = same.train().perceive(x, every=True), same.recall(x, every=True)
    last = len(net.plan)

    def voltages(i: int, downward: bool) -> Tensor:
        """Of layer i, means over time, which autograd follows back to the synapses that lead there, and no further."""
        layer = net.plan[i] if downward else net.plan[i - 1]
        weight, sent = (same.Theta[i], down.trains[i + 1]) if downward else (same.W[i - 1], up.trains[i - 1])
        convolution = layer.layer if isinstance(layer, Mirror) else layer
        assert isinstance(convolution, Convolution)
        rows, columns = convolution.image[1:]
        if isinstance(layer, Mirror) != downward:
            pictures = sent.reshape(-1, *convolution.image_out)
            wide = F.interpolate(pictures, scale_factor=convolution.stride, mode="nearest")[..., :rows, :columns]
            every = F.conv2d(wide, weight, None, 1, convolution.padding)
        else:
            every = F.conv2d(sent.reshape(-1, *convolution.image), weight, None, convolution.stride, convolution.padding)
        if 0 < i < last:
            var, mean = torch.var_mean(every, (0, 2, 3), correction=0, keepdim=True)
            every = (every - mean) / (var.detach() + EPSILON).sqrt()
        return every.view(T, len(x), -1).mean(0)

    for i in range(last + 1):
        for downward, grad in ((False, net.W[i - 1].grad if i else None), (True, net.Theta[i].grad if i < last else None)):
            if grad is None:
                continue
            v, other = voltages(i, downward), (up.v[i] if downward else down.v[i])
            torch.testing.assert_close(v, down.v[i] if downward else up.v[i], rtol=0, atol=1e-9)
            if i in (0, last):
                total = (v - x).square().sum()
            else:
                image = net.up[i - 1].image
                parts = zip(bands(v, image, cutoff), bands(other, image, cutoff), (0.3, 0.9), strict=False)
                total = sum((loss(a, b.detach(), kind, p, 0.3) for a, b, p in parts), v.new_zeros(()))
            (wanted,) = torch.autograd.grad(total, same.Theta[i] if downward else same.W[i - 1])
            torch.testing.assert_close(grad, wanted, rtol=1e-9, atol=1e-10)
            assert float(grad.abs().max()) > 1e-3


def test_no_gradient_crosses_a_layer() -> None:
    """Synapses hear of other ones only by the spikes and voltages of their own two layers."""
    section, x = AutoencoderSection(), images(network("7 to 4 to 2"))
    before, after = network("7 to 4 to 2"), network("7 to 4 to 2")
    with torch.no_grad():
        after.W[-1].mul_(-3)  # moves the top layer's voltage alone
        after.Theta[0].mul_(-3)  # and the bottom layer's
    for net in (before, after):
        distil(net, x, section)
        assert all(p.grad is not None and not p.grad.requires_grad for p in net.parameters())
    last = len(before.W) - 1
    for i in range(last + 1):
        assert torch.equal(before.W[i].grad, after.W[i].grad) == (i < last)  # type: ignore[arg-type]
        assert torch.equal(before.Theta[i].grad, after.Theta[i].grad) == (i > 0)  # type: ignore[arg-type]


def test_weights_of_the_two_pathways_are_their_own() -> None:
    net, x = network("7 to 4 to 2"), images(network("7 to 4 to 2"))
    distil(net, x, AutoencoderSection())
    for i, j in enumerate(reversed(range(len(net.W)))):
        assert net.W[i].shape == net.Theta[j].shape and not torch.equal(net.W[i], net.Theta[j])
        assert not torch.equal(net.W[i].grad, net.Theta[j].grad)  # type: ignore[arg-type]


# Backpropagation through the same network


def test_unrolled_is_the_same_network() -> None:
    net = network("7 to 4 to 2").train()
    x = images(net)
    means = [net.unrolled(x), net.perceive(x).v[-1]]
    assert torch.equal(means[0].detach(), means[1])
    assert not any(buffer.requires_grad for buffer in net.buffers())


def test_backpropagation_is_that_of_a_loop_with_the_surrogate_written_out() -> None:
    net, same = network("oblong, stride 3", 3).train(), network("oblong, stride 3", 3).train()
    x = images(net)
    (net.unrolled(x) - x).square().sum().backward()
    spikes = net.perceive(x, every=True).trains[0].flatten(0, 1)
    for i, (link, weight) in enumerate(zip(same.up, same.W, strict=True)):
        every = link.voltages(weight, spikes)
        if i == len(same.W) - 1:
            (every.view(T, len(x), -1).mean(0) - x).square().sum().backward()
            break
        cells = every.view(len(every), link.channels, -1)
        var, mean = torch.var_mean(cells, (0, 2), correction=0, keepdim=True)
        every = ((cells - mean) / (var + EPSILON).sqrt()).view(T, len(x), -1)
        U, sent = torch.zeros_like(every[0]), []
        for a in every:
            H = U + (a - U) / 2.0
            s = (H >= FIRST).double()
            slope = 1 / (1 + (math.pi * (H - FIRST)) ** 2)  # ATan with a slope of 2
            sent.append(s + (slope.detach() * H - (slope * H).detach()))
            U = H * (1 - s)
        spikes = torch.cat(sent)
    for a, b in zip(net.W, same.W, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)
    assert all(theta.grad is None for theta in net.Theta)


# Measures


def pictures(n: int = 2, channels: int = 2, rows: int = 13, columns: int = 15, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, channels, rows, columns))


def test_ssim_is_that_of_a_loop() -> None:
    x = pictures()
    y = np.clip(x + 0.2 * pictures(seed=1) - 0.1, 0, 1)
    window = np.array([[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)])
    window /= window.sum()
    found: list[float] = []
    for n, c in np.ndindex(2, 2):
        for i, j in np.ndindex(13 - 10, 15 - 10):
            a, b = x[n, c, i : i + 11, j : j + 11], y[n, c, i : i + 11, j : j + 11]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            both = (window * (a - ma) * (b - mb)).sum()
            found.append((2 * ma * mb + 1e-4) * (2 * both + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    assert ssim(x, y) == pytest.approx(np.mean(found), abs=1e-12)
    assert ssim(x, x) == pytest.approx(1) and ssim(x, 1 - x) < 0


def test_errors_of_pictures() -> None:
    x, y = pictures(), pictures(seed=1)
    by_hand = sum((float(a) - float(b)) ** 2 for a, b in zip(x.ravel(), y.ravel(), strict=True)) / x.size
    assert mse(x, y) == pytest.approx(by_hand)
    assert psnr(0.01) == pytest.approx(20) and psnr(0.0) == math.inf


@pytest.mark.parametrize("y", [pictures(rows=10), pictures(columns=14), pictures()[0]])
def test_pictures_that_do_not_compare(y: np.ndarray) -> None:
    with pytest.raises(InputError, match="SSIM: pictures of shapes"):
        ssim(pictures(rows=10) if y.shape[-2] == 10 else pictures(), y)


@given(st.integers(0, 10**6), st.integers(1, 5))
def test_frechet_distance_is_that_of_the_formula(seed: int, features: int) -> None:
    random = np.random.default_rng(seed)
    x, y = (random.normal(size=(40, features)) @ random.normal(size=(features, features)) + random.normal() for _ in range(2))
    S1, S2 = (np.cov(f, rowvar=False).reshape(features, features) for f in (x, y))
    root = sqrtm(S1 @ S2).real
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(S1 + S2 - 2 * root)
    assert frechet(x, y) == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    assert frechet(x, x) == pytest.approx(0, abs=1e-8)


def test_frechet_distance_of_commuting_covariances() -> None:
    """Of independent features: the means' distance, and that of the deviations."""
    signs = np.array([[a, b] for a in (-1, 1) for b in (-1, 1)], float)  # mean 0, covariance 4/3 of the identity
    x, y = signs * [3, 1], signs * [1, 5] + [2, -1]
    assert frechet(x, y) == pytest.approx(5 + 4 / 3 * ((3 - 1) ** 2 + (1 - 5) ** 2))


def test_features_that_do_not_compare() -> None:
    for x, y in ((np.zeros((5, 2)), np.zeros((5, 3))), (np.zeros((1, 2)), np.zeros((5, 2))), (np.zeros(5), np.zeros(5))):
        with pytest.raises(InputError, match="Frechet distance: features of shapes"):
            frechet(x, y)


def test_principal_components_keep_what_a_plane_holds() -> None:
    random = np.random.default_rng(0)
    plane = random.normal(size=(50, 2)) @ random.normal(size=(2, 6)) + 3
    found = principal(plane, plane[:9], (0, 2))
    np.testing.assert_allclose(found[2], plane[:9], atol=1e-9)
    np.testing.assert_allclose(found[0], np.tile(plane.mean(0), (9, 1)), atol=1e-9)
    x = random.normal(size=(50, 6))
    errors = [mse(kept, x) for kept in principal(x, x, range(7)).values()]
    values = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2  # what is left out is the sum of the rest
    np.testing.assert_allclose(errors, [values[k:].sum() / x.size for k in range(7)], atol=1e-12)


# The task


TOML = """
task = "reconstruction"
name = "a"
seeds = [0, 1]
variants = ["bptt", "primitive", "infonce", "mse"]
components = [2]
[data]
name = "mnist"
[network]
hidden = ["2c3s2", "3c3s2"]
[training]
epochs = 2
batch = 16
shift = 1
[bsd]
steps = 3
[classifier]
hidden = [5]
epochs = 1
"""


def blobs(split: str, n: int = 40, seed: int = 0) -> Images:
    """Images of 28 x 28 with a bright square each, its place their class."""
    random = np.random.default_rng(seed)
    pixels, labels = np.zeros((n, 28, 28), np.uint8), random.integers(0, 10, n)
    for image, label in zip(pixels, labels, strict=True):
        row, column = divmod(int(label), 4)
        image[8 * row + 2 : 8 * row + 7, 6 * column + 2 : 6 * column + 7] = random.integers(128, 256)
    return Images("mnist", split, pixels.reshape(n, -1), labels, (28, 28), 255, 10)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReconstructionTask:
    def load(spec: str, folder: Path | None, **_: Any) -> Images:
        return blobs(spec.partition(":")[2], seed=int(spec.endswith("test")))

    monkeypatch.setattr("lavasnn.data.load", load)
    (tmp_path / "a.toml").write_text(TOML)
    return load_task(tmp_path / "a.toml")


def same(a: PictureLoop, b: PictureLoop) -> bool:
    return all(np.array_equal(x, b.arrays()[name]) for name, x in a.arrays().items())


def test_variants_are_what_they_say(task: ReconstructionTask) -> None:
    found = task.variants()
    assert list(found) == ["bsd", "bptt", "primitive", "infonce", "mse"]
    assert all(variant.config.label == label for label, variant in found.items())
    assert found["bptt"].config.training.method == "bptt" and found["primitive"].config.bsd.cutoff == 0
    assert found["infonce"].config.bsd.loss == "infonce" and found["mse"].config.bsd.loss == "mse"
    dumps = [json.dumps(variant.dump()) for variant in found.values()]
    assert len(set(dumps)) == 5
    assert task.with_epochs(7).config.training.epochs == 7


@pytest.mark.parametrize("label", ["bsd", "bptt"])
def test_a_run_goes_on_exactly(task: ReconstructionTask, label: str, tmp_path: Path) -> None:
    chosen = task.variants()[label]
    data = chosen.data(None, False)
    whole, first, second = (chosen.loop(data, 3, "cpu") for _ in range(3))
    before = whole.arrays()["W.0"].copy()
    whole.run()
    first.run_batch()
    first.save_checkpoint(tmp_path / "c")
    second.resume(tmp_path / "c")
    second.run()
    assert same(whole, second) and not np.array_equal(before, whole.arrays()["W.0"])
    assert np.array_equal(whole.arrays()["Theta.0"], task.loop(data, 3, "cpu").arrays()["Theta.0"]) == (label == "bptt")
    assert [r.error for r in whole.progress.history] == [r.error for r in second.progress.history]
    other = task.variants()["mse"].loop(data, 3, "cpu")
    with pytest.raises(InputError, match="a checkpoint of another run, its config differs"):
        other.resume(tmp_path / "c")


def test_reported_errors_are_those_of_the_batches(task: ReconstructionTask) -> None:
    one = ReconstructionTask(task.config.model_copy(update={"training": PictureTraining(batch=40, epochs=1)}))
    data = one.data(None, False)
    loop = one.loop(data, 0, "cpu")
    x = torch.from_numpy(as_floats(data.train)).float()
    v, u = loop.net.train().perceive(x).v[-1], loop.net.recall(x).v[0]
    (report,) = loop.run()
    assert report.error == pytest.approx(float((v - x).square().mean()), rel=1e-4)
    assert report.error_recall == pytest.approx(float((u - x).square().mean()), rel=1e-4)


def test_training_brings_pictures_back(task: ReconstructionTask, tmp_path: Path) -> None:
    """By both methods, and better than the mean image."""
    training, hidden = PictureTraining(epochs=20, batch=16, learning_rate=4e-3), EncoderSection(hidden=("4c3s2", "8c3s2"))
    config = task.config.model_copy(update={"training": training, "network": hidden})
    data = task.data(None, False)
    base = task.references(data)["mean image"]["mse"]
    for label in ("bsd", "bptt"):
        chosen = ReconstructionTask(config).variants()[label]
        loop = chosen.loop(data, 0, "cpu")
        loop.run()
        row = chosen.measure(loop, data)
        x = brought_back(loop.net, data.test).x
        truth = as_floats(data.test)
        assert 0 <= x.min() and x.max() <= 1
        assert row["mse"] == pytest.approx(((x - truth) ** 2).mean()) and row["mse"] < 0.9 * base
        assert len(row["rates"]) == 5 and 0 < row["rates"][2] < 1
        assert ("mse_recall" in row) == (label == "bsd")
    loop.save_model(tmp_path / "m.safetensors")
    net, kept = load_autoencoder(tmp_path / "m.safetensors")
    assert kept.label == "bptt"
    assert np.array_equal(brought_back(net, data.test).x, x)
    with pytest.raises(InputError, match="a model of task 'reconstruction'; needed is one that tells classes apart"):
        load_model(tmp_path / "m.safetensors")


def test_cosines_of_pathways_are_those_of_a_loop(task: ReconstructionTask) -> None:
    data = task.data(None, False)
    net, x = task.loop(data, 0, "cpu").net.train(), torch.from_numpy(as_floats(data.test)).float()
    for _ in range(50):  # until the running statistics are those of the images
        net.perceive(x), net.recall(x)
    found = brought_back(net, data.test)
    for i, (v, u) in enumerate(zip(net.perceive(x).v, net.recall(x).v, strict=True)):
        v, u = v.double(), u.double()
        C = [[float(a @ b / (a.norm() * b.norm()).clamp(min=1e-12)) for b in u] for a in v]  # 0 where one is silent
        others = [C[k][j] for k in range(len(C)) for j in range(len(C)) if j != k]
        assert found.cosine[i] == pytest.approx(np.mean([C[k][k] for k in range(len(C))]), abs=1e-5)
        assert found.cosine_others[i] == pytest.approx(np.mean(others), abs=1e-5)
    assert max(abs(a - b) for a, b in zip(found.cosine, found.cosine_others, strict=True)) > 0.01


def test_references_and_features(task: ReconstructionTask) -> None:
    data = task.data(None, False)
    found = task.references(data)
    assert list(found) == ["mean image", "2 principal components", "training images", "classifier"]
    assert found["2 principal components"]["mse"] < found["mean image"]["mse"]
    assert found["classifier"]["accuracy"] == float(
        np.mean(predict(data.classifier.net, data.test, data.classifier.encoding, data.classifier.config) == data.test.labels)
    )
    net, factor = data.classifier.net, 2.0**data.classifier.encoding.scale_exponent
    assert isinstance(net, DiffPCNet)
    weight, bias = net.linears[0].weight.detach().numpy(), net.linears[0].bias.detach().numpy()
    by_hand = np.maximum(0, data.test.pixels.astype(float) * factor @ weight.T + bias)
    np.testing.assert_allclose(data.test_features, by_hand, rtol=1e-4, atol=1e-4)
    assert data.compare(as_floats(data.test)) == {
        "mse": 0,
        "psnr": math.inf,
        "ssim": pytest.approx(1),
        "frechet": pytest.approx(0, abs=1e-6),
    }


def test_a_summary_has_every_seed_variant_and_reference(
    task: ReconstructionTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["train", "a.toml", "--epochs", "1", "--summary", "s.json", "-q"])
    assert done.exit_code == 0, done.output
    found = json.loads(Path("s.json").read_text())
    short = task.with_epochs(1)
    assert found["command"] == "lavasnn train a.toml --epochs 1 --summary FILE" and found["config"] == short.dump()
    assert list(found["results"]) == list(short.variants()) and "2 principal components" in found["references"]
    data = short.data(None, False)
    for label, variant in short.variants().items():
        loop = variant.loop(data, 1, "cpu")
        made = tmp_path / "runs" / f"a-{label}-s1.safetensors"
        assert loop.difference(made) is None
        loop.adopt(made)
        row = {key: value for key, value in found["results"][label]["seeds"][1].items() if key not in ("seed", "seconds")}
        assert row == variant.measure(loop, data)


def test_recall_draws_what_both_pathways_make_of_images(task: ReconstructionTask, tmp_path: Path) -> None:
    loop = task.loop(task.data(None, False), 0, "cpu")
    loop.save_model(tmp_path / "m.safetensors")
    command = ["recall", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "p.png"), "--samples", "3", "--json"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    few = blobs("test", seed=1).take(3)
    found, truth = brought_back(loop.net, few), as_floats(few)
    values = json.loads(done.output)
    assert values["mse"] == mse(found.x, truth) and values["mse_recall"] == mse(found.u, truth)
    assert values["samples"] == 3 and (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    done = CliRunner().invoke(cli, [*command, "--backend", "lava"])
    assert isinstance(done.exception, InputError) and "an autoencoder, which torch runs" in str(done.exception)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"network": {"hidden": ["8c4s2"]}}, r"network.hidden.0 is '8c4s2': allowed is a convolution with an odd kernel"),
        ({"network": {"hidden": ["8c3s2", 40]}}, r"network.hidden.1 is 40: allowed is a convolution"),
        ({"network": {"hidden": []}}, "network.hidden is"),
        ({"network": {"neuron": "lif"}}, "unknown entry network.neuron; allowed are hidden$"),
        ({"network": {"hidden": ["9000c3", "9000c3"]}}, "network has a layer of 729,000,000 weights or neurons"),
        ({"bsd": {"penalty": 1.0}}, "unknown entry bsd.penalty; allowed are steps, .*cutoff, penalty_low"),
        ({"bsd": {"cutoff": 2.0}}, "bsd.cutoff is 2.0"),
        ({"training": {"method": "diffpc"}}, "training.method is 'diffpc'"),
        ({"training": {"method": "bptt"}, "variants": ["mse"]}, "training.method is 'bptt', which is a variant of 'bsd'"),
        ({"variants": ["backprop"]}, "variants.0 is 'backprop'"),
        ({"components": [785]}, "components has 785, an image 784 pixels"),
        ({"data": {"name": "digits"}}, "data.name is 'digits'; needed are images of 11 x 11 pixels or more"),
        ({"data": {"name": "nmnist"}}, "data.name is 'nmnist'; needed are images"),
        ({"data": {"name": "mnist", "input_exponent": 2}}, "data.input_exponent is 2"),
    ],
)
def test_what_a_configuration_cannot_say(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(entries, "here")


def test_more_held_out_than_there_are(task: ReconstructionTask) -> None:
    section = task.config.data.model_copy(update={"validation": 40})
    with pytest.raises(ConfigError, match=r"data\.validation is 40, the training set has 40 images"):
        ReconstructionTask(task.config.model_copy(update={"data": section})).data(None, False)


# What the page says

ROOT = Path(__file__).resolve().parents[1]
NAMES = {
    "bsd": "BSD",
    "bptt": "the same network, end to end",
    "primitive": "one λ for all frequencies",
    "infonce": "InfoNCE",
    "mse": "squared distance",
    "training images": "other images",
}
DIGITS = {"mse": 4, "psnr": 2, "ssim": 3, "frechet": 3}


def lines(name: str) -> list[str]:
    """Rows of a table: means over seeds, their deviation where there are several, and the references."""
    summary = json.loads((ROOT / "sim_runs" / "summaries" / f"{name}.json").read_text())
    found: dict[str, list[str]] = {}
    for label, result in summary["results"].items():
        spread = result["deviation"]
        found[label] = [
            f"{result['mean'][key]:.{d}f}" + (f" ± {spread[key]:.{d}f}" if spread else "") for key, d in DIGITS.items()
        ]
    for label, values in summary["references"].items():
        if label != "classifier":
            found[label] = [f"{values[key]:.{d}f}" if key in values else "" for key, d in DIGITS.items()]
    return [f"| {NAMES.get(label, label)} | {' | '.join(cells)} |" for label, cells in found.items()]


def cosines() -> list[str]:
    """The table of the first seed's cosines, by layer."""
    row = json.loads((ROOT / "sim_runs" / "summaries" / "mnist-bsd-autoencoder.json").read_text())["results"]["bsd"]["seeds"][0]
    head = ["| layer | " + " | ".join(str(i) for i in range(1, 8)) + " |", "|---" * 8 + "|"]
    names = {"cosine": "of the same image", "cosine_others": "of others"}
    return head + [f"| {name} | " + " | ".join(f"{c:.2f}" for c in row[key]) + " |" for key, name in names.items()]


@pytest.mark.parametrize("name", ["mnist-bsd-autoencoder", "fashion-bsd-autoencoder", "mnist-bsd-autoencoder-losses"])
def test_the_page_quotes_the_summaries(name: str) -> None:
    page = (ROOT / "docs" / "bsd-autoencoder.md").read_text("utf-8")
    assert f"| {name} | MSE |" in page
    table = page.partition(f"| {name} | MSE |")[2].partition("\n\n")[0].splitlines()[2:]
    own = lines(name)
    assert table == (own if "losses" not in name else own[:4])
    assert "\n".join(cosines()) in page


def test_a_radius_that_holds_all_frequencies_splits_nothing() -> None:
    random = torch.Generator().manual_seed(0)
    v, u = (torch.randn(6, 2 * 7 * 7, generator=random) for _ in range(2))
    wide, none = (AutoencoderSection(cutoff=cutoff) for cutoff in (1.5, 0.0))
    for found, expected in zip(hidden_gradients(v, u, (2, 7, 7), wide), hidden_gradients(v, u, (2, 7, 7), none), strict=True):
        assert torch.equal(found, expected)
    assert max(float(d.abs().max()) for d in hidden_gradients(v, u, (2, 7, 7), AutoencoderSection(cutoff=1.2))) < 10


@pytest.mark.parametrize(("loss", "variants"), [("infonce", ["primitive"]), ("reco", ["mse", "mse"]), ("mse", ["mse"])])
def test_variants_have_to_be_other_runs(loss: str, variants: list[str]) -> None:
    with pytest.raises(ConfigError, match="variants are"):
        parse({"bsd": {"loss": loss}, "variants": variants}, "here")
