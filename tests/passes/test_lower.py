"""Biases of currents become always-on inputs without changing what a network does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from compile.backends import exact, lava
from compile.passes.lower import lowered
from compile.pipeline import compile_graph
from compile.verify import compare
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.encode import Encoding
from lavasnn.export import to_graph
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.nn import LIF
from lavasnn.nn.run import run as torch_run
from lavasnn.synapses import Dense


def network(du: float = 0.5, steps: int = 12) -> tuple[nn.Sequential, Graph]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(10, 8), LIF(du=du, dv=0.25, vth=0.6), nn.Linear(8, 6), LIF(du=du, dv=0.5, vth=0.5)).double()
    return net, to_graph(net, Encoding("given", levels=1), steps)


def samples(n: int = 3, steps: int = 12) -> np.ndarray:
    return (np.random.default_rng(0).random((n, steps, 10)) < 0.3).astype(np.int8)


@torch.no_grad()
def test_biases_of_currents_are_the_modules() -> None:
    """torch adds a Linear's bias to the current; so do the graph's neurons, and the always-on input after lowering."""
    net, graph = network()
    assert all(np.any(p.dynamics.bias_u) and not np.any(p.dynamics.bias) for p in graph.populations[1:])
    x = samples()
    y = torch.from_numpy(x).double()
    for m in net:
        y = m(y)
    assert 0.05 < float(y.mean()) < 0.95
    low = lowered(graph)
    assert [(p.name, p.size) for p in low.populations] == [("input", 10), ("on", 1), ("hidden1", 8), ("output", 6)]
    assert low.seamless
    for g in (graph, low):
        assert np.array_equal(exact.run(g, x, record=True).traces["output.s"], y.numpy())
        assert np.array_equal(torch_run(g, x, record=True).traces["output.s"], y.numpy())
    assert lowered(low) is low


def test_a_current_without_memory_needs_no_input() -> None:
    _, graph = network()
    moved = replace(
        graph,
        populations=tuple(
            replace(p, dynamics=Lif(1.0, 0.5, 0.6, bias=0.25, bias_u=p.dynamics.bias_u)) if isinstance(p.dynamics, Lif) else p
            for p in graph.populations
        ),
    )
    low = lowered(moved)
    assert [p.name for p in low.populations] == ["input", "hidden1", "output"]
    for before, after in zip(moved.populations[1:], low.populations[1:], strict=True):
        assert np.array_equal(after.dynamics.bias, 0.25 + before.dynamics.bias_u)
        assert not np.any(after.dynamics.bias_u)
    x = samples()
    assert np.array_equal(
        exact.run(moved, x, record=True).traces["output.s"], exact.run(low, x, record=True).traces["output.s"]
    )


def test_the_name_is_free() -> None:
    _, graph = network()
    taken = replace(
        graph,
        populations=tuple(replace(p, name="on") if p.name == "hidden1" else p for p in graph.populations),
        projections=tuple(
            replace(p, source=p.source.replace("hidden1", "on"), target=p.target.replace("hidden1", "on"))
            for p in graph.projections
        ),
    )
    assert [p.name for p in lowered(taken).populations] == ["input", "on0", "on", "output"]


@pytest.mark.lava
def test_compiled_it_spikes_the_same_on_lava() -> None:
    _, graph = network()
    x = samples()
    program = compile_graph(graph, x, np.zeros(0, np.int64))
    assert program.report["lower"] == {"always_on": ["on"], "pairs": [], "delayed": {}, "extra_steps": 0}
    assert program.report["warnings"] == []
    assert isinstance(program.graph.population("on").dynamics, LifInt)
    mine = exact.run(program.graph, x, record=True)
    assert mine.traces["on.s"].all()
    found = compare(program.graph, mine, lava.run(program.graph, x, record=True))
    assert found.equal, found.first
    real = exact.run(graph, x, record=True)
    assert np.mean(mine.traces["output.s"] == real.traces["output.s"]) > 0.9


def test_a_bias_of_the_current_is_enough_to_be_driven() -> None:
    """A population that nothing else leads into spikes by its bias; behind it, all messages meet as they did before."""
    random = np.random.default_rng(5)
    populations = (
        Population("input", 4, Source()),
        Population("alone", 3, Lif(0.5, 0.25, 1.0, bias_u=0.375)),
        Population("steady", 2, Lif(1.0, 0.25, 1.0, bias=0.5)),
        Population("output", 2, Lif(1.0, 0.125, 0.5)),
    )
    sources = ("input", "alone", "steady")
    projections = tuple(
        Projection(p.name, p.name, "output", Dense(np.round(random.normal(0, 1, (2, p.size)), 1)))
        for p in populations
        if p.name in sources
    )
    graph = Graph(populations, projections, Encoding("given", levels=1), "output", 12)
    low = lowered(graph)
    assert (graph.seamless, low.seamless) == (True, True)
    assert low.offsets == {"input": 0, "on": 0, "alone": 1, "steady": 0, "output": 2}
    shown = (random.random((3, 12, 4)) < 0.4).astype(np.int8)
    before, after = exact.run(graph, shown, record=True), exact.run(low, shown, record=True)
    for key in ("alone.s", "steady.s", "output.s"):
        assert 0 < before.traces[key].mean() < 1
        assert np.array_equal(before.traces[key], after.traces[key])
    assert not compile_graph(graph, shown, np.zeros(0, np.int64)).report["warnings"]
