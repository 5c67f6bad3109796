"""`step` against plain loops over Python's integers and floats; the compiled layer against the same loops."""

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lavasnn.dynamics.lif import Lif, LifInt, LifState, initial, step
from lavasnn.dynamics.lif_kernel import count_layer, pack_rows, run_layer, step_lanes
from lavasnn.errors import InputError, RangeError

V_MAX = 2**23 - 1
U_MAX = 2**31 - 2**24 - 1


def shrink(x: int, keep: int) -> int:
    size = abs(x) * keep // 4096
    return size if x > 0 else -size


def int_step(p: dict[str, int], u: int, v: int, a: int) -> tuple[bool, int, int]:
    """One neuron, one step, in unbounded integers; only the sum of the current is cut to 32 bits, as Lava's is."""
    x = shrink(u, 4096 - (p["du"] + 1)) + a * 64
    x = (x + 2**31) % 2**32 - 2**31
    if x > 2**23:
        x -= 2**24
    elif x <= -(2**23):
        x += 2**24
    y = max(-V_MAX, min(V_MAX, shrink(v, 4096 - p["dv"]) + x + p["bias_mant"] * 2 ** p["bias_exp"]))
    return (True, x, 0) if y > p["vth"] * 64 else (False, x, y)


def int_layer(
    p: dict[str, int],
    weights: list[list[int]],
    spikes: list[list[list[int]]],
    exponent: int,
    arrive: int,
    bias: list[int],
) -> list[list[list[bool]]]:
    """A dense layer from rest: weights[pre][post], spikes[sample][step][pre] -> [sample][step][post]."""
    out: list[list[list[bool]]] = []
    for sample in spikes:
        state = [(0, 0) for _ in bias]
        raster: list[list[bool]] = []
        for t in range(len(sample)):
            row: list[bool] = []
            for j, mant in enumerate(bias):
                a = sum(s * w[j] for s, w in zip(sample[t - arrive], weights, strict=True)) if t >= arrive else 0
                a = a * 2**exponent if exponent > 0 else a >> -exponent
                fired, *uv = int_step({**p, "bias_mant": mant}, *state[j], a)
                state[j] = (uv[0], uv[1])
                row.append(fired)
            raster.append(row)
        out.append(raster)
    return out


def registers() -> st.SearchStrategy[dict[str, int]]:
    def field(low: int, high: int) -> st.SearchStrategy[int]:
        return st.integers(low, high) | st.sampled_from([low, low + 1, high - 1, high])

    return st.fixed_dictionaries(
        {"du": field(-1, 4095), "dv": field(0, 4095), "vth": field(0, 131071)}
        | {"bias_mant": field(-4096, 4095), "bias_exp": field(0, 7)}
    )


def near(*points: int) -> st.SearchStrategy[int]:
    return st.sampled_from([s * (p + d) for p in points for d in (-1, 0, 1) for s in (1, -1)])


us = st.integers(-U_MAX, U_MAX) | st.integers(-(2**23), 2**23) | near(0, 2**23)
vs = st.integers(-V_MAX, V_MAX) | near(0, V_MAX - 1)
inputs = st.integers(-(2**31), 2**31 - 1) | st.integers(-(2**18), 2**18) | near(0, 2**17, 3 * 2**17, 2**25, 2**26)


@settings(max_examples=400)
@given(registers(), st.lists(st.tuples(us, vs, inputs), min_size=1, max_size=8))
@example({"du": -1, "dv": 0, "vth": 131071, "bias_mant": 4095, "bias_exp": 7}, [(2**23, V_MAX, 2**17), (-U_MAX, -V_MAX, 0)])
def test_integer_step_equals_python_integers(p: dict[str, int], neurons: list[tuple[int, int, int]]) -> None:
    expected = [int_step(p, *neuron) for neuron in neurons]
    columns = [list(column) for column in zip(*neurons, strict=True)]
    params = LifInt(**p)
    u, v, a = (np.array(column, np.int32) for column in columns)
    spikes, state = step(params, LifState(u, v), a)
    assert (spikes.dtype, state.u.dtype, state.v.dtype) == (np.bool_, np.int32, np.int32)
    assert list(zip(spikes.tolist(), state.u.tolist(), state.v.tolist(), strict=True)) == expected
    assert [u.tolist(), v.tolist(), a.tolist()] == columns
    u, v, a = (torch.tensor(column, dtype=torch.int32) for column in columns)
    spikes, state = step(params, LifState(u, v), a)
    assert (spikes.dtype, state.u.dtype, state.v.dtype) == (torch.bool, torch.int32, torch.int32)
    assert list(zip(spikes.tolist(), state.u.tolist(), state.v.tolist(), strict=True)) == expected


def test_integer_step_has_batch_axes_in_front_and_a_bias_for_each_neuron() -> None:
    rng = np.random.default_rng(1)
    mant = np.array([-4096, 0, 4095])
    params = LifInt(du=100, dv=50, vth=900, bias_mant=mant, bias_exp=3)
    for asarray in (np.asarray, torch.asarray):
        state = initial(params, (2, 4, 3), like=asarray(np.zeros(1)))
        uv = dict.fromkeys(np.ndindex(2, 4, 3), (0, 0))
        for _ in range(20):
            a = rng.integers(-500, 1500, (2, 4, 3))
            spikes, state = step(params, state, asarray(a))
            for index, (u, v) in uv.items():
                p = {"du": 100, "dv": 50, "vth": 900, "bias_mant": int(mant[index[-1]]), "bias_exp": 3}
                fired, u, v = int_step(p, u, v, int(a[index]))
                assert (bool(spikes[index]), int(state.u[index]), int(state.v[index])) == (fired, u, v)
                uv[index] = (u, v)


@given(
    du=st.floats(0, 1), dv=st.floats(0, 1), vth=st.floats(0, 10), bias=st.floats(-5, 5),
    a=st.lists(st.floats(-20, 20), min_size=1, max_size=20),
)  # fmt: skip
def test_float_step_equals_a_plain_loop(du: float, dv: float, vth: float, bias: float, a: list[float]) -> None:
    params = Lif(du, dv, vth, bias)
    states = [initial(params, (1,)), initial(params, (1,), like=torch.zeros(1, dtype=torch.float64))]
    u = v = 0.0
    for x in a:
        u = u * (1 - du) + x
        v = v * (1 - dv) + u + bias
        fired = v > vth
        v = 0.0 if fired else v
        for i, array in enumerate((np.array([x]), torch.tensor([x], dtype=torch.float64))):
            spikes, states[i] = step(params, states[i], array)
            assert (bool(spikes[0]), float(states[i].u[0]), float(states[i].v[0])) == (fired, u, v)


def test_a_voltage_at_the_threshold_does_not_spike() -> None:
    spikes, state = step(LifInt(du=4095, dv=0, vth=3), LifState(*2 * [np.zeros(2, np.int32)]), np.array([3, 4]))
    assert (spikes.tolist(), state.v.tolist()) == ([False, True], [192, 0])
    spikes, state = step(Lif(du=1, dv=0, vth=3), LifState(*2 * [np.zeros(2)]), np.array([3.0, np.nextafter(3, 4)]))
    assert (spikes.tolist(), state.v.tolist()) == ([False, True], [3.0, 0.0])


def test_initial_takes_namespace_and_dtype() -> None:
    assert initial(LifInt(0, 0, 1), (2, 3)).u.dtype == np.int32
    assert initial(Lif(0, 0, 1), (2, 3)).v.dtype == np.float64
    assert initial(Lif(0, 0, 1), (2,), like=torch.zeros(1, dtype=torch.float32)).u.dtype == torch.float32
    assert initial(Lif(0, 0, 1), (2,), like=torch.zeros(1, dtype=torch.int8)).u.dtype == torch.float64
    assert initial(LifInt(0, 0, 1), (2,), like=torch.zeros(1)).u.dtype == torch.int32
    assert initial(LifInt(0, 0, 1), (2, 3)).u.shape == (2, 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"du": -2}, RangeError, r"LifInt: du = -2; allowed is -1\.\.4095"),
        ({"du": 4096}, RangeError, r"LifInt: du = 4096; allowed is -1\.\.4095"),
        ({"dv": -1}, RangeError, r"LifInt: dv = -1; allowed is 0\.\.4095"),
        ({"dv": 4096}, RangeError, r"LifInt: dv = 4096; allowed is 0\.\.4095"),
        ({"vth": -1}, RangeError, r"LifInt: vth = -1; allowed is 0\.\.131071"),
        ({"vth": 131072}, RangeError, r"LifInt: vth = 131072; allowed is 0\.\.131071"),
        ({"bias_mant": 4096}, RangeError, r"LifInt: bias_mant = 4096; allowed is -4096\.\.4095"),
        ({"bias_mant": np.array([1, -4097])}, RangeError, r"LifInt: bias_mant = -4097; allowed is -4096\.\.4095"),
        ({"bias_exp": 8}, RangeError, r"LifInt: bias_exp = 8; allowed is 0\.\.7"),
        ({"bias_exp": -1}, RangeError, r"LifInt: bias_exp = -1; allowed is 0\.\.7"),
        ({"vth": 10**30}, RangeError, r"LifInt: vth = 1000000000000000000000000000000; allowed is 0\.\.131071"),
        ({"vth": 3.0}, InputError, r"LifInt: vth is 3\.0; allowed is an integer"),
        ({"du": True}, InputError, r"LifInt: du is True; allowed is an integer"),
        ({"bias_mant": np.array([0.5])}, InputError, r"LifInt: bias_mant has dtype float64; allowed are integers"),
        ({"dv": np.array([1, 2])}, InputError, r"LifInt: dv is array\(\[1, 2\]\); allowed is an integer"),
    ],
)
def test_integer_registers_refuse(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        replace(LifInt(du=1, dv=2, vth=3), **change)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"du": 1.5}, RangeError, r"Lif: du = 1\.5; allowed is 0\.\.1"),
        ({"dv": -0.1}, RangeError, r"Lif: dv = -0\.1; allowed is 0\.\.1"),
        ({"vth": -1.0}, RangeError, r"Lif: vth = -1\.0; allowed is a finite number from 0"),
        ({"vth": float("inf")}, RangeError, r"Lif: vth = inf; allowed is a finite number from 0"),
        ({"dv": float("nan")}, InputError, r"Lif: dv is nan; allowed is one real number"),
        ({"du": "1"}, InputError, r"Lif: du is '1'; allowed is one real number"),
        ({"bias": np.array([0.0, np.nan])}, InputError, r"Lif: bias holds nan; allowed are finite real numbers"),
        ({"bias": "x"}, InputError, r"Lif: bias holds dtype <U1; allowed are finite real numbers"),
    ],
)
def test_float_parameters_refuse(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        replace(Lif(du=0.5, dv=0.5, vth=1.0), **change)


def test_parameters_compare_by_value_and_keep_their_own_bias() -> None:
    mant = np.array([1, 2])
    params = LifInt(0, 0, 1, bias_mant=mant)
    assert params == LifInt(0, 0, 1, bias_mant=np.array([1, 2], np.int16))
    assert params != LifInt(0, 0, 1, bias_mant=np.array([1, 3]))
    assert LifInt(0, 0, 1) != Lif(0, 0, 1)
    mant[0] = 9
    assert isinstance(params.bias_mant, np.ndarray)
    assert params.bias_mant.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        params.bias_mant[0] = 9
    assert type(LifInt(np.int64(5), 0, 1).du) is int


def test_integer_step_refuses_floating_input() -> None:
    params = LifInt(0, 0, 1)
    with pytest.raises(InputError, match="input a has dtype float64; allowed are integers"):
        step(params, initial(params, (3,)), np.zeros(3))


# ---- the compiled layer


@settings(max_examples=400, deadline=None)
@given(registers(), st.lists(st.tuples(us, vs, inputs), min_size=1, max_size=40), st.integers(0, 16), st.integers(0, 8))
@example({"du": -1, "dv": 0, "vth": 131071, "bias_mant": 4095, "bias_exp": 7}, [(2**23, V_MAX, 2**17)], 0, 0)
@example({"du": 4095, "dv": 4095, "vth": 0, "bias_mant": 0, "bias_exp": 0}, [(0, 0, 2**17), (0, 0, -(2**17))], 0, 0)
def test_compiled_step_equals_python_integers(
    p: dict[str, int], neurons: list[tuple[int, int, int]], left: int, right: int
) -> None:
    expected = [int_step(p, u, v, (a * 2**left + 2**31) % 2**32 - 2**31 >> right) for u, v, a in neurons]
    u, v, sums = (np.array(column, np.int32) for column in zip(*neurons, strict=True))
    bias, s = np.full(len(neurons), p["bias_mant"] << p["bias_exp"], np.int32), np.zeros(len(neurons), np.uint8)
    numbers = [np.int32(x) for x in (1 << left, right, 4095 - p["du"], 4096 - p["dv"], p["vth"] * 64)]
    total = step_lanes(u, v, sums, bias, *numbers, s)
    assert list(zip(s.astype(bool).tolist(), u.tolist(), v.tolist(), strict=True)) == expected
    assert total == sum(fired for fired, _, _ in expected)


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    pre, post, batch, steps = (draw(st.integers(1, n)) for n in (20, 5, 2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.sampled_from([1, 127, 128, 255, 256, 4095, 5000, 2**17, (2**31 - 1) // 20]))
    low, high = draw(st.sampled_from([(-1, 1), (0, 1), (-1, 0)]))
    weights = rng.integers(low * size, high * size, (pre, post), endpoint=True) * draw(st.sampled_from([1, 1, 0]))
    if size < 2**17:
        weights <<= draw(st.integers(0, 6))
    signed = draw(st.booleans())
    spikes = rng.choice([-1, 0, 1] if signed else [0, 0, 1], (batch, steps, pre)).astype(np.int8)
    return {
        "p": draw(registers()),
        "bias": rng.integers(-4096, 4095, post, endpoint=True) if draw(st.booleans()) else None,
        "weights": weights,
        "spikes": spikes,
        "exponent": draw(st.integers(-8, 7)),
        "arrive": draw(st.integers(0, 7)),
    }


@settings(max_examples=300, deadline=None)
@given(layers())
def test_layer_equals_python_integers(case: dict[str, Any]) -> None:
    p, weights, spikes, post = case["p"], case["weights"], case["spikes"], case["weights"].shape[1]
    exponent, arrive = case["exponent"], case["arrive"]
    bias = np.full(post, p["bias_mant"]) if case["bias"] is None else case["bias"]
    params = LifInt(**{**p, "bias_mant": p["bias_mant"] if case["bias"] is None else bias})
    expected = np.array(int_layer(p, weights.tolist(), spikes.tolist(), exponent, arrive, bias.tolist()))
    totals = np.zeros(spikes.shape[:2], np.int32)
    raster = run_layer(params, weights, spikes, exponent, arrive, totals=totals)
    assert raster.dtype == np.bool_
    assert raster.tolist() == expected.tolist()
    assert totals.tolist() == expected.sum(axis=2).tolist()
    counts = count_layer(params, pack_rows(weights), spikes, exponent, arrive)
    assert counts[0].tolist() == expected.sum(axis=1).tolist()
    assert counts[1].tolist() == expected.sum(axis=2).tolist()
    if spikes.min() >= 0:
        bits = np.packbits(spikes.astype(bool), axis=2, bitorder="little")
        assert run_layer(params, weights, bits, exponent, arrive, packed=True).tolist() == expected.tolist()
        assert run_layer(params, weights, spikes.astype(bool), exponent, arrive).tolist() == expected.tolist()
        assert run_layer(params, weights, spikes.view(np.uint8), exponent, arrive).tolist() == expected.tolist()


def by_steps(params: LifInt, weights: NDArray[Any], spikes: NDArray[Any], exponent: int = 0) -> NDArray[np.bool_]:
    """The layer as a loop over `step`, which the tests above tie to Python's integers; for shapes too big for these."""
    state = initial(params, (spikes.shape[0], weights.shape[1]))
    a = np.zeros(state.u.shape, np.int64)
    out: list[NDArray[np.bool_]] = []
    for t in range(spikes.shape[1]):
        s, state = step(params, state, a)
        out.append(s)
        a = spikes[:, t].astype(np.int64) @ weights.astype(np.int64)
        a = a << exponent if exponent > 0 else a >> -exponent
    return np.stack(out, axis=1)


@pytest.mark.parametrize(("low", "high"), [(-127, 127), (-256, 255), (-9000, 9000)])
@pytest.mark.parametrize("du", [4095, 700, -1])
@pytest.mark.parametrize("pre", [784, 785])
def test_layer_equals_step_at_full_size(low: int, high: int, du: int, pre: int) -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(low, high, (pre, 400), endpoint=True)
    params = LifInt(du=du, dv=400, vth=8 * high)
    for density in (0.1, 1.0):
        spikes = rng.random((3, 8, pre)) < density
        expected = by_steps(params, weights, spikes)
        assert 0 < expected.mean() < 1
        assert (run_layer(params, weights, spikes) == expected).all()
        ternary = np.where(rng.random(spikes.shape) < 0.5, -1, 1).astype(np.int8) * spikes
        assert (run_layer(params, weights, ternary, 2) == by_steps(params, weights, ternary, 2)).all()


def test_the_narrow_accumulator_holds_the_worst_case() -> None:
    for w in (127, -128, 255, 4095, -4096):
        weights = np.full((1000, 3), w)
        weights[0, 0] += 1  # keeps the common power of two at 1
        weights[1, 1] = 0
        spikes = np.ones((1, 2, 1000), bool)
        params = LifInt(du=4095, dv=0, vth=0)
        total = weights.sum(axis=0).tolist()
        # v of the second step is total << 6, wrapped and clipped; its sign is compared through the spike
        expected = [int_step({"du": 4095, "dv": 0, "vth": 0, "bias_mant": 0, "bias_exp": 0}, 0, 0, a)[0] for a in total]
        assert run_layer(params, weights, spikes)[0].tolist() == [[False] * 3, expected]


def test_exact_sums_through_the_threshold() -> None:
    # A threshold just below and just above each neuron's sum pins the sum itself, chunk after chunk.
    rng = np.random.default_rng(3)
    for low, high in ((-127, 127), (-256, 255), (0, 255)):
        weights = rng.integers(low, high, (1500, 40), endpoint=True)
        spikes = rng.random((1, 2, 1500)) < 0.9
        total = spikes[0, 0].astype(int) @ weights
        for target in total[(total > 0) & (total < 131071)][:10]:
            for vth in (target - 1, target):
                raster = run_layer(LifInt(du=4095, dv=0, vth=int(vth)), weights, spikes)
                p = {"du": 4095, "dv": 0, "vth": int(vth), "bias_mant": 0, "bias_exp": 0}
                assert raster[0, 1].tolist() == [int_step(p, 0, 0, a)[0] for a in total.tolist()]


def test_layer_in_several_tiles() -> None:
    rng = np.random.default_rng(5)
    weights = rng.integers(-127, 127, (4500, 700), endpoint=True)
    rows = pack_rows(weights)
    assert rows.tiles.shape[0] > 1
    spikes = rng.random((2, 5, 4500)) < 0.05
    params = LifInt(du=3000, dv=100, vth=3000, bias_mant=rng.integers(-4096, 4096, 700), bias_exp=2)
    expected = by_steps(params, weights, spikes)
    assert 0 < expected.mean() < 1
    assert (run_layer(params, rows, spikes) == expected).all()
    counts, totals = count_layer(params, rows, spikes)
    assert (counts == expected.sum(axis=1)).all()
    assert (totals == expected.sum(axis=2)).all()


def test_layer_takes_views_empty_batches_and_odd_bool_bytes() -> None:
    rng = np.random.default_rng(6)
    weights = rng.integers(-20, 30, (16, 6))
    params = LifInt(du=4095, dv=100, vth=40)
    wide = rng.random((4, 9, 16)) < 0.3
    expected = by_steps(params, weights, wide)
    assert (run_layer(params, weights, wide.transpose(0, 2, 1).copy().transpose(0, 2, 1)) == expected).all()
    assert (run_layer(params, weights, wide[::2]) == expected[::2]).all()
    assert (run_layer(params, weights, (wide * np.uint8(200)).view(bool)) == expected).all()
    assert run_layer(params, weights, wide[:0]).shape == (0, 9, 6)
    assert run_layer(params, weights, wide[:, :0].astype(np.int8)).shape == (4, 0, 6)


def test_layer_runs_in_threads() -> None:
    rng = np.random.default_rng(7)
    weights = pack_rows(rng.integers(-20, 30, (64, 50)))
    params = LifInt(du=4095, dv=100, vth=90)
    spikes = rng.random((8, 20, 64)) < 0.3
    expected = run_layer(params, weights, spikes)
    results: dict[int, NDArray[np.bool_]] = {}

    def work(i: int) -> None:
        results[i] = run_layer(params, weights, spikes[i : i + 1])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (np.concatenate([results[i] for i in range(8)]) == expected).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"exponent": 8}, RangeError, r"weight exponent 8; allowed is -8\.\.7"),
        ({"arrive": -1}, RangeError, r"spikes arrive -1 steps after they were sent; allowed is 0 or more"),
        ({"spikes": np.full((1, 2, 3), 2, np.int8)}, RangeError, r"spikes hold 2; allowed is -1\.\.1"),
        ({"spikes": np.full((1, 2, 3), -2, np.int8)}, RangeError, r"spikes hold -2; allowed is -1\.\.1"),
        ({"spikes": np.full((1, 2, 3), 255, np.uint8)}, RangeError, r"spikes hold 255; allowed is -1\.\.1"),
        (
            {"spikes": np.zeros((1, 2, 4), bool)},
            InputError,
            r"shape \(1, 2, 4\) and dtype bool; allowed .*\(batch, steps, 3\)",
        ),
        ({"spikes": np.zeros((2, 3), bool)}, InputError, r"shape \(2, 3\) and dtype bool"),
        ({"spikes": np.zeros((1, 2, 3))}, InputError, r"dtype float64; allowed are bool, int8 or uint8"),
        ({"spikes": np.full((1, 2, 1), 8, np.uint8), "packed": True}, InputError, r"bits beyond input 2"),
        ({"totals": np.zeros((1, 3), np.int32)}, InputError, r"totals of shape \(1, 3\) and dtype int32"),
        ({"params": LifInt(0, 0, 1, bias_mant=np.zeros(5, int))}, InputError, r"bias of shape \(5,\) for 4 neurons"),
        ({"weights_t": np.zeros((3, 4))}, InputError, r"weights have shape \(3, 4\) and dtype float64"),
        ({"weights_t": np.zeros(3, int)}, InputError, r"weights have shape \(3,\) and dtype int64"),
        (
            {"weights_t": np.full((3, 4), 2**30)},
            RangeError,
            r"add up to 3221225472 in magnitude; allowed is 2147483647",
        ),
        ({"weights_t": np.full((3, 4), -(2**63))}, RangeError, r"add up to 9223372036854775808 in magnitude"),
    ],
)
def test_layer_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = {
        "params": LifInt(0, 0, 1),
        "weights_t": np.ones((3, 4), int),
        "spikes": np.zeros((1, 2, 3), bool),
    }
    with pytest.raises(error, match=message):
        run_layer(**{**good, **change})
