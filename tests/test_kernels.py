"""Compiled kernels of the exact executor against its step-by-step form, and a plain loop over bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compile.backends.spiking import Kernels, Layer, Pairs, kernels, run_spiking
from lavasnn.dynamics import lif
from lavasnn.dynamics.coincidence_kernel import coincidences
from lavasnn.dynamics.lif import LifInt
from lavasnn.dynamics.lif_kernel import pack_rows, run_layer
from lavasnn.encode import Encoding
from lavasnn.errors import InputError, RangeError
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.synapses import Dense, Grid, Sparse

AND = LifInt(du=4095, dv=4095, vth=3)


def select(pairs: np.ndarray, n: int, weights: np.ndarray) -> Sparse:
    start = np.arange(len(pairs) + 1, dtype=np.int64) * 2
    return Sparse(weights.astype(np.int16), pairs.reshape(-1).astype(np.int32), start, n, Grid(0, "excitatory"))


def network(seed: int, exponents: tuple[int, int] = (0, 0), pair: LifInt = AND, hidden: LifInt | None = None) -> Graph:
    """Input, pairs, a hidden layer that hears both, and an output; all arrives in step."""
    random = np.random.default_rng(seed)
    n, m = int(random.integers(3, 40)), int(random.integers(1, 50))
    i = random.integers(0, n - 1, int(random.integers(1, 60)))
    pairs = np.stack([i, i + 1 + random.integers(0, n - 1 - i)], 1)
    P = len(pairs)
    w, k = random.integers(-128, 128, (m, n)) * 2, random.integers(-128, 128, (m, P)) * 2
    out = random.integers(-128, 128, (4, m)) * 2
    hidden = hidden or LifInt(du=4095, dv=1000, vth=300, bias_mant=random.integers(-50, 50, m).astype(np.int32), bias_exp=3)
    return Graph(
        (
            Population("input", n, Source()),
            Population("pairs", P, pair),
            Population("hidden", m, hidden),
            Population("output", 4, LifInt(du=2000, dv=500, vth=400)),
        ),
        (
            Projection("of", "input", "pairs", select(pairs, n, np.full(2 * P, 2))),
            Projection("w", "input", "hidden", Dense(w.astype(np.int16), Grid(exponents[0])), delay=1),
            Projection("k", "pairs", "hidden", Dense(k.astype(np.int16), Grid(exponents[1]))),
            Projection("out", "hidden", "output", Dense(out.astype(np.int16), Grid(1))),
        ),
        Encoding("given", levels=1),
        "output",
        6,
    )


def shown(graph: Graph, samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((samples, graph.steps, graph.source.size)) < 0.4


def both_ways(graph: Graph, x: np.ndarray) -> Kernels:
    ready = kernels(graph)
    fast, slow = (run_spiking(graph, x, ready=r).sent for r in (ready, {}))
    for name in slow:
        assert np.array_equal(fast[name], slow[name]), name
    assert all(slow[name].any() for name in slow)
    return ready


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.tuples(st.integers(-3, 3), st.integers(-3, 3)))
def test_pairs_and_what_hears_them(seed: int, exponents: tuple[int, int]) -> None:
    graph = network(seed, exponents, hidden=LifInt(du=4095, dv=1000, vth=10, bias_mant=2))
    ready = both_ways(graph, shown(graph, 70, seed))
    assert isinstance(ready["pairs"], Pairs)
    assert {type(ready[name]) for name in ("hidden", "output")} == {Layer}


def test_several_tiles_and_biases() -> None:
    random = np.random.default_rng(0)
    neuron = LifInt(du=4095, dv=700, vth=200, bias_mant=random.integers(-90, 90, 70).astype(np.int32))
    weights = [random.integers(-128, 128, (n, 70)).astype(np.int16) for n in (30, 20)]
    spikes = [random.random((5, 6, n)) < 0.3 for n in (30, 20)]
    found = [
        run_layer(neuron, one, spikes[0], 1, 0, second=(two, spikes[1], -1))
        for one, two in ([pack_rows(w, widest) for w in weights] for widest in (0, 32))
    ]
    state = lif.initial(neuron, (5, 70))
    for t in range(6):
        sums = [s[:, t].astype(np.int64) @ w for s, w in zip(spikes, weights, strict=True)]
        wanted, state = lif.step(neuron, state, (sums[0] << 1) + (sums[1] >> 1))
        assert all(np.array_equal(f[:, t], wanted) for f in found)
    assert found[0].any()


@pytest.mark.parametrize(
    "pair",
    [
        LifInt(du=4095, dv=4095, vth=1),  # one spike is enough
        LifInt(du=4095, dv=4095, vth=4),  # two are not
        LifInt(du=4095, dv=2048, vth=3),  # remembers one
        LifInt(du=2000, dv=4095, vth=3),
        LifInt(du=4095, dv=4095, vth=3, bias_mant=65),
    ],
)
def test_what_is_no_coincidence_is_run_as_it_is(pair: LifInt) -> None:
    graph = network(3, pair=pair)
    assert "pairs" not in kernels(graph)
    x = shown(graph, 9)
    fast, slow = (run_spiking(graph, x, ready=r).sent for r in (kernels(graph), {}))
    for name in slow:
        assert np.array_equal(fast[name], slow[name]), name


def test_a_neuron_with_one_sender_or_none_is_silent() -> None:
    graph = network(5)
    two = graph.synapses(graph.projection("of"))
    assert isinstance(two, Sparse)
    pre, weight = two.pre[:2], two.weight[:2]
    start = np.array([0, 1, 1, 2], np.int64)  # one sender, none, one
    fewer = Sparse(
        np.append(weight, [2, 2]), np.append(pre[1:], [pre[0], 0, 1]).astype(np.int32), np.append(start, 4), two.n_pre, two.grid
    )
    projections = tuple(
        replace(p, synapses=fewer)
        if p.name == "of"
        else replace(p, synapses=Dense(np.full((p.synapses.shape[0], 4), 2, np.int16), Grid()))
        if p.name == "k"
        else p
        for p in graph.projections
    )
    other = replace(
        graph,
        projections=projections,
        populations=tuple(replace(p, size=4) if p.name == "pairs" else p for p in graph.populations),
    )
    ready = both_ways(other, shown(other, 20))
    assert isinstance(ready["pairs"], Pairs)
    assert not run_spiking(other, shown(other, 20)).sent["pairs"][..., :3].any()


def test_a_stored_zero_is_no_sender() -> None:
    graph = network(4)
    two = graph.synapses(graph.projection("of"))
    assert isinstance(two, Sparse)
    weight = two.weight.copy()
    weight[1::4] = 0
    other = replace(
        graph,
        projections=tuple(replace(p, synapses=replace(two, weight=weight)) if p.name == "of" else p for p in graph.projections),
    )
    x = shown(other, 40)
    assert isinstance(both_ways(other, x)["pairs"], Pairs)
    assert not run_spiking(other, x).sent["pairs"][..., ::2].any()


def test_signed_spikes_take_the_slow_way() -> None:
    graph = network(2)
    x = np.random.default_rng(0).integers(-1, 2, (5, 6, graph.source.size)).astype(np.int8)
    fast, slow = (run_spiking(graph, x, ready=r).sent for r in (kernels(graph), {}))
    for name in slow:
        assert np.array_equal(fast[name], slow[name]), name


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 200])
def test_coincidences_are_products(samples: int) -> None:
    random = np.random.default_rng(samples)
    x = random.random((samples, 3, 30)) < 0.5
    inputs = np.array([[0, 5, 29, 7], [1, 6, 0, 7]], np.uint32)
    place = np.array([4, 0, 2, 1], np.uint32)
    found = coincidences(x, inputs, place, 6)
    wanted = np.zeros((samples, 3, 6), bool)
    wanted[..., place] = x[..., inputs[0]] & x[..., inputs[1]]
    assert np.array_equal(found, wanted)


def test_a_second_projection_has_to_fit() -> None:
    neuron, x = LifInt(du=4095, dv=0, vth=1), np.zeros((2, 3, 5), bool)
    rows = pack_rows(np.ones((5, 4), np.int16))
    for second, error, message in (
        ((pack_rows(np.ones((6, 40), np.int16)), np.zeros((2, 3, 6), bool), 0), InputError, "a second projection with tiles"),
        ((pack_rows(np.ones((6, 4), np.int16)), np.zeros((2, 4, 6), bool), 0), InputError, "a second projection with tiles"),
        ((pack_rows(np.ones((6, 4), np.int16)), np.zeros((2, 3, 6), np.int8), 0), InputError, "a second projection with tiles"),
        ((pack_rows(np.ones((6, 4), np.int16)), np.zeros((2, 3, 6), bool), 9), RangeError, "weight exponent 9"),
    ):
        with pytest.raises(error, match=message):
            run_layer(neuron, rows, x, second=second)
