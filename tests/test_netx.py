"""`write_net`: what lies in the file, what is refused, and that lava-dl runs from it the very spikes of the graph."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest

from compile.backends import exact
from compile.backends.guard import Job, run_guarded
from lavasnn.dynamics.diffpc import DiffPCInt, Timing
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.encode import Encoding
from lavasnn.errors import InputError, LavasnnError
from lavasnn.interop.netx import write_net
from lavasnn.ir import Dense, DenseInt, Graph, Population, Projection, Source, Transposed

Mode = Literal["mixed", "excitatory", "inhibitory"]
LIMIT_S = 200.0


def chain(weights: list[Any], neurons: list[Any], modes: list[Mode] | None = None, steps: int = 16, seed: int = 0) -> Graph:
    """Input and LIF layers n1, n2, ... with the given weights."""
    matrices = [np.atleast_2d(np.asarray(w, np.int16)) for w in weights]
    kinds: list[Mode] = modes or ["mixed"] * len(matrices)
    populations = [Population("n0", matrices[0].shape[1], Source())]
    projections: list[Projection] = []
    for i, (w, neuron, kind) in enumerate(zip(matrices, neurons, kinds, strict=True), start=1):
        populations.append(Population(f"n{i}", len(w), neuron))
        projections.append(Projection(f"w{i}", f"n{i - 1}", f"n{i}", DenseInt(w, 0, kind)))
    return Graph(tuple(populations), tuple(projections), Encoding("bernoulli", seed=seed), populations[-1].name, steps)


def random_chain(seed: int, steps: int, biased: bool) -> Graph:
    """Three layers: mixed, excitatory and inhibitory weights, small and large ones, decays of all kinds."""
    rng = np.random.default_rng(seed)
    first = rng.integers(-128, 128, (9, 7)) * 2
    second = rng.integers(0, 20, (8, 9))
    second[0, 0] = 1
    third = -rng.integers(1, 50, (5, 8)) if biased else rng.integers(-30, 31, (5, 8)) * 2
    third[0, 0] = -99 if biased else -98
    neurons = [
        LifInt(1500, 700, 150, rng.integers(-40, 60, 9) * biased, 6),
        LifInt(-1, 4095, 1500) if biased else LifInt(4095, 900, 90),
        LifInt(4000, 1500, 300, 64 * 60, 2) if biased else LifInt(3000, 2000, 20),
    ]
    return chain([first, second, third], neurons, ["mixed", "excitatory", "inhibitory" if biased else "mixed"], steps, seed)


def run_job(job: Path) -> None:
    """In the guarded child: lava-dl reads the file, Lava runs it, a recorder behind each layer writes its spikes."""
    from lava.lib.dl.netx.hdf5 import Network
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.source import RingBuffer

    from lavasnn.processes.recorder import Recorder

    shown = np.load(job / "input.npy")
    steps = shown.shape[1]
    net = Network(str(job / "x.net"), **json.loads((job / "options.json").read_text()))
    source = RingBuffer(data=shown)
    source.s_out.connect(net.inp)
    recorders = [
        Recorder(shape=layer.neuron.s_out.shape, steps=steps, record=str(job / f"n{i}.npy"))
        for i, layer in enumerate(net.layers, start=1)
    ]
    for layer, recorder in zip(net.layers[:-1], recorders[:-1], strict=True):
        layer.out.connect(recorder.s_in)
    net.out.connect(recorders[-1].s_in)
    source.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))


@pytest.mark.lava
@pytest.mark.parametrize(("seed", "biased", "samples"), [(0, False, 1), (1, True, 3)])
def test_lava_dl_runs_the_same_spikes(seed: int, biased: bool, samples: int) -> None:
    pytest.importorskip("lava.lib.dl.netx.hdf5")
    graph = random_chain(seed, 40, biased)
    pixels = np.random.default_rng(seed).integers(0, 256, (samples, 7)).astype(np.uint8)
    expected = exact.run(graph, pixels, record=True).traces
    depth, shown = 3, samples * graph.steps
    stream = expected["n0.s"].reshape(shown, 7).T.astype(np.int32)
    with Job() as job:
        write_net(graph, job / "x.net")
        np.save(job / "input.npy", np.pad(stream, ((0, 0), (0, depth))))
        options = {"reset_interval": graph.steps, "reset_offset": 1} if biased else {}
        (job / "options.json").write_text(json.dumps(options))
        run_guarded("test_netx:run_job", job, LIMIT_S, python_path=[Path(__file__).parent])
        for i in range(1, depth + 1):
            theirs = np.load(job / f"n{i}.npy")[i : i + shown].reshape(samples, graph.steps, -1)
            assert np.array_equal(theirs, expected[f"n{i}.s"])
            assert 0.02 < theirs.mean() < 0.98


@pytest.mark.lava
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_weights_survive_lava_dl_exactly_when_allowed(tmp_path: Path) -> None:
    utils = pytest.importorskip("lava.lib.dl.netx.utils")
    weightutils = pytest.importorskip("lava.utils.weightutils")
    rng = np.random.default_rng(5)
    outcomes: list[bool] = []
    for i in range(400):
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
    assert 50 < sum(outcomes) < 390


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
    up = Projection("w1", "n0", "n1", DenseInt(np.array([[2]])), "s_A", "a_x")
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
    return replace(graph, projections=(replace(graph.projections[0], synapses=DenseInt(np.array([[2]]), 1)),))


def transposed() -> Graph:
    graph = chain([[[2]], [[2]]], [LifInt(0, 0, 1)] * 2)
    return replace(graph, projections=(graph.projections[0], replace(graph.projections[1], synapses=Transposed("w1"))))


def float_weights() -> Graph:
    graph = chain([[[2]]], [LifInt(0, 0, 1)])
    return replace(graph, projections=(replace(graph.projections[0], synapses=DenseInt(np.array([[2.0]]))),))


def lif_first() -> Graph:
    graph = chain([[[2]]], [LifInt(0, 0, 1)])
    return replace(graph, populations=(Population("n0", 1, LifInt(0, 0, 1)), graph.populations[1]))


def unfed() -> Graph:
    return replace(chain([[[2]]], [LifInt(0, 0, 1)]), projections=())


def one(weight: Any, mode: Mode, **neuron: Any) -> Graph:
    return chain([weight], [LifInt(**{"du": 0, "dv": 0, "vth": 1, **neuron})], [mode])


REFUSED = {
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
