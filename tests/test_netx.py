"""`write_net`: what lies in the file, what is refused, and that lava-dl runs from it the very spikes of the graph."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest

from lavasnn.dynamics.diffpc import DiffPCInt, Timing
from lavasnn.dynamics.graded import GradedInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.encode import Encoding
from lavasnn.errors import InputError, LavasnnError
from lavasnn.interop.netx import write_net
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.synapses import Conv, Dense, Grid, Transposed, sparse_from

Mode = Literal["mixed", "excitatory", "inhibitory"]


def chain(weights: list[Any], neurons: list[Any], modes: list[Mode] | None = None, steps: int = 16, seed: int = 0) -> Graph:
    """Input and LIF layers n1, n2, ... with the given weights."""
    matrices = [np.atleast_2d(np.asarray(w, np.int16)) for w in weights]
    kinds: list[Mode] = modes or ["mixed"] * len(matrices)
    populations = [Population("n0", matrices[0].shape[1], Source())]
    projections: list[Projection] = []
    for i, (w, neuron, kind) in enumerate(zip(matrices, neurons, kinds, strict=True), start=1):
        populations.append(Population(f"n{i}", len(w), neuron))
        projections.append(Projection(f"w{i}", f"n{i - 1}", f"n{i}", Dense(w, Grid(0, kind))))
    return Graph(tuple(populations), tuple(projections), Encoding("bernoulli", seed=seed), populations[-1].name, steps)


@pytest.mark.lava
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_weights_survive_lava_dl_exactly_when_allowed(tmp_path: Path) -> None:
    utils = pytest.importorskip("lava.lib.dl.netx.utils")
    weightutils = pytest.importorskip("lava.utils.weightutils")
    rng = np.random.default_rng(5)
    outcomes: list[bool] = []
    for i in range(200):
        mode: Mode = ("mixed", "excitatory", "inhibitory")[i % 3]
        low, high, spacing = {"mixed": (-256, 254, 2), "excitatory": (0, 255, 1), "inhibitory": (-255, 0, 1)}[mode]
        width = 2 ** int(rng.integers(0, 9))
        weight = rng.integers(max(low, -width), min(high, width), (1, 4), endpoint=True) * (rng.random((1, 4)) < 0.8)
        weight = (weight // spacing * spacing).astype(np.int16)
        if i % 7 == 0:
            weight[weight > 0] = 0
        try:
            write_net(chain([weight], [LifInt(0, 0, 1)], [mode]), tmp_path / "x.net")
            allowed = True
        except InputError:
            allowed = False
        assert allowed == _survives(weight, utils.optimize_weight_bits, weightutils)
        outcomes.append(allowed)
    assert 25 < sum(outcomes) < 195


def _survives(weight: Any, optimize: Any, weightutils: Any) -> bool:
    """Whether the weights are the same once lava-dl has scaled them and Lava has clipped and truncated them."""
    try:
        scaled, bits, exponent, _ = optimize(weight.astype(int))
    except OverflowError:
        return False
    mode = weightutils.determine_sign_mode(scaled)
    held = weightutils.truncate_weights(weightutils.clip_weights(scaled, mode, num_bits=8), mode, bits)
    return np.array_equal(held * 2.0**exponent, weight)


def test_file_holds_what_netx_reads(tmp_path: Path) -> None:
    first, second = [[2, -4, 6], [-8, 10, -256]], [[3, 255]]
    neurons = [
        LifInt(du=-1, dv=12, vth=131071, bias_mant=np.array([3, -4]), bias_exp=7),
        LifInt(du=4095, dv=4095, vth=0, bias_mant=128, bias_exp=0),
    ]
    write_net(chain([first, second], neurons, ["mixed", "excitatory"]), tmp_path / "x.net")
    with h5py.File(tmp_path / "x.net") as file:
        layers = file["layer"]
        assert sorted(layers) == ["0", "1", "2"]
        assert [layers[str(i)]["type"][0] for i in range(3)] == [b"input", b"dense", b"dense"]
        assert layers["1/type"].dtype == np.dtype("S10") and layers["1/type"].shape == (1,)
        assert [list(layers[str(i)]["shape"][()]) for i in range(3)] == [[3], [2], [1]]
        assert layers["1/weight"][()].tolist() == first
        assert layers["2/weight"][()].tolist() == second
        assert layers["1/bias"][()].tolist() == [6, -8]  # 3 << 7 = 6 << 6
        assert layers["2/bias"][()].tolist() == [2]
        expected = [
            {"iDecay": 0, "vDecay": 12, "vThMant": 131071, "refDelay": 1, "gradedSpike": 0},
            {"iDecay": 4096, "vDecay": 4095, "vThMant": 0, "refDelay": 1, "gradedSpike": 0},
        ]
        for i, values in enumerate(expected, start=1):
            neuron = layers[f"{i}/neuron"]
            assert neuron["type"][0] == b"CUBA"
            assert {name: int(neuron[name][()]) for name in neuron if name != "type"} == values
    assert [p.name for p in tmp_path.iterdir()] == ["x.net"]


def test_no_bias_is_written_where_all_are_zero(tmp_path: Path) -> None:
    write_net(chain([[[2, -2]]], [LifInt(0, 0, 1, np.zeros(1, np.int32), 6)]), tmp_path / "x.net")
    with h5py.File(tmp_path / "x.net") as file:
        assert "bias" not in file["layer/1"]


def diffpc_graph() -> Graph:
    timing = Timing(m=0, n=2, init_cycles=1)
    populations = (
        Population("n0", 1, DiffPCInt("input", 0, timing, 0, 4)),
        Population("n1", 1, DiffPCInt("output", 1, timing, 0, 4)),
    )
    up = Projection("w1", "n0", "n1", Dense(np.array([[2]]), Grid()), "s_A", "a_x")
    return Graph(populations, (up,), Encoding("value"), "n1")


def real_graph() -> Graph:
    graph = chain([[[2]]], [Lif(0.5, 0.5, 1.0)])
    return replace(graph, projections=(replace(graph.projections[0], synapses=Dense(np.array([[2.0]]))),))


def branched() -> Graph:
    graph = chain([[[2]], [[2]]], [LifInt(0, 0, 1)] * 2)
    return replace(graph, projections=(graph.projections[0], replace(graph.projections[1], source="n0")))


def doubled() -> Graph:
    graph = chain([[[2]]], [LifInt(0, 0, 1)])
    return replace(graph, projections=(*graph.projections, replace(graph.projections[0], name="again")))


def with_exponent() -> Graph:
    graph = chain([[[2]]], [LifInt(0, 0, 1)])
    return replace(graph, projections=(replace(graph.projections[0], synapses=Dense(np.array([[2]]), Grid(1))),))


def transposed() -> Graph:
    graph = chain([[[2]], [[2]]], [LifInt(0, 0, 1)] * 2)
    return replace(graph, projections=(graph.projections[0], replace(graph.projections[1], synapses=Transposed("w1"))))


def float_weights() -> Graph:
    graph = chain([[[2]]], [LifInt(0, 0, 1)])
    return replace(graph, projections=(replace(graph.projections[0], synapses=Dense(np.array([[2.0]]), Grid())),))


def lif_first() -> Graph:
    graph = chain([[[2]]], [LifInt(0, 0, 1)])
    return replace(graph, populations=(Population("n0", 1, LifInt(0, 0, 1)), graph.populations[1]))


def unfed() -> Graph:
    return replace(chain([[[2]]], [LifInt(0, 0, 1)]), projections=())


def one(weight: Any, mode: Mode, **neuron: Any) -> Graph:
    return chain([weight], [LifInt(**{"du": 0, "dv": 0, "vth": 1, **neuron})], [mode])


def images(**options: Any) -> Conv:
    """A convolution from (2, 4, 4) to (2, 3, 3) unless told otherwise."""
    kernel = options.pop("kernel", np.full((2, 2, 2, 2), 2))
    return Conv(kernel, options.pop("image", (2, 4, 4)), grid=options.pop("grid", Grid()), **options)


def line(*synapses: Any, loop: Any = None, delay: Any = 0, **neuron: Any) -> Graph:
    """Input n0 and LIF layers behind these synapses; the last may be recurrent, the first one late."""
    populations = [Population("n0", synapses[0].shape[1], Source())]
    projections: list[Projection] = []
    for i, s in enumerate(synapses, start=1):
        populations.append(Population(f"n{i}", s.shape[0], LifInt(**{"du": 0, "dv": 0, "vth": 1, **neuron})))
        projections.append(Projection(f"w{i}", f"n{i - 1}", f"n{i}", s, delay=delay if i == 1 else 0))
    if loop is not None:
        projections.append(Projection("r", populations[-1].name, populations[-1].name, loop))
    return Graph(tuple(populations), tuple(projections), Encoding("given", levels=1), populations[-1].name, 4)


def graded_layer() -> Graph:
    graph = line(Dense(np.array([[2]]), Grid()))
    return replace(graph, populations=(graph.populations[0], Population("n1", 1, GradedInt(0))))


def skipping() -> Graph:
    graph = line(*[Dense(np.array([[2]]), Grid())] * 3)
    return replace(graph, projections=(*graph.projections, Projection("skip", "n1", "n3", Dense(np.array([[2]]), Grid()))))


def wide(weight: Any, exponent: int = 0, mode: Mode = "mixed") -> Dense:
    return Dense(np.array(weight), Grid(exponent, mode))


CHAIN = "which is no chain: allowed is an input, then LIF populations, each fed by the one before and dense ones by themselves"
REFUSED = {
    "skip": (skipping(), rf"projection 'skip' leads from 'n1' to 'n3', {CHAIN}"),
    "graded": (graded_layer(), r"population 'n1' is GradedInt, allowed is LifInt"),
    "ternary": (line(wide([[2]]), vth_lo=-5), r"population 'n1' is ternary, allowed are spikes of \+1"),
    "sparse": (line(sparse_from(np.array([[2]]), Grid())), r"projection 'w1' is Sparse, allowed are Dense and Conv"),
    "fractions": (line(wide([[2, 4]], -2)), r"'w1' has weight exponent -2, allowed is 0, or less where"),
    "long delay": (line(wide([[2, 4]]), delay=np.array([1, 63])), r"'w1' has a delay of 63 steps, allowed are 62"),
    "late images": (line(images(), delay=1), r"projection 'w1' is a convolution with delays, which netx leaves out"),
    "late loop": (
        line(wide([[2]]), loop=wide([[2]]), delay=1),
        r"projections 'w1' and 'r' are recurrent and delayed, with which netx loses the scale of their weights",
    ),
    "looping images": (
        line(images(), loop=wide(np.full((18, 18), 2))),
        r"projection 'r' makes a layer of images recurrent, allowed is that of dense layers",
    ),
    "loop of images": (
        line(wide(np.full((4, 1), 2)), loop=images(kernel=np.full((4, 4, 1, 1), 2), image=(4, 1, 1))),
        r"projection 'r' is Conv inside a dense layer",
    ),
    "loop on another scale": (
        line(wide([[255]], mode="excitatory"), loop=wide([[-2]], mode="inhibitory")),
        r"projections 'w1' and 'r' have weights -2\.\.255, which netx would change by the scale that they share",
    ),
    "images of vectors": (
        line(wide(np.full((32, 1), 2)), images()),
        r"projection 'w2' is a convolution behind a dense layer, allowed is one behind the input or a convolution",
    ),
    "other images": (
        line(images(), images(image=(1, 6, 3), kernel=np.full((1, 1, 2, 2), 2))),
        r"projection 'w2' takes images of \(1, 6, 3\), the layer before makes \(2, 3, 3\)",
    ),
    "groups": (
        line(images(kernel=np.full((128, 1, 1, 1), 2), image=(128, 1, 1), groups=128)),
        r"projection 'w1' has a groups of 128, allowed in Lava's Conv are 127",
    ),
    "DiffPC": (diffpc_graph(), r"netx: DiffPC populations have no form"),
    "real": (real_graph(), r"real numbers, netx needs integers; run `lavasnn compile` on it, then `lavasnn export prog"),
    "branched": (branched(), r"no chain"),
    "doubled": (doubled(), r"no chain"),
    "LIF first": (lif_first(), r"no chain"),
    "unfed": (unfed(), r"no chain"),
    "input only": (Graph((Population("n0", 1, Source()),), (), Encoding("bernoulli"), "n0", 1), r"at least 1 is needed"),
    "hidden output": (
        replace(chain([[[2]], [[2]]], [LifInt(0, 0, 1)] * 2), output="n1"),
        r"output is 'n1', netx reads its answer from the last layer 'n2'",
    ),
    "exponent": (with_exponent(), r"projection 'w1' has weight exponent 1, allowed is 0"),
    "transposed": (transposed(), r"projection 'w2' is Transposed"),
    "float weights": (float_weights(), r"'w1' has weights of float64, allowed are integers"),
    "zeros": (one([[0, 0]], "mixed"), r"only weights of 0"),
    "odd": (one([[1, -2]], "mixed"), r"off the mixed grid -256\.\.254 in steps of 2"),
    "too large": (one([[256]], "excitatory"), r"off the excitatory grid 0\.\.255"),
    "negative": (one([[-2, 3]], "excitatory"), r"off the excitatory grid"),
    "power of two": (one([[-64, -3]], "inhibitory"), r"-64 as its lowest, a power of two"),
    "odd and zero": (one([[-131, 0]], "inhibitory"), r"zeros and odd weights down to -131"),
    "bias": (one([[2]], "mixed", bias_mant=65), r"'n1' has a bias of 65, allowed are multiples of 64"),
    "large bias": (
        one([[2]], "mixed", bias_mant=4095, bias_exp=7),
        r"bias of 524,160, allowed is -262,144\.\.262,080",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_what_netx_cannot_hold(case: str, tmp_path: Path) -> None:
    graph, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        write_net(graph, tmp_path / "x.net")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_names_every_reason_at_once(tmp_path: Path) -> None:
    graph = chain([[[0]], [[1]]], [LifInt(0, 0, 1, 1), LifInt(0, 0, 1, 2)])
    with pytest.raises(InputError, match=r"'w1' .*'n1' .*'w2' .*'n2' "):
        write_net(graph, tmp_path / "x.net")


def test_names_reasons_of_the_chain_and_of_layers_together(tmp_path: Path) -> None:
    graph = replace(skipping(), output="n2")
    odd = replace(graph.populations[1], dynamics=LifInt(0, 0, 1, 65))
    graph = replace(graph, populations=(graph.populations[0], odd, *graph.populations[2:]))
    with pytest.raises(InputError, match=r"'skip' leads .*; the output is 'n2'.*; population 'n1' has a bias of 65"):
        write_net(graph, tmp_path / "x.net")


def test_images_are_written_as_torch_has_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    s = images(kernel=rng.integers(-9, 9, (4, 1, 3, 2)) * 2, stride=(2, 1), padding=(0, 1), dilation=(1, 2), groups=2)
    behind = Dense(rng.integers(1, 9, (2, s.shape[0])) * 2, Grid(0, "excitatory"))
    each = np.arange(s.shape[0])
    graph = line(s, behind)
    for bias, shape in ((each, s.image_out[::-1]), (np.repeat([1, 2, 3, 4], s.shape[0] // 4), (4,))):
        first = replace(graph.populations[1], dynamics=LifInt(0, 0, 1, bias, 6))
        write_net(replace(graph, populations=(graph.populations[0], first, graph.populations[2])), tmp_path / "x.net")
        with h5py.File(tmp_path / "x.net") as file:
            layers = file["layer"]
            kinds = [layers[str(i)]["type"][0] for i in range(4)]
            assert kinds == [b"input", b"conv", b"flatten", b"dense"]
            assert [list(layers[str(i)]["shape"]) for i in range(4)] == [[2, 4, 4], list(s.image_out), [1, 1, s.shape[0]], [2]]
            assert np.array_equal(layers["1/weight"], s.weight)
            assert [list(layers[f"1/{n}"]) for n in ("stride", "padding", "dilation")] == [[2, 1], [0, 1], [1, 2]]
            assert layers["1/groups"][()] == 2
            written = layers["1/bias"][()]
            assert written.shape == shape
            assert np.array_equal(written.transpose(2, 1, 0).reshape(-1) if written.ndim == 3 else written, np.unique(bias))
            assert np.array_equal(layers["3/weight"], behind.weight)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.net"
    path.write_bytes(b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    with pytest.raises(InputError, match=r"cannot write .*x\.net: No space left on device"):
        write_net(chain([[[2]]], [LifInt(0, 0, 1)]), path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.net"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, a file name is needed"):
        write_net(chain([[[2]]], [LifInt(0, 0, 1)]), tmp_path)


def test_command_line_exports_programs_and_refuses_real_graphs(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from compile.program import Program
    from lavasnn.cli.deploy import export_command

    graph = chain([[[2, -4]]], [LifInt(5, 6, 7)])
    Program(graph, "loihi2", (), {}).save(tmp_path / "program.safetensors")
    real_graph().save(tmp_path / "graph.safetensors")
    target = str(tmp_path / "x.net")
    done = CliRunner().invoke(export_command, [str(tmp_path / "program.safetensors"), "-o", target, "--json"])
    assert done.exit_code == 0 and json.loads(done.output)["populations"] == {"n0": 2, "n1": 1}
    with h5py.File(target) as file:
        assert file["layer/1/weight"][()].tolist() == [[2, -4]]
    refused = CliRunner().invoke(export_command, [str(tmp_path / "graph.safetensors"), "-o", target])
    assert isinstance(refused.exception, LavasnnError) and "lavasnn compile" in str(refused.exception)
