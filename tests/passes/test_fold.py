"""Folding leaves what a network computes: against the product of full matrices, and torch's own layers."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compile.backends import exact
from compile.passes.fold import compose, folded
from compile.rules import loops_take_time
from compile.target import LOIHI2
from lavasnn.dynamics.lif import Lif
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.export import to_graph
from lavasnn.ir import Graph, Population, Projection, Source, Through
from lavasnn.nn import LIF
from lavasnn.synapses import Conv, Dense, Sparse, as_dense, average_pool, one_to_one, sparse_from


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 9999), st.sampled_from("dscop"), st.sampled_from("dscop"))
def test_composed_synapses_are_the_product_of_their_matrices(seed: int, first: str, second: str) -> None:
    random = np.random.default_rng(seed)
    image = (2, int(random.integers(4, 8)), int(random.integers(4, 8)))

    def layer(kind: str, shape: tuple[int, int, int]) -> Dense | Sparse | Conv:
        n = int(np.prod(shape))
        if kind == "d":
            return Dense(random.normal(size=(n, n)))
        if kind == "s":
            return sparse_from(np.where(random.random((n, n)) < 0.2, random.normal(size=(n, n)), 0.0))
        if kind == "o":
            return one_to_one(np.repeat(random.normal(size=shape[0]), n // shape[0]))
        if kind == "p":
            size = (int(random.integers(1, 3)), int(random.integers(1, 3)))
            return average_pool(shape, size, size, total=bool(random.integers(2)))
        groups = int(random.integers(1, 3))
        kernel = random.normal(size=(2, 2 // groups, int(random.integers(1, 3)), int(random.integers(1, 3))))
        return Conv(kernel, shape, (int(random.integers(1, 3)), 1), (int(random.integers(0, 2)), 0), groups=groups)

    inner = layer(first, image)
    between = inner.image_out if isinstance(inner, Conv) else image
    outer = layer(second, between)
    both = compose(outer, inner)
    assert np.allclose(as_dense(both), as_dense(outer) @ as_dense(inner), atol=1e-12)
    if first == "p" and second == "c" and inner.image_out[1] * inner.weight.shape[2] == image[1]:
        whole_columns = inner.image_out[2] * inner.weight.shape[3] == image[2]
        assert isinstance(both, Conv) or not whole_columns


def conv_net(image: tuple[int, int, int]) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(image[0], 4, 3, padding=1, bias=True),
        nn.BatchNorm2d(4),
        LIF(dv=0.25, vth=0.4),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False),
        nn.BatchNorm2d(6),
        LIF(dv=0.125, vth=0.05),
        nn.AvgPool2d(2, padding=1),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(6 * 2 * 2, 8),
        nn.BatchNorm1d(8),
        nn.Linear(8, 5),
        LIF(dv=0.5, vth=0.05),
    ).double()
    for m in net:
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.running_mean.uniform_(-0.1, 0.1)
            m.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.1, 0.1)
    return net.eval()


def module_spikes(net: nn.Sequential, x: torch.Tensor) -> list[np.ndarray]:
    """Spikes of every LIF layer; x is (batch, time, channel, row, column); layers without time see one step at a time."""
    found = []
    n, steps = x.shape[:2]
    for m in net:
        if isinstance(m, LIF):
            x = m(x)
            found.append(x.reshape(n, steps, -1).numpy())
        else:
            y = m(x.reshape(n * steps, *x.shape[2:]))
            x = y.reshape(n, steps, *y.shape[1:])
    return found


@torch.no_grad()
def test_a_convolutional_network_with_norms_and_pools_sends_the_spikes_of_its_module() -> None:
    image, steps = (2, 12, 11), 9
    net = conv_net(image)
    graph = folded(to_graph(net, Encoding("given"), steps, image))
    assert [p.name for p in graph.populations] == ["input", "hidden1", "hidden2", "output"]
    kinds = [type(graph.synapses(p)) for p in graph.projections]
    assert kinds[0] is Conv
    shown = (np.random.default_rng(0).random((3, steps, int(np.prod(image)))) < 0.3).astype(np.int8)
    ours = exact.run(graph, shown, record=True)
    theirs = module_spikes(net, torch.from_numpy(shown.reshape(3, steps, *image)).double())
    for name, spikes in zip(("hidden1", "hidden2", "output"), theirs, strict=True):
        assert 0.02 < spikes.mean() < 0.9, name
        assert np.array_equal(ours.traces[f"{name}.s"], spikes), name


def through(scale: float = 1.0, bias: float = 0.5, du: float = 1.0) -> Graph:
    populations = (
        Population("input", 2, Source()),
        Population("norm", 2, Through(scale, bias)),
        Population("output", 2, Lif(du, 0.5, 1.0)),
    )
    projections = (
        Projection("a", "input", "norm", Dense(np.array([[1.0, 2.0], [3.0, 4.0]])), delay=1),
        Projection("b", "norm", "output", Dense(np.array([[1.0, 0.0], [1.0, -1.0]])), delay=2),
    )
    return Graph(populations, projections, Encoding("given"), "output", 5)


def test_scale_bias_and_delays_move_into_what_is_left() -> None:
    graph = folded(through(scale=2.0))
    (p,) = graph.projections
    assert (p.source, p.target, p.delay) == ("input", "output", 3)
    assert graph.weight(p).tolist() == [[2.0, 4.0], [-4.0, -4.0]]
    assert graph.population("output").dynamics.bias.tolist() == [0.5, 0.0]
    assert folded(graph) is graph


def test_a_bias_before_a_current_with_memory_joins_the_current() -> None:
    neuron = folded(through(du=0.5)).population("output").dynamics
    assert (neuron.bias, neuron.bias_u.tolist()) == (0.0, [0.5, 0.0])


def test_what_cannot_be_folded_is_refused() -> None:
    graph = through()
    late = replace(graph, projections=(graph.projections[0], replace(graph.projections[1], delay=np.array([0, 1]))))
    with pytest.raises(InputError, match="projection 'b' has a delay for each of its senders, which are no neurons"):
        folded(late)
    with pytest.raises(InputError, match="the output 'norm' has no neurons"):
        folded(replace(graph, output="norm"))
    loop = Projection("c", "norm", "norm", Dense(np.eye(2)))
    with pytest.raises(InputError, match="population 'norm' projects to itself without any neuron or delay"):
        folded(replace(graph, projections=(*graph.projections, loop)))


def test_long_chains_without_neurons_are_no_loop() -> None:
    """More populations that only pass on than Python has frames for."""
    names = [f"t{i}" for i in range(1500)]
    populations = (
        Population("input", 1, Source()),
        *(Population(n, 1, Through()) for n in names),
        Population("output", 1, Lif(1.0, 0.1, 0.5)),
    )
    projections = tuple(
        Projection(f"p{i}", a.name, b.name, Dense(np.ones((1, 1)))) for i, (a, b) in enumerate(pairwise(populations))
    )
    graph = Graph(populations, projections, Encoding("given", levels=1), "output", 4)
    assert list(loops_take_time(graph, LOIHI2)) == []
    back = (*projections, Projection("back", "t9", "t3", Dense(np.ones((1, 1)))))
    (found,) = loops_take_time(replace(graph, projections=back), LOIHI2)
    assert re.fullmatch(r"population 't[3-9]' is part of a loop without any neuron or delay in it", found)
