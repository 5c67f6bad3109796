"""The DLIF Process in a script of one's own, against the compiler's emission and a plain loop; both precisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compile.backends import exact, lava
from compile.backends.guard import Job, run_guarded
from compile.passes.lower import lowered
from compile.pipeline import compile_graph
from compile.verify import compare
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.encode import Encoding
from lavasnn.ir import Coincidence, Graph, Population, Projection, Source
from lavasnn.synapses import Dense, Sparse, as_dense

HERE = Path(__file__).parent
STEPS, SAMPLES, N, M, P = 7, 6, 11, 6, 13


def network(seed: int = 0) -> tuple[Graph, np.ndarray]:
    """One DLIF layer behind the input."""
    random = np.random.default_rng(seed)
    both = np.stack(np.triu_indices(N, 1), 1)
    pairs = both[np.sort(random.choice(len(both), P, replace=False))]
    select = Sparse(np.ones(2 * P), pairs.reshape(-1).astype(np.int32), np.arange(P + 1) * 2, N)
    populations = (
        Population("input", N, Source()),
        Population("pairs", P, Coincidence()),
        Population("output", M, Lif(1.0, 0.5, 1.0)),
    )
    projections = (
        Projection("e", "input", "pairs", select),
        Projection("w", "input", "output", Dense(random.normal(0.1, 0.5, (M, N)))),
        Projection("k", "pairs", "output", Dense(random.normal(0, 0.7, (M, P)))),
    )
    return Graph(populations, projections, Encoding("bernoulli", levels=10), "output", STEPS), pairs


def run_script(job: Path) -> None:
    """The child's part: a RingBuffer, a DLIF and a Recorder, wired by hand; resets every window or never."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.source import RingBuffer

    from lavasnn.processes.dlif import DLIF
    from lavasnn.processes.recorder import Recorder

    with np.load(job / "in.npz") as given:
        arrays: dict[str, Any] = {name: given[name] for name in given.files}
    options = json.loads((job / "options.json").read_text())
    tag, data = options.pop("tag"), arrays.pop("data")
    source = RingBuffer(data=data)
    neurons = DLIF(**arrays, **options, name="dendrites")
    recorder = Recorder(shape=(len(arrays["weights"]),), steps=data.shape[1], record=str(job / "out.npy"))
    source.s_out.connect(neurons.s_in)
    neurons.s_out.connect(recorder.s_in)
    source.run(condition=RunSteps(num_steps=data.shape[1]), run_cfg=Loihi2SimCfg(select_tag=tag))


def by_hand(data: np.ndarray, arrays: dict[str, np.ndarray], **options: Any) -> np.ndarray:
    """Spikes of the script, shape (step, neuron)."""
    with Job() as job:
        np.savez(job / "in.npz", data=data, **arrays)
        (job / "options.json").write_text(json.dumps(options))
        run_guarded("test_dlif_lava:run_script", job, 60, python_path=[HERE])
        return np.load(job / "out.npy")


def windows(graph: Graph, kind: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, and their spikes one sample after the other with two steps of silence at the end, shape (neuron, step)."""
    pixels = np.random.default_rng(1).integers(2, 11, (SAMPLES, N)).astype(np.uint8)
    shown = graph.encoding.spikes(pixels, np.arange(SAMPLES), STEPS).reshape(-1, N).T
    return pixels, np.pad(shown, ((0, 0), (0, 2))).astype(kind)


@pytest.mark.lava
def test_the_process_spikes_as_the_compiler_s_emission_in_integers() -> None:
    graph, pairs = network()
    pixels, data = windows(graph, np.int32)
    program = compile_graph(graph, pixels, np.zeros(SAMPLES, np.int64)).graph
    emitted = lava.run(program, pixels, record=True)
    assert compare(program, exact.run(program, pixels, record=True), emitted).equal
    grids = {name: program.synapses(program.projection(name)) for name in ("w", "k")}
    neuron = program.population("output").dynamics
    assert isinstance(neuron, LifInt)
    arrays = {"weights": grids["w"].weight.astype(np.int32), "k": grids["k"].weight.astype(np.int32), "pairs": pairs}
    exponents = [grids["w"].grid.exponent, grids["k"].grid.exponent, 0]
    found = by_hand(
        data,
        arrays,
        tag="fixed_pt",
        dv=neuron.dv,
        vth=neuron.vth,
        weight_exp=exponents,
        reset_interval=STEPS,
        reset_offset=3 % STEPS,
    )
    assert np.array_equal(found[2:].reshape(SAMPLES, STEPS, M), emitted.traces["output.s"])
    assert 0.05 < found.mean() < 0.95


@pytest.mark.lava
def test_the_process_spikes_as_the_compiler_s_emission_in_real_numbers() -> None:
    graph, pairs = network(1)
    pixels, data = windows(graph, float)
    emitted = lava.run(lowered(graph), pixels, record=True)
    arrays = {"weights": as_dense(graph.synapses(graph.projection("w"))), "k": as_dense(graph.synapses(graph.projection("k")))}
    found = by_hand(data, arrays | {"pairs": pairs}, tag="floating_pt", dv=0.5, vth=1.0, reset_interval=STEPS, reset_offset=3)
    assert np.array_equal(found[2:].reshape(SAMPLES, STEPS, M), emitted.traces["output.s"])


@pytest.mark.lava
def test_biases_are_always_on_and_nothing_is_reset_unasked() -> None:
    """A plain loop in integers: the bias arrives from the second step on, voltages go on from sample to sample."""
    random = np.random.default_rng(3)
    _, pairs = network(3)
    w, k, b = (2 * random.integers(-40, 50, shape) for shape in ((M, N), (M, P), (M,)))
    data = (random.random((N, 20)) < 0.4).astype(np.int32)
    arrays = {"weights": w.astype(np.int32), "k": k.astype(np.int32), "bias": b.astype(np.int32), "pairs": pairs}
    found = by_hand(data, arrays, tag="fixed_pt", dv=1024, vth=150)
    v = np.zeros(M, np.int64)
    for t in range(20):
        s = data[:, t - 2].astype(np.int64) if t >= 2 else np.zeros(N, np.int64)
        total = w @ s + k @ (s[pairs[:, 0]] * s[pairs[:, 1]]) + (b if t >= 1 else 0)
        v = np.sign(v) * (np.abs(v) * (4096 - 1024) >> 12) + (total << 6)
        spikes = v > 150 << 6
        v[spikes] = 0
        assert np.array_equal(found[t], spikes), t
    assert found.any()


@pytest.mark.lava
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": np.zeros((M, P + 1), np.int32)}, "do not fit"),
        ({"pairs": np.full((P, 2), N)}, "needed are two of the 11 inputs each"),
        ({"pairs": np.zeros((P, 2), int)}, "a pair joins an input with itself"),
        ({"bias": np.zeros(M + 1, np.int32)}, "bias of shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, Any], words: str) -> None:
    from lavasnn.errors import LavaRunError

    _, pairs = network()
    arrays = {"weights": np.zeros((M, N), np.int32), "k": np.zeros((M, P), np.int32), "pairs": pairs} | change
    with pytest.raises(LavaRunError, match=words):
        by_hand(np.zeros((N, 3), np.int32), arrays, tag="fixed_pt", dv=0, vth=1)
