"""DiffPC's neuron: theorem 4.1, `step` against plain Python numbers, whole cycles against steps, timings and their errors."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lavasnn.dynamics import diffpc
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt, State, check_24_bits, collapse, collapse_kernel, step, track
from lavasnn.dynamics.timing import Timing
from lavasnn.errors import InputError, RangeError

VARIABLES = ("x_F", "x_T", "x_A", "e_in", "e_T", "e_A")


def cycle(x_T: NDArray[Any], x_A: NDArray[Any], m: int, n: int, comparator: str, gate: str | None = ">=") -> tuple[Any, Any]:
    """n steps of `track` with halving thresholds: spikes of each step, and the x_A reached."""
    sent: list[Any] = []
    for t in range(n):
        s, x_A = track(x_T, x_A, 2.0 ** (m - t), comparator, gate)
        sent.append(s)
    return sent, x_A


# Theorem 4.1


@st.composite
def tracked(draw: st.DrawFn) -> tuple[int, int, float, float]:
    """m, n, x_T > 0 and x_A >= 0 with |x_T - x_A| < 2**(m+1), on a grid fine enough for float64 to be exact."""
    m, n = draw(st.integers(-6, 6)), draw(st.integers(1, 14))
    unit = 2.0 ** (m - 24)
    limit = 2**25  # 2**(m + 1) in units
    a = draw(st.integers(0, 3 * limit))
    d = draw(st.integers(-limit + 1, limit - 1))
    x_T = max(a + d, 1)
    return m, n, x_T * unit, a * unit


@given(tracked(), st.sampled_from([">=", ">"]), st.sampled_from([">=", ">"]))
@settings(max_examples=150, deadline=None)
def test_theorem_4_1(drawn: tuple[int, int, float, float], comparator: str, gate: str) -> None:
    m, n, x_T, x_A = drawn
    if not abs(x_T - x_A) < 2.0 ** (m + 1):
        return
    _, after = cycle(np.array([x_T]), np.array([x_A]), m, n, comparator, gate)
    error, bound = abs(Fraction(x_T) - Fraction(float(after[0]))), Fraction(2) ** (m + 1 - n)
    assert error <= bound
    if comparator == ">=":
        assert error < bound


@given(st.integers(-6, 6), st.integers(1, 14), st.data())
@settings(max_examples=100, deadline=None)
def test_theorem_4_1_is_exact_on_the_grid(m: int, n: int, data: st.DataObject) -> None:
    lowest = 2.0 ** (m - n + 1)
    a = data.draw(st.integers(0, 3 * 2**n))
    k = data.draw(st.integers(max(1, a - 2**n + 1), a + 2**n - 1))
    _, after = cycle(np.array([k * lowest]), np.array([a * lowest]), m, n, ">=")
    assert after[0] == k * lowest


@pytest.mark.parametrize(("m", "n"), [(0, 3), (4, 9), (-2, 1)])
def test_the_papers_strict_comparator_only_reaches_the_bound(m: int, n: int) -> None:
    _, strict = cycle(np.array([2.0**m]), np.zeros(1), m, n, ">", ">")
    assert 2.0**m - strict[0] == 2.0 ** (m + 1 - n)  # "<" would be false
    _, ours = cycle(np.array([2.0**m]), np.zeros(1), m, n, ">=")
    assert ours[0] == 2.0**m


def test_beyond_the_range_one_cycle_moves_by_all_thresholds() -> None:
    _, after = cycle(np.array([100.0, -100.0]), np.array([0.0, 50.0]), 2, 3, ">=")
    assert after.tolist() == [4 + 2 + 1, 50 - (4 + 2 + 1)]


def test_a_strict_gate_cannot_return_to_zero() -> None:
    target, actual = np.array([0.0]), np.array([1.0])
    assert track(target, actual, 1.0, ">=", ">=")[1].tolist() == [0.0]
    assert track(target, actual, 1.0, ">=", ">")[1].tolist() == [1.0]
    assert track(target, actual, 1.0, ">=", None)[1].tolist() == [0.0]
    assert track(np.array([-2.0]), np.array([0.0]), 1.0, ">=", ">=")[0].tolist() == [0.0]
    assert track(np.array([-2.0]), np.array([0.0]), 1.0, ">=", None)[0].tolist() == [-1.0]


# One step


@st.composite
def timings(draw: st.DrawFn, binary: bool) -> Timing:
    """Any timing of a few steps; with `binary` powers of two only."""
    return Timing(
        m=draw(st.integers(-1, 2)),
        n=draw(st.integers(1, 4)),
        m_error=draw(st.sampled_from([None, -2, 1])),
        init_cycles=draw(st.integers(1, 3)),
        settle_cycles=draw(st.integers(0, 3)),
        schedule=draw(st.sampled_from(["cyclic", "cyclic-decay", "constant"])),
        final=draw(st.sampled_from([0.125, 0.3, 1.0])),
        decay="binary" if binary else draw(st.sampled_from(["linear", "binary"])),
        gamma=draw(st.sampled_from([1.0, 0.5])),
        targets=draw(st.sampled_from(["latched", "live"])),
        comparator=draw(st.sampled_from([">=", ">"])),
        gate=draw(st.sampled_from([">=", ">"])),
        update_activity=draw(st.sampled_from(["initial", "settled"])),
    )


def populations() -> st.SearchStrategy[tuple[str, int]]:
    return st.sampled_from([("input", 0), ("hidden", 1), ("hidden", 2), ("output", 1), ("output", 3)])


def check_window(plain: SimpleNamespace, p: diffpc.Dynamics, settle: bool, seed: int, library: str) -> None:
    """Two windows of `step` under random arrivals, every state and spike against single neurons in plain numbers."""
    timing, neurons, samples = p.timing, 5, 2
    point = p.point if isinstance(p, DiffPCInt) else None
    random = np.random.default_rng(seed)
    bias = np.broadcast_to(np.asarray(p.bias), (neurons,)).tolist()
    high = 40 if point is None else 4 << point
    target = random.integers(0, high, (samples, neurons))
    alive = random.integers(0, 2, (samples, neurons)) if seed % 3 == 0 else np.ones((samples, neurons), np.int64)
    real = point is None
    target = target / 16 if real else target
    clock = plain.Clock(timing, point)

    def ours(values: Any) -> Any:
        array = np.asarray(values, np.float64 if real else np.int64)
        return torch.from_numpy(array.copy()) if library == "torch" else array

    state: State | None = None
    old: list[list[Any]] = [[None] * neurons for _ in range(samples)]
    for time in range(2 * timing.window(settle)):
        t = time % timing.window(settle)
        a_x, a_e = random.integers(-6, 7, (2, samples, neurons))
        a_x, a_e = (a_x / 8, a_e / 8) if real else (a_x, a_e)
        given_alive = ours(alive) if seed % 3 == 0 else None
        state, s_A, s_e = step(p, p.now(t, settle), state, ours(a_x), ours(a_e), ours(target), given_alive)
        for i in range(samples):
            for j in range(neurons):
                old[i][j], spike, error_spike = plain.neuron_step(
                    clock,
                    p.role,
                    p.depth,
                    t,
                    settle,
                    old[i][j],
                    a_x[i, j].item(),
                    a_e[i, j].item(),
                    target[i, j].item(),
                    int(alive[i, j]),
                    bias[j],
                )
                where = f"{library}, step {t}, neuron {j}"
                assert s_A[i, j] == spike, where
                assert s_e[i, j] == error_spike, where
                for name in VARIABLES:
                    assert getattr(state, name)[i, j] == getattr(old[i][j], name), f"{name}, {where}"


@pytest.mark.parametrize("library", ["numpy", "torch"])
@given(timing=timings(binary=False), population=populations(), settle=st.booleans(), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
@example(timing=Timing(n=3, targets="live", gamma=0.5), population=("hidden", 1), settle=True, seed=3)
@example(timing=Timing(n=3, update_activity="settled"), population=("hidden", 1), settle=True, seed=1)
def test_step_in_real_numbers(
    plain: SimpleNamespace, library: str, timing: Timing, population: tuple[str, int], settle: bool, seed: int
) -> None:
    bias = (np.random.default_rng(seed).integers(-16, 17, 5) / 8).astype(np.float64)
    check_window(plain, DiffPC(population[0], population[1], timing, bias), settle, seed, library)  # type: ignore[arg-type]


@pytest.mark.parametrize("library", ["numpy", "torch"])
@given(timing=timings(binary=True), population=populations(), settle=st.booleans(), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
@example(timing=Timing(n=3, targets="live", gamma=0.5), population=("hidden", 1), settle=True, seed=3)
@example(timing=Timing(n=3, update_activity="settled"), population=("hidden", 1), settle=True, seed=1)
def test_step_in_integers(
    plain: SimpleNamespace, library: str, timing: Timing, population: tuple[str, int], settle: bool, seed: int
) -> None:
    point = 10
    bias = np.random.default_rng(seed).integers(-2 << point, (2 << point) + 1, 5)
    check_window(plain, DiffPCInt(population[0], population[1], timing, bias, point), settle, seed, library)  # type: ignore[arg-type]


def test_a_window_forgets_the_one_before() -> None:
    p = DiffPC("hidden", 1, Timing(n=2, init_cycles=1, settle_cycles=0), bias=np.array([0.5]))
    dirty = State(*(np.full((1, 1), 7.0) for _ in range(7)))
    state, _, _ = step(p, p.now(0, False), dirty, np.full((1, 1), 9.0), np.full((1, 1), 9.0), None)
    assert (state.x_F.item(), state.x_A.item(), state.e_in.item(), state.e_A.item()) == (0.5, 0.0, 0.0, 0.0)


# A whole cycle at once


@st.composite
def journeys(draw: st.DrawFn) -> dict[str, Any]:
    """Targets and announced values of a few neurons; many of them on the grid of the smallest threshold, or next to it."""
    m, n = draw(st.integers(-3, 4)), draw(st.integers(1, 12))
    constant = draw(st.booleans())
    lowest = 2.0**m if constant else 2.0 ** (m - n + 1)
    floor = draw(st.booleans())
    reach = n if constant else 2**n
    quarters = st.integers(-6 * reach, 6 * reach)  # of the smallest threshold
    target = draw(st.lists(quarters, min_size=1, max_size=8))
    actual = draw(st.lists(st.integers(0 if floor else -reach, reach), min_size=len(target), max_size=len(target)))
    return {
        "m": m,
        "n": n,
        "constant": constant,
        "floor": floor,
        "lowest": lowest,
        "target": np.array(target) * lowest / 4,
        "actual": np.array(actual) * lowest,
    }


@given(journeys(), st.sampled_from([">=", ">"]), st.sampled_from(["numpy", "torch"]))
@settings(max_examples=150, deadline=None)
def test_collapse_is_n_steps(drawn: dict[str, Any], comparator: str, library: str) -> None:
    m, n, floor, constant = drawn["m"], drawn["n"], drawn["floor"], drawn["constant"]
    target, actual = drawn["target"], drawn["actual"]
    expected, spikes = actual.copy(), np.zeros(len(actual), int)
    for t in range(n):
        s, expected = track(target, expected, 2.0 ** (m if constant else m - t), comparator, ">=" if floor else None)
        spikes += np.abs(s).astype(int)
    levels = n if constant else 2**n - 1
    given_target, given_actual = (torch.from_numpy(v) if library == "torch" else v for v in (target, actual))
    k, after = collapse(given_target, given_actual, drawn["lowest"], levels, comparator, floor)
    assert np.asarray(after).tolist() == expected.tolist()
    sizes = [abs(int(v)) for v in np.asarray(k)]
    assert all(size <= levels for size in sizes)
    assert (sizes if constant else [bin(size).count("1") for size in sizes]) == spikes.tolist()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@given(drawn=journeys(), comparator=st.sampled_from([">=", ">"]))
@settings(max_examples=150, deadline=None)
def test_collapse_kernel_is_collapse(kind: type, drawn: dict[str, Any], comparator: str) -> None:
    n, floor, lowest, m = drawn["n"], drawn["floor"], 2.0 ** (drawn["m"] - drawn["n"] + 1), drawn["m"]
    target, actual = (drawn[name].astype(kind) for name in ("target", "actual"))
    expected, spikes = actual.astype(np.float64), 0
    moved = expected.copy()
    for t in range(n):
        s, expected = track(target.astype(np.float64), expected, 2.0 ** (m - t), comparator, ">=" if floor else None)
        spikes += int(np.abs(s).sum())
    after = np.full_like(actual, np.nan)
    strict = comparator == ">"
    sent, most = collapse_kernel(target, actual, after, kind(1 / lowest), kind(lowest), kind(2**n - 1), strict, floor)
    assert after.tolist() == expected.tolist()
    assert sent == spikes
    assert most == int(np.abs((expected - moved) / lowest).max())


# Timing


def test_cyclic_thresholds_are_the_papers() -> None:
    timing = Timing(m=4, n=3, init_cycles=2, settle_cycles=1, m_error=-1)
    assert timing.thresholds("activity").tolist() == [16, 8, 4, 16, 8, 4, 16, 8, 4, 16]
    assert timing.thresholds("error").tolist() == [0.5, 0.25, 0.125] * 3 + [0.5]
    assert timing.exponents("activity").tolist() == [4, 3, 2, 4, 3, 2, 4, 3, 2, 4]
    assert (timing.lowest("activity"), timing.lowest("error")) == (2, -3)
    assert (timing.init_steps, timing.settle_steps, timing.window(False), timing.window(True)) == (6, 3, 7, 10)


def test_the_papers_linear_decay() -> None:
    timing = Timing(m=2, n=4, init_cycles=3, settle_cycles=2, schedule="cyclic-decay", final=0.25, decay="linear")
    for t, theta in enumerate(timing.thresholds("activity").tolist()):
        assert theta == pytest.approx((1 - (1 - 0.25) * t / 20) * 2**2 / 2 ** (t % 4), rel=1e-14)
    assert timing.thresholds("activity")[-1] == pytest.approx(0.25 * 4)


def test_binary_decay_stays_on_powers_of_two() -> None:
    timing = Timing(m=3, n=2, init_cycles=2, settle_cycles=2, schedule="cyclic-decay", final=0.125)
    # d at t = 0, 2, 4, 6, 8 of 8: 1, 0.78, 0.56, 0.34, 0.125; nearest powers of two: 1, 1, 1/2, 1/4 (log2 0.34 = -1.54), 1/8
    assert timing.thresholds("activity").tolist() == [8, 4, 8, 4, 4, 2, 2, 1, 1]
    assert timing.lowest("activity") == 0


def test_constant_thresholds() -> None:
    timing = Timing(m=-2, n=3, init_cycles=1, settle_cycles=1, schedule="constant")
    assert set(timing.thresholds("activity").tolist()) == {0.25}
    assert timing.thresholds("error").shape == (7,)


@given(timings(binary=False))
@settings(max_examples=100, deadline=None)
def test_thresholds_against_plain_numbers(plain: SimpleNamespace, timing: Timing) -> None:
    for kind in ("activity", "error"):
        assert timing.thresholds(kind).tolist() == pytest.approx(plain.thresholds(timing, kind), rel=1e-14)


def test_linear_decay_has_no_exponents() -> None:
    timing = Timing(schedule="cyclic-decay", decay="linear", final=0.5)
    with pytest.raises(InputError, match="thresholds with decay 'linear' are no powers of two; integers need decay 'binary'"):
        timing.exponents("activity")


@pytest.mark.parametrize(("gamma", "shift"), [(1.0, 0), (0.5, 1), (2.0**-7, 7)])
def test_gamma_shift(gamma: float, shift: int) -> None:
    assert Timing(gamma=gamma).gamma_shift == shift


def test_gamma_that_is_no_shift() -> None:
    with pytest.raises(InputError, match=r"timing: gamma is 0\.3; integers need a power of two: 1, 0\.5, 0\.25"):
        _ = Timing(gamma=0.3).gamma_shift


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("m", 21, "m is 21, allowed are whole numbers -20..20"),
        ("m", None, "m is None, allowed are whole numbers -20..20"),
        ("m", 1.0, "m is 1.0, allowed"),
        ("n", 0, "n is 0, allowed are whole numbers 1..20"),
        ("n", True, "n is True, allowed"),
        ("n", 21, "n is 21, allowed are whole numbers 1..20"),
        ("m_error", -21, "m_error is -21, allowed are whole numbers -20..20"),
        ("init_cycles", 0, "init_cycles is 0, allowed are whole numbers 1..1000"),
        ("settle_cycles", -1, "settle_cycles is -1, allowed are whole numbers 0..1000"),
        ("settle_cycles", 1001, "settle_cycles is 1001, allowed"),
        ("final", 0.0, "final is 0.0, allowed is more than 0 up to 1"),
        ("final", math.nan, "final is nan, allowed is more than 0 up to 1"),
        ("gamma", 1.5, "gamma is 1.5, allowed is more than 0 up to 1"),
        ("gamma", 0, "gamma is 0, allowed is more than 0 up to 1"),
        ("schedule", "linear", "schedule is 'linear', allowed are 'cyclic', 'cyclic-decay', 'constant'"),
        ("decay", "none", "decay is 'none', allowed are 'linear', 'binary'"),
        ("targets", "", "targets is '', allowed are 'latched', 'live'"),
        ("comparator", "<", "comparator is '<', allowed are '>=', '>'"),
        ("gate", "==", "gate is '==', allowed are '>=', '>'"),
        ("update_activity", 1, "update_activity is 1, allowed are 'initial', 'settled'"),
    ],
)
def test_timing_refuses(name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^timing: {message}"):
        Timing(**{name: value})


# Populations


@pytest.mark.parametrize("kind", [DiffPC, DiffPCInt])
def test_roles_and_depths(kind: Any) -> None:
    with pytest.raises(InputError, match="DiffPC role is 'middle', allowed are 'input', 'hidden', 'output'"):
        kind("middle", 1, Timing())
    with pytest.raises(InputError, match="DiffPC input population: depth is 1; the input has depth 0, all others more"):
        kind("input", 1, Timing())
    with pytest.raises(InputError, match="DiffPC output population: depth is 0; the input has depth 0, all others more"):
        kind("output", 0, Timing())


def test_biases_have_to_be_finite() -> None:
    with pytest.raises(InputError, match="DiffPC hidden population: a bias is not finite"):
        DiffPC("hidden", 1, Timing(), np.array([0.0, np.inf]))


def test_integer_thresholds_have_to_fit() -> None:
    assert DiffPCInt("input", 0, Timing(m=4, n=9), point=18).now(0, True).theta == 2**22
    with pytest.raises(
        RangeError,
        match=r"DiffPC activity threshold 2\*\*23 at 19 fractional bits: signed 24-bit states allow .* up to 2\*\*22",
    ):
        DiffPCInt("input", 0, Timing(m=4, n=9), point=19)
    with pytest.raises(RangeError, match=r"DiffPC error threshold 2\*\*24 at 18 fractional bits"):
        DiffPCInt("input", 0, Timing(m=4, n=9, m_error=6), point=18)
    assert DiffPCInt("input", 0, Timing(m=4, n=9), point=4).now(8, True).theta == 1
    with pytest.raises(RangeError, match=r"DiffPC activity threshold 2\*\*-4 needs 4 fractional bits, the population has 3"):
        DiffPCInt("input", 0, Timing(m=4, n=9), point=3)


def test_integer_biases_have_to_fit() -> None:
    DiffPCInt("hidden", 1, Timing(), np.array([-(2**23) + 1, 2**23 - 1]))
    with pytest.raises(RangeError, match=r"DiffPC hidden population: a bias leaves signed 24 bits \(limit \+-8,388,607\)"):
        DiffPCInt("hidden", 1, Timing(), np.array([0, 2**23]))


def test_integers_need_powers_of_two() -> None:
    with pytest.raises(InputError, match=r"gamma is 0\.3; integers need a power of two"):
        DiffPCInt("hidden", 1, Timing(gamma=0.3))
    with pytest.raises(InputError, match="no powers of two"):
        DiffPCInt("hidden", 1, Timing(schedule="cyclic-decay", decay="linear", final=0.5))


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("sign", [1, -1])
def test_check_24_bits(name: str, sign: int) -> None:
    fits = State(*(np.full((2, 3), sign * (2**23 - 1)) for _ in range(7)))
    check_24_bits(fits, "hidden1", 5)
    value = np.zeros((2, 3), np.int64)
    value[1, 2] = sign * 2**23
    for array in (value, torch.from_numpy(value)):
        zeros = State(*(array * 0 for _ in range(7)))
        with pytest.raises(RangeError) as caught:
            check_24_bits(replace(zeros, **{name: array}), "hidden1", 5)
        assert str(caught.value) == (
            f"population 'hidden1': {name} of neuron 2 of row 1 is {sign * 2**23:,} at step 5, "
            "signed 24 bits hold up to +-8,388,607"
        )
    with pytest.raises(RangeError, match=f"{name} of neuron 2 is {sign * 2**23:,} at step 0"):
        check_24_bits(replace(State(*(value[0] for _ in range(7))), **{name: value[1]}), "hidden1", 0)
