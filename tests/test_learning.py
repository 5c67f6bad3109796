"""Learning rules against plain loops, closed forms and finite differences; training runs that stop and go on."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavasnn.config import RunConfig
from lavasnn.data import Images, load
from lavasnn.dynamics.timing import Timing
from lavasnn.errors import FileFormatError, InputError, LavasnnError
from lavasnn.learning.loop import learning_rate
from lavasnn.learning.model import load_model
from lavasnn.learning.rules import RULES, Batch, backprop, diffpc, predictive_coding
from lavasnn.learning.trainer import Trainer, augmented, outputs, predict
from lavasnn.nn.diffpc import DiffPCNet
from lavasnn.sections import DataSection, NetworkSection, TrainingSection

SMALL = Timing(m=2, n=6, m_error=0, init_cycles=2, settle_cycles=3)


@torch.no_grad()
def dyadic(sizes: tuple[int, ...], timing: Timing, seed: int, samples: int, dropout: bool) -> tuple[DiffPCNet, Batch]:
    """A network and a batch of multiples of 1/32, so that no order of additions matters."""
    random = np.random.default_rng(seed)
    net = DiffPCNet(sizes, timing).double()
    for layer in net.linears:
        for values in (layer.weight, layer.bias):
            values.copy_(torch.from_numpy(random.integers(-30, 31, values.shape) / 32))
    x = torch.from_numpy(random.integers(0, 17, (samples, sizes[0])) / 8)
    target = torch.from_numpy(np.eye(sizes[-1])[random.integers(0, sizes[-1], samples)])
    below = sizes[:-1]
    alive: list[Tensor | None] = [None] * len(below)
    if dropout:
        alive = [torch.from_numpy((random.random((samples, n)) < 0.5).astype(float)) for n in below]
    return net, Batch(x, target, alive, [2.0 if dropout else 1.0] * len(below))


def gradients(net: DiffPCNet) -> list[NDArray[np.float64]]:
    """Weight and bias gradients of all layers, as copies."""
    return [np.array(p.grad) for layer in net.linears for p in (layer.weight, layer.bias)]


# The rules


@pytest.mark.parametrize("form", ["collapsed", "literal"])
@pytest.mark.parametrize("update_activity", ["initial", "settled"])
@pytest.mark.parametrize("dropout", [False, True])
def test_diffpc_gradient_is_the_local_product(plain: SimpleNamespace, form: Any, update_activity: Any, dropout: bool) -> None:
    # With two hidden layers the second one's prediction moves while it settles, dropped neurons' too.
    timing = replace(SMALL, init_cycles=3, settle_cycles=4, update_activity=update_activity)
    net, batch = dyadic((5, 4, 4, 3), timing, 7, 6, dropout)
    seen = diffpc(net, batch, TrainingSection(form=form))
    weights = [(layer.weight * s).tolist() for layer, s in zip(net.linears, batch.scale, strict=True)]
    biases = [layer.bias.tolist() for layer in net.linears]
    grads = [[[0.0] * len(row) for row in w] for w in weights]
    bias_grads = [[0.0] * len(b) for b in biases]
    spikes = [0, 0, 0]
    for i in range(len(batch.x)):
        alive = [None if a is None else a[i].tolist() for a in batch.alive]
        records = plain.network(timing, weights, biases, batch.x[i].tolist(), batch.target[i].tolist(), alive=alive)
        at = records[timing.init_steps - 1] if update_activity == "initial" else records[-1]
        assert seen.output[i].tolist() == [s.x_F for s in records[timing.init_steps].states[-1]]
        for l in (1, 2, 3):
            spikes[l - 1] += sum(abs(s) for record in records for s in record.s_e[l])
            for j, post in enumerate(records[-1].states[l]):
                error = post.e_T
                if l < 3 and (mask := alive[l]) is not None:
                    error *= mask[j]
                bias_grads[l - 1][j] -= error / 6
                for k, pre in enumerate(at.states[l - 1]):
                    grads[l - 1][j][k] -= error * pre.x_A * batch.scale[l - 1] / 6
    expected = [g for pair in zip(grads, bias_grads, strict=True) for g in pair]
    for mine, theirs in zip(gradients(net), expected, strict=True):
        assert np.abs(mine).max() > 0
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-14)
    assert seen.error_spikes == spikes


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


@pytest.mark.parametrize("form", ["collapsed", "literal"])
def test_diffpc_comes_near_the_true_gradient(form: Any) -> None:
    """gamma = 1, a fine error grid, activities of the first phase: one hidden layer gets backpropagation's gradient."""
    timing = Timing(m=4, n=16, m_error=0, init_cycles=2, settle_cycles=2)
    net = DiffPCNet((64, 30, 10), timing, torch.Generator().manual_seed(3)).double()
    images = load("digits:train").take(50)
    x = images.pixels / 4.0
    y = np.eye(10)[images.labels]
    W1, W2 = (layer.weight.detach().numpy() for layer in net.linears)
    hidden = x @ W1.T
    error = y - np.maximum(hidden, 0) @ W2.T
    back = (error @ W2) * (hidden > 0)
    # In the second cycle the hidden layer moves to hidden + back, and the output's error shrinks by what that predicts.
    rest = y - np.maximum(hidden + back, 0) @ W2.T
    batch = Batch(torch.from_numpy(x), torch.from_numpy(y), [None, None], [1.0, 1.0])
    diffpc(net, batch, TrainingSection(form=form))
    first, _, second, _ = gradients(net)
    for ours, truth in ((first, -back.T @ x / 50), (second, -rest.T @ np.maximum(hidden, 0) / 50)):
        assert cosine(ours, truth) > 0.9999
        assert np.linalg.norm(ours) / np.linalg.norm(truth) == pytest.approx(1, abs=0.001)
    assert cosine(second, -error.T @ np.maximum(hidden, 0)) > 0.95


def test_backprop_is_the_slope_of_the_loss() -> None:
    random = np.random.default_rng(2)
    net, batch = dyadic((5, 4, 4, 3), replace(SMALL, init_cycles=3), 8, 6, True)
    masks = [np.asarray(a) for a in batch.alive]

    def loss() -> float:
        x = batch.x.numpy()
        for l, layer in enumerate(net.linears):
            x = np.maximum(x, 0) if l else x
            x = (x * masks[l] * 2.0) @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        return 0.5 * float(((batch.target.numpy() - x) ** 2).sum()) / len(x)

    with torch.no_grad():  # away from the kinks of the ReLU
        for p in net.parameters():
            p.add_(torch.from_numpy(random.uniform(-0.01, 0.01, p.shape)))
    backprop(net, batch, TrainingSection())
    for p, gradient in zip([p for layer in net.linears for p in (layer.weight, layer.bias)], gradients(net), strict=True):
        flat = p.data.view(-1)
        slopes = np.zeros(flat.numel())
        for i in range(flat.numel()):
            middle = float(flat[i])
            flat[i] = middle + 1e-6
            above = loss()
            flat[i] = middle - 1e-6
            slopes[i] = (above - loss()) / 2e-6
            flat[i] = middle
        assert np.abs(slopes).max() > 1e-3
        np.testing.assert_allclose(gradient.ravel(), slopes, atol=1e-6)


def test_predictive_coding_settles_where_the_energy_is_least() -> None:
    """With active hidden neurons the energy 1/2 |v - a|^2 + 1/2 |y - W2 v - b2|^2 has its minimum in closed form."""
    random = np.random.default_rng(5)
    net = DiffPCNet((6, 5, 3), SMALL).double()
    W1, W2 = random.uniform(0, 1, (5, 6)), random.uniform(-0.5, 0.5, (3, 5))
    b1, b2 = np.full(5, 3.0), random.uniform(-1, 1, 3)
    with torch.no_grad():
        for layer, weight, bias in zip(net.linears, (W1, W2), (b1, b2), strict=True):
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
    x, y = random.uniform(0, 1, (4, 6)), np.eye(3)[[0, 1, 2, 1]]
    batch = Batch(torch.from_numpy(x), torch.from_numpy(y), [None, None], [1.0, 1.0])
    seen = predictive_coding(net, batch, TrainingSection(iterations=500, relaxation_rate=0.2))
    a = x @ W1.T + b1
    v = np.linalg.solve(np.eye(5) + W2.T @ W2, (a + (y - b2) @ W2).T).T
    assert v.min() > 0
    e1, e2 = v - a, y - v @ W2.T - b2
    expected = [-e1.T @ x / 4, -e1.mean(0), -e2.T @ v / 4, -e2.mean(0)]
    for mine, truth in zip(gradients(net), expected, strict=True):
        np.testing.assert_allclose(mine, truth, atol=1e-10)
    np.testing.assert_allclose(seen.output, a @ W2.T + b2, atol=1e-12)


@pytest.mark.parametrize("dropout", [False, True])
def test_predictive_coding_starts_along_backprop(dropout: bool) -> None:
    """After one relaxation step of size r the hidden errors, and so the first gradient, are r times backpropagation's."""
    net, batch = dyadic((5, 4, 3), SMALL, 9, 6, dropout)
    backprop(net, batch, TrainingSection())
    truth = gradients(net)
    predictive_coding(net, batch, TrainingSection(iterations=1, relaxation_rate=0.125))
    ours = gradients(net)
    assert np.abs(truth[0]).max() > 0
    np.testing.assert_allclose(ours[0], 0.125 * truth[0], atol=1e-12)
    np.testing.assert_allclose(ours[1], 0.125 * truth[1], atol=1e-12)


@pytest.mark.parametrize("method", ["diffpc", "predictive-coding"])
@pytest.mark.parametrize("form", ["collapsed", "literal"])
def test_local_rules_build_no_autograd_graph(method: str, form: Any) -> None:
    net, batch = dyadic((5, 4, 3), SMALL, 9, 6, True)
    seen = RULES[method](net, batch, TrainingSection(form=form))
    assert not seen.output.requires_grad
    assert not any(p.requires_grad for p in seen.peak)
    for p in net.parameters():
        assert p.grad is not None
        assert p.grad.grad_fn is None
        assert not p.grad.requires_grad


# Training runs


@pytest.fixture(scope="module")
def digits() -> Images:
    return load("digits:train").take(300)


def config(**training: Any) -> RunConfig:
    section = TrainingSection(**{"epochs": 2, "batch": 8, **training})
    return RunConfig(data=DataSection(), network=NetworkSection(hidden=(20,)), training=section, timing=SMALL)


def weights(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in trainer.net.parameters()]


def timeless(trainer: Trainer) -> list[Any]:
    return [replace(report, seconds=0.0) for report in trainer.progress.history]


def interrupt_after(batches: int, times: int = 1) -> Callable[[int, int], None]:
    """Presses Ctrl-C when that many batches are done; `on_batch` hears of every 20th of an epoch."""

    def on_batch(done: int, _: int) -> None:
        if done == batches:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    return on_batch


@pytest.mark.parametrize(
    ("batches", "training"),
    [
        (20, {"dropout": 0.3, "input_dropout": 0.2, "shift": 1, "flip": True}),
        (58, {"optimizer": "sgd", "learning_rate": 0.02, "dropout": 0.3, "shift": 1, "flip": True}),
        (58, {"method": "backprop", "dropout": 0.3, "schedule": "constant", "clip_norm": 0.0}),
        (20, {"batch": 15, "shift": 1}),  # right at the end of the first epoch
    ],
)
def test_a_resumed_run_is_the_same_run(digits: Images, tmp_path: Path, batches: int, training: dict[str, Any]) -> None:
    setting = config(**training)
    validation = digits.take(50)
    straight = Trainer(setting, digits, validation, seed=4)
    straight.run()
    n_batches = -(-300 // training.get("batch", 8))
    assert straight.batches == n_batches
    stopped = Trainer(setting, digits, validation, seed=4)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(on_batch=interrupt_after(batches), checkpoint=tmp_path / "run.safetensors")
    assert stopped.progress.epoch * n_batches + stopped.progress.batch == batches
    resumed = Trainer(setting, digits, validation, seed=4)
    resumed.resume(tmp_path / "run.safetensors")
    resumed.run()
    for a, b in zip(weights(straight), weights(resumed), strict=True):
        assert torch.equal(a, b)
    assert timeless(straight) == timeless(resumed)
    assert len(timeless(straight)) == 2


def test_a_checkpoint_after_every_batch_changes_nothing(digits: Images, tmp_path: Path) -> None:
    setting, path = config(batch=64, dropout=0.3, shift=1), tmp_path / "run.safetensors"
    straight = Trainer(setting, digits, seed=1)
    straight.run()
    pieces = Trainer(setting, digits, seed=1)
    while pieces.progress.epoch < 2:
        pieces.run_batch()
        if pieces.progress.batch == pieces.batches:
            pieces.run_epoch()
        pieces.save_checkpoint(path)
        pieces = Trainer(setting, digits, seed=1)
        pieces.resume(path)
    for a, b in zip(weights(straight), weights(pieces), strict=True):
        assert torch.equal(a, b)
    assert timeless(straight) == timeless(pieces)


def test_a_second_ctrl_c_stops_at_once(digits: Images, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    trainer = Trainer(config(), digits, seed=4)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(on_batch=interrupt_after(20, times=2), checkpoint=tmp_path / "run.safetensors")
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_run_writes_its_checkpoint(digits: Images, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    trainer = Trainer(config(epochs=1, batch=100), digits, seed=1)
    trainer.run(checkpoint=path, every_s=0.0)
    again = Trainer(config(epochs=1, batch=100), digits, seed=1)
    again.resume(path)
    assert again.progress.batch == 3
    again.run()
    assert timeless(again) == timeless(trainer)
    for a, b in zip(weights(trainer), weights(again), strict=True):
        assert torch.equal(a, b)


def test_foreign_checkpoints_are_refused(digits: Images, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    trainer = Trainer(config(), digits, seed=1)
    trainer.save_checkpoint(path)
    Trainer(config(), digits, seed=1).resume(path)
    with pytest.raises(InputError, match=r"run\.safetensors: a checkpoint of another run, its seed differs from this one's"):
        Trainer(config(), digits, seed=2).resume(path)
    with pytest.raises(InputError, match="a checkpoint of another run, its config differs from this one's"):
        Trainer(config(dropout=0.5), digits, seed=1).resume(path)
    with pytest.raises(InputError, match="a checkpoint of another run, its data differs from this one's"):
        Trainer(config(), digits.take(200), seed=1).resume(path)
    trainer.save_model(tmp_path / "model.safetensors")
    with pytest.raises(FileFormatError):
        Trainer(config(), digits, seed=1).resume(tmp_path / "model.safetensors")


def test_the_seed_decides_everything(digits: Images) -> None:
    trainers = [Trainer(config(epochs=1, dropout=0.2, shift=1), digits, seed=seed) for seed in (1, 1, 2)]
    starts = [weights(t) for t in trainers]
    assert all(torch.equal(a, b) for a, b in zip(starts[0], starts[1], strict=True))
    assert not torch.equal(starts[0][0], starts[2][0])
    for trainer in trainers:
        trainer.run()
    ends = [weights(t) for t in trainers]
    assert all(torch.equal(a, b) for a, b in zip(ends[0], ends[1], strict=True))
    assert not torch.equal(ends[0][0], ends[2][0])
    assert not torch.equal(starts[0][0], ends[0][0])


def test_every_epoch_visits_every_sample_in_another_order(digits: Images) -> None:
    trainer = Trainer(config(), digits, seed=1)
    orders = [trainer.order(epoch, 300).tolist() for epoch in (0, 1)]
    assert orders[0] != orders[1]
    assert [sorted(order) for order in orders] == [list(range(300))] * 2


@pytest.mark.parametrize("rate", [0.25, 0.5])
def test_dropout_keeps_its_share_and_scales_it_back(digits: Images, rate: float) -> None:
    trainer = Trainer(config(batch=300, dropout=rate, input_dropout=0.5), digits, seed=1)
    batch = trainer._prepare(torch.arange(300), 0, 0)
    hidden, below = batch.alive[1], batch.alive[0]
    assert hidden is not None
    assert below is not None
    assert hidden.shape == (300, 20)
    assert float(hidden.mean()) == pytest.approx(1 - rate, abs=0.03)  # 6000 draws: 4 standard deviations
    assert float(below.mean()) == pytest.approx(0.5, abs=0.015)
    assert list(batch.scale) == [2.0, 1 / (1 - rate)]
    assert torch.equal(batch.x, torch.from_numpy(digits.pixels / 4.0).float())  # 16 levels: the largest becomes 4


def test_every_batch_of_every_epoch_and_seed_draws_anew(digits: Images) -> None:
    first, second = (Trainer(config(dropout=0.5, shift=2, flip=True), digits, seed=seed) for seed in (1, 2))
    index = torch.arange(8)
    drawn = [
        first._prepare(index, 0, 0),
        first._prepare(index, 0, 1),
        first._prepare(index, 1, 0),
        second._prepare(index, 0, 0),
    ]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert not torch.equal(one.x, other.x)
            assert one.alive[1] is not None
            assert other.alive[1] is not None
            assert not torch.equal(one.alive[1], other.alive[1])
    again = first._prepare(index, 1, 0)
    assert torch.equal(again.x, drawn[2].x)


@pytest.mark.parametrize("device", ["gpu", "tpu:0", "cpu:x"])
def test_unknown_devices_are_refused(digits: Images, device: str) -> None:
    with pytest.raises(InputError, match=f"^device '{device}': "):
        Trainer(config(), digits, device=device)


def test_cuda_needs_cuda(digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device 'cuda': torch finds no CUDA device here; use 'cpu'"):
        Trainer(config(), digits, device="cuda")


def test_weights_that_leave_the_numbers_stop_the_run(digits: Images) -> None:
    wild = config(method="backprop", optimizer="sgd", learning_rate=90.0, clip_norm=0.0)
    with pytest.raises(
        LavasnnError, match=r"training: weights left the finite numbers in epoch 1; a lower learning_rate \(now 90.0\)"
    ):
        Trainer(wild, digits).run()

    def poison(*_: int) -> None:
        with torch.no_grad():
            trainer.net.linears[0].weight[0, 0] = torch.nan

    trainer = Trainer(config(), digits)
    with pytest.raises(LavasnnError, match="finite numbers in epoch 1"):
        trainer.run(on_batch=poison)


@pytest.mark.parametrize(
    ("method", "form"),
    [
        ("diffpc", "collapsed"),
        pytest.param("diffpc", "literal", marks=pytest.mark.slow),
        ("backprop", "collapsed"),
        ("predictive-coding", "collapsed"),
    ],
)
def test_each_method_learns_digits(method: str, form: Any) -> None:
    train, test = load("digits:train"), load("digits:test")
    setting = config(method=method, form=form, epochs=6, batch=32, learning_rate=3e-3)
    if form == "literal":
        setting = setting.model_copy(update={"timing": replace(SMALL, targets="live", gate=">", settle_cycles=2)})
    reports = (trainer := Trainer(setting, train, test, seed=0)).run()
    assert reports[-1].validation_accuracy is not None
    assert reports[-1].validation_accuracy > 0.9
    assert reports[-1].validation_accuracy == trainer.evaluate(test)
    assert reports[-1].train_accuracy > reports[0].train_accuracy
    if method == "diffpc":
        assert all(0 < spikes < 50 for spikes in reports[-1].error_spikes)
        assert 0 < reports[-1].peak < 2.0 ** (SMALL.m + 2)
    else:
        assert reports[-1].error_spikes == []


def test_the_literal_form_trains_the_same_network(digits: Images) -> None:
    """Real weights: both forms add in different orders, so they agree until a comparison falls otherwise."""
    ends = [Trainer(config(form=form, epochs=1, batch=100), digits, seed=1) for form in ("collapsed", "literal")]
    for trainer in ends:
        trainer.run()
    for a, b in zip(weights(ends[0]), weights(ends[1]), strict=True):
        assert float((a - b).abs().max()) < 1e-3


def test_models_are_read_as_written(digits: Images, tmp_path: Path) -> None:
    trainer = Trainer(config(epochs=1, batch=32), digits, seed=3)
    trainer.run()
    path = tmp_path / "model.safetensors"
    trainer.save_model(path)
    model = load_model(path)
    assert (model.seed, model.config, model.history) == (3, trainer.config, trainer.progress.history)
    for a, b in zip(trainer.net.parameters(), model.net.parameters(), strict=True):
        assert torch.equal(a, b)
    answers = predict(model.net, digits, model.encoding, model.config)
    assert float(np.mean(answers == digits.labels)) == trainer.evaluate(digits)


def test_outputs_are_those_of_the_trained_method() -> None:
    net, batch = dyadic((5, 4, 3), SMALL, 1, 6, False)
    (W1, b1), (W2, b2) = ((layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in net.linears)
    real = np.maximum(batch.x.numpy() @ W1.T + b1, 0) @ W2.T + b2
    with torch.no_grad():
        for method in ("backprop", "predictive-coding"):
            np.testing.assert_allclose(outputs(net, batch.x, config(method=method)), real, atol=1e-12)
        collapsed = outputs(net, batch.x, config())
        assert torch.equal(collapsed, outputs(net, batch.x, config(form="literal")))
    assert np.abs(collapsed.numpy() - real).max() < 4 * 2.0 ** (SMALL.m - SMALL.n + 1) * np.abs(W2).max()


# Augmentation


def moved(image: NDArray[np.uint8], dy: int, dx: int) -> NDArray[np.uint8]:
    """The image with its content moved dy up and dx left, zeros coming in; one pixel at a time."""
    out = np.zeros_like(image)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            if 0 <= y + dy < image.shape[0] and 0 <= x + dx < image.shape[1]:
                out[y, x] = image[y + dy, x + dx]
    return out


@pytest.mark.parametrize(("shift", "flip"), [(1, False), (2, True), (0, True)])
def test_augmentation_moves_whole_images(shift: int, flip: bool) -> None:
    random = np.random.default_rng(0)
    height, width, n = 5, 4, 400
    images = random.integers(1, 256, (n, height, width)).astype(np.uint8)
    out = augmented(torch.from_numpy(images.reshape(n, -1)), (height, width), shift, flip, torch.Generator().manual_seed(1))
    assert out.dtype == torch.uint8
    assert out.shape == (n, height * width)
    span = range(-shift, shift + 1)
    met: dict[tuple[bool, int, int], int] = {}
    for before, after in zip(images, out.numpy().reshape(n, height, width), strict=True):
        ways = [
            (mirror, dy, dx)
            for mirror in ((False, True) if flip else (False,))
            for dy in span
            for dx in span
            if np.array_equal(moved(before[:, ::-1] if mirror else before, dy, dx), after)
        ]
        assert len(ways) == 1
        met[ways[0]] = met.get(ways[0], 0) + 1
    expected = n / (len(span) ** 2 * (2 if flip else 1))
    assert len(met) == len(span) ** 2 * (2 if flip else 1)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in met.values())


def test_augmentation_of_nothing_is_nothing() -> None:
    pixels = torch.arange(24, dtype=torch.uint8).reshape(2, 12)
    assert torch.equal(augmented(pixels, (3, 4), 0, False, torch.Generator().manual_seed(1)), pixels)


@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_the_rate_rises_along_a_line_and_falls_along_a_cosine(warmup: int) -> None:
    section = TrainingSection(learning_rate=0.1, warmup=warmup)
    rates = [learning_rate(section, update, 20) for update in range(20)]
    for update, rate in enumerate(rates):
        assert rate == pytest.approx(0.05 * (1 + math.cos(math.pi * update / 20)) * min(1, (update + 1) / max(1, warmup)))
    constant = TrainingSection(learning_rate=0.1, warmup=warmup, schedule="constant")
    assert [learning_rate(constant, update, 20) for update in (0, 19)] == [0.1 / max(1, warmup), 0.1]
