"""NIR in and out, against an Euler loop of its own, recorded files and the file format itself."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compile.backends import exact
from compile.backends.spiking import Record, run_spiking
from compile.passes.fold import folded
from compile.passes.lower import lowered
from compile.pipeline import compile_graph
from lavasnn.dynamics.diffpc import DiffPC
from lavasnn.dynamics.graded import Graded
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.errors import FileFormatError, InputError, RangeError
from lavasnn.interop.nir import read_nir, read_recording, to_nir, write_nir, write_recording
from lavasnn.ir import Graph, Population, Projection, Source, Through
from lavasnn.paths import aligned
from lavasnn.synapses import Conv, Dense, Grid, Sparse, average_pool, one_to_one, sparse_from

DT = 1e-3
STEPS = 30


# --- an independent truth: NIR's equations, node by node


def euler(graph: Any, shown: Any, dt: float = DT) -> dict[str, Any]:
    """Outputs of all nodes for messages (step, *shape), and voltages as "node.v".

    Nodes are taken in the order of their edges from the inputs on; one that is heard before its turn is heard as it was a step
    before. What a node puts out is heard by the next within the same step.
    """
    nodes, edges = flat(graph)
    order = in_turn(nodes, edges)
    state: dict[str, Any] = {}
    now: dict[str, Any] = {}
    found: dict[str, list[Any]] = {}
    for t in range(len(shown)):
        for name in order:
            node = nodes[name]
            heard = [now[a] for a, b in edges if b == name and a in now]
            x = np.asarray(shown[t], float) if isinstance(node, nir.Input) and not heard else sum_of(heard)
            now[name] = react(node, x, state, name, t, dt)
            found.setdefault(name, []).append(now[name])
            if f"{name}.v" in state:
                found.setdefault(f"{name}.v", []).append(state[f"{name}.v"])
    return {name: np.array(values) for name, values in found.items()}


def sum_of(heard: list[Any]) -> Any:
    total = heard[0]
    for h in heard[1:]:
        total = total + h.reshape(total.shape)
    return total


def flat(graph: Any, prefix: str = "") -> tuple[dict[str, Any], list[tuple[str, str]]]:
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    first: dict[str, str] = {}
    last: dict[str, str] = {}
    for name, node in graph.nodes.items():
        path = f"{prefix}{name}"
        first[name] = last[name] = path
        if isinstance(node, nir.NIRGraph):
            inner, wires = flat(node, f"{path}.")
            nodes |= inner
            edges += wires
            first[name] = next(f"{path}.{n}" for n, k in node.nodes.items() if isinstance(k, nir.Input))
            last[name] = next(f"{path}.{n}" for n, k in node.nodes.items() if isinstance(k, nir.Output))
        else:
            nodes[path] = node
    edges += [(last[a], first[b]) for a, b in graph.edges]
    return nodes, edges


def in_turn(nodes: dict[str, Any], edges: list[tuple[str, str]]) -> list[str]:
    """Depth first from the inputs, finished last comes first."""
    done: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        seen.add(name)
        for a, b in edges:
            if a == name and b not in seen:
                visit(b)
        done.append(name)

    for name, node in nodes.items():
        if isinstance(node, nir.Input) and name not in seen:
            visit(name)
    return done[::-1]


def react(node: Any, x: Any, state: dict[str, Any], name: str, t: int, dt: float) -> Any:
    match node:
        case nir.Input() | nir.Output():
            return x
        case nir.Flatten():
            return x.reshape(-1)
        case nir.Affine():
            return node.weight @ x.reshape(-1) + node.bias
        case nir.Linear():
            return node.weight @ x.reshape(-1)
        case nir.Scale():
            return x * node.scale
        case nir.Delay():
            past = state.setdefault(name, [])
            past.append(x)
            steps = np.round(node.delay / dt).astype(int)
            return np.array([past[t - s][i] if s <= t else 0.0 for i, s in np.ndenumerate(steps)]).reshape(steps.shape)
        case nir.Conv1d() | nir.Conv2d():
            convolve = torch.nn.functional.conv1d if isinstance(node, nir.Conv1d) else torch.nn.functional.conv2d
            padding = node.padding if isinstance(node.padding, str | int) else tuple(int(p) for p in node.padding)
            args = (torch.tensor(x)[None], torch.tensor(node.weight), torch.tensor(node.bias))
            return convolve(*args, node.stride, padding, node.dilation, node.groups)[0].numpy()
        case nir.SumPool2d() | nir.AvgPool2d():
            size, stride, padding = (tuple(int(v) for v in k) for k in (node.kernel_size, node.stride, node.padding))
            mean = torch.nn.functional.avg_pool2d(torch.tensor(x)[None], size, stride, padding)[0].numpy()
            return mean * (size[0] * size[1] if isinstance(node, nir.SumPool2d) else 1)
    r = node.r
    v, i = state.get(f"{name}.v", np.zeros(r.shape)), state.get(f"{name}.i", np.zeros(r.shape))
    x = x.reshape(r.shape)
    if isinstance(node, nir.CubaLIF | nir.CubaLI):
        i = state[f"{name}.i"] = i + dt / node.tau_syn * (-i + node.w_in * x)
        v = v + dt / node.tau_mem * (node.v_leak - v + r * i)
    elif isinstance(node, nir.IF | nir.I):
        v = v + dt * r * x
    else:
        v = v + dt / node.tau * (node.v_leak - v + r * x)
    if isinstance(node, nir.LI | nir.CubaLI | nir.I):
        state[f"{name}.v"] = v
        return v
    spikes = v > node.v_threshold
    state[f"{name}.v"] = np.where(spikes, node.v_reset, v)
    return spikes.astype(float)


# --- helpers


def shown(shape: tuple[int, ...], seed: int = 0, rate: float = 0.4, steps: int = STEPS) -> Any:
    return np.random.default_rng(seed).random((steps, *shape)) < rate


def lif(shape: Any, tau: Any = 5e-3, theta: Any = 0.4, r: Any = 1.0, leak: Any = 0.0) -> Any:
    full = [np.broadcast_to(np.asarray(v, float), shape).copy() for v in (tau, r, leak, theta)]
    return nir.LIF(tau=full[0], r=full[1], v_leak=full[2], v_threshold=full[3], v_reset=np.zeros(shape))


def cuba(shape: Any, syn: Any = 4e-3, mem: Any = 8e-3, theta: Any = 0.3, r: Any = 1.5, leak: Any = 0.0, w_in: Any = 2.0) -> Any:
    full = [np.broadcast_to(np.asarray(v, float), shape).copy() for v in (syn, mem, r, leak, theta, np.zeros(shape), w_in)]
    return nir.CubaLIF(*full)


def weights(*shape: int, seed: int = 0, mean: float = 0.3) -> Any:
    return np.random.default_rng(seed).normal(mean, 1.0, shape)


def net(nodes: dict[str, Any], edges: list[tuple[str, str]] | None = None) -> Any:
    names = list(nodes)
    return nir.NIRGraph(nodes, edges or list(pairwise(names)), type_check=False)


def plain(**changes: Any) -> dict[str, Any]:
    nodes = {
        "input": nir.Input(np.array([3])),
        "fc": nir.Linear(weights(4, 3)),
        "out": lif((4,)),
        "output": nir.Output(np.array([4])),
    }
    return nodes | changes


def ways(*paths: str) -> list[tuple[str, str]]:
    """Edges along paths, each once."""
    return list(dict.fromkeys(edge for path in paths for edge in pairwise(path.split())))


def through_file(graph: Any, tmp_path: Path, **options: Any) -> Graph:
    nir.write(tmp_path / "x.nir", graph)
    return read_nir(tmp_path / "x.nir", **{"dt": DT, "steps": STEPS, **options})


def run(graph: Graph, messages: Any, *voltages: str) -> Record:
    return run_spiking(folded(graph), messages.reshape(1, len(messages), -1), voltages=voltages)


def agree(graph: Any, messages: Any, tmp_path: Path, output: str, late: int = 0, **options: Any) -> Graph:
    """Imported and run, a network spikes where NIR's equations do, `late` steps after them; there are spikes to compare."""
    found = through_file(graph, tmp_path, **options)
    truth = euler(graph, messages)[output].reshape(len(messages), -1)
    sent = run(found, messages).sent[found.output][0]
    assert 0.01 < truth.mean() < 0.99
    np.testing.assert_array_equal(sent[late:], truth[: len(truth) - late])
    return found


def recorded(folder: Path, name: str) -> Any:
    """Columns input, voltage, spikes."""
    return np.loadtxt(folder / f"lif_{name}.csv", delimiter=",").T


# --- the published recordings


@pytest.mark.data("nets/nir/lif")
def test_the_published_mapping_gives_lavas_and_the_chips_recording(stored: Path) -> None:
    """Lava's rows, and the chip's, are a step behind ours: the input takes one to arrive."""
    graph = read_nir(stored / "lif_norse.nir", dt=1e-4, steps=1000, scale=250.0)
    assert graph.integer
    (q,) = graph.projections
    assert q.synapses.weight.tolist() == [[10]]  # type: ignore[union-attr]
    assert graph.population("1").dynamics == LifInt(4095, 163, 25)
    shown_, lava_v, lava_s = recorded(stored, "lava_cpu_fixed")
    _, chip_v, chip_s = recorded(stored, "lava_loihi_fixed")
    result = run_spiking(graph, shown_.astype(bool)[None, :, None], voltages=("1",))
    late = graph.offsets["1"]
    assert late == 1
    v = np.concatenate([[0], result.voltages["1"][0, :-late, 0]])
    s = np.concatenate([[0], result.sent["1"][0, :-late, 0]])
    assert lava_s.sum() == 4
    assert (s == lava_s).sum() == (s == chip_s).sum() == 1000
    assert (v == lava_v).sum() == 1000
    assert (v == chip_v).sum() == 996
    np.testing.assert_array_equal(np.flatnonzero(v != chip_v), np.flatnonzero(s))
    assert set(chip_v[s == 1]) == {128}


@pytest.mark.data("nets/nir/lif")
def test_real_numbers_give_norses_recording(stored: Path) -> None:
    """Norse counts steps as we do: the window of the neuron opens with its first input."""
    graph = read_nir(stored / "lif_norse.nir", dt=1e-4, steps=1000)
    shown_, norse_v, norse_s = recorded(stored, "norse")
    result = run_spiking(graph, shown_.astype(bool)[None, :, None], voltages=("1",))
    np.testing.assert_array_equal(result.sent["1"][0, :, 0], norse_s)
    np.testing.assert_allclose(result.voltages["1"][0, :, 0], norse_v, atol=1e-7)  # theirs is float32


@pytest.mark.data("nets/nir/lif")
def test_compiled_it_spikes_as_the_chip_did(stored: Path) -> None:
    graph = read_nir(stored / "lif_norse.nir", dt=1e-4, steps=1000)
    shown_, _, chip_s = recorded(stored, "lava_loihi_fixed")
    messages = shown_.astype(np.uint8)[None, :, None]
    program = compile_graph(graph, messages, np.zeros(1, np.int64))
    result = exact.run(program.graph, messages, record=True)
    np.testing.assert_array_equal(np.concatenate([[0], result.traces["1.s"][0, :-1, 0]]), chip_s)


# --- networks against the Euler loop


def test_two_layers_of_lif(tmp_path: Path) -> None:
    graph = net(
        {
            "input": nir.Input(np.array([6])),
            "fc1": nir.Affine(weights(5, 6), weights(5, seed=1) * 0.1),
            "h": lif((5,), leak=weights(5, seed=2) * 0.1, r=weights(5, seed=5, mean=2.0)),
            "fc2": nir.Linear(weights(4, 5, seed=3)),
            "out": lif((4,), tau=2e-3, theta=0.7, r=2.0),
            "output": nir.Output(np.array([4])),
        }
    )
    found = agree(graph, shown((6,)), tmp_path, "out")
    assert [p.name for p in found.populations] == ["input", "h", "out"]
    assert [q.name for q in found.projections] == ["fc1", "fc2"]
    assert found.seamless
    assert found.encoding == Encoding("given", levels=1)
    inner = run(found, shown((6,)), "h").voltages["h"][0]
    np.testing.assert_allclose(inner, euler(graph, shown((6,)))["h.v"], atol=1e-12)


def test_convolution_pooling_and_flatten(tmp_path: Path) -> None:
    """A chain of linear nodes is folded into one; images are flat in the order (channel, row, column)."""
    graph = net(
        {
            "input": nir.Input(np.array([2, 6, 8])),
            "conv": nir.Conv2d((6, 8), weights(4, 2, 3, 3), 1, 1, 1, 1, weights(4, seed=1)),
            "h": lif((4, 6, 8), r=0.7),
            "avg": nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
            "conv2": nir.Conv2d(None, weights(6, 2, 2, 3, seed=2), (1, 2), (1, 0), (1, 1), 2, np.zeros(6)),
            "h2": lif((6, 4, 1), tau=3e-3, theta=0.5),
            "sum": nir.SumPool2d(np.array([2, 1]), np.array([2, 1]), np.array([0, 0])),
            "flat": nir.Flatten({"input": np.array([6, 2, 1])}, 0, -1),
            "fc": nir.Affine(weights(3, 12, seed=3), weights(3, seed=4) * 0.2),
            "out": lif((3,)),
            "output": nir.Output(np.array([3])),
        }
    )
    graph.nodes["conv2"].input_shape = (3, 4)
    found = agree(graph, shown((2, 6, 8)), tmp_path, "out")
    assert [type(p.dynamics) for p in found.populations].count(Through) == 2
    assert isinstance(folded(found).arriving("h2")[0].synapses, Conv)
    truth = euler(graph, shown((2, 6, 8)))
    for name in ("h", "h2"):
        np.testing.assert_array_equal(run(found, shown((2, 6, 8))).sent[name][0], truth[name].reshape(STEPS, -1))


@pytest.mark.parametrize("padding", [0, 2, "same", "valid"])
def test_lines_of_pixels(tmp_path: Path, padding: Any) -> None:
    length = {0: 7, 2: 11, "same": 9, "valid": 7}[padding]
    graph = net(
        {
            "input": nir.Input(np.array([2, 9])),
            "conv": nir.Conv1d(9, weights(3, 2, 3), 1, padding, 1, 1, weights(3, seed=1) * 0.1),
            "out": lif((3, length)),
            "output": nir.Output(np.array([3, length])),
        }
    )
    agree(graph, shown((2, 9)), tmp_path, "out")


@pytest.mark.parametrize("image", [(6, 6), (5, 6)])
def test_same_padding_and_strides_in_two_dimensions(tmp_path: Path, image: tuple[int, int]) -> None:
    rows = (image[0] - 3) // 2 + 1, (image[1] - 2) // 1 + 1
    graph = net(
        {
            "input": nir.Input(np.array([1, *image])),
            "same": nir.Conv2d(image, weights(2, 1, 3, 5), 1, "same", 1, 1, np.zeros(2)),
            "h": lif((2, *image)),
            "stride": nir.Conv2d(image, weights(2, 2, 3, 2, seed=1), (2, 1), 0, 1, 1, np.zeros(2)),
            "out": lif((2, *rows)),
            "output": nir.Output(np.array([2, *rows])),
        }
    )
    agree(graph, shown((1, *image)), tmp_path, "out")


def test_currents_with_memory(tmp_path: Path) -> None:
    graph = net(
        {
            "input": nir.Input(np.array([5])),
            "fc1": nir.Linear(weights(6, 5)),
            "h": cuba((6,), r=weights(6, seed=1, mean=2.0), w_in=weights(6, seed=2, mean=2.0), leak=0.1),
            "fc2": nir.Affine(weights(4, 6, seed=3), weights(4, seed=4)),
            "out": cuba((4,), syn=DT, theta=0.4),
            "output": nir.Output(np.array([4])),
        }
    )
    found = agree(graph, shown((5,)), tmp_path, "out")
    assert found.population("h").dynamics.du == pytest.approx(0.25)  # type: ignore[union-attr]


def test_a_bias_before_a_current_with_memory(tmp_path: Path) -> None:
    """It charges the current, as NIR has it; the compiler brings it from a neuron that is always on."""
    graph = net(
        {
            "input": nir.Input(np.array([5])),
            "fc1": nir.Affine(weights(6, 5), weights(6, seed=5)),
            "h": cuba((6,), leak=0.1),
            "fc2": nir.Affine(weights(4, 6, seed=3), weights(4, seed=4)),
            "out": cuba((4,), theta=0.4),
            "output": nir.Output(np.array([4])),
        }
    )
    found = agree(graph, shown((5,)), tmp_path, "out")
    low = lowered(found)
    assert [p.name for p in low.populations] == ["input", "on", "h", "out"]
    x = shown((5,))[None]
    before, after = (exact.run(g, x, record=True).traces for g in (found, low))
    assert after["on.s"].all()
    for key in before:
        assert key.endswith("margin") or np.array_equal(before[key], after[key])
    write_nir(found, tmp_path / "again.nir", dt=DT)
    again = read_nir(tmp_path / "again.nir", dt=DT, steps=found.steps)
    assert np.array_equal(exact.run(again, x, record=True).traces["out.s"], before["out.s"])


def test_integrate_and_fire_and_scales(tmp_path: Path) -> None:
    graph = net(
        {
            "input": nir.Input(np.array([2, 3])),
            "s1": nir.Scale(weights(2, 3)),
            "if": nir.IF(r=np.full((2, 3), 400.0), v_threshold=np.ones((2, 3)), v_reset=np.zeros((2, 3))),
            "flat": nir.Flatten({"input": np.array([2, 3])}, 0, -1),
            "fc": nir.Affine(weights(4, 6, seed=1), weights(4, seed=2)),
            "s2": nir.Scale(weights(4, seed=3, mean=1.0)),
            "out": lif((4,)),
            "output": nir.Output(np.array([4])),
        }
    )
    found = agree(graph, shown((2, 3), rate=0.7), tmp_path, "out")
    assert not any(isinstance(p.dynamics, Through) for p in found.populations)


def test_input_straight_into_neurons(tmp_path: Path) -> None:
    graph = net({"input": nir.Input(np.array([3])), "out": lif((3,), r=7.0), "output": nir.Output(np.array([3]))})
    found = agree(graph, shown((3,)), tmp_path, "out")
    assert isinstance(found.projections[0].synapses, Sparse)


def test_a_layer_that_hears_itself_in_a_nested_graph(tmp_path: Path) -> None:
    """Its own spikes take a step in either world, so one layer on a loop is only late by the hop of its input."""
    inner = net(
        {
            "input": nir.Input(np.array([5])),
            "lif": lif((5,), tau=3e-3),
            "back": nir.Linear(weights(5, 5, seed=7, mean=-0.5)),
            "output": nir.Output(np.array([5])),
        },
        ways("input lif back lif output"),
    )
    graph = net(
        {
            "input": nir.Input(np.array([4])),
            "fc": nir.Linear(weights(5, 4)),
            "rec": inner,
            "fc2": nir.Linear(weights(3, 5, seed=1)),
            "out": lif((3,)),
            "output": nir.Output(np.array([3])),
        }
    )
    found = agree(graph, shown((4,)), tmp_path, "out", late=2)
    assert [p.name for p in found.populations] == ["input", "rec.lif", "out"]
    assert not found.seamless
    truth = euler(graph, shown((4,)))["rec.lif"]
    assert truth.mean() > 0.05
    np.testing.assert_array_equal(run(found, shown((4,))).sent["rec.lif"][0, 1:], truth[:-1])


def test_a_loop_beside_a_short_way(tmp_path: Path) -> None:
    """What goes around the recurrent layer waits for it."""
    graph = net(
        {
            "input": nir.Input(np.array([4])),
            "fc": nir.Linear(weights(5, 4)),
            "lif": lif((5,)),
            "back": nir.Linear(weights(5, 5, seed=7)),
            "fc2": nir.Linear(weights(3, 5, seed=1)),
            "short": nir.Linear(weights(3, 4, seed=2)),
            "out": lif((3,)),
            "output": nir.Output(np.array([3])),
        },
        ways("input fc lif back lif fc2 out output", "input short out"),
    )
    found = agree(graph, shown((4,)), tmp_path, "out", late=2)
    assert {q.name: q.delay for q in found.projections} == {"fc": 0, "back": 0, "fc2": 0, "short": 1}


def test_ways_of_different_length_are_aligned(tmp_path: Path) -> None:
    """A skip connection past two layers gets two steps of delay, and the network has no latency of its own again."""
    graph = net(
        {
            "input": nir.Input(np.array([4])),
            "fc1": nir.Affine(weights(5, 4), weights(5, seed=9) * 0.2),
            "a": lif((5,)),
            "fc2": nir.Affine(weights(5, 5, seed=1), weights(5, seed=8) * 0.2),
            "b": lif((5,)),
            "fc3": nir.Affine(weights(3, 5, seed=2), weights(3, seed=7) * 0.2),
            "skip": nir.Linear(weights(3, 4, seed=3)),
            "out": lif((3,)),
            "output": nir.Output(np.array([3])),
        },
        ways("input fc1 a fc2 b fc3 out output", "input skip out"),
    )
    found = agree(graph, shown((4,)), tmp_path, "out")
    assert found.projection("skip").delay == 2
    assert found.seamless


def test_delays(tmp_path: Path) -> None:
    """One for each neuron stays with the senders; behind weights, rows of equal delay part. Windows open together then."""
    steps = np.array([0, 3, 1, 2, 1])
    graph = net(
        {
            "input": nir.Input(np.array([4])),
            "fc1": nir.Linear(weights(5, 4)),
            "d1": nir.Delay(steps * DT),
            "h": lif((5,)),
            "d2": nir.Delay(steps[::-1] * DT),
            "fc2": nir.Linear(weights(3, 5, seed=2)),
            "out": lif((3,)),
            "output": nir.Output(np.array([3])),
        }
    )
    found = agree(graph, shown((4,)), tmp_path, "out", late=2)
    assert not found.seamless
    assert sorted(q.delay for q in found.arriving("h")) == [0, 1, 2, 3]
    np.testing.assert_array_equal(found.projection("fc2").delay, steps[::-1])


def test_a_delayed_bias_is_the_same_bias(tmp_path: Path) -> None:
    nodes, d = plain(fc=nir.Affine(np.zeros((4, 3)), np.arange(4.0))), nir.Delay(np.array([0, 1, 2, 3]) * DT)
    plainly = through_file(net(nodes), tmp_path)
    late = through_file(net(nodes | {"d": d}, ways("input fc d out output")), tmp_path)
    assert late.population("out").dynamics == plainly.population("out").dynamics


def test_one_delay_in_a_chain_only_opens_the_window_later(tmp_path: Path) -> None:
    nodes = {
        "input": nir.Input(np.array([4])),
        "d": nir.Delay(np.full(4, 3 * DT)),
        "fc": nir.Linear(weights(5, 4)),
        "out": lif((5,)),
        "output": nir.Output(np.array([5])),
    }
    found = through_file(net(nodes), tmp_path)
    assert found.seamless
    assert found.offsets["out"] == 4
    messages = shown((4,))
    truth = euler(net(nodes), np.concatenate([messages, np.zeros((3, 4))]))["out"]
    np.testing.assert_array_equal(run(found, messages).sent["out"][0], truth[3:])


def test_neurons_of_different_decays_become_populations(tmp_path: Path) -> None:
    """Six layers of a kind: what enters, what leaves and what is read splits; a tenth of a register's step is no difference."""
    tau = np.array([5, 2, 5, 9, 2, 5.0001]) * 1e-3
    graph = net(
        {
            "input": nir.Input(np.array([4])),
            "fc": nir.Affine(weights(6, 4), weights(6, seed=4) * 0.2),
            "h": lif((6,), tau=tau, theta=np.array([1, 2, 0.5, 1, 1, 0.7]), leak=weights(6, seed=5) * 0.1),
            "fc2": nir.Linear(weights(5, 6, seed=1)),
            "out": lif((5,), tau=np.array([3, 3, 8, 3, 8]) * 1e-3),
            "output": nir.Output(np.array([5])),
        }
    )
    found = agree(graph, shown((4,)), tmp_path, "out")
    assert {p.name: p.size for p in found.populations} == {
        "input": 4, "h.0": 3, "h.1": 2, "h.2": 1, "out.0": 3, "out.1": 2, "output": 5,
    }  # fmt: skip
    assert {p.dynamics.vth for p in found.populations if p.name.startswith("h")} == {2.0}  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"node 'h': its neurons have 3 different decays \(in 1/4096\), allowed are 2"):
        through_file(graph, tmp_path, groups=2)


def test_decays_count_as_equal_once_rounded(tmp_path: Path) -> None:
    register = 100 / 4096
    tau = DT / (register + np.linspace(-0.4, 0.4, 200) / 4096)
    graph = net({"input": nir.Input(np.array([200])), "out": lif((200,), tau=tau), "output": nir.Output(np.array([200]))})
    found = through_file(graph, tmp_path)
    assert len(found.populations) == 2
    assert found.population("out").dynamics.dv == register  # type: ignore[union-attr]
    np.testing.assert_allclose(found.projections[0].synapses.weight, DT / tau, rtol=1e-12)  # type: ignore[union-attr]


def test_split_loops_and_convolutions(tmp_path: Path) -> None:
    tau = np.where(np.arange(18).reshape(2, 3, 3) % 3 == 0, 3e-3, 6e-3)
    graph = net(
        {
            "input": nir.Input(np.array([1, 5, 5])),
            "conv": nir.Conv2d((5, 5), weights(2, 1, 3, 3), 1, 0, 1, 1, weights(2, seed=3) * 0),
            "h": lif((2, 3, 3), tau=tau, r=2.0),
            "back": nir.Scale(weights(2, 3, 3, seed=4, mean=-1.0)),
            "flat": nir.Flatten({"input": np.array([2, 3, 3])}, 0, -1),
            "fc": nir.Linear(weights(4, 18, seed=1)),
            "out": lif((4,)),
            "output": nir.Output(np.array([4])),
        },
        ways("input conv h back h flat fc out output"),
    )
    agree(graph, shown((1, 5, 5)), tmp_path, "out", late=2)


def test_thresholds_of_zero_and_others(tmp_path: Path) -> None:
    graph = net(
        {
            "input": nir.Input(np.array([4])),
            "fc": nir.Linear(weights(4, 4)),
            "out": lif((4,), theta=np.array([0, 1, 0, 0.5])),
            "output": nir.Output(np.array([4])),
        }
    )
    found = agree(graph, shown((4,)), tmp_path, "out")
    assert [p.dynamics.vth for p in found.populations[1:3]] == [0.0, 1.0]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["LI", "CubaLI", "I"])
def test_integrators_are_read_as_voltages(tmp_path: Path, kind: str) -> None:
    r, leak = weights(3, seed=2, mean=2.0), np.zeros(3) if kind == "CubaLI" else weights(3, seed=3)
    last = {
        "LI": nir.LI(tau=np.full(3, 8e-3), r=r, v_leak=leak),
        "CubaLI": nir.CubaLI(np.full(3, 3e-3), np.full(3, 8e-3), r, leak, np.full(3, 1.7)),
        "I": nir.I(r=r * 100),
    }[kind]
    graph = net(
        {
            "input": nir.Input(np.array([5])),
            "fc1": nir.Linear(weights(6, 5)),
            "h": lif((6,)),
            "fc2": nir.Linear(weights(3, 6, seed=1)),
            "li": last,
            "output": nir.Output(np.array([3])),
        }
    )
    found = through_file(graph, tmp_path)
    assert found.read == "voltage"
    messages = shown((5,))
    result = run(found, messages, "li")
    np.testing.assert_allclose(result.voltages["li"][0], euler(graph, messages)["li"], atol=1e-12)
    assert not result.sent["li"].any()
    answer = exact.run(found, messages.astype(np.uint8)[None])
    np.testing.assert_allclose(answer.outputs[0], euler(graph, messages)["li"][-1], atol=1e-12)


def test_an_integrator_never_spikes_even_if_everything_drives_it(tmp_path: Path) -> None:
    graph = net(
        {
            "input": nir.Input(np.array([50])),
            "fc": nir.Linear(np.ones((1, 50))),
            "pool": nir.Affine(np.full((1, 1), 3.0), np.ones(1)),
            "li": nir.LI(tau=np.full(1, 1.0), r=np.full(1, 1e3), v_leak=np.ones(1)),
            "output": nir.Output(np.array([1])),
        }
    )
    found = through_file(graph, tmp_path, steps=500)
    result = run(found, np.ones((500, 50), bool), "li")
    assert not result.sent["li"].any()
    np.testing.assert_allclose(result.voltages["li"][0], euler(graph, np.ones((500, 50)))["li"], rtol=1e-9)
    short = net(graph.nodes | {"pool": nir.Scale(np.full(1, 3.0))})
    whole = through_file(short, tmp_path, scale=20.0)
    assert whole.population("li").dynamics.vth == 131071  # type: ignore[union-attr]


def test_integrators_compile(tmp_path: Path) -> None:
    last = nir.LI(tau=np.full(3, 8e-3), r=np.ones(3), v_leak=np.zeros(3))
    graph = net(
        {"input": nir.Input(np.array([5])), "fc": nir.Linear(weights(3, 5)), "li": last, "output": nir.Output(np.array([3]))}
    )
    found, messages = through_file(graph, tmp_path), shown((5,)).astype(np.uint8)[None]
    program = compile_graph(found, messages, np.zeros(1, np.int64))
    grid = program.graph.synapses(program.graph.projections[0]).grid
    assert grid is not None
    voltages = exact.run(program.graph, messages).outputs / 64 * grid.unit
    np.testing.assert_allclose(voltages, exact.run(found, messages).outputs, atol=0.02)


def test_a_linear_end_is_read_as_the_sum_of_what_it_puts_out(tmp_path: Path) -> None:
    graph = net(
        {
            "input": nir.Input(np.array([5])),
            "fc1": nir.Linear(weights(6, 5)),
            "h": lif((6,)),
            "fc2": nir.Linear(weights(3, 6, seed=1)),
            "output": nir.Output(np.array([3])),
        }
    )
    found = through_file(graph, tmp_path)
    messages = shown((5,))
    answer = exact.run(found, messages.astype(np.uint8)[None])
    np.testing.assert_allclose(answer.outputs[0], euler(graph, messages)["output"].sum(axis=0), atol=1e-12)


def test_graded_input(tmp_path: Path) -> None:
    graph = net(
        {
            "input": nir.Input(np.array([4])),
            "fc": nir.Linear(weights(5, 4) / 50),
            "out": lif((5,)),
            "output": nir.Output(np.array([5])),
        }
    )
    messages = np.random.default_rng(0).integers(-100, 100, (STEPS, 4), endpoint=True)
    found = agree(graph, messages, tmp_path, "out", levels=100)
    assert found.encoding == Encoding("given", levels=100)


def test_weights_of_zero(tmp_path: Path) -> None:
    graph = net(
        {
            "input": nir.Input(np.array([4])),
            "fc": nir.Affine(np.zeros((5, 4)), np.full(5, 2.0)),
            "out": lif((5,)),
            "output": nir.Output(np.array([5])),
        }
    )
    found = agree(graph, shown((4,)), tmp_path, "out")
    messages = shown((4,)).astype(np.uint8)[None]
    program = compile_graph(found, messages, np.zeros(1, np.int64))
    assert exact.run(program.graph, messages).outputs.min() > 0


def test_compiled_imports_spike_almost_as_in_real_numbers(tmp_path: Path) -> None:
    """Convolution, pooling, a skip connection and two decays survive the compiler; its integers cost a few spikes."""
    graph = net(
        {
            "input": nir.Input(np.array([1, 6, 6])),
            "conv": nir.Conv2d((6, 6), weights(4, 1, 3, 3), 1, 1, 1, 1, np.zeros(4)),
            "h": lif((4, 6, 6), r=2.0),
            "avg": nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
            "flat": nir.Flatten({"input": np.array([4, 3, 3])}, 0, -1),
            "fc": nir.Linear(weights(5, 36, seed=3)),
            "flat2": nir.Flatten({"input": np.array([1, 6, 6])}, 0, -1),
            "skip": nir.Linear(weights(5, 36, seed=4) / 3),
            "out": lif((5,), tau=np.array([3, 3, 6, 3, 6]) * 1e-3),
            "output": nir.Output(np.array([5])),
        },
        ways("input conv h avg flat fc out output", "input flat2 skip out"),
    )
    found = agree(graph, shown((1, 6, 6)), tmp_path, "out")
    messages = np.stack([shown((36,), seed) for seed in range(4)]).astype(np.uint8)
    program = compile_graph(found, messages, np.zeros(4, np.int64))
    whole, real = (exact.run(g, messages, record=True).traces["output.s"] for g in (program.graph, folded(found)))
    assert (whole == real).mean() > 0.97


# --- integers directly


def test_the_published_mapping_cuts_weights_thresholds_and_decays(tmp_path: Path) -> None:
    nodes: dict[str, Any] = {
        "input": nir.Input(np.array([3])),
        "fc": nir.Affine(np.array([[0.5, -0.25, 0.1], [1.0, 0.3, -0.7]]), np.array([0.05, -0.3])),
        "out": cuba((2,), syn=DT, mem=3e-3, theta=0.777, r=3.0, w_in=1.0),
        "output": nir.Output(np.array([2])),
    }
    found = through_file(net(nodes), tmp_path, scale=100.0)
    (q,) = found.projections
    assert isinstance(q.synapses, Dense)
    assert q.synapses.grid == Grid(0, "mixed", 0.01)
    assert q.synapses.weight.tolist() == [[50, -26, 10], [100, 30, -70]]  # -25 loses its lowest bit, downwards
    assert found.population("out").dynamics == LifInt(4095, 1365, 77, np.array([320, -1920]))
    nodes["fc"].weight[0, 0] = 5.0
    with pytest.raises(RangeError, match=r"with a scale of 100, weights of 'fc' run from -70 to 500, allowed are -256..254"):
        through_file(net(nodes), tmp_path, scale=100.0)
    nodes["out"].v_threshold[:] = 2000.0
    with pytest.raises(RangeError, match=r"population 'out' has a threshold of 200,000, allowed are 131,071; weights of"):
        through_file(net(nodes), tmp_path, scale=100.0)
    nodes["fc"].bias[:] = 1000.0
    with pytest.raises(RangeError, match=r"population 'out' has a bias of 6,400,000 \(in 1/64\), allowed are 524,160"):
        through_file(net(nodes), tmp_path, scale=100.0)


def test_the_published_mapping_of_split_outputs_runs(tmp_path: Path) -> None:
    graph = net(
        {
            "input": nir.Input(np.array([3])),
            "fc": nir.Linear(np.abs(weights(4, 3))),
            "out": lif((4,), tau=np.array([2, 3, 2, 3]) * 1e-3),
            "output": nir.Output(np.array([4])),
        }
    )
    real, whole = through_file(graph, tmp_path), through_file(graph, tmp_path, scale=200.0)
    assert whole.integer
    a, b = (run_spiking(g, shown((3,))[None]).sent["output"] for g in (real, whole))
    assert a.any()
    assert (a == b).mean() > 0.95


def test_a_scale_needs_neurons_behind_all_weights(tmp_path: Path) -> None:
    graph = net(
        {
            "input": nir.Input(np.array([3])),
            "a": nir.Linear(weights(4, 3)),
            "b": nir.Linear(weights(4, 4)),
            "out": lif((4,)),
            "output": nir.Output(np.array([4])),
        }
    )
    with pytest.raises(InputError, match=r"with a scale, weights follow neurons; 'a' follow weights. Import without a scale"):
        through_file(graph, tmp_path, scale=10.0)


# --- writing


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Chains and skips of LIF populations with any synapses, biases and delays; dyadic numbers, so that nothing rounds."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def dyadic(*shape: int) -> Any:
        return rng.integers(-16, 24, shape) / 16

    image = (draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(2, 4)))
    populations = [Population("x", int(np.prod(image)), Source())]
    projections: list[Projection] = []
    at: tuple[int, int, int] | None = image
    for i in range(draw(st.integers(1, 3))):
        before = populations[-1]
        kind = draw(st.sampled_from(["dense", "sparse", "conv", "pool", "one"]))
        s: Any
        if kind == "conv" and at is not None:
            s = Conv(dyadic(2, at[0], min(at[1], 2), 2), at, padding=(draw(st.integers(0, 1)), 1))
        elif kind == "pool" and at is not None and at[2] > 1:
            s = average_pool(at, (1, 2), (1, 2), total=draw(st.booleans()))
        elif kind == "one":
            s = one_to_one(dyadic(before.size))
        elif kind == "sparse":
            s = sparse_from(dyadic(4, before.size) * (rng.random((4, before.size)) < 0.5))
        else:
            s = Dense(dyadic(draw(st.integers(1, 5)), before.size))
        at = s.image_out if isinstance(s, Conv) else at if kind == "one" else None
        size = s.shape[0]
        through = draw(st.integers(0, 5)) == 0 and i == 0
        bias = draw(st.sampled_from([0.0, "each", "same"]))
        values = {"each": dyadic(size) / 4, "same": 0.125}.get(bias, 0.0)  # type: ignore[arg-type]
        if isinstance(before.dynamics, Through):  # its bias has to reach the voltage
            populations.append(Population(f"p{i}", size, Lif(1.0, 0.25, 0.75, values)))
        elif through:
            populations.append(Population(f"p{i}", size, Through(1.0, values)))
        else:
            du, dv = draw(st.sampled_from([(1.0, 0.25), (1.0, 0.0), (0.5, 0.125), (1.0, 1.0)]))
            current = dyadic(size) / 4 if du < 1 and draw(st.booleans()) else 0.0
            populations.append(Population(f"p{i}", size, Lif(du, dv, 0.75, values if du == 1 or dv else 0.0, bias_u=current)))
        projections.append(Projection(f"w{i}", before.name, f"p{i}", s, delay=draw(st.sampled_from([0, 0, 2]))))
    if isinstance(populations[-1].dynamics, Through):
        populations[-1] = replace(populations[-1], dynamics=Lif(1.0, 0.5, 0.75))
    last = populations[-1]
    if len(populations) > 2 and draw(st.booleans()) and isinstance(populations[1].dynamics, Lif):
        projections.append(Projection("skip", "x", last.name, Dense(dyadic(last.size, populations[0].size))))
    if draw(st.booleans()):
        projections.append(Projection("back", last.name, last.name, Dense(dyadic(last.size, last.size)), delay=1))
    return Graph(tuple(populations), tuple(projections), Encoding("given", levels=1), last.name, 12)


@settings(max_examples=60)
@given(graphs(), st.sampled_from([2.0**-10, 1e-3, 1e-4]))
def test_written_and_read_a_graph_spikes_as_before(graph: Graph, dt: float) -> None:
    graph = aligned(graph)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.nir"
        write_nir(graph, path, dt=dt)
        again = read_nir(path, dt=None, steps=None)
        assert nir.read(path, type_check=False).metadata["dt"] == dt
    assert again.steps == graph.steps
    assert again.output == graph.output
    messages = shown((graph.source.size,), steps=12)
    first, second = (run(g, messages).sent for g in (graph, again))
    for p in folded(graph).populations:
        np.testing.assert_array_equal(first[p.name], second[p.name])
    assert again.offsets == {**again.offsets, **{k: v for k, v in graph.offsets.items() if k in again.offsets}}


def test_every_primitive_survives_a_file(tmp_path: Path) -> None:
    """Read from a file and written again, a network with all primitives that spike is the same network."""
    graph = net(
        {
            "input": nir.Input(np.array([2, 8])),
            "conv1": nir.Conv1d(8, weights(4, 2, 2), 2, 0, 1, 1, np.zeros(4)),
            "lif": lif((4, 4)),
            "flat": nir.Flatten({"input": np.array([4, 4])}, 0, -1),
            "affine": nir.Affine(weights(36, 16, seed=1), weights(36, seed=2) * 0.1),
            "cuba": cuba((36,), syn=DT),
            "scale": nir.Scale(weights(36, seed=3)),
            "delay": nir.Delay(np.full(36, DT)),
            "if": nir.IF(r=np.full(36, 500.0), v_threshold=np.ones(36), v_reset=np.zeros(36)),
            "linear": nir.Linear(weights(5, 36, seed=4)),
            "sub": net({"in": nir.Input(np.array([5])), "inner": cuba((5,)), "out": nir.Output(np.array([5]))}),
            "output": nir.Output(np.array([5])),
        }
    )
    nir.write(tmp_path / "a.nir", graph)
    first = read_nir(tmp_path / "a.nir", dt=DT, steps=STEPS)
    write_nir(first, tmp_path / "b.nir", dt=DT)
    second = read_nir(tmp_path / "b.nir", dt=DT, steps=STEPS)
    kinds = {type(node).__name__ for node in nir.read(tmp_path / "b.nir", type_check=True).nodes.values()}
    assert kinds == {"Input", "Conv1d", "LIF", "Flatten", "Affine", "CubaLIF", "Scale", "IF", "Linear", "Output", "Delay"}
    messages = shown((2, 8))
    truth = euler(graph, np.concatenate([messages, np.zeros((1, 2, 8))]))["sub.inner"][1:]
    for g in (first, second):
        np.testing.assert_array_equal(run(g, messages).sent[g.output][0], truth)


def test_the_type_checker_of_nir_takes_what_we_write(tmp_path: Path) -> None:
    """Convolutions with square kernels, pools and flattening have the shapes that NIR infers."""
    image = (2, 8, 8)
    h, out = Lif(1.0, 0.25, 1.0), Lif(0.5, 0.25, 1.0)
    pool = average_pool((3, 8, 8), (2, 2), (2, 2))
    graph = Graph(
        (
            Population("x", 128, Source()),
            Population("h", 192, h),
            Population("p", 48, Through(1.0)),
            Population("out", 4, out),
        ),
        (
            Projection("conv", "x", "h", Conv(weights(3, 2, 3, 3), image, padding=(1, 1))),
            Projection("pool", "h", "p", pool, delay=0),
            Projection("fc", "p", "out", Dense(weights(4, 48))),
        ),
        Encoding("given", levels=1),
        "out",
        STEPS,
    )
    write_nir(graph, tmp_path / "x.nir", dt=DT)
    found = nir.read(tmp_path / "x.nir")
    assert {type(n).__name__ for n in found.nodes.values()} >= {"Conv2d", "AvgPool2d", "Flatten", "CubaLIF"}
    assert tuple(found.nodes["h"].r.shape) == (3, 8, 8)
    np.testing.assert_array_equal(found.nodes["h"].v_reset, np.zeros((3, 8, 8)))
    assert found.nodes["out"].metadata == {"dt": DT, "du": 0.5, "dv": 0.25}


@pytest.mark.parametrize("d", [Lif(1.0, 0.25, 1e9), Lif(0.5, 0.25, 1e9), Lif(1.0, 0.0, 1e9)])
def test_voltages_that_are_read_are_integrators(tmp_path: Path, d: Lif) -> None:
    graph = Graph(
        (Population("x", 3, Source()), Population("o", 2, d)),
        (Projection("w", "x", "o", Dense(weights(2, 3))),),
        Encoding("given", levels=1),
        "o",
        STEPS,
        "voltage",
    )
    write_nir(graph, tmp_path / "x.nir", dt=DT)
    again = read_nir(tmp_path / "x.nir", dt=DT, steps=STEPS)
    assert again.read == "voltage"
    np.testing.assert_allclose(
        run(graph, shown((3,)), "o").voltages["o"], run(again, shown((3,)), "o").voltages["o"], atol=1e-12
    )
    with pytest.raises(InputError, match=r"population 'o' is read as a voltage, which may reach .* and spike at 0.1"):
        write_nir(replace(graph, populations=(graph.source, Population("o", 2, replace(d, vth=0.1)))), tmp_path / "y", dt=DT)


def test_everything_that_nir_cannot_hold_is_named_at_once(tmp_path: Path) -> None:
    populations = (
        Population("x", 2, Source()),
        Population("t", 2, Lif(1.0, 0.5, 1.0, vth_lo=-1.0)),
        Population("g", 2, Graded(0.5)),
        Population("i", 2, LifInt(4095, 100, 5)),
        Population("c", 2, Lif(0.5, 0.0, 1.0)),
        Population("b", 2, Through(0.0, 1.0)),
        Population("o", 2, Lif(1.0, 0.5, 1.0)),
    )
    names = [p.name for p in populations]
    one = Dense(np.eye(2))
    projections = [Projection(f"{a}{b}", a, b, one) for a, b in pairwise(names)]
    projections[2] = replace(projections[2], synapses=Dense(np.eye(2, dtype=np.int16), Grid()))
    graph = Graph(populations, tuple(projections), Encoding("given", levels=1), "o", 5)
    with pytest.raises(InputError) as caught:
        write_nir(graph, tmp_path / "x.nir", dt=DT)
    for part in (
        "population 't' is ternary",
        "population 'g' sends graded messages",
        "population 'i' holds integers",
        "population 'c' has du 0.5 and dv 0; a CubaLIF leaks",
        "population 'b' has a bias and scales of 0",
        "projection 'gi' holds integers; allowed are the real numbers",
    ):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    loose = replace(graph, populations=populations[:1] + populations[-1:], projections=())
    with pytest.raises(InputError, match="population 'x' leads nowhere; population 'o' receives nothing"):
        to_nir(loose, DT)
    timing = Timing()
    diffpc = Graph(
        (Population("x", 2, DiffPC("input", 0, timing)), Population("y", 2, DiffPC("output", 1, timing))),
        (Projection("w", "x", "y", one, "s_A", "a_x"),),
        Encoding("value"),
        "y",
    )
    with pytest.raises(InputError, match="nir: DiffPC populations have no form in NIR"):
        to_nir(diffpc, DT)
    with pytest.raises(InputError, match="write_nir: dt is 0, allowed is a finite number above 0"):
        to_nir(graph, 0)


def test_a_matrix_that_would_be_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavasnn.interop.nir_write.LARGEST", 5)
    graph = Graph(
        (Population("x", 3, Source()), Population("o", 2, Lif(1.0, 0.5, 1.0))),
        (Projection("w", "x", "o", sparse_from(np.ones((2, 3)))),),
        Encoding("given", levels=1),
        "o",
        5,
    )
    with pytest.raises(InputError, match="projection 'w' needs a matrix of 6 weights, allowed are 5"):
        to_nir(graph, DT)


# --- recordings


def test_a_runs_recording_is_input_again(tmp_path: Path) -> None:
    graph = Graph(
        (Population("input", 3, Source()), Population("o", 2, Lif(1.0, 0.25, 3.0))),
        (Projection("w", "input", "o", Dense(weights(2, 3))),),
        Encoding("given", levels=1),
        "o",
        STEPS,
        "voltage",
    )
    messages = np.stack([shown((3,), seed) for seed in range(3)]).astype(np.int8)
    result = exact.run(graph, messages, record=True)
    write_recording(result, tmp_path / "run.nir", dt=DT)
    np.testing.assert_array_equal(read_recording(tmp_path / "run.nir"), messages)
    np.testing.assert_array_equal(read_recording(tmp_path / "run.nir", node="o", observable="spikes"), result.traces["o.s"])
    assert read_recording(tmp_path / "run.nir", STEPS + 5).shape == (3, STEPS + 5, 3)
    np.testing.assert_array_equal(read_recording(tmp_path / "run.nir", 4, dt=DT), messages[:, :4])
    found = nir.read_data(str(tmp_path / "run.nir")).nodes["o"].observables["voltages"]
    np.testing.assert_array_equal(found.data, result.traces["o.v"])
    assert found.dt == DT
    with pytest.raises(InputError, match="the run holds no messages of single steps; run it with traces"):
        write_recording(exact.run(graph, messages), tmp_path / "y.nir", dt=DT)
    with pytest.raises(InputError, match="dt is -1, allowed is a finite number above 0"):
        write_recording(result, tmp_path / "y.nir", dt=-1)


def write_observable(path: Path, node: str = "input", **observables: Any) -> None:
    nir.write_data(path, nir.NIRGraphData({node: nir.NIRNodeData(observables)}))


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_events_fall_into_the_steps_they_were_taken_from(seed: int) -> None:
    messages = np.random.default_rng(seed).random((2, 40, 3)) < 0.2
    for dt in (0.1, 1e-4):
        events = nir.TimeGriddedData(messages, dt).to_event(200)
        with tempfile.TemporaryDirectory() as folder:
            write_observable(Path(folder) / "x", spikes=events)
            np.testing.assert_array_equal(read_recording(Path(folder) / "x", dt=dt), messages)


def test_events_with_values(tmp_path: Path) -> None:
    index, time = np.array([[0, 2, 2, -1]]), np.array([[0.0, 3.0, 1.0, np.inf]])
    events = nir.ValuedEventData(index, time, 3, 4.0, np.array([[5.0, -7.0, 1.0, 0.0]]))
    write_observable(tmp_path / "x", node="retina", spikes=events)
    found = read_recording(tmp_path / "x", dt=1.0)
    assert found[0].tolist() == [[5, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, -7]]
    assert found.dtype == np.int32


def test_recordings_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x"
    grid = nir.TimeGriddedData(np.zeros((1, 5, 2), bool), 1e-3)
    nir.write_data(path, nir.NIRGraphData({n: nir.NIRNodeData({"spikes": grid}) for n in ("a", "b")}))
    with pytest.raises(InputError, match="has no node 'input', allowed are 'a', 'b'"):
        read_recording(path)
    with pytest.raises(InputError, match="has no observable 'v', allowed are 'spikes'"):
        read_recording(path, node="a", observable="v")
    with pytest.raises(InputError, match=r"recorded in steps of 0.001 s, and dt is 0.002 s"):
        read_recording(path, node="a", dt=2e-3)
    with pytest.raises(InputError, match="steps is 0, at least 1 is needed"):
        read_recording(path, 0, node="a")
    write_observable(path, spikes=nir.TimeGriddedData(np.full((1, 5, 2), 0.5), 1e-3))
    with pytest.raises(FileFormatError, match="holds numbers that are not whole"):
        read_recording(path)
    write_observable(path, spikes=nir.TimeGriddedData(np.full((1, 5, 2), 1e12), 1e-3))
    with pytest.raises(FileFormatError, match=r"holds a message of 1e\+12, allowed are 32 bits"):
        read_recording(path)
    events = nir.EventData(np.array([[0, 5]]), np.array([[0.0, 1.0]]), 3, 4.0)
    write_observable(path, spikes=events)
    with pytest.raises(InputError, match="holds events, and dt, the seconds in a step, is None"):
        read_recording(path)
    with pytest.raises(
        FileFormatError, match="1 events lie outside 3 neurons and 4 steps of 1 s, the first is of neuron 5 at 1 s"
    ):
        read_recording(path, dt=1.0)
    write_observable(path, spikes=replace(events, t_max=1e30))
    with pytest.raises(FileFormatError, match=r"3 neurons and 1e\+30 steps; allowed are integers of shape"):
        read_recording(path, dt=1.0)
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(FileFormatError, match="no readable NIR recording"):
        read_recording(path)
    with pytest.raises(InputError, match="no file"):
        read_recording(tmp_path / "none")


# --- what is refused


def test_all_unsupported_nodes_are_named_at_once(tmp_path: Path) -> None:
    inner = net({"in": nir.Input(np.array([4])), "step": nir.Threshold(np.ones(4)), "out": nir.Output(np.array([4]))})
    reset = lif((4,))
    reset.v_reset[1] = -1.0
    odd = cuba((4,))
    odd.w_in = np.ones((3, 4))
    graph = net(
        {
            "input": nir.Input(np.array([4])),
            "thr": nir.Threshold(np.ones(4)),
            "sub": inner,
            "fast": lif((4,), tau=1e-4),
            "reset": reset,
            "low": lif((4,), theta=-1.0),
            "cuba": cuba((4,), syn=1e-5),
            "odd": odd,
            "output": nir.Output(np.array([4])),
        }
    )
    with pytest.raises(InputError) as caught:
        through_file(graph, tmp_path)
    for part in (
        "node 'thr' is a Threshold, which is not supported;",
        "node 'sub.step' is a Threshold, which is not supported;",
        "supported are Affine, AvgPool2d, Conv1d, Conv2d, CubaLI, CubaLIF, Delay, Flatten, I, IF, Input, LI, LIF, Linear",
        "node 'fast' (LIF) has a tau of 0.0001 s, allowed is a step (dt = 0.001 s) or more",
        "node 'reset' (LIF) has a v_reset other than 0; a stock LIF resets to 0",
        "node 'low' (LIF) has a v_threshold of -1, allowed is 0 or more",
        "node 'cuba' (CubaLIF) has a tau_syn of 1e-05 s",
        "node 'odd' (CubaLIF) has a w_in of shape (3, 4), needed is (4,)",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


CYCLE = ways("input fc s1 s2 s1", "s2 out output")
DELAYED = ways("input fc d out output")
REFUSED: list[tuple[dict[str, Any], list[tuple[str, str]] | None, str]] = [
    (
        plain(s1=nir.Scale(np.ones(4)), s2=nir.Scale(np.ones(4))),
        CYCLE,
        r"nodes 's[12]' -> 's[12]' -> 's[12]' form a loop without any neuron",
    ),
    (plain(), [("input", "fc"), ("fc", "out"), ("out", "nowhere")], "from 'out' to 'nowhere', but there is no node 'nowhere'"),
    (plain(), [("input", "fc"), ("out", "output")], "no edge leaves node 'fc'; no edge leads to node 'out'"),
    (plain(second=nir.Input(np.array([4]))), None, r"the graph has 2 Input nodes \(input, second\), needed is exactly 1"),
    (plain(out=lif((5,))), None, r"node 'fc' puts out the shape \(4,\), node 'out' takes \(5,\)"),
    (plain(output=nir.Output(np.array([5]))), None, r"node 'out' puts out the shape \(4,\), node 'output' takes"),
    (plain(fc=nir.Affine(weights(4, 3), np.ones(2))), None, r"node 'fc' \(Affine\): bias of shape \(2,\), weights of \(4, 3\)"),
    (
        plain(fc=nir.Linear(weights(2, 4, 3))),
        None,
        r"node 'fc' \(Linear\): weights of shape \(2, 4, 3\), allowed are \(out, in\)",
    ),
    (plain(fc=nir.Linear(np.full((4, 3), np.nan))), None, r"node 'fc' \(Linear\): weight holds 12 values that are not finite"),
    (plain(out=lif((4,), tau=np.inf)), None, r"node 'out' \(LIF\): tau holds 4 values that are not finite"),
    (plain(input=nir.Input(np.array([0]))), None, r"node 'input' puts out the shape \(0,\), allowed are 1..16,777,216 numbers"),
    (
        plain(input=nir.Input(np.array([10**12])), fc=nir.Scale(np.ones(1))),
        None,
        r"node 'input' puts out the shape \(1000000000000,\), allowed",
    ),
    (
        plain(d=nir.Delay(np.full(4, 1.5e-3))),
        DELAYED,
        r"node 'd' \(Delay\) has a delay of 1.5 steps of 0.001 s, allowed are whole steps",
    ),
    (plain(d=nir.Delay(np.full(4, 1e9))), DELAYED, r"node 'd' \(Delay\) has a delay of 1e\+12 steps"),
    (plain(d=nir.Delay(np.full(4, -1e-3))), DELAYED, r"node 'd' \(Delay\) has a delay of -1 steps"),
    (
        plain(d=nir.LI(np.full(4, 1e-2), np.ones(4), np.zeros(4))),
        DELAYED,
        r"node 'd' \(LI\) never spikes; allowed is it only as the last one",
    ),
    (
        plain(out=nir.LI(np.array([1, 1, 2, 2]) * 1e-2, np.ones(4), np.zeros(4))),
        None,
        "node 'out': decays of the last node differ, and voltages are read from one population",
    ),
    (
        plain(out=nir.Affine(np.eye(4), np.ones(4))),
        None,
        "Output 'output' hears a bias or delay with",
    ),
    (
        plain(fc=nir.Conv2d((4, 4), weights(1, 1, 2, 2), 1, 0, 1, 1, np.zeros(1))),
        None,
        r"node 'input' puts out the shape \(3,\), node 'fc' takes \(1, 4, 4\)",
    ),
    (
        plain(fc=nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))),
        None,
        r"node 'fc' \(SumPool2d\): what comes in has the shape \(3,\), needed is \(channel, row, column\)",
    ),
    (
        plain(
            input=nir.Input(np.array([1, 3, 3])), fc=nir.SumPool2d(np.array([2**30] * 2), np.array([1, 1]), np.array([0, 0]))
        ),
        None,
        r"node 'fc' \(SumPool2d\): pools of .* do not fit images of \(3, 3\)",
    ),
    (
        plain(input=nir.Input(np.array([1, 4, 4])), fc=nir.Conv2d((4, 4), weights(1, 1, 2, 2), 1, "same", 1, 1, np.zeros(1))),
        None,
        r"node 'fc' \(Conv2d\): padding 'same' with stride \(1, 1\) and a kernel of \(2, 2\): allowed are",
    ),
    (plain(), [*ways("input fc out output"), ("fc", "out")], "edge 'fc' to 'out' of the graph is there 2 times"),
]


@pytest.mark.parametrize(("nodes", "edges", "message"), REFUSED)
def test_networks_without_a_form_are_refused(nodes: Any, edges: Any, message: str, tmp_path: Path) -> None:
    order = ["input", "fc", "out", "output"]
    with pytest.raises(InputError, match=message) as caught:
        through_file(net(nodes, edges or list(pairwise(order))), tmp_path)
    assert "\n" not in str(caught.value)


def edited(tmp_path: Path, change: Any) -> Path:
    """A plain network's file after `change` has had its way with it."""
    path = tmp_path / "x.nir"
    nir.write(path, net(plain()))
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def rename(file: Any) -> None:
    file["node/nodes/out/tau_m"] = file["node/nodes/out/tau"][()]
    del file["node/nodes/out/tau"]


def forget(*names: str) -> Any:
    def change(file: Any) -> None:
        for name in names:
            del file[name]

    return change


def put(name: str, value: Any) -> Any:
    def change(file: Any) -> None:
        if name in file:
            del file[name]
        file[name] = value

    return change


BROKEN: list[tuple[Any, str]] = [
    (rename, r"node 'out' \(LIF\) lacks tau and has unknown tau_m"),
    (forget("node/nodes/fc/weight"), r"node 'fc' \(Linear\) lacks weight"),
    (forget("node/nodes/input/shape"), r"node 'input' \(Input\) lacks shape"),
    (forget("node/nodes/fc/type"), "node 'fc' is a None, which is not supported"),
    (forget("node/edges"), "no edge leaves node 'fc'"),
    (forget("node/nodes"), "the graph has no nodes"),
    (forget("node"), r"an HDF5 file, but no NIR graph \(it has no group 'node'\)"),
    (put("node/type", "LIF"), "holds a node of type 'LIF', needed is a NIRGraph"),
    (put("node/nodes/fc/type", "Warp"), "node 'fc' is a Warp, which is not supported"),
    (put("node/nodes/fc", 3), "node 'fc' is a None, which is not supported"),
    (put("node/edges", np.zeros((3, 3))), r"edges of the graph have the shape \(3, 3\)"),
    (put("node/nodes/out/r", np.ones(2)), r"node 'out' \(LIF\): All parameters must have the same shape"),
    (put("node/nodes/fc/weight", 3.0), r"node 'fc' \(Linear\): weights of shape \(\), allowed are \(out, in\)"),
    (put("node/nodes/input/shape", 2.5), r"node 'input' \(Input\): a shape of float64 with 1 axes, needed are whole numbers"),
    (put("node/nodes/out/tau", "fast"), r"node 'out' \(LIF\): tau is of type .*, needed are numbers"),
    (put("node/nodes/out/tau", np.zeros(0)), r"node 'out' \(LIF\): tau holds no numbers"),
    (put("node/nodes/out/v_leak", h5py.ExternalLink("/etc/hostname", "/x")), "is a link to another place or file"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_files_with_missing_or_wrong_parts_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_nir(edited(tmp_path, change), dt=DT, steps=5)
    assert "\n" not in str(caught.value)


def test_words_and_numbers_of_convolutions_are_checked(tmp_path: Path) -> None:
    conv = nir.Conv2d((4, 4), weights(1, 1, 3, 3), 1, "same", 1, 1, np.zeros(1))
    nir.write(
        tmp_path / "x.nir", net({"input": nir.Input(np.array([1, 4, 4])), "c": conv, "output": nir.Output(np.array([1, 4, 4]))})
    )
    for name, value, message in (
        ("padding", "full", r"node 'c' \(Conv2d\): padding is 'full', allowed are 'same', 'valid' and whole numbers"),
        ("padding", np.array([1, 1, 1]), r"node 'c' \(Conv2d\): padding is \(1, 1, 1\), needed are 2 whole numbers"),
        ("groups", np.array([1, 1]), r"node 'c' \(Conv2d\): groups is int64 of shape \(2,\), needed is one whole number"),
        ("groups", 3, r"node 'c' \(Conv2d\): .*needed is \(3, 4, 4\)"),
        ("stride", 0, r"node 'c' \(Conv2d\): padding 'same' with stride \(0, 0\)"),
        ("dilation", -1, r"node 'c' \(Conv2d\): convolution: padding is \(-1, -1\)"),
        ("weight", np.zeros((2, 2)), r"node 'c' \(Conv2d\): weights of shape \(2, 2\), needed are 4 axes"),
    ):
        (tmp_path / "y.nir").write_bytes((tmp_path / "x.nir").read_bytes())
        with h5py.File(tmp_path / "y.nir", "r+") as file:
            put(f"node/nodes/c/{name}", value)(file)
            if name == "weight":
                put("node/nodes/c/bias", np.zeros(2))(file)
        with pytest.raises(InputError, match=message):
            read_nir(tmp_path / "y.nir", dt=DT, steps=5)


def test_older_files_leave_things_out(tmp_path: Path) -> None:
    """v_reset and a convolution's input_shape came later; shapes of single nodes were once written down."""
    path = edited(tmp_path, forget("node/nodes/out/v_reset"))
    with h5py.File(path, "r+") as file:
        file["node/nodes/out/input_type/input"] = np.array([4])
    assert read_nir(path, dt=DT, steps=5).population("out").size == 4


def test_steps_are_never_guessed(tmp_path: Path) -> None:
    path = edited(tmp_path, lambda file: None)
    with pytest.raises(InputError, match="node 'out' needs dt, the seconds in a step, and none is given"):
        read_nir(path, dt=None, steps=5)
    for dt in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"read_nir: dt is .*, allowed is a finite number above 0"):
            read_nir(path, dt=dt, steps=5)
    with pytest.raises(InputError, match="steps is None and groups is 64, at least 1 is needed"):
        read_nir(path, dt=DT, steps=None)
    with pytest.raises(InputError, match="scale is 0, allowed"):
        read_nir(path, dt=DT, steps=5, scale=0)
    with pytest.raises(InputError, match="levels is 0"):
        read_nir(path, dt=DT, steps=5, levels=0)


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "text.nir").write_text("no")
    with pytest.raises(FileFormatError, match="no HDF5 file"):
        read_nir(tmp_path / "text.nir", dt=DT, steps=5)
    with pytest.raises(InputError, match="no file"):
        read_nir(tmp_path / "none.nir", dt=DT, steps=5)
    with pytest.raises(InputError, match="it is a folder"):
        write_nir(read_nir(edited(tmp_path, lambda file: None), dt=DT, steps=5), tmp_path, dt=DT)


# --- on Lava


@pytest.mark.lava
@pytest.mark.parametrize("end", ["lif", "li", "linear"])
def test_lava_runs_what_was_read(tmp_path: Path, end: str) -> None:
    """Split populations, a skip connection, a loop with delays and each kind of output, bit for bit."""
    lava = pytest.importorskip("compile.backends.lava")
    ends: dict[str, Any] = {
        "lif": lif((5,), tau=np.array([3, 3, 6, 3, 6]) * 1e-3),
        "li": nir.LI(np.full(5, 5e-3), np.ones(5), np.zeros(5)),
        "linear": nir.Scale(np.ones(5)),
    }
    graph = net(
        {
            "input": nir.Input(np.array([4])),
            "fc": nir.Affine(weights(6, 4), weights(6, seed=5) * 0.1),
            "h": lif((6,), tau=np.array([2, 4, 4, 2, 2, 4]) * 1e-3),
            "d": nir.Delay(np.array([0, 1, 2, 0, 1, 2]) * DT),
            "back": nir.Linear(weights(6, 6, seed=7) / 2),
            "fc2": nir.Linear(weights(5, 6, seed=1)),
            "skip": nir.Linear(weights(5, 4, seed=2)),
            "out": ends[end],
            "output": nir.Output(np.array([5])),
        },
        ways("input fc h d back h fc2 out output", "input skip out"),
    )
    messages = shown((4,)).astype(np.uint8)[None]
    program = compile_graph(through_file(graph, tmp_path), messages, np.zeros(1, np.int64))
    one, other = (backend.run(program.graph, messages, record=True) for backend in (exact, lava))
    assert one.messages["h.0.s"].any()
    np.testing.assert_array_equal(one.outputs, other.outputs)
    for p in program.graph.populations[1:]:
        np.testing.assert_array_equal(one.traces[f"{p.name}.s"], other.traces[f"{p.name}.s"])
