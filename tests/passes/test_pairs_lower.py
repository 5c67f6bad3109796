"""Pairs of spikes as neurons: against products in numpy, and refused where a product is no logical AND."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compile import rules
from compile.backends import exact, lava, lava_wires
from compile.passes.lower import lowered
from compile.pipeline import compile_graph
from compile.target import LOIHI2
from compile.verify import compare
from lavasnn.dynamics.graded import Graded
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.ir import Coincidence, Graph, Population, Projection, Source, Through
from lavasnn.nn.run import run as torch_run
from lavasnn.synapses import Conv, Dense, Sparse

Array = np.ndarray


def select(pairs: Array, n: int) -> Sparse:
    return Sparse(np.ones(2 * len(pairs)), pairs.reshape(-1).astype(np.int32), np.arange(len(pairs) + 1) * 2, n)


def some_pairs(random: np.random.Generator, n: int, count: int) -> Array:
    both = np.stack(np.triu_indices(n, 1), 1)
    return both[np.sort(random.choice(len(both), count, replace=False))]


def stacked(seed: int, biases: bool = True) -> tuple[Graph, list[tuple[Array, Array, Array, Array]]]:
    """Two DLIF layers and a plain one; also (W, pairs, K, bias) of the first two."""
    random = np.random.default_rng(seed)
    sizes, layers = (9, 7, 5), []
    populations: list[Population] = [Population("input", 9, Source())]
    projections: list[Projection] = []
    before = "input"
    for l, (n, m) in enumerate(((9, 7), (7, 5)), start=1):
        pairs = some_pairs(random, n, 11)
        w, k, b = random.normal(0.1, 0.5, (m, n)), random.normal(0, 0.6, (m, 11)), random.normal(0, 0.1, m) * biases
        layers.append((w, pairs, k, b))
        populations += [Population(f"pairs{l}", 11, Coincidence()), Population(f"h{l}", m, Lif(1.0, 0.5, 1.0, b))]
        projections += [
            Projection(f"e{l}", before, f"pairs{l}", select(pairs, n)),
            Projection(f"w{l}", before, f"h{l}", Dense(w)),
            Projection(f"k{l}", f"pairs{l}", f"h{l}", Dense(k)),
        ]
        before = f"h{l}"
    populations.append(Population("output", 3, Lif(1.0, 0.25, 0.8)))
    projections.append(Projection("w3", "h2", "output", Dense(random.normal(0, 1, (3, sizes[2])))))
    return Graph(tuple(populations), tuple(projections), Encoding("bernoulli", levels=10), "output", 8), layers


def samples(n: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(3, 11, (n, 9)).astype(np.uint8)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999))
def test_two_layers_of_pairs_are_products(seed: int) -> None:
    graph, layers = stacked(seed)
    pixels = samples(3, seed)
    low = lowered(graph)
    assert low.seamless
    assert low.offsets == {"input": 0, "pairs1": 1, "h1": 2, "pairs2": 3, "h2": 4, "output": 5}
    found = exact.run(low, pixels, record=True).traces
    x = graph.encoding.spikes(pixels, np.arange(3), 8).astype(float)
    for l, (w, pairs, k, b) in enumerate(layers, start=1):
        q = x[:, :, pairs[:, 0]] * x[:, :, pairs[:, 1]]
        assert np.array_equal(found[f"pairs{l}.s"], q)
        v, sent = np.zeros((3, len(w))), []
        for t in range(8):
            v = 0.5 * v + x[:, t] @ w.T + q[:, t] @ k.T + b
            s = v > 1
            v[s] = 0
            sent.append(s)
        x = np.stack(sent, 1).astype(float)
        assert np.array_equal(found[f"h{l}.s"], x)


@pytest.mark.lava
def test_compiled_they_are_stock_processes_and_spike_the_same_on_lava() -> None:
    graph, _ = stacked(1)
    pixels = samples(4)
    program = compile_graph(graph, pixels, np.zeros(4, np.int64))
    assert program.report["lower"] == {
        "always_on": [],
        "pairs": ["pairs1", "pairs2"],
        "delayed": {"w1": 1, "w2": 1},
        "extra_steps": 2,
    }
    assert all(isinstance(p.dynamics, LifInt) for p in program.graph.populations[1:])
    pairs = program.graph.population("pairs1").dynamics
    assert (pairs.du, pairs.dv, pairs.vth) == (4095, 4095, 3)
    kinds = {lava.process_name(program.graph, p) for p in program.graph.populations[1:]}
    kinds |= {lava_wires.synapse_name(program.graph, p) for p in program.graph.projections}
    assert kinds == {"LIFReset", "Dense", "DelayDense", "Sparse"}
    mine = exact.run(program.graph, pixels, record=True)
    found = compare(program.graph, mine, lava.run(program.graph, pixels, record=True))
    assert found.equal, found.first
    assert compare(program.graph, mine, torch_run(program.graph, pixels, record=True)).equal
    shown = graph.encoding.spikes(pixels, np.arange(4), 8)
    first = stacked(1)[1][0][1]
    assert np.array_equal(mine.traces["pairs1.s"], shown[:, :, first[:, 0]] & shown[:, :, first[:, 1]])


def test_pairs_of_channels_and_of_a_receptive_field_are_products_of_maps() -> None:
    """A kernel with two weights of 1 joins two positions; in the padding nothing spikes, so no pair does."""
    random = np.random.default_rng(2)
    image, kernel = (2, 5, 4), np.zeros((3, 2, 3, 3))
    places = [((0, 1, 1), (1, 1, 1)), ((0, 0, 0), (0, 2, 1)), ((1, 0, 2), (0, 2, 0))]
    for p, (a, b) in enumerate(places):
        kernel[(p, *a)] = kernel[(p, *b)] = 1
    pairs = Conv(kernel, image, (2, 1), (1, 1))
    w = Conv(random.normal(0, 0.4, (4, 2, 3, 3)), image, (2, 1), (1, 1))
    k = Conv(random.normal(0, 0.8, (4, 3, 1, 1)), pairs.image_out)
    populations = (
        Population("input", 40, Source()),
        Population("pairs", pairs.shape[0], Coincidence()),
        Population("output", w.shape[0], Lif(1.0, 0.5, 0.6)),
    )
    projections = (
        Projection("e", "input", "pairs", pairs),
        Projection("w", "input", "output", w),
        Projection("k", "pairs", "output", k),
    )
    graph = Graph(populations, projections, Encoding("bernoulli", levels=2), "output", 5)
    rules.check(graph, LOIHI2, rules.BEFORE)
    pixels = np.ones((3, 40), np.uint8)
    found = exact.run(lowered(graph), pixels, record=True).traces["pairs.s"]
    maps = graph.encoding.spikes(pixels, np.arange(3), 5).reshape(3, 5, *image)
    wide = np.pad(maps, ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1)))
    _, rows, columns = pairs.image_out
    wanted = np.zeros((3, 5, 3, rows, columns), bool)
    for p, (a, b) in enumerate(places):
        for y in range(rows):
            for x in range(columns):
                wanted[:, :, p, y, x] = wide[:, :, a[0], 2 * y + a[1], x + a[2]] & wide[:, :, b[0], 2 * y + b[1], x + b[2]]
    assert np.array_equal(found, wanted.reshape(3, 5, -1))
    assert wanted.any()


def test_what_is_no_pair_of_spikes_is_refused() -> None:
    graph, _ = stacked(0)

    def told(graph: Graph) -> str:
        with pytest.raises(InputError) as caught:
            compile_graph(graph, samples(1), np.zeros(1, np.int64))
        return str(caught.value)

    def with_dynamics(name: str, dynamics: Any) -> Graph:
        return replace(
            graph, populations=tuple(replace(p, dynamics=dynamics) if p.name == name else p for p in graph.populations)
        )

    def with_projection(name: str, **changes: Any) -> Graph:
        return replace(graph, projections=tuple(replace(p, **changes) if p.name == name else p for p in graph.projections))

    assert "population 'pairs2' joins pairs of what 'h1' sends (Lif); pairs need spikes of 0 or 1" in told(
        with_dynamics("h1", Lif(1.0, 0.5, 1.0, vth_lo=-1.0))
    )
    assert "'pairs2' joins pairs of what 'h1' sends (Graded)" in told(with_dynamics("h1", Graded(0.1)))
    assert "'pairs2' joins pairs of what 'h1' sends (Through)" in told(with_dynamics("h1", Through()))
    three = replace(graph.projection("e1").synapses, weight=np.full(22, 2.0))
    assert "'pairs1': each pair receives from two neurons of one population, with weights of 1" in told(
        with_projection("e1", synapses=three)
    )
    loop = Projection("back", "h2", "h1", Dense(np.ones((7, 5))))
    assert "population 'pairs2' is on a loop with what it joins" in told(replace(graph, projections=(*graph.projections, loop)))
    payloads = replace(graph, encoding=Encoding("given", levels=9))
    with pytest.raises(InputError, match=r"'pairs1' joins pairs of what 'input' sends \(graded input\)"):
        compile_graph(payloads, np.ones((1, 8, 9), int), np.zeros(1, np.int64))
    signed = replace(graph, encoding=Encoding("given", levels=1))
    with pytest.raises(InputError, match=r"the samples hold spikes of -1, and 'pairs1' joins pairs of spikes 0 or 1"):
        compile_graph(signed, -np.ones((1, 8, 9), int), np.zeros(1, np.int64))


def test_ways_that_were_meant_to_differ_still_do() -> None:
    """A skip connection that was a step ahead stays a step ahead, in a graph whose windows open together."""
    graph, layers = stacked(3, biases=False)
    skip = Projection("skip", "input", "h2", Dense(np.ones((5, 9))))
    graph = replace(graph, projections=(*graph.projections, skip))
    assert not graph.seamless
    low = lowered(graph)
    late = {q.name: q.delay for q in low.projections}
    assert (late["w1"], late["w2"], late["skip"]) == (1, 1, 2)
    assert [layers[0][0].shape, layers[1][0].shape] == [(7, 9), (5, 7)]
