"""NeuroBench's figures: ours against its own harness on torch modules, and against counts by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from compile.backends import exact
from lavasnn.dynamics.diffpc import DiffPC
from lavasnn.dynamics.graded import Graded
from lavasnn.dynamics.lif import Lif
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.measure import neurobench
from lavasnn.nn.lif import LIF
from lavasnn.synapses import Conv, Dense, Transposed, sparse_from

STEPS = 12


def harness(net: nn.Module, shown: NDArray[Any], batch: int) -> dict[str, Any]:
    """What NeuroBench says, under our names."""
    pytest.importorskip("neurobench", reason="the extra neurobench is not installed")
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics import static, workload
    from neurobench.models import TorchModel

    model = TorchModel(net)
    model.add_activation_module(LIF)
    data = TensorDataset(torch.tensor(shown, dtype=torch.float32), torch.zeros(len(shown), dtype=torch.long))
    wanted = [[static.Footprint, static.ConnectionSparsity], [workload.ActivationSparsity, workload.SynapticOperations]]
    found = Benchmark(model, DataLoader(data, batch_size=batch), [], [], wanted).run(quiet=True)
    names = ("footprint", "connection_sparsity", "activation_sparsity", "synaptic_operations")
    return dict(zip(names, (found[m.__name__] for m in (*wanted[0], *wanted[1])), strict=True))


def agree(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """All equal; NeuroBench averages activation sparsity over batches, so its last bit depends on them."""
    assert theirs["synaptic_operations"]["Dense"] > 0
    assert ours.pop("activation_sparsity") == pytest.approx(theirs.pop("activation_sparsity"), rel=1e-12)
    assert ours == theirs


def pruned(random: np.random.Generator, *shape: int) -> NDArray[Any]:
    """Whole-numbered weights, about a third of them 0, so that sums are exact in any order."""
    return random.integers(-4, 7, shape) * (random.random(shape) < 0.7)


def given(populations: tuple[Population, ...], projections: tuple[Projection, ...], levels: int = 1) -> Graph:
    return Graph(populations, projections, Encoding("given", levels=levels), populations[-1].name, STEPS)


def layer(weight: NDArray[Any], bias: NDArray[Any] | None = None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight.data = torch.tensor(weight, dtype=torch.float32)
    if bias is not None:
        linear.bias.data = torch.tensor(bias, dtype=torch.float32)
    return linear


def two_layers(levels: int = 1) -> tuple[Graph, nn.Module]:
    """14-9-5 LIF with zero weights and biases, as our graph and as a torch module."""
    random = np.random.default_rng(0)
    w1, w2, bias = pruned(random, 9, 14), pruned(random, 5, 9), random.integers(-1, 2, 5)
    graph = given(
        (
            Population("input", 14, Source()),
            Population("hidden", 9, Lif(0.5, 0.25, 3.0)),
            Population("output", 5, Lif(1.0, 0.5, 2.0, bias.astype(np.float64))),
        ),
        (
            Projection("w1", "input", "hidden", Dense(w1.astype(np.float64))),
            Projection("w2", "hidden", "output", Dense(w2.astype(np.float64))),
        ),
        levels,
    )
    # torch adds a bias to the current, we to the voltage: the same where the current has no memory (du = 1)
    layers = (layer(w1), LIF(dv=0.25, du=0.5, vth=3.0), layer(w2, bias), LIF(dv=0.5, du=1.0, vth=2.0))
    return graph, nn.Sequential(*layers)


@pytest.mark.parametrize("lowest", [0, -1])
@pytest.mark.parametrize("batch", [1, 4, 16])
def test_spiking_networks_agree_with_the_harness(batch: int, lowest: int) -> None:
    graph, net = two_layers()
    shown = np.random.default_rng(1).integers(lowest, 2, (10, STEPS, 14)).astype(np.int8)  # signs count as spikes
    result = exact.run(graph, shown, measure=True)
    ours = neurobench.metrics(graph, result)
    assert 0.2 < ours["connection_sparsity"] < 0.6
    assert 0.1 < ours["activation_sparsity"] < 0.9
    assert ours["synaptic_operations"]["Effective_MACs"] == 0
    agree(ours, harness(net, shown, batch))


def test_payloads_are_declared_here_and_looked_at_there() -> None:
    """An input that may carry payloads counts as MACs, even if a batch happens to hold spikes alone."""
    graph, net = two_layers(levels=3)
    shown = np.random.default_rng(1).integers(0, 2, (6, STEPS, 14))
    ours, theirs = neurobench.metrics(graph, exact.run(graph, shown, measure=True)), harness(net, shown, 6)
    mine, other = ours["synaptic_operations"], theirs["synaptic_operations"]
    assert mine["Effective_MACs"] > other["Effective_MACs"] == 0
    assert mine["Effective_MACs"] + mine["Effective_ACs"] == pytest.approx(other["Effective_ACs"])


class Pictures(nn.Module):
    """Convolution, LIF, ReLU-like payloads and a linear layer over (batch, time, channel, row, column)."""

    def __init__(self, kernel: NDArray[Any], weight: NDArray[Any], last: NDArray[Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2, bias=False)
        self.conv.weight.data = torch.tensor(kernel, dtype=torch.float32)
        self.spike, self.linear, self.relu, self.last = LIF(dv=0.5, vth=3.0), layer(weight), nn.ReLU(), layer(last)
        self.out = LIF(dv=1.0, vth=20.0)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.conv(x.reshape(-1, 2, 6, 7))
        spikes = self.spike(frames.reshape(*x.shape[:2], -1))
        return self.out(self.last(self.relu(self.linear(spikes))))


def test_convolutions_and_payloads_agree_with_the_harness() -> None:
    random = np.random.default_rng(2)
    kernel = pruned(random, 6, 1, 3, 3)
    conv = Conv(kernel.astype(np.float64), (2, 6, 7), (2, 1), (1, 0), (1, 2), 2)
    weight, last = pruned(random, 8, conv.shape[0]), pruned(random, 3, 8)
    graph = given(
        (
            Population("input", 84, Source()),
            Population("spike", conv.shape[0], Lif(1.0, 0.5, 3.0)),
            Population("relu", 8, Graded(0.0, relu=True)),
            Population("output", 3, Lif(1.0, 1.0, 20.0)),
        ),
        (
            Projection("conv", "input", "spike", conv),
            Projection("linear", "spike", "relu", Dense(weight.astype(np.float64))),
            Projection("last", "relu", "output", sparse_from(last.astype(np.float64))),
        ),
        levels=3,
    )
    shown = random.integers(0, 4, (6, STEPS, 84))
    ours = neurobench.metrics(graph, exact.run(graph, shown, measure=True))
    assert min(ours["synaptic_operations"].values()) > 0
    agree(ours, harness(Pictures(kernel, weight, last), shown, 6))


def test_by_hand() -> None:
    """Two samples of three steps, 3-2 neurons: every figure counted on paper."""
    weight = np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]])
    graph = Graph(
        (Population("input", 3, Source()), Population("output", 2, Lif(1.0, 1.0, 2.5, np.array([0.0, 1.0])))),
        (Projection("w", "input", "output", Dense(weight)),),
        Encoding("given", levels=1),
        "output",
        3,
    )
    shown = np.array([[[1, 1, 0], [0, 0, 1], [0, 1, 1]], [[1, 0, 1], [0, 0, 0], [0, 1, 0]]], np.int8)
    result = exact.run(graph, shown, measure=True)
    # Messages of the three inputs: 2, 3, 3, with 1, 0 and 2 weights other than zero: 8 operations in 2 samples.
    assert neurobench.synaptic_operations(graph, result) == {"Effective_MACs": 0, "Effective_ACs": 4, "Dense": 3 * 6}
    # Voltages are a step's input plus bias: (2, 4), (2, 4) and (3, 4) have 1, 1 and 2 above 2.5, out of 12.
    assert neurobench.activation_sparsity(graph, result) == 8 / 12
    assert neurobench.connection_sparsity(graph) == 0.5
    assert neurobench.footprint(graph) == 4 * (6 + 2)
    assert neurobench.footprint(graph, 1) == 8
    sparse = Graph(graph.populations, (Projection("w", "input", "output", sparse_from(weight)),), graph.encoding, "output", 3)
    assert neurobench.metrics(sparse, exact.run(sparse, shown, measure=True)) == neurobench.metrics(graph, result)


def test_diffpc_counts_both_directions_and_its_weights_once() -> None:
    timing = Timing(m=1, n=3, init_cycles=2, settle_cycles=2)
    sizes, random = (6, 4, 3), np.random.default_rng(0)
    w1, w2 = random.normal(0, 0.7, (4, 6)), random.normal(0, 0.7, (3, 4))
    roles = ("input", "hidden", "output")
    graph = Graph(
        tuple(Population(role, sizes[l], DiffPC(role, l, timing)) for l, role in enumerate(roles)),
        (
            Projection("w1", "input", "hidden", Dense(w1), "s_A", "a_x"),
            Projection("w2", "hidden", "output", Dense(w2), "s_A", "a_x"),
            Projection("w2t", "output", "hidden", Transposed("w2"), "s_e", "a_e"),
        ),
        Encoding("value", -2, 16),
        "output",
    )
    pixels, labels = random.integers(0, 17, (5, 6)).astype(np.uint8), random.integers(0, 3, 5)
    result = exact.run(graph, pixels, labels, settle=True, measure=True)
    sent = {key: int(v.sum()) for key, v in result.messages.items()}
    done = neurobench.synaptic_operations(graph, result)
    assert done["Effective_ACs"] == (sent["input.s_A"] * 4 + sent["hidden.s_A"] * 3 + sent["output.s_e"] * 4) / 5
    assert done["Dense"] == timing.window(True) * (24 + 12 + 12)
    assert neurobench.footprint(graph) == 4 * (24 + 12)
    quiet = 1 - sum(n for key, n in sent.items() if not key.startswith("input")) / (5 * timing.window(True) * 7 * 2)
    assert neurobench.activation_sparsity(graph, result) == pytest.approx(quiet)


def test_what_cannot_be_counted_is_told() -> None:
    graph = Graph(
        (Population("input", 3, Source()), Population("output", 2, Lif(1.0, 1.0, 2.5))),
        (Projection("w", "input", "output", Dense(np.ones((2, 3)))),),
        Encoding("given", levels=1),
        "output",
        3,
    )
    shown = np.ones((1, 3, 3), np.int8)
    with pytest.raises(InputError, match=r"needs the messages of each neuron of 'input\.s'; run with measure=True keeps them"):
        neurobench.metrics(graph, exact.run(graph, shown))
    with pytest.raises(InputError, match=r"the run has 3 neurons of 'input\.s', the network 4; it is of another network"):
        neurobench.messages(exact.run(graph, shown, measure=True), "input.s", 4)
