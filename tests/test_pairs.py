"""Choice of pairs against plain loops over all pairs."""

from itertools import combinations, product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavasnn.errors import InputError, RangeError
from lavasnn.nn.pairs import (
    active_pairs,
    channel_pairs,
    check_pairs,
    check_sites,
    covariance_pairs,
    field_pairs,
    in_field,
    kept_pairs,
    private_pairs,
    random_pairs,
    sites,
)


def as_set(pairs: torch.Tensor) -> set[tuple[int, ...]]:
    rows = [tuple(row) for row in pairs.tolist()]
    assert rows == sorted(rows) and len(set(rows)) == len(rows)
    assert pairs.dtype == torch.int64
    return set(rows)


@given(st.integers(1, 30), st.floats(0, 1), st.integers(0, 2**32))
def test_random_pairs_are_pairs(n: int, share: float, seed: int) -> None:
    every = set(combinations(range(n), 2))
    count = round(share * len(every))
    drawn = random_pairs(n, count, seed)
    check_pairs(drawn, n, "test")
    assert len(drawn) == count and as_set(drawn) <= every
    assert torch.equal(drawn, random_pairs(n, count, seed))
    assert as_set(random_pairs(n, len(every), seed)) == every


def test_random_pairs_are_drawn_evenly() -> None:
    counts = dict.fromkeys(combinations(range(6), 2), 0)
    for seed in range(3000):
        for pair in random_pairs(6, 3, seed).tolist():
            counts[tuple(pair)] += 1
    # Each of 15 pairs is in a draw of 3 with probability 1/5; 5 standard deviations of 3000 draws are 110.
    assert all(abs(c - 600) < 110 for c in counts.values())


def test_pairs_of_many_inputs() -> None:
    drawn = random_pairs(5000, 100_000, 1)
    check_pairs(drawn, 5000, "test")
    assert drawn[:, 0].float().mean().item() == pytest.approx(5000 / 3, rel=0.02)  # mean of the smaller of two


def test_active_pairs_leave_out_silent_inputs() -> None:
    x = torch.zeros(100, 8, dtype=torch.uint8)
    x[:3, 1] = x[:50, 3] = x[:2, 4] = x[:, 6] = 1
    assert as_set(active_pairs(x, 3, 0, least=0.03)) == {(1, 3), (1, 6), (3, 6)}
    assert as_set(active_pairs(x.bool(), 6, 0, least=0.0)) == set(combinations([1, 3, 4, 6], 2))
    with pytest.raises(RangeError, match=r"active_pairs: 4 pairs of 3 of 8 inputs that spike in at least 0\.03 .*0\.\.3"):
        active_pairs(x, 4, 0, least=0.03)


def scores(x: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> dict[tuple[int, int], float]:
    """Variance over classes of each pair's covariance, by loops."""
    found = {}
    for i, j in combinations(range(x.shape[1]), 2):
        of_class = []
        for c in sorted(set(labels.tolist())):
            a, b = x[labels == c, i].astype(float), x[labels == c, j].astype(float)
            of_class.append(np.mean((a - a.mean()) * (b - b.mean())))
        found[i, j] = float(np.var(of_class))
    return found


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float32, torch.int64])
def test_covariance_pairs_are_the_top_scores(dtype: torch.dtype) -> None:
    generator = np.random.default_rng(0)
    x = (generator.random((300, 12)) < generator.random(12)).astype(np.uint8)
    labels = generator.integers(0, 3, 300)
    x[labels == 1, 3] = x[labels == 1, 5]
    ranked = sorted(scores(x, labels).items(), key=lambda entry: -entry[1])
    given_x, given_labels = torch.from_numpy(x).to(dtype), torch.from_numpy(labels)
    best = as_set(covariance_pairs(given_x, given_labels, 7, 0, wide=1))
    assert best == {pair for pair, _ in ranked[:7]} and (3, 5) in best
    wide = {pair for pair, _ in ranked[:28]}
    draws = [as_set(covariance_pairs(given_x, given_labels, 7, seed)) for seed in range(20)]
    assert all(len(d) == 7 and d <= wide for d in draws) and len(set().union(*draws)) > 20
    assert len(as_set(covariance_pairs(given_x, given_labels, 60, 0))) == 60  # wide goes no further than all 66


@pytest.mark.parametrize(
    ("x", "labels", "options", "error", "message"),
    [
        (torch.full((4, 3), 2), torch.arange(4), {}, InputError, r"samples hold 2\.\.2; allowed are 0 and 1 alone"),
        (torch.full((4, 3), 0.5), torch.arange(4), {}, InputError, r"samples hold 0\.5\.\.0\.5; allowed"),
        (torch.full((4, 3), torch.nan), torch.arange(4), {}, InputError, r"samples hold nan\.\.nan; allowed"),
        (torch.zeros(4), torch.arange(4), {}, InputError, r"samples of shape \(4,\); allowed is \(sample, input\)"),
        (torch.zeros(4, 3), torch.arange(3), {}, InputError, r"labels of shape \(3,\), torch\.int64; allowed are 4 integers"),
        (torch.zeros(4, 3), torch.zeros(4), {}, InputError, r"labels of shape \(4,\), torch\.float32"),
        (torch.zeros(4, 3), torch.zeros(4).long(), {}, InputError, r"labels name 1 class; at least 2"),
        (torch.zeros(4, 3), torch.arange(4), {"wide": 0}, RangeError, r"wide = 0; allowed is a whole number from 1"),
        (torch.zeros(4, 2), torch.arange(4), {}, RangeError, r"covariance_pairs: 2 pairs of 2 inputs; allowed are 0\.\.1"),
    ],
)
def test_covariance_pairs_refuse(x: Any, labels: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        covariance_pairs(x, labels, 2, 0, **options)


def test_pairs_of_convolutions() -> None:
    every = list(product(range(3), range(2), range(2)))
    drawn = as_set(field_pairs(3, 2, 66, 0))
    assert drawn == {(*a, *b) for a, b in combinations(every, 2)}
    assert {row[1:3] + row[4:] for row in as_set(channel_pairs(9, 20, 0, at=(1, 2)))} == {(1, 2, 1, 2)}
    assert as_set(channel_pairs(3, 3, 0)) == {(0, 0, 0, 1, 0, 0), (0, 0, 0, 2, 0, 0), (1, 0, 0, 2, 0, 0)}
    pairs = random_pairs(3 * 4 * 5, 300, 0)
    assert torch.equal(sites(in_field(pairs, (4, 5)), (4, 5)), pairs)
    # torch's own flattening of a receptive field has the same order.
    image = torch.arange(3 * 4 * 5.0).view(1, 3, 4, 5)
    flat = torch.nn.functional.unfold(image, (4, 5)).flatten()
    field = in_field(pairs, (4, 5))
    assert torch.equal(image[0, field[:, 3], field[:, 4], field[:, 5]], flat[pairs[:, 1]])


def test_kept_pairs_are_the_largest() -> None:
    k = torch.tensor([[1.0, 0.0, -3.0, 0.5], [0.0, 2.0, 0.0, -0.6]])
    pool = SimpleNamespace(k=k, pairs=random_pairs(5, 4, 0))
    assert torch.equal(kept_pairs(pool, 2), pool.pairs[1:3])
    assert torch.equal(kept_pairs(pool, 4), pool.pairs)
    with pytest.raises(RangeError, match=r"kept_pairs: 5 pairs of a pool of 4 pairs; allowed are 0\.\.4"):
        kept_pairs(pool, 5)


def test_private_pairs_differ_between_neurons() -> None:
    pairs = private_pairs(10, 3, 9, 0)
    assert pairs.shape == (3, 9, 2) and not torch.equal(pairs[0], pairs[1])
    for own in pairs:
        check_pairs(own, 10, "test")
    assert torch.equal(pairs, private_pairs(10, 3, 9, 0)) and not torch.equal(pairs, private_pairs(10, 3, 9, 1))


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ([[0, 1, 2]], InputError, r"me: pairs of shape \(1, 3\), torch\.int64; allowed is \(pair, 2\), int64"),
        ([[0.0, 1.0]], InputError, r"me: pairs of shape \(1, 2\), torch\.float32"),
        ([[0, 1], [2, 4]], RangeError, r"me: pairs name inputs 0\.\.4; allowed are 0\.\.3"),
        ([[-1, 1]], RangeError, r"me: pairs name inputs -1\.\.1"),
        ([[0, 1], [2, 2]], InputError, r"me: pair 1 is \[2, 2\]; the first input comes before the second"),
        ([[0, 1], [0, 2], [0, 1]], InputError, r"me: 1 of 3 pairs are given more than once"),
    ],
)
def test_lists_that_are_refused(pairs: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        check_pairs(torch.tensor(pairs), 4, "me")


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ([[0, 1]], InputError, r"me: pairs of shape \(1, 2\), torch\.int64; allowed is \(pair, 6\)"),
        ([[0, 0, 0, 2, 0, 0]], RangeError, r"me: pairs name channels 0\.\.2; allowed are 0\.\.1"),
        ([[0, 3, 0, 1, 0, 0]], RangeError, r"me: pairs name rows 0\.\.3; allowed are 0\.\.2"),
        ([[0, 0, 0, 1, 0, 4]], RangeError, r"me: pairs name columns 0\.\.4; allowed are 0\.\.3"),
        ([[0, 1, 0, 0, 0, 3]], InputError, r"me: pair 0 is \[0, 1, 0, 0, 0, 3\]; the first"),
        ([[0, 0, 0, 1, 0, 0]] * 2, InputError, r"me: 1 of 2 pairs are given more than once"),
    ],
)
def test_fields_that_are_refused(pairs: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        check_sites(torch.tensor(pairs), 2, (3, 4), "me")


def test_too_many_pairs() -> None:
    for make, message in (
        (lambda: random_pairs(4, 7, 0), r"random_pairs: 7 pairs of 4 inputs; allowed are 0\.\.6"),
        (lambda: random_pairs(4, -1, 0), r"random_pairs: -1 pairs of 4 inputs"),
        (lambda: channel_pairs(3, 4, 0), r"channel_pairs: 4 pairs of 3 channels; allowed are 0\.\.3"),
        (lambda: field_pairs(1, (1, 3), 4, 0), r"field_pairs: 4 pairs of a field of 1×1×3; allowed are 0\.\.3"),
        (lambda: private_pairs(3, 2, 4, 0), r"private_pairs: 4 pairs of 3 inputs; allowed are 0\.\.3"),
    ):
        with pytest.raises(RangeError, match=message):
            make()
    assert random_pairs(1, 0, 0).shape == (0, 2) and field_pairs(1, 1, 0, 0).shape == (0, 6)
