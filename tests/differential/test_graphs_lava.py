"""Networks of stock neurons of every kind, on exact, torch and Lava: equal in every message, and against a plain loop.

The loop below knows nothing of windows, kernels or Lava: Python integers, one synapse at a time, global time.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from compile.backends import exact, lava
from compile.passes.quantize import real
from compile.verify import compare
from lavasnn.dynamics.graded import Graded, GradedInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.encode import Encoding
from lavasnn.errors import InputError, RangeError
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.nn.run import run as torch_run
from lavasnn.synapses import Conv, Dense, Grid, as_dense, average_pool, sparse_from


def even(random: np.random.Generator, shape: tuple[int, ...], most: int = 60) -> np.ndarray:
    return (2 * random.integers(-most, most, shape)).astype(np.int16)


def feed_forward(random: np.random.Generator) -> Graph:
    """Convolution with every option, a delayed sparse layer with a negative exponent, an all-to-all one."""
    image = (2, 6, 5)
    conv = Conv((2 * random.integers(-30, 60, (4, 1, 3, 2))).astype(np.int16), image, (2, 1), (1, 0), (1, 2), 2, Grid(1))
    n = conv.shape[0]
    few = sparse_from(np.where(random.random((7, n)) < 0.3, even(random, (7, n)), 0).astype(np.int16), Grid(-1))
    bias = random.integers(-20, 60, n).astype(np.int32)
    populations = (
        Population("input", 60, Source()),
        Population("image", n, LifInt(du=1000, dv=300, vth=120, bias_mant=bias, bias_exp=6)),
        Population("few", 7, LifInt(du=4095, dv=100, vth=60)),
        Population("output", 3, LifInt(du=4095, dv=10, vth=100)),
    )
    projections = (
        Projection("p1", "input", "image", conv),
        Projection("p2", "image", "few", few, delay=2),
        Projection("p3", "few", "output", Dense(even(random, (3, 7)), Grid())),
    )
    return Graph(populations, projections, Encoding("bernoulli", levels=10), "output", 12)


def pooled(random: np.random.Generator) -> Graph:
    """Pooling as weights, then a convolution with a delay, which Lava's Conv does not know."""
    pool = average_pool((2, 4, 4), (2, 2), (2, 2))
    pool = Conv(np.full(pool.weight.shape, 40, np.int16), (2, 4, 4), (2, 2), groups=2, grid=Grid(0, "excitatory"))
    conv = Conv(even(random, (3, 2, 2, 2)), (2, 2, 2), padding=(1, 0), grid=Grid())
    populations = (
        Population("input", 32, Source()),
        Population("pool", 8, LifInt(du=4095, dv=500, vth=50)),
        Population("output", conv.shape[0], LifInt(du=4095, dv=100, vth=70)),
    )
    projections = (Projection("p1", "input", "pool", pool), Projection("p2", "pool", "output", conv, delay=3))
    return Graph(populations, projections, Encoding("bernoulli", levels=10), "output", 10)


def recurrent(random: np.random.Generator) -> Graph:
    """Loops, a lateral projection, ternary and graded messages, a delay for each sender, a voltage as the answer."""
    populations = (
        Population("input", 6, Source()),
        Population("ternary", 5, LifInt(du=4095, dv=300, vth=80, vth_lo=-90)),
        Population("lateral", 4, LifInt(du=3000, dv=100, vth=60, bias_mant=30, bias_exp=6)),
        Population("graded", 3, GradedInt(5)),
        Population("relu", 3, GradedInt(0, relu=True)),
        Population("output", 3, LifInt(du=4095, dv=10, vth=100)),
    )

    def dense(post: int, pre: int, exponent: int = 0) -> Dense:
        return Dense(even(random, (post, pre)), Grid(exponent))

    projections = (
        Projection("p1", "input", "ternary", dense(5, 6), delay=np.array([0, 3, 1, 0, 2, 7])),
        Projection("p2", "ternary", "lateral", dense(4, 5)),
        Projection("side", "lateral", "lateral", dense(4, 4, -2), delay=1),
        Projection("back", "lateral", "ternary", dense(5, 4)),
        Projection("p3", "ternary", "graded", dense(3, 5)),
        Projection("p4", "graded", "relu", dense(3, 3, -3)),
        Projection("skip", "input", "output", sparse_from(even(random, (3, 6)), Grid()), delay=np.arange(6)),
        Projection("p5", "relu", "output", dense(3, 3, -5)),
    )
    return Graph(populations, projections, Encoding("bernoulli", levels=10), "output", 15, "voltage")


def given(random: np.random.Generator) -> Graph:
    """Graded input with signs, shown as it is."""
    populations = (Population("input", 5, Source()), Population("output", 4, LifInt(du=2000, dv=900, vth=300)))
    projections = (Projection("p1", "input", "output", Dense(even(random, (4, 5)), Grid())),)
    return Graph(populations, projections, Encoding("given", levels=20), "output", 8)


def ternary(random: np.random.Generator) -> Graph:
    """A chain with ternary neurons, which have no reset in Lava; names that would make poor file names."""
    populations = (
        Population("input", 6, Source()),
        Population("a/b", 5, LifInt(du=3000, dv=300, vth=80, vth_lo=-90)),
        Population("a/b.v", 3, LifInt(du=4095, dv=100, vth=70)),
    )
    projections = (
        Projection("p1", "input", "a/b", Dense(even(random, (5, 6)), Grid())),
        Projection("p2", "a/b", "a/b.v", Dense(even(random, (3, 5)), Grid()), delay=1),
    )
    return Graph(populations, projections, Encoding("bernoulli", levels=10), "a/b.v", 14, "voltage")


MAKERS = {"feed forward": feed_forward, "pooled": pooled, "recurrent": recurrent, "given": given, "ternary": ternary}


def samples(graph: Graph, n: int, random: np.random.Generator) -> np.ndarray:
    if graph.encoding.kind == "given":
        return random.integers(-20, 21, (n, graph.steps, graph.source.size))
    return random.integers(0, 11, (n, graph.source.size)).astype(np.uint8)


def trunc12(value: int, keep: int) -> int:
    sign = -1 if value < 0 else 1
    return sign * ((abs(value) * keep) >> 12)


def by_hand(graph: Graph, shown: np.ndarray) -> dict[str, list[list[int]]]:
    """Messages of one sample, step by step in global time, from the rules of Lava's neurons."""
    opens = graph.offsets if graph.seamless else {p.name: 0 for p in graph.populations}
    horizon = graph.steps + max(opens.values())
    sent = {p.name: [[0] * p.size for _ in range(horizon)] for p in graph.populations}
    for t in range(graph.steps):
        sent[graph.source.name][t] = [int(v) for v in shown[t]]
    u = {p.name: [0] * p.size for p in graph.populations}
    v = {p.name: [0] * p.size for p in graph.populations}
    weights = {p.name: as_dense(graph.synapses(p)).astype(int).tolist() for p in graph.projections}
    for t in range(horizon):
        for p in graph.populations[1:]:
            d = p.dynamics
            if not 0 <= t - opens[p.name] < graph.steps:
                continue
            for j in range(p.size):
                total = 0
                for q in graph.arriving(p.name):
                    delays = np.broadcast_to(np.asarray(q.delay), graph.population(q.source).size).tolist()
                    part = sum(
                        w * sent[q.source][t - 1 - k][i]
                        for i, (w, k) in enumerate(zip(weights[q.name][j], delays, strict=True))
                        if t - 1 - k >= 0
                    )
                    exponent = graph.synapses(q).grid.exponent
                    total += part << exponent if exponent >= 0 else part >> -exponent
                if isinstance(d, GradedInt):
                    loud = total > d.vth if d.relu else abs(total) > d.vth
                    sent[p.name][t][j] = total if loud else 0
                    continue
                u[p.name][j] = trunc12(u[p.name][j], 4095 - d.du) + (total << 6)
                bias = int(np.broadcast_to(np.asarray(d.bias), p.size)[j])
                x = trunc12(v[p.name][j], 4096 - d.dv) + u[p.name][j] + bias
                s = 1 if x > d.vth << 6 else -1 if d.vth_lo is not None and x < d.vth_lo << 6 else 0
                v[p.name][j] = 0 if s else x
                sent[p.name][t][j] = s
    return {name: rows[opens[name] : opens[name] + graph.steps] for name, rows in sent.items()}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_exact_and_torch_equal_a_plain_loop(kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    graph = MAKERS[kind](random)
    shown = samples(graph, 2, random)
    mine = exact.run(graph, shown, record=True, measure=True)
    assert compare(graph, mine, torch_run(graph, shown, record=True)).equal
    raw = graph.encoding.messages(shown, np.arange(2), graph.steps)
    for k in range(2):
        for name, rows in by_hand(graph, raw[k]).items():
            assert mine.traces[f"{name}.s"][k].tolist() == rows, (name, k)
    assert all(mine.traces[f"{p.name}.s"].any() for p in graph.populations)
    for key, each in mine.by_neuron.items():
        assert each.tolist() == (mine.traces[key] != 0).sum((0, 1)).tolist()


@pytest.mark.lava
@pytest.mark.parametrize("kind", MAKERS)
def test_lava_sends_the_same_messages(kind: str) -> None:
    random = np.random.default_rng(2)
    graph = MAKERS[kind](random)
    shown = samples(graph, 3, random)
    mine, theirs = exact.run(graph, shown, record=True), lava.run(graph, shown, record=True)
    found = compare(graph, mine, theirs)
    assert found.equal, found.first
    assert found.compared > 200


@pytest.mark.lava
@pytest.mark.parametrize("kind", ["feed forward", "pooled", "ternary"])
def test_lava_sends_the_same_messages_in_real_numbers(kind: str) -> None:
    random = np.random.default_rng(3)
    graph = real(MAKERS[kind](random))
    shown = samples(graph, 2, random)
    mine, theirs = exact.run(graph, shown, record=True), lava.run(graph, shown, record=True)
    assert compare(graph, mine, theirs).equal


@pytest.mark.parametrize("kind", MAKERS)
def test_a_sample_does_not_depend_on_those_before(kind: str) -> None:
    random = np.random.default_rng(4)
    graph = MAKERS[kind](random)
    shown = samples(graph, 3, random)
    whole = exact.run(graph, shown, record=True)
    alone = exact.run(graph, shown[2:], record=True, indices=np.array([2]))
    for key, values in whole.traces.items():
        assert np.array_equal(values[2:], alone.traces[key])


@pytest.mark.lava
@pytest.mark.parametrize("kind", ["feed forward", "recurrent"])
def test_a_sample_on_lava_does_not_depend_on_those_before(kind: str) -> None:
    random = np.random.default_rng(5)
    graph = MAKERS[kind](random)
    shown = samples(graph, 2, random)
    whole = lava.run(graph, shown, record=True)
    alone = lava.run(graph, shown[1:], record=True, indices=np.array([1]))
    for key, values in whole.traces.items():
        assert np.array_equal(values[1:], alone.traces[key])


def test_what_lava_has_no_process_for_is_named() -> None:
    populations = (Population("input", 2, Source()), Population("output", 2, Graded(0.5)))
    projections = (Projection("p", "input", "output", Dense(np.eye(2))),)
    graph = Graph(populations, projections, Encoding("given"), "output", 3)
    with pytest.raises(InputError, match="population 'output': Lava's graded neurons have no floating-point model"):
        lava.process_name(graph, graph.populations[1])


def test_given_messages_have_to_fit() -> None:
    graph = given(np.random.default_rng(0))
    for shown, message in (
        (np.full((1, 8, 5), 21), "magnitudes run up to 21, the network takes up to 20"),
        (np.zeros((1, 9, 5), int), "up to 8 steps"),
        (np.zeros((1, 8, 5)), "float64 of shape"),
        (np.zeros((1, 8, 4), int), "messages come from 4 neurons, the network's input 'input' has 5"),
        (
            np.zeros((8, 5), int),
            r"samples of shape \(8, 5\), the network's input 'input' takes messages \(sample, step, neuron\)",
        ),
    ):
        with pytest.raises(InputError, match=message):
            exact.run(graph, shown)


def test_real_form_of_every_kind_of_neuron() -> None:
    """Units: a graded payload of the integer network stands for its population's unit."""
    random = np.random.default_rng(6)
    whole = recurrent(random)
    turned: Any = real(whole)
    assert {type(p.dynamics) for p in turned.populations[1:]} == {Lif, Graded}
    shown = samples(whole, 3, random)
    mine, theirs = exact.run(whole, shown, record=True), exact.run(turned, shown, record=True)
    same = np.mean([np.mean(np.sign(mine.traces[k]) == np.sign(theirs.traces[k])) for k in mine.traces if k.endswith(".s")])
    assert same > 0.8  # shifts round down and decays truncate: not equal, but the same network


@pytest.mark.parametrize("run", [exact.run, torch_run])
def test_payloads_beyond_24_bits_are_refused(run: Any) -> None:
    """Lava's int32 would carry 254 << 7 a hundredfold on to the next neuron, and wrap at the one after."""
    names = ["input", "a", "output"]
    populations = (Population("input", 2, Source()), *(Population(n, 2, GradedInt(0)) for n in names[1:]))
    weight = np.array([[0, 0], [0, 254]], np.int16)
    projections = tuple(Projection(f"p {n}", a, n, Dense(weight, Grid(7))) for a, n in pairwise(names))
    graph = Graph(populations, projections, Encoding("given", levels=255), "output", 4)
    shown = np.zeros((1, 4, 2), int)
    shown[0, :, 1] = 2
    with pytest.raises(RangeError, match=r"population 'output': neuron 1 sends 2,114,060,288 at step [012], payloads"):
        run(graph, shown)
    shown[:] = shown // 2 * 255
    with pytest.raises(RangeError, match=r"population 'output': neuron 1 sends 269,542"):
        run(graph, shown)
