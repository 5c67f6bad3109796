"""lava-dl's own netx, run by Lava, against `write_net` and `read_net`: every spike of every layer in every step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest

from compile.backends import exact
from compile.backends.guard import Job, run_guarded
from lavasnn.dynamics.lif import LifInt
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.interop.netx import read_net, write_net
from lavasnn.interop.netx_weights import run_by_netx
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.synapses import Conv, Dense, Grid, Owned

pytestmark = pytest.mark.lava

Mode = Literal["mixed", "excitatory", "inhibitory"]
LIMIT_S = 200.0


def run_job(job: Path) -> None:
    """In the guarded child: lava-dl reads the file, Lava runs it, a recorder behind each layer writes its spikes."""
    from lava.lib.dl.netx.hdf5 import Network
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.source import RingBuffer

    from lavasnn.processes.recorder import Recorder

    shown = np.load(job / "input.npy")
    steps = shown.shape[-1]
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


def run_probe(job: Path) -> None:
    """In the guarded child: one layer, whose voltage is read in every step."""
    from lava.lib.dl.netx.hdf5 import Network
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.source import RingBuffer

    from lavasnn.processes.recorder import Probe

    shown = np.load(job / "input.npy")
    net = Network(str(job / "x.net"))
    source = RingBuffer(data=shown)
    source.s_out.connect(net.inp)
    neurons = net.layers[0].neuron
    probe = Probe(shape=neurons.v.shape, steps=shown.shape[1], record=str(job / "v.npy"))
    probe.v.connect_var(neurons.v)
    source.run(condition=RunSteps(num_steps=shown.shape[1]), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))


def run_netx(path: Path, messages: Any, layers: int, image: tuple[int, int, int] | None = None, **options: Any) -> list[Any]:
    """Spikes of all layers, (step, neuron), images in C order, upon messages (step, neuron)."""
    shown = messages.T.astype(np.int32)
    if image is not None:
        shown = shown.reshape(*image, -1).transpose(2, 1, 0, 3)  # netx has (column, row, channel, step)
    with Job() as job:
        (job / "x.net").write_bytes(path.read_bytes())
        np.save(job / "input.npy", shown)
        (job / "options.json").write_text(json.dumps(options))
        run_guarded("test_netx_lava:run_job", job, LIMIT_S, python_path=[Path(__file__).parent])
        found = [np.load(job / f"n{i}.npy") for i in range(1, layers + 1)]
    return [(s.transpose(0, 3, 2, 1) if s.ndim == 4 else s).reshape(len(s), -1) for s in found]


def same_spikes(graph: Graph, path: Path, messages: Any, **options: Any) -> list[Any]:
    """Ours, one sample, (step, neuron), after a check that netx sends the very same ones.

    netx runs on for as many steps as messages take to the last layer, whose window opens so much later here.
    """
    expected = exact.run(graph, messages[None], record=True).traces
    first = next(p.synapses for p in graph.projections)
    depth = max(graph.offsets.values())
    late = np.pad(messages, ((0, depth), (0, 0)))
    image = first.image if isinstance(first, Conv) else None
    theirs = run_netx(path, late, len(graph.populations) - 1, image, **options)
    ours = [expected[f"{p.name}.s"][0] for p in graph.populations[1:]]
    for p, spikes, found in zip(graph.populations[1:], ours, theirs, strict=True):
        at = graph.offsets[p.name]
        assert np.array_equal(found[at : at + graph.steps], spikes), p.name
        assert 0.002 < spikes.mean() < 0.99, p.name
    return ours


def dense_chain(seed: int, steps: int, biased: bool) -> Graph:
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
    modes: list[Mode] = ["mixed", "excitatory", "inhibitory" if biased else "mixed"]
    synapses: list[Owned] = [Dense(w.astype(np.int16), Grid(0, m)) for w, m in zip([first, second, third], modes, strict=True)]
    return chain(synapses, neurons, steps, Encoding("bernoulli", seed=seed))


def chain(synapses: list[Owned], neurons: list[Any], steps: int, encoding: Encoding | None = None) -> Graph:
    """Input n0 and LIF layers n1, n2, ..."""
    populations = [Population("n0", synapses[0].shape[1], Source())]
    projections: list[Projection] = []
    for i, (s, neuron) in enumerate(zip(synapses, neurons, strict=True), start=1):
        populations.append(Population(f"n{i}", s.shape[0], neuron))
        projections.append(Projection(f"w{i}", f"n{i - 1}", f"n{i}", s))
    given = encoding or Encoding("given", levels=1)
    return Graph(tuple(populations), tuple(projections), given, populations[-1].name, steps)


@pytest.mark.parametrize(("seed", "biased", "samples"), [(0, False, 1), pytest.param(1, True, 3, marks=pytest.mark.slow)])
def test_written_dense_layers_spike_the_same(seed: int, biased: bool, samples: int, tmp_path: Path) -> None:
    graph = dense_chain(seed, 40, biased)
    pixels = np.random.default_rng(seed).integers(0, 256, (samples, 7)).astype(np.uint8)
    expected = exact.run(graph, pixels, record=True).traces
    depth, shown = 3, samples * graph.steps
    write_net(graph, tmp_path / "x.net")
    stream = np.pad(expected["n0.s"].reshape(shown, 7), ((0, depth), (0, 0)))
    options = {"reset_interval": graph.steps, "reset_offset": 1} if biased else {}
    for i, found in enumerate(run_netx(tmp_path / "x.net", stream, depth, **options), start=1):
        theirs = found[i : i + shown].reshape(samples, graph.steps, -1)
        assert np.array_equal(theirs, expected[f"n{i}.s"])
        assert 0.02 < theirs.mean() < 0.98


def test_written_images_spike_the_same(tmp_path: Path) -> None:
    """Nothing is square, symmetric or equal in the two directions, so that no transposed axis could pass."""
    rng = np.random.default_rng(7)
    first = Conv(rng.integers(-60, 70, (4, 2, 3, 2)) * 2, (2, 9, 7), (2, 1), (1, 0), grid=Grid())
    second = Conv(rng.integers(-9, 11, (6, 2, 2, 3)) * 6, first.image_out, (1, 1), (0, 2), (2, 1), groups=2, grid=Grid())
    third = Dense(rng.integers(-20, 22, (5, second.shape[0])) * 2, Grid())
    fourth = Dense(rng.integers(0, 40, (3, 5)), Grid(0, "excitatory"))
    neurons = [
        LifInt(4095, 300, 90, np.repeat(rng.integers(-20, 40, 4), first.shape[0] // 4), 6),
        LifInt(900, 300, 150, rng.integers(-50, 90, second.shape[0]), 6),
        LifInt(1000, 1000, 100),
        LifInt(2000, 3000, 30),
    ]
    graph = chain([first, second, third, fourth], neurons, 24)
    write_net(graph, tmp_path / "x.net")
    shown = (rng.random((24, first.shape[1])) < 0.3).astype(np.int8)
    same_spikes(graph, tmp_path / "x.net", shown, reset_interval=24, reset_offset=1)
    again = read_net(tmp_path / "x.net", steps=24)
    ours = exact.run(graph, shown[None], record=True).traces
    theirs = exact.run(again, shown[None], record=True).traces
    for p, q in zip(graph.populations, again.populations, strict=True):
        assert np.array_equal(ours[f"{p.name}.s"], theirs[f"{q.name}.s"])


def test_written_delays_and_loops_spike_the_same(tmp_path: Path) -> None:
    """Per-sender delays as a vector (6 -> 5) and as a matrix (5 -> 5), one delay for all, and two recurrent layers."""
    rng = np.random.default_rng(3)
    shapes, delays = [(6, 8), (5, 6), (5, 5), (4, 5), (4, 4)], [3, rng.integers(0, 7, 6), rng.integers(0, 62, 5), 0, 0]
    synapses: list[Owned] = [Dense(rng.integers(-30, 60, shape) * 2, Grid()) for shape in shapes]
    graph = chain(synapses, [LifInt(2000, 900, 60)] * 5, 90)
    loops = [
        Projection("r4", "n4", "n4", Dense(-rng.integers(1, 50, (4, 4)), Grid(0, "inhibitory"))),
        Projection("r5", "n5", "n5", Dense(rng.integers(-20, 20, (4, 4)) * 2, Grid())),
    ]
    late = [Projection(p.name, p.source, p.target, p.synapses, delay=d) for p, d in zip(graph.projections, delays, strict=True)]
    graph = Graph(graph.populations, (*late, *loops), graph.encoding, "n5", 90)
    assert not graph.seamless
    write_net(graph, tmp_path / "x.net")
    shown = (rng.random((90, 8)) < 0.2).astype(np.int8)
    same_spikes(graph, tmp_path / "x.net", shown)


def put(file: Any, number: int, kind: str, shape: tuple[int, ...], neuron: dict[str, Any] | None = None, **values: Any) -> None:
    """One layer of a netx file."""
    group = file.create_group(f"layer/{number}")
    group["type"], group["shape"] = np.array([kind], "S10"), np.array(shape)
    for name, value in values.items():
        group[name] = value
    if neuron is not None:
        group["neuron/type"] = neuron.pop("type", b"CUBA")
        for name, value in neuron.items():
            group[f"neuron/{name}"] = value


def lif(du: int, dv: int, vth: int, **more: Any) -> dict[str, Any]:
    return {"iDecay": du + 1, "vDecay": dv, "vThMant": vth, **more}


def test_odd_files_are_read_as_netx_reads_them(tmp_path: Path) -> None:
    """Fractions, 5-d kernels, scalar strides, biases of single neurons, weights that netx changes, graded input."""
    rng = np.random.default_rng(11)
    third = -rng.integers(0, 65, (6, 40)).astype(float)
    third[0, 0] = -64  # with its zeros: netx scales it to -256, Lava clips that to -255 and halves the bits
    with h5py.File(tmp_path / "x.net", "w") as file:
        put(file, 0, "input", (2, 6, 5))
        kernel = rng.integers(-20, 25, (4, 2, 3, 2, 1)) + 0.75
        options = {"stride": 1, "padding": np.array([1, 0]), "dilation": np.array([1, 1]), "groups": 1}
        wide = lif(4095, 400, 300, type=np.array([b"LOIHI"]), refDelay=5, gradedSpike=True, wgtExp=3)
        put(file, 1, "conv", (4, 6, 4), wide, weight=kernel, bias=rng.integers(-40, 40, (4, 6, 4)) * 1.0, **options)
        put(file, 2, "flatten", (1, 1, 96))
        second = rng.integers(-15, 16, (40, 96)) * 2
        second[0, :2] = 280, -290  # clipped by netx
        put(file, 3, "dense", (40, 1, 1), lif(1000, 500, 200), weight=second.astype(np.float32), bias=rng.integers(0, 60, 40))
        put(file, 4, "dense", (6,), lif(3000, 200, 60), weight=third, bias=rng.integers(50, 90, 6))
        put(file, 5, "dense", (6,), lif(4095, 100, 40), weight=rng.integers(-31, 60, (6, 6)))
        put(file, 6, "dense", (1,), lif(4095, 100, 9), weight=rng.integers(1, 30, 6))
    graph = read_net(tmp_path / "x.net", steps=40, levels=5)
    grids = [p.synapses.grid for p in graph.projections if isinstance(p.synapses, Dense)]
    assert [g.exponent for g in grids if g is not None] == [0, -2, -1, 0]
    shown = rng.integers(0, 6, (40, 60)) * (rng.random((40, 60)) < 0.4)
    same_spikes(graph, tmp_path / "x.net", shown, reset_interval=40, reset_offset=1, input_message_bits=8)


def test_delays_of_receivers_and_synapses_are_read_as_netx_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    late = np.array([0, 61, 62, 63.5, 70, 3, 3, 9])
    with h5py.File(tmp_path / "x.net", "w") as file:
        put(file, 0, "dense", (8,), lif(2000, 700, 40), weight=rng.integers(-30, 60, (8, 8)) * 2, delay=late)
        put(
            file,
            1,
            "dense",
            (5,),
            lif(2000, 700, 40),
            weight=rng.integers(-30, 60, (5, 8)) * 2,
            delay=rng.integers(0, 9, (5, 8)),
        )
        put(file, 2, "dense", (5,), lif(2000, 700, 40), weight=rng.integers(-30, 60, (5, 5)) * 2, delay=4.9)
        both = {"weight": rng.integers(1, 60, (4, 5)), "weight_rec": rng.integers(-61, 20, (4, 4))}
        put(file, 3, "dense_rec", (4,), lif(2000, 700, 60), bias=rng.integers(0, 9, 4), **both)
    graph = read_net(tmp_path / "x.net", steps=120)
    shown = (rng.random((120, 8)) < 0.2).astype(np.int8)
    same_spikes(graph, tmp_path / "x.net", shown)


@pytest.mark.slow
def test_layer_without_neurons_has_the_voltage_of_netx() -> None:
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 2, (40, 6)).astype(np.int8)
    with Job() as job:
        with h5py.File(job / "x.net", "w") as file:
            put(file, 0, "dense", (4,), weight=rng.integers(-60, 60, (4, 6)))
        np.save(job / "input.npy", np.pad(shown, ((0, 1), (0, 0))).T.astype(np.int32))
        run_guarded("test_netx_lava:run_probe", job, LIMIT_S, python_path=[Path(__file__).parent])
        voltage = np.load(job / "v.npy")
        for steps in (1, 7, 40):
            graph = read_net(job / "x.net", steps=steps)
            assert np.array_equal(exact.run(graph, shown[None, :steps]).outputs[0], voltage[steps])


@pytest.mark.data("nets/netx")
def test_mnist_network_spikes_as_in_netx(stored: Path) -> None:
    folder = stored / "mnist"
    graph = read_net(folder / "trained_mnist_network.net", steps=60)
    shown = (np.random.default_rng(0).random((60, 784)) < 0.05).astype(np.int8)
    same_spikes(graph, folder / "trained_mnist_network.net", shown)


@pytest.mark.slow
@pytest.mark.data("nets/netx")
def test_oxford_network_spikes_as_in_netx(stored: Path) -> None:
    """On the first of the two seconds of its recorded input; the rest differs in nothing but time."""
    folder = stored / "oxford"
    events = np.load(folder / "input.npy")
    shown = np.zeros((2000, 200), np.int8)
    shown[np.round(events[:, 2]).astype(int), events[:, 0].astype(int)] = 1
    graph = read_net(folder / "network.net", steps=1000)
    same_spikes(graph, folder / "network.net", shown[:1000])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_weights_run_as_lava_dl_and_lava_make_them() -> None:
    """Sums of held weights, shifted as Lava shifts them, upon random messages: ours against theirs, by their own code."""
    utils = pytest.importorskip("lava.lib.dl.netx.utils")
    weightutils = pytest.importorskip("lava.utils.weightutils")
    rng = np.random.default_rng(5)
    refused = 0
    for i in range(600):
        width, low = 2 ** int(rng.integers(0, 10)), (-1, 0, -1, -1)[i % 4]
        weight = rng.integers(low * width, 1 if i % 4 == 2 else width, (3, 6), endpoint=True) * (rng.random((3, 6)) < 0.8)
        weight = weight - (i % 4 == 3 and i % 8 == 3) * width  # below zero without zeros
        messages = rng.integers(0, 2, (6, 10))
        try:
            ((held, grid),) = run_by_netx(weight)
        except InputError:
            held = grid = None
        try:
            scaled, bits, exponent, _ = utils.optimize_weight_bits(weight.astype(int))
        except OverflowError:  # all weights are zero
            assert held is not None and not held.any()
            continue
        mode = weightutils.determine_sign_mode(scaled)
        lavas = weightutils.truncate_weights(weightutils.clip_weights(scaled, mode, num_bits=8), mode, bits)
        theirs = lavas @ messages
        theirs = theirs << exponent if exponent > 0 else theirs >> -exponent
        if held is None or grid is None:
            refused += 1
            large = np.abs(weight).max() > 255 or (weight.min() < 0 < weight.max() and np.abs(weight).max() > 127)
            assert large or not np.array_equal(theirs, weight @ messages)
            continue
        ours = held.astype(int) @ messages
        assert np.array_equal(ours << grid.exponent if grid.exponent > 0 else ours >> -grid.exponent, theirs)
    assert 20 < refused < 250
