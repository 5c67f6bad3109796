"""DLIF modules as graphs: the compiled network sends the spikes of the module."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compile.backends import exact
from compile.passes.fold import folded
from compile.passes.lower import lowered
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.export import to_graph
from lavasnn.interop.nir import read_nir, write_nir
from lavasnn.ir import Coincidence, Graph
from lavasnn.nn import DLIF, LIF, ConvDLIF, LowRankPairs, PairConv2d, PairPool, PrivatePairs
from lavasnn.nn.pairs import channel_pairs, field_pairs, random_pairs
from lavasnn.synapses import Conv, Dense, Sparse, as_dense

GIVEN = Encoding("given", levels=1)


def stirred(net: nn.Sequential, seed: int = 0) -> nn.Sequential:
    """Coefficients of pairs start at 0; here they are as large as weights."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name.endswith(("k", "weight")):
                value.normal_(0.05, 0.4)
            elif name.endswith("bias"):
                value.normal_(0, 0.1)
    return net.double().eval()


def shown(*shape: int, rate: float = 0.4) -> np.ndarray:
    return (np.random.default_rng(0).random(shape) < rate).astype(np.int8)


def spikes(graph: Graph, x: np.ndarray) -> dict[str, np.ndarray]:
    return exact.run(lowered(folded(graph)), x.reshape(*x.shape[:2], -1), record=True).traces


@torch.no_grad()
def module_spikes(net: nn.Sequential, x: np.ndarray) -> np.ndarray:
    """Layers that know no time see one step after the other."""
    y = torch.from_numpy(x).double()
    for m in net:
        if isinstance(m, LIF | DLIF | ConvDLIF):
            y = m(y)
        else:
            flat = m(y.flatten(0, 1))
            y = flat.view(*y.shape[:2], *flat.shape[1:])
    return y.flatten(2).numpy()


def test_stacked_dlif_layers() -> None:
    net = nn.Sequential(
        DLIF(12, 9, random_pairs(12, 20, 0), bias=True, dv=0.5),
        DLIF(9, 7, random_pairs(9, 14, 1), dv=0.25),
        nn.Linear(7, 4),
        LIF(),
    )
    graph = to_graph(stirred(net), GIVEN, 10)
    assert [p.name for p in graph.populations] == ["input", "pairs1", "hidden1", "pairs2", "hidden2", "output"]
    assert isinstance(graph.population("pairs1").dynamics, Coincidence)
    assert {p.name: (p.source, p.target) for p in graph.projections} == {
        "pairs1-of": ("input", "pairs1"),
        "w1": ("input", "hidden1"),
        "k1": ("pairs1", "hidden1"),
        "pairs2-of": ("hidden1", "pairs2"),
        "w2": ("hidden1", "hidden2"),
        "k2": ("pairs2", "hidden2"),
        "w3": ("hidden2", "output"),
    }
    x = shown(4, 10, 12)
    wanted = module_spikes(net, x)
    assert 0.05 < wanted.mean() < 0.95
    assert np.array_equal(spikes(graph, x)["output.s"], wanted)


def test_private_pairs_become_a_pool_of_all_that_occur() -> None:
    net = nn.Sequential(
        DLIF.of(PrivatePairs(10, 6, 0.8, seed=3), dv=0.5, vth=0.8), PairPool(6, 4, random_pairs(6, 5, 0)), LIF(vth=0.5)
    )
    graph = to_graph(stirred(net), GIVEN, 8)
    own = net[0].synapses.pairs.numpy()
    pool = graph.synapses(graph.projection("pairs1-of"))
    assert len(np.unique(own.reshape(-1, 2), axis=0)) == pool.shape[0] < own.shape[0] * own.shape[1]
    assert isinstance(graph.synapses(graph.projection("k1")), Sparse)
    assert isinstance(graph.synapses(graph.projection("k2")), Dense)
    x = shown(3, 8, 10)
    assert np.array_equal(spikes(graph, x)["output.s"], module_spikes(net, x))


@pytest.mark.parametrize("kind", ["channels", "field"])
def test_convolutions_with_pairs_and_a_norm_behind_them(kind: str) -> None:
    pairs = channel_pairs(3, 3, 0, at=(1, 1)) if kind == "channels" else field_pairs(3, (3, 3), 9, 0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=False),
        LIF(dv=0.5, vth=0.3),
        PairConv2d(3, 4, 3, pairs, stride=2, padding=1, bias=True),
        nn.BatchNorm2d(4),
        LIF(dv=0.5, vth=0.4),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, 5),
        LIF(vth=0.4),
    )
    net = stirred(net)
    net[3].running_mean.uniform_(-0.1, 0.1)
    net[3].running_var.uniform_(0.5, 1.5)
    graph = to_graph(net, GIVEN, 7, (1, 6, 6))
    select = graph.synapses(graph.projection("pairs2-of"))
    assert isinstance(select, Sparse) and isinstance(graph.synapses(graph.projection("k2")), Conv)
    kernel = torch.zeros(len(pairs), 3, 3, 3)  # an independent way to the same synapses
    for p, (c, i, j, d, k, l) in enumerate(pairs.tolist()):
        kernel[p, c, i, j] = kernel[p, d, k, l] = 1
    each = torch.eye(3 * 6 * 6).view(-1, 3, 6, 6)
    assert np.array_equal(as_dense(select), nn.functional.conv2d(each, kernel, stride=2, padding=1).flatten(1).T.numpy())
    x = shown(3, 7, 1, 6, 6)
    wanted = module_spikes(net, x)
    found = spikes(graph, x)
    assert found["pairs2.s"].any() and 0 < wanted.mean() < 1
    assert np.array_equal(found["output.s"], wanted)


def test_a_convolutional_dlif_comes_first() -> None:
    net = nn.Sequential(
        ConvDLIF(2, 3, 2, field_pairs(2, (2, 2), 6, 1), vth=0.6),
        nn.Flatten(),
        DLIF(3 * 4 * 4, 5, random_pairs(48, 30, 2), vth=0.5),
    )
    net = stirred(net)
    x = shown(2, 6, 2, 5, 5)
    flat = nn.Sequential(net[0], nn.Flatten(), net[2])
    assert np.array_equal(spikes(to_graph(net, GIVEN, 6, (2, 5, 5)), x)["output.s"], module_spikes(flat, x))


def test_what_has_no_form_is_refused() -> None:
    pairs = random_pairs(4, 3, 0)
    for net, words in (
        (nn.Sequential(DLIF.of(LowRankPairs(4, 3, 1))), "layer 0 is LowRankPairs; known are Linear"),
        (nn.Sequential(nn.Linear(4, 4), PairPool(4, 3, pairs), LIF()), "a pair pool has to follow neurons or the input"),
        (nn.Sequential(DLIF(4, 3, pairs, reset="soft")), "with a soft reset, which Lava's LIF has not; allowed is 'hard'"),
        (nn.Sequential(nn.Linear(4, 5), LIF(), DLIF(4, 3, pairs)), "PairPool of 4 inputs, it gets 5"),
        (nn.Sequential(PairConv2d(2, 3, 2, field_pairs(2, (2, 2), 3, 0)), LIF()), "which needs images; give image="),
    ):
        with pytest.raises(InputError, match=words) as caught:
            to_graph(net, GIVEN, 5)
        assert "\n" not in str(caught.value)


def test_nir_takes_pairs_as_neurons_alone(tmp_path: Path) -> None:
    """A program's pairs are LIF neurons, which NIR has; a graph's pairs are none, and NIR has no product of spikes."""
    graph = to_graph(stirred(nn.Sequential(DLIF(6, 4, random_pairs(6, 5, 0), vth=0.5))), GIVEN, 8)
    with pytest.raises(InputError, match="population 'pairs1' joins pairs of spikes, which NIR has no node for; a program"):
        write_nir(graph, tmp_path / "graph.nir", dt=1e-3)
    low, x = lowered(graph), shown(3, 8, 6)
    write_nir(low, tmp_path / "lowered.nir", dt=1e-3)
    back = read_nir(tmp_path / "lowered.nir", dt=1e-3, steps=8)
    mine, theirs = (exact.run(g, x, record=True).traces["output.s"] for g in (low, folded(back)))
    assert mine.any()
    assert np.array_equal(mine, theirs)
