"""Graphs from torch modules, foreign weight files and seeds: right shapes and numbers, and a clear no to all else."""

from __future__ import annotations

import io
import pickle
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compile.backends import exact
from lavasnn.dynamics.diffpc import DiffPC as Parameters
from lavasnn.dynamics.diffpc import Timing
from lavasnn.dynamics.lif import Lif
from lavasnn.encode import Encoding
from lavasnn.errors import ConfigError, FileFormatError, InputError
from lavasnn.export import Layer, from_layers, to_graph
from lavasnn.ir import Graph, Source
from lavasnn.nn import LIF, DiffPC, DiffPCNet
from lavasnn.synapses import Dense, Transposed
from lavasnn.weights import from_state_dict, untrained

TIMING = Timing(m=4, n=8, init_cycles=3)


def dyadic(model: nn.Sequential, seed: int, bits: int = 4, largest: float = 1.0) -> nn.Sequential:
    """Give a network weights and biases that are multiples of largest / 2**bits, so that float64 sums have no rounding."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        whole = torch.randint(-(2**bits), 2**bits + 1, parameter.shape, generator=generator)
        parameter.data = whole.to(parameter.dtype) * largest / 2**bits
    return model


def lif_net(bias: bool = True, **neuron: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 7, bias), LIF(**neuron), nn.Dropout(0.5), nn.Linear(7, 3, bias), LIF(vth=0.75))  # type: ignore[arg-type]


def diffpc_net(bias: bool = True) -> nn.Sequential:
    return nn.Sequential(
        DiffPC("input", TIMING),
        nn.Linear(5, 8, bias),
        DiffPC("hidden", TIMING),
        nn.Dropout(0.3),
        nn.Linear(8, 6, bias),
        DiffPC("hidden", TIMING),
        nn.Linear(6, 3, bias),
        DiffPC("output", TIMING),
    )


def linear(model: nn.Sequential, place: int) -> nn.Linear:
    found = [m for m in model if isinstance(m, nn.Linear)][place]
    assert isinstance(found, nn.Linear)
    return found


# ---- to_graph ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_lif_sequential(bias: bool) -> None:
    net = lif_net(bias, dv=0.25, vth=1.5)
    graph = to_graph(net, steps=9)
    assert [(p.name, p.size) for p in graph.populations] == [("input", 5), ("hidden1", 7), ("output", 3)]
    assert [(p.name, p.source, p.target) for p in graph.projections] == [
        ("w1", "input", "hidden1"),
        ("w2", "hidden1", "output"),
    ]
    assert (graph.output, graph.steps, graph.encoding) == ("output", 9, Encoding("bernoulli"))
    assert isinstance(graph.source.dynamics, Source)
    hidden, output = (graph.population(name).dynamics for name in ("hidden1", "output"))
    assert isinstance(hidden, Lif) and isinstance(output, Lif)
    assert (hidden.du, hidden.dv, hidden.vth) == (1.0, 0.25, 1.5)
    assert (output.du, output.dv, output.vth) == (1.0, 0.5, 0.75)
    for i, p in enumerate(graph.projections):
        assert isinstance(p.synapses, Dense) and p.synapses.weight.dtype == np.float64
        assert p.synapses.weight.tolist() == linear(net, i).weight.double().tolist()
    biases = linear(net, 0).bias.double().tolist() if bias else [0.0] * 7
    assert np.asarray(hidden.bias).tolist() == biases


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shown", [True, False])
def test_diffpc_sequential(bias: bool, shown: bool) -> None:
    net = diffpc_net(bias)
    graph = to_graph(net if shown else nn.Sequential(*list(net)[1:]))
    assert [(p.name, p.size) for p in graph.populations] == [("input", 5), ("hidden1", 8), ("hidden2", 6), ("output", 3)]
    assert graph.encoding == Encoding("value", -6, 255)
    assert graph.timing == TIMING
    roles = [(p.dynamics.role, p.dynamics.depth) for p in graph.populations if isinstance(p.dynamics, Parameters)]
    assert roles == [("input", 0), ("hidden", 1), ("hidden", 2), ("output", 3)]
    found = {(p.source, p.target, p.carries, p.into): p.synapses for p in graph.projections}
    assert set(found) == {
        ("input", "hidden1", "s_A", "a_x"),
        ("hidden1", "hidden2", "s_A", "a_x"),
        ("hidden2", "output", "s_A", "a_x"),
        ("hidden2", "hidden1", "s_e", "a_e"),
        ("output", "hidden2", "s_e", "a_e"),
    }
    assert found["output", "hidden2", "s_e", "a_e"] == Transposed("w3")
    for i, name in enumerate(("hidden1", "hidden2", "output")):
        dynamics = graph.population(name).dynamics
        assert isinstance(dynamics, Parameters)
        expected = linear(net, i).bias.double().tolist() if bias else [0.0] * graph.population(name).size
        assert dynamics.bias.tolist() == expected
        assert graph.weight(graph.projection(f"w{i + 1}")).tolist() == linear(net, i).weight.double().tolist()


def test_the_graph_does_not_follow_later_training() -> None:
    net = lif_net()
    graph = to_graph(net, steps=2)
    before = graph.weight(graph.projections[0]).copy()
    linear(net, 0).weight.data += 1
    assert np.array_equal(graph.weight(graph.projections[0]), before)


def with_nan(model: nn.Sequential, bias: bool) -> nn.Sequential:
    target = linear(model, 0).bias if bias else linear(model, 0).weight
    target.data.view(-1)[0] = float("nan")
    return model


SHORT = Timing(init_cycles=1)
OTHER = Timing(m=3, n=6, init_cycles=3)
WRONG: dict[str, tuple[Any, str]] = {
    "no Sequential": (nn.Linear(2, 2), r"the model is a Linear, an nn.Sequential is needed"),
    "empty": (nn.Sequential(), r"0 layers; needed are Linear and neuron in turn"),
    "input alone": (nn.Sequential(DiffPC("input")), r"0 layers"),
    "ends with Linear": (nn.Sequential(nn.Linear(2, 2), LIF(), nn.Linear(2, 2)), r"ends with Linear, a neuron is needed there"),
    "unknown layer": (
        nn.Sequential(nn.Flatten(), nn.Conv2d(1, 1, 1), LIF()),
        r"layer 1 is Conv2d, which needs images; give image=",
    ),
    "neuron first": (nn.Sequential(LIF(), nn.Linear(2, 2)), r"layer 0 is LIF, a Linear or Conv2d is needed"),
    "unknown neuron": (
        nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.ReLU()),
        r"layer 2 is ReLU; known neurons are lavasnn\.nn's DiffPC and LIF",
    ),
    "two kinds": (
        nn.Sequential(nn.Linear(2, 2), LIF(), nn.Linear(2, 2), DiffPC("output")),
        r"LIF and DiffPC neurons in one network are not supported",
    ),
    "two kinds, DiffPC first": (
        nn.Sequential(nn.Linear(2, 2), DiffPC(), nn.Linear(2, 2), LIF()),
        r"all DiffPC layers of a network need the same timing",
    ),
    "two timings": (
        nn.Sequential(nn.Linear(2, 2), DiffPC("hidden", TIMING), nn.Linear(2, 2), DiffPC("output", OTHER)),
        r"need the same timing",
    ),
    "input timing": (
        nn.Sequential(DiffPC("input", OTHER), nn.Linear(2, 2), DiffPC("output", TIMING)),
        r"input's timing is not that of the neurons behind it",
    ),
    "input before LIF": (nn.Sequential(DiffPC("input"), nn.Linear(2, 2), LIF()), r"input's timing is not"),
    "output inside": (
        nn.Sequential(nn.Linear(2, 2), DiffPC("output"), nn.Linear(2, 2), DiffPC("output")),
        r"layer 1 is DiffPC\('output'\), DiffPC\('hidden'\) is needed there",
    ),
    "hidden at the end": (
        nn.Sequential(nn.Linear(2, 2), DiffPC()),
        r"layer 1 is DiffPC\('hidden'\), DiffPC\('output'\) is needed there",
    ),
    "too deep": (
        nn.Sequential(nn.Linear(2, 2), DiffPC("hidden", SHORT), nn.Linear(2, 2), DiffPC("output", SHORT)),
        r"init_cycles is 1, a network of 2 weight layers needs at least 2",
    ),
    "sizes": (
        nn.Sequential(nn.Linear(2, 3), LIF(), nn.Linear(4, 1), LIF()),
        r"layer 2 is Linear of 4 inputs, it gets 3",
    ),
    "NaN weight, LIF": (with_nan(lif_net(), bias=False), r"'w1' has 1 weights that are not finite, out of 35"),
    "NaN bias, LIF": (with_nan(lif_net(), bias=True), r"bias holds nan"),
    "NaN weight, DiffPC": (with_nan(diffpc_net(), bias=False), r"'w1' has 1 weights that are not finite"),
    "NaN bias, DiffPC": (with_nan(diffpc_net(), bias=True), r"a bias is not finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_to_graph_refuses(case: str) -> None:
    model, message = WRONG[case]
    with pytest.raises(InputError, match=message) as caught:
        to_graph(model, steps=3)
    assert "\n" not in str(caught.value)


def test_lif_needs_steps() -> None:
    with pytest.raises(InputError, match="shows each sample for `steps` steps; 0 given, at least 1 is needed"):
        to_graph(lif_net())


def test_a_bias_has_one_entry_for_each_neuron() -> None:
    for neuron in (Lif(1.0, 0.5, 1.0), TIMING):
        with pytest.raises(InputError, match=r"population 'output' has 2 neurons and a bias of shape \(3,\)"):
            from_layers([Layer(np.ones((2, 4)), np.zeros(3), neuron)], steps=1)


# ---- The graph computes what the module computes ------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_diffpc_graph_equals_the_module(bias: bool, seed: int) -> None:
    net = dyadic(diffpc_net(bias), seed, largest=0.5).double().eval()
    encoding = Encoding("value", -5, 255)
    pixels = np.random.default_rng(seed).integers(0, 256, (11, 5)).astype(np.uint8)
    with torch.no_grad():
        expected = net(torch.from_numpy(pixels.astype(np.float64) / 32))
    result = exact.run(to_graph(net, encoding), pixels)
    assert np.array_equal(result.outputs, expected.numpy())
    assert len(np.unique(result.outputs)) > 11
    reach = 2.0 ** (TIMING.m + 1)  # beyond it neurons would need more than one cycle
    assert all(result.meta["peaks"][f"{name}.x_T"] < reach for name in ("input", "hidden1", "hidden2"))


def test_diffpc_net_graph_equals_the_module_with_random_weights() -> None:
    net = DiffPCNet((6, 9, 4), Timing(m=4, n=9), torch.Generator().manual_seed(3)).double()
    for module in net.linears:
        module.bias.data.uniform_(-1, 1, generator=torch.Generator().manual_seed(4))
    pixels = np.random.default_rng(5).integers(0, 256, (20, 6)).astype(np.uint8)
    with torch.no_grad():
        expected = net(torch.from_numpy(pixels / 64.0))
    assert np.allclose(exact.run(to_graph(net), pixels).outputs, expected.numpy(), rtol=0, atol=1e-9)


def forward(net: nn.Sequential, spikes: Tensor) -> list[Tensor]:
    """Spikes of every LIF layer."""
    found: list[Tensor] = []
    for module in net:
        spikes = module(spikes)
        if isinstance(module, LIF):
            found.append(spikes)
    return found


@pytest.mark.parametrize(("bias", "du", "dv"), [(True, 1.0, 0.5), (True, 1.0, 0.0), (False, 0.5, 0.25), (False, 0.0, 1.0)])
@pytest.mark.parametrize("seed", range(3))
def test_lif_graph_equals_the_module(bias: bool, du: float, dv: float, seed: int) -> None:
    net = dyadic(lif_net(bias, du=du, dv=dv), seed).double().eval()
    graph = to_graph(net, Encoding("bernoulli", seed=seed), steps=12)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 5)).astype(np.uint8)
    result = exact.run(graph, pixels, record=True)
    shown = torch.from_numpy(graph.encoding.spikes(pixels, np.arange(8), 12)).double()
    with torch.no_grad():
        hidden, output = forward(net, shown)
    assert np.array_equal(result.traces["hidden1.s"], hidden.numpy())
    assert np.array_equal(result.traces["output.s"], output.numpy())
    assert np.array_equal(result.outputs, output.sum(dim=1).numpy())
    assert 0.05 < hidden.mean() < 0.95


# ---- from_state_dict ----------------------------------------------------------------------------------------------------

WEIGHTS = {
    "fc1.weight": torch.arange(12, dtype=torch.float32).reshape(4, 3) / 8,
    "fc1.bias": torch.tensor([0.5, -0.5, 0.25, 0.0]),
    "fc2.weight": torch.arange(8, dtype=torch.float64).reshape(2, 4) - 3,
    "scale": torch.tensor(1.0),
}
LAYERS = '[[layer]]\nweight = "fc1.weight"\nbias = "fc1.bias"\n[[layer]]\nweight = "fc2.weight"\n'
LIF_TOML = 'neuron = "lif"\nsteps = 6\n' + LAYERS
DIFFPC_TOML = 'neuron = "diffpc"\n' + LAYERS


def stored(folder: Path, suffix: str, weights: dict[str, Tensor] | None = None) -> Path:
    path = folder / f"weights{suffix}"
    contents = WEIGHTS if weights is None else weights
    if suffix == ".safetensors":
        save_file(contents, path)
    else:
        torch.save(OrderedDict(contents), path, _use_new_zipfile_serialization=suffix != ".pth")
    return path


def toml(folder: Path, text: str) -> Path:
    path = folder / "network.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_state_dict_of_every_kind(suffix: str, tmp_path: Path) -> None:
    text = LIF_TOML + "[lif]\ndv = 0.25\nvth = 2.0\n[input]\nlevels = 16\nseed = 3\n"
    graph = from_state_dict(stored(tmp_path, suffix), toml(tmp_path, text))
    assert [p.size for p in graph.populations] == [3, 4, 2]
    assert (graph.steps, graph.encoding) == (6, Encoding("bernoulli", 0, 16, 3))
    for name, key in (("w1", "fc1.weight"), ("w2", "fc2.weight")):
        assert graph.weight(graph.projection(name)).tolist() == WEIGHTS[key].tolist()
    assert graph.population("hidden1").dynamics == Lif(1.0, 0.25, 2.0, np.array([0.5, -0.5, 0.25, 0.0]))
    assert graph.population("output").dynamics == Lif(1.0, 0.25, 2.0, np.zeros(2))


def test_state_dict_of_diffpc(tmp_path: Path) -> None:
    text = DIFFPC_TOML + "[timing]\nm = 2\nn = 5\n[input]\nlevels = 16\n"
    graph = from_state_dict(stored(tmp_path, ".pt"), toml(tmp_path, text))
    assert graph.timing == Timing(m=2, n=5)
    assert graph.encoding == Encoding("value", -2, 16)  # the largest pixel becomes 4
    chosen = toml(tmp_path, DIFFPC_TOML + "[input]\nscale_exponent = -7\n")
    assert from_state_dict(stored(tmp_path, ".pt"), chosen).encoding == Encoding("value", -7, 255)


BAD_TOML: dict[str, tuple[str, type[InputError], str]] = {
    "no neuron": (LAYERS, ConfigError, r"network\.toml: neuron: field required"),
    "unknown neuron": ('neuron = "izhikevich"', ConfigError, r"neuron: input should be 'lif' or 'diffpc'"),
    "mistyped key": ('neurn = "lif"\nneuron = "lif"', ConfigError, r"network\.toml: neurn: extra inputs are not permitted"),
    "mistyped layer key": (LIF_TOML + 'wieght = "x"\n', ConfigError, r"layer\.1\.wieght: extra inputs"),
    "mistyped lif key": (LIF_TOML + "[lif]\nvthr = 1.0\n", ConfigError, r"lif\.vthr: extra inputs"),
    "mistyped timing key": (DIFFPC_TOML + "[timing]\nmm = 1\n", ConfigError, r"unknown entry timing\.mm"),
    "timing of wrong type": (DIFFPC_TOML + '[timing]\ngamma = "x"\n', ConfigError, r"network\.toml: timing"),
    "timing out of range": (DIFFPC_TOML + "[timing]\nn = 99\n", ConfigError, r"network\.toml: timing: n is 99"),
    "lif out of range": (LIF_TOML + "[lif]\ndv = 1.5\n", ConfigError, r"lif\.dv: input should be less than or equal to 1"),
    "levels out of range": (LIF_TOML + "[input]\nlevels = 256\n", ConfigError, r"input\.levels: "),
    "text for a number": ('neuron = "lif"\nsteps = "5"', ConfigError, r"steps: input should be a valid integer"),
    "no layers": ('neuron = "lif"\nsteps = 5', ConfigError, r"no \[\[layer\]\].*fc1\.bias, fc1\.weight, fc2\.weight, scale"),
    "no TOML": ("neuron = ", ConfigError, r"network\.toml: not TOML"),
    "lif in diffpc": (DIFFPC_TOML + "[lif]\ndv = 0.5\n", ConfigError, r"lif means nothing to neuron 'diffpc'"),
    "timing in lif": (LIF_TOML + "[timing]\nn = 5\n", ConfigError, r"timing means nothing to neuron 'lif'"),
    "steps in diffpc": ("steps = 4\n" + DIFFPC_TOML, ConfigError, r"steps means nothing to neuron 'diffpc'"),
    "value for lif": (LIF_TOML + '[input]\nkind = "value"\n', ConfigError, r"input\.kind is 'value', neuron 'lif' needs"),
    "no steps": (LIF_TOML.replace("steps = 6\n", ""), InputError, r"0 given, at least 1 is needed"),
    "missing tensor": (
        LIF_TOML.replace("fc2.weight", "fc3.weight"),
        InputError,
        r"layer 2: no tensor 'fc3\.weight'; the file holds fc1\.bias, fc1\.weight, fc2\.weight, scale",
    ),
    "wrong axes": (LIF_TOML.replace("fc2.weight", "scale"), InputError, r"layer 2: 'scale' has 0 axes, needed are 2"),
    "matrix as bias": (
        LIF_TOML.replace("fc1.bias", "fc2.weight"),
        InputError,
        r"layer 1: 'fc2\.weight' has 2 axes, needed are 1",
    ),
    "bias of wrong size": (
        LIF_TOML + 'bias = "fc1.bias"\n',
        InputError,
        r"network\.toml: layer 2 has 2 neurons and a bias of shape \(4,\)",
    ),
    "sizes that do not follow": (
        'neuron = "lif"\nsteps = 1\n[[layer]]\nweight = "fc2.weight"\n[[layer]]\nweight = "fc1.weight"\n',
        InputError,
        r"'w2' has weights of shape \(4, 3\), needed is \(4, 2\)",
    ),
}


@pytest.mark.parametrize("case", BAD_TOML)
def test_network_files_with_mistakes(case: str, tmp_path: Path) -> None:
    text, kind, message = BAD_TOML[case]
    with pytest.raises(kind, match=message) as caught:
        from_state_dict(stored(tmp_path, ".safetensors"), toml(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_that_are_not_finite(suffix: str, tmp_path: Path) -> None:
    weights = {**WEIGHTS, "fc2.weight": torch.tensor([[1.0, float("nan"), 0, 0], [float("inf"), 0, 0, 0]])}
    with pytest.raises(InputError, match="'w2' has 2 weights that are not finite, out of 8"):
        from_state_dict(stored(tmp_path, suffix, weights), toml(tmp_path, LIF_TOML))


class Malicious:
    """Unpickled the ordinary way it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("how", ["zip", "legacy", "plain pickle", "beside tensors"])
def test_pickled_code_is_never_run(how: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "weights.pt"
    if how == "plain pickle":
        path.write_bytes(pickle.dumps(Malicious(mark), protocol=2))
    elif how == "beside tensors":
        torch.save({**WEIGHTS, "x": Malicious(mark)}, path)
    else:
        torch.save(Malicious(mark), path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(FileFormatError, match=r"weights\.pt: not a plain state dict, or damaged; other pickled objects are"):
        from_state_dict(path, toml(tmp_path, LIF_TOML))
    assert not mark.exists()
    pickle.loads(pickle.dumps(Malicious(mark)))  # noqa: S301  (the trap works: it would have been sprung)
    assert mark.exists()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([torch.ones(1)], r"holds a list, a state dict of tensors is needed"),
        (torch.ones(1), r"holds a Tensor, a state dict"),
        ({"epoch": 3, "state_dict": WEIGHTS}, r"entry 'epoch' is a int, a state dict of tensors is needed"),
        ({0: torch.ones(1)}, r"entry 0 is a Tensor"),
    ],
)
def test_other_contents(contents: Any, message: str, tmp_path: Path) -> None:
    torch.save(contents, tmp_path / "weights.pt")
    with pytest.raises(FileFormatError, match=message):
        from_state_dict(tmp_path / "weights.pt", toml(tmp_path, LIF_TOML))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_truncated_files(suffix: str, tmp_path: Path) -> None:
    whole = stored(tmp_path, suffix).read_bytes()
    network, path = toml(tmp_path, LIF_TOML), tmp_path / f"cut{suffix}"
    for length in sorted({0, 1, 2, 8, 9, len(whole) - 1, *range(0, len(whole), 37)}):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match=r"cut\.\w+: n") as caught:
            from_state_dict(path, network)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_arbitrary_bytes(suffix: str, tmp_path: Path) -> None:
    network, path, dice = toml(tmp_path, LIF_TOML), tmp_path / f"x{suffix}", random.Random(7)
    opcodes = b"(}]cbR.qXKMJ0123\n\x85\x86q\x80\x02"
    for i in range(300):
        letters = bytes(range(256)) if i % 2 else opcodes
        path.write_bytes(b"\x80\x02" * (i % 3 == 0) + bytes(dice.choices(letters, k=dice.randrange(60))))
        with pytest.raises(FileFormatError, match=r"x\.\w+: "):
            from_state_dict(path, network)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file .*weights\.pt"):
        from_state_dict(tmp_path / "weights.pt", toml(tmp_path, LIF_TOML))
    with pytest.raises(InputError, match=r"cannot read .*none\.toml"):
        from_state_dict(stored(tmp_path, ".pt"), tmp_path / "none.toml")


def test_half_precision_and_integers_become_float64(tmp_path: Path) -> None:
    weights = {"fc1.weight": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16), "fc2.weight": torch.tensor([[3], [4]])}
    text = LIF_TOML.replace('bias = "fc1.bias"\n', "")
    graph = from_state_dict(stored(tmp_path, ".safetensors", weights), toml(tmp_path, text))
    assert [graph.weight(p).tolist() for p in graph.projections] == [[[1.5, -2.0]], [[3.0], [4.0]]]
    assert all(graph.weight(p).dtype == np.float64 for p in graph.projections)


# ---- untrained ----------------------------------------------------------------------------------------------------------


def weights_of(graph: Graph) -> list[Any]:
    return [graph.weight(p).tolist() for p in graph.projections]


@pytest.mark.parametrize("head", ['neuron = "lif"\nsteps = 5\n', 'neuron = "diffpc"\n'])
def test_untrained_depends_on_the_seed_alone(head: str, tmp_path: Path) -> None:
    network = toml(tmp_path, head + "sizes = [16, 9, 4]")
    graph = untrained(network, 1)
    assert [p.size for p in graph.populations] == [16, 9, 4]
    assert weights_of(graph) == weights_of(untrained(network, 1))
    assert weights_of(graph) != weights_of(untrained(network, 2))
    for name, pre in (("w1", 16), ("w2", 9)):
        weight = graph.weight(graph.projection(name))
        assert np.abs(weight).max() <= pre**-0.5
        assert np.abs(weight).max() > 0.8 * pre**-0.5
        assert weight.min() < 0 < weight.max()
    assert not any(np.any(getattr(p.dynamics, "bias", 0)) for p in graph.populations)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("[]", r"sizes is \[\]; needed are at least two layers of at least 1 neuron"),
        ("[4]", r"sizes is \[4\]"),
        ("[4, 0]", r"sizes is \[4, 0\]"),
        ("[4, 1.5]", r"sizes\.1: input should be a valid integer"),
        ("[4, true]", r"sizes\.1: input should be a valid integer"),
    ],
)
def test_untrained_needs_sizes(sizes: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        untrained(toml(tmp_path, f'neuron = "lif"\nsteps = 5\nsizes = {sizes}'), 0)


def test_nn_offers_its_public_names() -> None:
    import lavasnn.nn as package

    modules = {"ConvDLIF", "DLIF", "DiffPC", "DiffPCNet", "LIF", "LowRankPairs", "PairConv2d", "PairPool", "PrivatePairs"}
    assert set(package.__all__) == modules | {"ATan", "Sigmoid", "Triangle", "replace_lif"}
    for name in package.__all__:
        assert getattr(package, name).__name__ == name


def test_a_state_dict_saved_to_a_buffer_is_the_module_itself(tmp_path: Path) -> None:
    net = lif_net()
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    (tmp_path / "own.pt").write_bytes(buffer.getvalue())
    text = 'neuron = "lif"\nsteps = 4\n' + "".join(f'[[layer]]\nweight = "{i}.weight"\nbias = "{i}.bias"\n' for i in (0, 3))
    assert weights_of(from_state_dict(tmp_path / "own.pt", toml(tmp_path, text))) == weights_of(to_graph(net, steps=4))
