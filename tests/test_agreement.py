"""Agreement of a real network with its integers, against counting in a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from compile.agreement import agreement
from compile.backends import exact
from compile.passes.fold import folded
from compile.pipeline import compile_graph
from lavasnn.dynamics.lif import Lif
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.nn.run import run as torch_run
from lavasnn.synapses import Dense


def network(seed: int = 0) -> Graph:
    random = np.random.default_rng(seed)
    populations = (
        Population("input", 20, Source()),
        Population("hidden", 12, Lif(1.0, 0.3, 1.0)),
        Population("output", 4, Lif(0.5, 0.1, 0.7)),
    )
    projections = (
        Projection("w1", "input", "hidden", Dense(random.normal(0, 0.6, (12, 20)))),
        Projection("w2", "hidden", "output", Dense(random.normal(0, 0.6, (4, 12)))),
    )
    return Graph(populations, projections, Encoding("bernoulli", levels=10), "output", 15)


def test_agreement_is_what_counting_gives() -> None:
    graph = network()
    pixels = np.random.default_rng(1).integers(0, 11, (6, 20)).astype(np.uint8)
    program = compile_graph(graph, pixels, np.zeros(6, np.int64))
    real, whole = torch_run(folded(graph), pixels, record=True), exact.run(program.graph, pixels, record=True)
    found = agreement(real, whole)
    assert [v.population for v in found.layers] == ["input", "hidden", "output"]
    assert (found.layers[0].equal, found.layers[0].first, found.layers[0].apart) == (1.0, None, 0.0)
    for layer in found.layers:
        a, b = (r.traces[f"{layer.population}.s"].tolist() for r in (real, whole))
        differs = []
        apart = 0
        for s in range(6):
            for j in range(len(a[s][0])):
                apart += abs(sum(a[s][t][j] for t in range(15)) - sum(b[s][t][j] for t in range(15)))
                differs += [(t, s, j) for t in range(15) if a[s][t][j] != b[s][t][j]]
        n = len(a[0][0])
        assert layer.compared == 6 * 15 * n
        assert layer.equal == pytest.approx(1 - len(differs) / layer.compared)
        assert layer.apart == pytest.approx(apart / (6 * n))
        assert layer.integer == pytest.approx(sum(map(sum, (row for sample in b for row in sample))) / 6)
        if differs:
            step, sample, neuron = min(differs)
            assert layer.first == (sample, step, neuron)
        else:
            assert layer.first is None
    assert found.predictions == sum(a.argmax() == b.argmax() for a, b in zip(real.outputs, whole.outputs, strict=True)) / len(
        real.outputs
    )
    assert 0.9 < found.layers[1].equal <= 1.0  # eight bits keep most of it


def test_only_a_real_and_an_integer_run_of_the_same_samples_compare() -> None:
    graph = network()
    pixels = np.full((2, 20), 5, np.uint8)
    real = exact.run(graph, pixels, record=True)
    whole = exact.run(compile_graph(graph, pixels, np.zeros(2, np.int64)).graph, pixels, record=True)
    with pytest.raises(InputError, match="a float and a fixed run are needed, given are fixed and float"):
        agreement(whole, real)
    with pytest.raises(InputError, match="did not record the same samples and populations"):
        agreement(exact.run(graph, pixels[:1], record=True), whole)
