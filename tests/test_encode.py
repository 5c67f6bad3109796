"""The input codes against a plain loop in Python integers and against their own statistics."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavasnn.encode import Encoding
from lavasnn.errors import InputError

WORD = 2**64


def splitmix64(state: int, n: int) -> int:
    """Output `n` of the SplitMix64 generator with the given state, by stepping it n + 1 times."""
    z = 0
    for _ in range(n + 1):
        state = (state + 0x9E3779B97F4A7C15) % WORD
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
        z ^= z >> 31
    return z


def skip_to(state: int, n: int) -> int:
    """The state that `n` steps lead to."""
    return (state + n * 0x9E3779B97F4A7C15) % WORD


def spike_by_hand(pixel: int, levels: int, seed: int, sample: int, step: int, feature: int) -> bool:
    """The documented rule for one spike, with exact fractions."""
    key = splitmix64(skip_to(splitmix64(seed, 0), sample), 0)
    draw = splitmix64(skip_to(key, step * 2**32 + feature), 0)
    return Fraction(draw // 2**32, 2**32) < Fraction(pixel, levels)


def test_reference_generator_is_splitmix64():
    # the published first outputs for the seed 1234567
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [splitmix64(1234567, n) for n in range(4)] == expected
    assert splitmix64(skip_to(1234567, 3), 0) == expected[3]


@settings(max_examples=60, deadline=None)
@given(
    levels=st.integers(1, 255),
    seed=st.integers(0, 2**63 - 1),
    samples=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3),
    data=st.data(),
)
def test_spikes_follow_the_documented_rule(levels: int, seed: int, samples: list[int], data: st.DataObject):
    steps, n_features = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    row = st.lists(st.integers(0, levels), min_size=n_features, max_size=n_features)
    pixels = [data.draw(row) for _ in samples]
    spikes = Encoding("bernoulli", levels=levels, seed=seed).spikes(np.array(pixels, np.uint8), samples, steps)
    assert spikes.dtype == np.bool_ and spikes.shape == (len(samples), steps, n_features)
    for k, sample in enumerate(samples):
        for t in range(steps):
            for f in range(n_features):
                assert spikes[k, t, f] == spike_by_hand(pixels[k][f], levels, seed, sample, t, f)


@pytest.mark.parametrize(("n_features", "steps"), [(7, 5), (700, 60)])
def test_a_sample_does_not_depend_on_its_batch(n_features: int, steps: int):
    pixels = np.random.default_rng(1).integers(0, 256, (60, n_features)).astype(np.uint8)
    encoding = Encoding("bernoulli", seed=5)
    whole = encoding.spikes(pixels, range(60), steps)
    for indices in ([0], [59], [17, 3, 44], list(range(59, -1, -1))):
        np.testing.assert_array_equal(encoding.spikes(pixels[indices], indices, steps), whole[indices])
    np.testing.assert_array_equal(encoding.spikes(pixels, np.arange(60), steps + 3)[:, :steps], whole)
    np.testing.assert_array_equal(encoding.spikes(pixels[:, :5], np.arange(60), steps), whole[:, :, :5])


def test_samples_steps_features_and_seeds_draw_apart():
    pixels = np.full((50, 64), 128, np.uint8)
    spikes = Encoding("bernoulli", seed=1).spikes(pixels, range(50), 40)
    other_seed = Encoding("bernoulli", seed=2).spikes(pixels, range(50), 40)
    pairs = {
        "seed": (spikes, other_seed),
        "sample": (spikes[1:], spikes[:-1]),
        "step": (spikes[:, 1:], spikes[:, :-1]),
        "feature": (spikes[:, :, 1:], spikes[:, :, :-1]),
    }
    p = 128 / 255
    agree = p * p + (1 - p) * (1 - p)
    for name, (a, b) in pairs.items():
        deviation = math.sqrt(agree * (1 - agree) / a.size)
        assert abs(float(np.mean(a == b)) - agree) < 6 * deviation, name


def test_rate_of_every_level_is_its_probability():
    steps, n_samples = 50, 400
    pixels = np.tile(np.arange(256, dtype=np.uint8), (n_samples, 1))
    counts = Encoding("bernoulli", seed=9).spikes(pixels, range(n_samples), steps).sum(axis=(0, 1))
    n = steps * n_samples
    for pixel in range(256):
        p = pixel / 255
        # six standard deviations of a binomial count: all 256 hold but for about one seed in a million
        assert abs(int(counts[pixel]) - n * p) <= 6 * math.sqrt(n * p * (1 - p)), pixel


@pytest.mark.parametrize("levels", [1, 16, 255])
def test_darkest_never_and_brightest_always_spikes(levels: int):
    pixels = np.array([[0, levels]] * 300, np.uint8)
    spikes = Encoding("bernoulli", levels=levels, seed=3).spikes(pixels, range(300), 200)
    assert not spikes[:, :, 0].any()
    assert spikes[:, :, 1].all()


def state_before(output: int) -> int:
    """The state whose next SplitMix64 output is `output`: every stage of the finaliser undone."""
    z = output
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        undone = z
        for _ in range(64 // shift):
            undone = z ^ (undone >> shift)
        z = (undone * pow(factor, -1, WORD)) % WORD
    return (z - 0x9E3779B97F4A7C15) % WORD


def sample_that_draws(draw: int) -> int:
    """The sample whose draw for step 0, feature 0 is `draw` with the seed 0; below 2^63 for about every other draw."""
    distance = state_before(state_before(draw)) - splitmix64(0, 0)
    return (distance * pow(0x9E3779B97F4A7C15, -1, WORD)) % WORD


def test_darkest_and_brightest_hold_for_the_extreme_draws():
    # the draws 0.. and 2^64-1.. have 0 and 2^32-1 in their upper half, which random tests would hardly ever meet
    smallest = [k for k in map(sample_that_draws, range(20)) if k < 2**63]
    largest = [k for k in map(sample_that_draws, range(WORD - 20, WORD)) if k < 2**63]
    assert len(smallest) > 2 and len(largest) > 2
    assert splitmix64(skip_to(splitmix64(skip_to(splitmix64(0, 0), smallest[0]), 0), 0), 0) < 20
    encoding = Encoding("bernoulli", levels=255)
    for pixel, spikes_at in ((0, []), (1, smallest), (254, smallest), (255, smallest + largest)):
        samples = smallest + largest
        spikes = encoding.spikes(np.full((len(samples), 1), pixel, np.uint8), samples, 1)
        assert spikes.ravel().tolist() == [k in spikes_at for k in samples]


@settings(max_examples=60, deadline=None)
@given(levels=st.integers(1, 255), steps=st.integers(1, 300), data=st.data())
def test_a_latency_spike_comes_once_and_the_earlier_the_brighter(levels: int, steps: int, data: st.DataObject):
    pixels = data.draw(st.lists(st.integers(0, levels), min_size=1, max_size=6))
    spikes = Encoding("latency", levels=levels).messages(np.array([pixels], np.uint8), [0], steps)
    assert spikes.dtype == np.bool_ and spikes.shape == (1, steps, len(pixels))
    for f, pixel in enumerate(pixels):
        # the step during which a ramp that rises by levels / steps in each step passes levels - pixel
        due = [t for t in range(steps) if Fraction(t * levels, steps) <= levels - pixel < Fraction((t + 1) * levels, steps)]
        assert np.flatnonzero(spikes[0, :, f]).tolist() == due
        assert len(due) == (pixel > 0)


def test_latencies_spread_evenly_over_the_steps():
    pixels = np.arange(1, 241, dtype=np.uint8)[None]
    spikes = Encoding("latency", levels=240).messages(pixels, [0], 8)[0]
    assert spikes.sum(1).tolist() == [30] * 8
    assert (np.diff(spikes.argmax(0)) <= 0).all()
    assert spikes[0, -1] and spikes[7, 0]


@pytest.mark.parametrize("levels, kind", [(255, np.int32), (2, np.int32), (1, np.bool_)])
def test_direct_payloads_are_the_pixels_in_every_step(levels: int, kind: type):
    pixels = np.random.default_rng(3).integers(0, levels + 1, (4, 6)).astype(np.uint8)
    encoding = Encoding("direct", levels=levels)
    shown = encoding.messages(pixels, range(4), 3)
    assert encoding.graded == (levels > 1)
    assert shown.dtype == kind and shown.shape == (4, 3, 6)
    for sample in range(4):
        for t in range(3):
            assert shown[sample, t].tolist() == pixels[sample].tolist()


@pytest.mark.parametrize("kind", ["latency", "direct"])
def test_codes_without_draws_refuse_what_the_others_refuse(kind: Any):
    encoding = Encoding(kind, levels=16, seed=4)
    assert np.array_equal(
        encoding.messages(np.full((2, 3), 9, np.uint8), [5, 6], 4),
        Encoding(kind, levels=16).messages(np.full((2, 3), 9), [0, 1], 4),
    )
    with pytest.raises(InputError, match=r"values run from 0 to 17, allowed is 0\.\.16"):
        encoding.messages(np.array([[0, 17]], np.uint8), [0], 1)
    with pytest.raises(InputError, match=r"steps is 0, allowed are integers 1\.\."):
        encoding.messages(np.zeros((2, 3), np.uint8), [0, 1], 0)
    with pytest.raises(InputError, match=f"encoding '{kind}': has no spikes, allowed is the kind 'bernoulli'"):
        encoding.spikes(np.zeros((2, 3), np.uint8), [0, 1], 1)
    with pytest.raises(InputError, match=f"encoding '{kind}': has no values, allowed is the kind 'value'"):
        encoding.values(np.zeros((2, 3), np.uint8))


@given(exponent=st.integers(-32, 32))
def test_values_are_exactly_dyadic(exponent: int):
    pixels = np.arange(256, dtype=np.uint8).reshape(4, 64)
    values = Encoding("value", scale_exponent=exponent).values(pixels)
    assert values.dtype == np.float64 and values.shape == (4, 64)
    for pixel, value in enumerate(values.ravel().tolist()):
        assert Fraction(value) == pixel * Fraction(2) ** exponent
        assert float(np.float32(value)) == value


def test_an_empty_batch_is_an_empty_answer():
    none = np.zeros((0, 4), np.uint8)
    for kind in ("bernoulli", "latency", "direct"):
        assert Encoding(kind).messages(none, [], 3).shape == (0, 3, 4)
    assert Encoding("value").values(none).shape == (0, 4)


def test_the_pixels_stay_as_they_were():
    pixels = np.arange(8, dtype=np.uint8).reshape(2, 4)
    Encoding("bernoulli").spikes(pixels, [0, 1], 2)
    Encoding("value", scale_exponent=-8).values(pixels)[:] = 0.0
    Encoding("direct").messages(pixels, [0, 1], 2)[:] = 0
    Encoding("latency").messages(pixels, [0, 1], 2)
    np.testing.assert_array_equal(pixels, np.arange(8).reshape(2, 4))


@given(
    kind=st.sampled_from(["value", "bernoulli", "latency", "direct"]),
    exponent=st.integers(-32, 32),
    levels=st.integers(1, 255),
    seed=st.integers(0, 2**63 - 1),
)
def test_json_round_trip(kind: str, exponent: int, levels: int, seed: int):
    entries = {"kind": kind, "scale_exponent": exponent if kind == "value" else 0, "levels": levels, "seed": seed}
    encoding = Encoding.from_json(entries)
    assert encoding.to_json() == entries
    assert Encoding.from_json(encoding.to_json()) == encoding


GOOD = {"kind": "value", "scale_exponent": -8, "levels": 255, "seed": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "rate"}, r"kind is 'rate', allowed are 'value', 'bernoulli', 'latency', 'direct' and 'given'"),
        ({"kind": ["value"]}, r"kind is \['value'\]"),
        ({"scale_exponent": 33}, r"scale_exponent is 33, allowed are integers -32\.\.32"),
        ({"scale_exponent": -33}, r"scale_exponent is -33"),
        ({"scale_exponent": 0.5}, r"scale_exponent is 0\.5"),
        ({"levels": 0}, r"levels is 0, allowed are integers 1\.\.255"),
        ({"levels": 256}, r"levels is 256"),
        ({"levels": True}, r"levels is True"),
        ({"seed": -1}, r"seed is -1, allowed are integers 0\.\."),
        ({"seed": 2**63}, r"seed is 9223372036854775808"),
        ({"seed": "1"}, r"seed is '1'"),
        ({"kind": "bernoulli"}, r"'bernoulli': scale_exponent is -8, allowed is 0"),
        ({"kind": "direct"}, r"'direct': scale_exponent is -8, allowed is 0"),
        ({"kind": "latency", "scale_exponent": 0, "levels": 256}, r"levels is 256, allowed are integers 1\.\.255"),
        ({"colour": 1}, r"found \['colour', .*\], needed are exactly the entries \['kind', 'scale_exponent'"),
    ],
)
def test_wrong_entries_are_named(changes: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        Encoding.from_json({**GOOD, **changes})


def test_incomplete_or_foreign_json_is_refused():
    with pytest.raises(InputError, match=r"found \['kind'\], needed are exactly"):
        Encoding.from_json({"kind": "value"})
    with pytest.raises(InputError, match=r"found list, needed are exactly"):
        Encoding.from_json([1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pixels", "indices", "steps", "message"),
    [
        (np.zeros((2, 3), np.float64), [0, 1], 1, r"pixels: float64 of shape \(2, 3\), allowed are integers"),
        (np.zeros((2, 3), np.bool_), [0, 1], 1, r"pixels: bool of shape"),
        (np.zeros(3, np.uint8), [0, 1, 2], 1, r"pixels: uint8 of shape \(3,\)"),
        (np.array([[0, 17]], np.uint8), [0], 1, r"values run from 0 to 17, allowed is 0\.\.16"),
        (np.array([[-1, 5]]), [0], 1, r"values run from -1 to 5"),
        (np.zeros((2, 3), np.uint8), [0], 1, r"sample indices: shape \(1,\), allowed is \(2,\)"),
        (np.zeros((2, 3), np.uint8), [0, -1], 1, r"sample indices: int64 from -1, allowed are integers of 0 or more"),
        (np.zeros((2, 3), np.uint8), [0.0, 1.0], 1, r"sample indices: float64"),
        (np.zeros((2, 3), np.uint8), [0, 1], 0, r"steps is 0, allowed are integers 1\.\."),
        (np.zeros((2, 3), np.uint8), [0, 1], 2.0, r"steps is 2\.0"),
    ],
)
def test_wrong_arguments_are_named(pixels: np.ndarray, indices: list[int], steps: int, message: str):
    with pytest.raises(InputError, match=message) as caught:
        Encoding("bernoulli", levels=16).spikes(pixels, indices, steps)
    assert "\n" not in str(caught.value)


def test_values_refuse_a_pixel_above_the_levels():
    with pytest.raises(InputError, match=r"values run from 17 to 17, allowed is 0\.\.16"):
        Encoding("value", levels=16).values(np.array([[17]], np.uint8))


def test_each_kind_has_its_own_method():
    pixels = np.zeros((1, 1), np.uint8)
    with pytest.raises(InputError, match="encoding 'bernoulli': has no values, allowed is the kind 'value'"):
        Encoding("bernoulli").values(pixels)
    with pytest.raises(InputError, match="encoding 'value': has no spikes, allowed is the kind 'bernoulli'"):
        Encoding("value").spikes(pixels, [0], 1)
