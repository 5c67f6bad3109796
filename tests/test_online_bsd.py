"""BSD on one sample at a time: the critic against autograd, the concept form against the batch form, integer ranges."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from lavasnn.dynamics.concept import (
    FACTOR_MAX,
    FRACTION,
    GAIN,
    TRACE_MAX,
    ConceptLoss,
    critic,
    critic_int,
    cross_entropy,
    norm_int,
    plastic_step,
    traces,
)
from lavasnn.errors import InputError, RangeError
from lavasnn.learning.bsd import local_gradients
from lavasnn.learning.online_bsd import OnlineBSD, OnlineBSDInt, OnlineSettings, trained
from lavasnn.sections import BSDSection


def written_out(own: torch.Tensor, table: torch.Tensor, label: int, loss: ConceptLoss) -> torch.Tensor:
    """The loss as its equation has it."""
    total = torch.zeros((), dtype=torch.float64)
    for c in range(len(table)):
        C = torch.dot(own, table[c]) / (own.norm() * table[c].norm())
        own_class = c == label
        total = total + ((1 - C) ** 2 if own_class else 0)
        m = (loss.others - 1 if loss.same_class else 0) if own_class else loss.others
        total = total + loss.penalty * m * torch.clamp(C, min=0) ** 2
    return total


@pytest.mark.parametrize("same_class", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_critic_is_the_gradient_of_the_concept_loss(seed: int, same_class: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    own = torch.randn(7, generator=g, dtype=torch.float64).requires_grad_()
    table = torch.randn(4, 7, generator=g, dtype=torch.float64)
    loss = ConceptLoss(0.6, 3.7, same_class)
    (wanted,) = torch.autograd.grad(written_out(own, table, seed % 4, loss), own)
    v, u = own.detach().numpy(), table.numpy()
    alpha, beta = critic(v, u, seed % 4, loss)
    np.testing.assert_allclose(alpha @ u - beta * v, wanted.numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("negatives", ["literal", "other_class"])
def test_balanced_batch_is_a_sum_over_concepts(negatives: str) -> None:
    """With n samples of each class the batch's gradient of each v is the online one at others = n = B / classes."""
    random, classes, n = np.random.default_rng(0), 4, 5
    labels = np.repeat(np.arange(classes), n)
    v, u = random.normal(size=(classes * n, 9)), random.normal(size=(classes, 9))
    section = BSDSection(negatives=negatives)  # type: ignore[arg-type]
    dv, _ = local_gradients(torch.from_numpy(v), torch.from_numpy(u), torch.from_numpy(labels), section)
    loss = ConceptLoss(section.penalty, len(v) / classes, negatives == "literal")
    for k, label in enumerate(labels):
        alpha, beta = critic(v[k], u, int(label), loss)
        np.testing.assert_allclose(alpha @ u - beta * v[k], dv[k].numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("negatives", ["literal", "other_class"])
def test_type_2_equals_the_batch_when_samples_of_a_class_are_alike(negatives: str) -> None:
    """What batch 1 drops: that samples of a class differ. With one v for each class nothing is dropped."""
    random, classes, n = np.random.default_rng(1), 3, 6
    v, u = random.normal(size=(classes, 8)), random.normal(size=(classes, 8))
    labels = np.repeat(np.arange(classes), n)
    section = BSDSection(negatives=negatives)  # type: ignore[arg-type]
    _, du = local_gradients(torch.from_numpy(v[labels]), torch.from_numpy(u), torch.from_numpy(labels), section)
    loss = ConceptLoss(section.penalty, n, negatives == "literal")
    for y in range(classes):
        alpha, beta = critic(u[y], v, y, loss)
        np.testing.assert_allclose(n * (alpha @ v - beta * u[y]), du[y].numpy(), rtol=0, atol=1e-12)


@given(st.integers(0, 2**60))
def test_power_of_two_norm_is_the_nearest_by_ratio(squares: int) -> None:
    found = norm_int(squares, power=True)
    if squares == 0:
        assert found == 0
        return
    assert found & (found - 1) == 0
    assert Fraction(1, 2) <= Fraction(found**2, squares) <= 2
    assert norm_int(squares, power=False) ** 2 <= squares < (norm_int(squares, power=False) + 1) ** 2


def test_integer_critic_comes_close_to_real_numbers() -> None:
    random = np.random.default_rng(2)
    for _ in range(50):
        own, table = random.integers(-2000, 2000, 30), random.integers(-2000, 2000, (5, 30))
        alpha, beta = critic(own.astype(float), table.astype(float), 1, ConceptLoss())
        wanted = alpha @ table - beta * own
        a, b = critic_int(own, table, 1, ConceptLoss(), power=False)
        found = (a @ table - b * own) * 2.0 ** -(FRACTION + GAIN)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=0.01 * np.abs(wanted).max())


@given(
    st.lists(st.integers(-(2**17), 2**17), min_size=6, max_size=6),
    st.lists(st.integers(-(2**17), 2**17), min_size=18, max_size=18),
    st.integers(0, 2),
    st.booleans(),
    st.integers(0, 40),
)
def test_critic_and_traces_stay_in_range(own: list[int], table: list[int], label: int, power: bool, shift: int) -> None:
    v, u = np.array(own), np.array(table).reshape(3, 6)
    alpha, beta = critic_int(v, u, label, ConceptLoss(), power)
    assert np.abs(alpha).max() <= FACTOR_MAX
    assert abs(beta) <= FACTOR_MAX
    exact = [sum(int(a) * int(row[j]) for a, row in zip(alpha, u, strict=True)) - beta * own[j] for j in range(6)]
    assert max(map(abs, exact)) < 2**62
    y1, y2 = traces(alpha @ u - beta * v, shift)
    for j in range(6):
        y = -((exact[j] + ((1 << shift) >> 1)) >> shift)
        assert (int(y1[j]), int(y2[j])) == (max(min(y, TRACE_MAX), 0), max(min(-y, TRACE_MAX), 0))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-TRACE_MAX, TRACE_MAX)), max_size=60))
def test_synapse_loses_nothing_and_its_tag_stays_within_eight_bits(told: list[tuple[int, int]]) -> None:
    weight, tag, total = np.zeros((1, 1), np.int64), np.zeros((1, 1), np.int64), 0
    for x, y in told:
        weight, tag = plastic_step(weight, tag, np.array([x]), np.array([max(y, 0)]), np.array([max(-y, 0)]))
        total += 2 * x * y
        assert abs(int(tag[0, 0])) <= 188
        assert weight[0, 0] % 2 == tag[0, 0] % 2 == 0
        assert 64 * int(weight[0, 0]) + int(tag[0, 0]) == total


def test_cross_entropy_is_softmax_minus_one_hot() -> None:
    v = torch.tensor([3.0, -2.0, 11.0, 4.0], dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(torch.nn.functional.cross_entropy(v[None] * 0.25, torch.tensor([3])), v)
    found = cross_entropy(np.array([3, -2, 11, 4]), 0.25, 3) * 0.25 / 2**FRACTION
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=0.25 * 2.0**-FRACTION)


@pytest.mark.parametrize("power", [False, True])
def test_integers_learn_nearly_what_real_numbers_do(power: bool) -> None:
    """The change of each matrix over 30 samples points the same way, at the same length."""
    digits, labels = load_digits(return_X_y=True)
    settings = OnlineSettings((64, 32, 10), power=power)
    real, whole = OnlineBSD(settings), OnlineBSDInt(settings)
    before = [[w.copy() for w in net.W + net.Theta] for net in (real, whole)]
    for net in (real, whole):
        trained(net, digits[:30] / 16, labels[:30], seed=0)
    assert whole.saturated == 0
    fractions = [w * 64 + t for w, t in zip(whole.W + whole.Theta, whole.tags[0] + whole.tags[1], strict=True)]
    for mine, theirs, old_real, old in zip(real.W + real.Theta, fractions, *before, strict=True):
        a, b = (mine - old_real).ravel(), (theirs - 64 * old).ravel()
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > (0.6 if power else 0.7)


def test_what_is_no_setting_is_refused() -> None:
    with pytest.raises(InputError, match=r"sizes \(4, 3\), 4 steps"):
        OnlineSettings((4, 3))
    with pytest.raises(InputError, match="3 steps; needed are three layers"):
        OnlineSettings((4, 3, 2), steps=3)
    with pytest.raises(RangeError, match=r"others is 0\.5; allowed are numbers 1\.\.1024"):
        ConceptLoss(others=0.5)
