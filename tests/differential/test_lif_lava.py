"""`step` and `run_layer` against Lava's own LIF: the model's methods called directly, and two short real runs."""

import contextlib
import os
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lavasnn.dynamics.lif import Lif, LifInt, LifState, step
from lavasnn.dynamics.lif_kernel import run_layer

pytestmark = pytest.mark.lava

V_MAX = 2**23 - 1
U_MAX = 2**31 - 2**24 - 1


def lava_model(name: str, **variables: Any) -> Any:
    """One of Lava's LIF models, without a runtime: its variables set as the builder would set them."""
    models = pytest.importorskip("lava.proc.lif.models")
    model = getattr(models, name)({})
    for key, value in variables.items():
        setattr(model, key, value)
    return model


def lava_fixed(p: LifInt, u: NDArray[np.int32], v: NDArray[np.int32], a: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """One step of PyLifModelBitAcc as its run_spk makes it, ports left out."""
    shape = u.shape
    mant, exp = np.broadcast_to(p.bias_mant, shape).astype(np.int16), np.full(shape, p.bias_exp, np.int16)
    model = lava_model("PyLifModelBitAcc", u=u.copy(), v=v.copy(), du=p.du, dv=p.dv, bias_mant=mant, bias_exp=exp, vth=p.vth)
    model.scale_bias()
    model.scale_threshold()
    model.subthr_dynamics(activation_in=a)
    s = model.spiking_activation()
    model.reset_voltage(spike_vector=s)
    return s, model.u, model.v


def registers(rng: np.random.Generator) -> LifInt:
    def one(name: str) -> int:
        low, high = LifInt.RANGES[name]
        return int(rng.choice([low, high, rng.integers(low, high, endpoint=True)], p=[0.15, 0.15, 0.7]))

    mant = rng.integers(-4096, 4095, 4096, endpoint=True) if rng.random() < 0.5 else one("bias_mant")
    return LifInt(du=one("du"), dv=one("dv"), vth=one("vth"), bias_mant=mant, bias_exp=one("bias_exp"))


def spread(rng: np.random.Generator, limit: int, *points: int) -> NDArray[np.int64]:
    """4096 values: uniform, small, and within 2 of plus and minus the points."""
    uniform = rng.integers(-limit, limit, 2048, endpoint=True)
    small = rng.integers(-limit >> 9, limit >> 9, 1024)
    edges = rng.choice(points, 1024) * rng.choice([-1, 1], 1024) + rng.integers(-2, 3, 1024)
    return rng.permutation(np.clip(np.concatenate([uniform, small, edges]), -limit, limit))


@pytest.mark.parametrize("seed", range(60))
def test_integer_step_equals_lava(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = registers(rng)
    limit = [2**17, 2**19, 2**31 - 1][seed % 3]
    u = spread(rng, [2**23, U_MAX][seed % 2], 0, 2**23, U_MAX).astype(np.int32)
    v = spread(rng, V_MAX, 0, V_MAX, p.vth << 6).astype(np.int32)
    for dtype in (np.int32, np.int64):
        a = spread(rng, limit, 0, 2**17, 3 * 2**17, 2**25, 2**31 - 3).astype(dtype)
        for _ in range(3):
            expected = lava_fixed(p, u, v, a)
            spikes, state = step(p, LifState(u, v), a)
            for ours, theirs in zip((spikes, state.u, state.v), expected, strict=True):
                assert ours.dtype == theirs.dtype
                assert np.array_equal(ours, theirs)
            u, v, a = state.u, state.v, rng.permutation(a)


@pytest.mark.parametrize("seed", range(20))
def test_float_step_equals_lava(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = Lif(*rng.choice([0, 1, rng.random(), rng.random()], 2), vth=rng.random() * 5, bias=rng.normal(size=500))
    u, v = np.zeros(500), np.zeros(500)
    model = lava_model("PyLifModelFloat", u=u.copy(), v=v.copy(), du=p.du, dv=p.dv, bias_mant=p.bias, vth=p.vth)
    state = LifState(u, v)
    fired = 0
    for _ in range(50):
        a = rng.normal(size=500)
        model.subthr_dynamics(activation_in=a)
        s = model.spiking_activation()
        model.reset_voltage(spike_vector=s)
        spikes, state = step(p, state, a)
        assert np.array_equal(spikes, s)
        assert np.array_equal(state.u, model.u)
        assert np.array_equal(state.v, model.v)
        fired += int(s.sum())
    assert 0 < fired < 25_000


# The network of the real runs: 30 inputs -> Dense -> LIF -> Dense -> LIF, every spike of both layers printed.
SCRIPT = """
import sys
import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.dense.process import Dense
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source
from lava.proc.lif.process import LIF

if __name__ == "__main__":
    case = np.load(sys.argv[1])
    tag, exps = str(case["tag"]), case["exponents"]
    steps = case["spikes"].shape[0]
    source = Source(data=case["spikes"].T)
    sinks, out = [], source.s_out
    for k in (1, 2):
        post, pre = case[f"w{k}"].shape
        dense = Dense(weights=case[f"w{k}"], weight_exp=int(exps[k - 1]))
        du, dv, vth, bias_exp = case[f"lif{k}"].tolist()
        if tag == "fixed_pt":
            du, dv, vth, bias_exp = int(du), int(dv), int(vth), int(bias_exp)
        lif = LIF(shape=(post,), du=du, dv=dv, vth=vth, bias_mant=case[f"bias{k}"], bias_exp=bias_exp)
        sink = Sink(shape=(post,), buffer=steps)
        out.connect(dense.s_in)
        dense.a_out.connect(lif.a_in)
        lif.s_out.connect(sink.a_in)
        out = lif.s_out
        sinks.append(sink)
    source.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag=tag))
    rasters = {f"s{k + 1}": sink.data.get().T for k, sink in enumerate(sinks)}
    source.stop()
    np.savez(sys.argv[2], **rasters)
"""


def run_lava(folder: Any, case: dict[str, Any]) -> list[NDArray[np.bool_]]:
    """Run SCRIPT in its own process group, killed after a minute; returns both rasters, (step, neuron)."""
    (folder / "net.py").write_text(SCRIPT)
    np.savez(folder / "case.npz", **case)
    names = [str(folder / name) for name in ("net.py", "case.npz", "out.npz")]
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = child.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert child.returncode == 0, printed
    with np.load(folder / "out.npz") as out:
        return [out[name].astype(bool) for name in ("s1", "s2")]


def test_real_fixed_point_run_equals_run_layer(tmp_path: Any) -> None:
    pytest.importorskip("lava.proc.lif.process")
    rng = np.random.default_rng(0)
    spikes = rng.random((40, 30)) < 0.3
    # Even weights are on the grid of a mixed-sign matrix: Lava's Dense leaves them as they are.
    w1, w2 = rng.integers(-120, 127, (25, 30)) * 2, rng.integers(-120, 127, (8, 25)) * 2
    p1 = LifInt(du=2000, dv=300, vth=900, bias_mant=rng.integers(-300, 300, 25), bias_exp=6)
    p2 = LifInt(du=-1, dv=4095, vth=60, bias_mant=rng.integers(-10, 10, 8), bias_exp=3)
    case: dict[str, Any] = {
        "tag": "fixed_pt",
        "exponents": [1, -3],
        "spikes": spikes.astype(np.int32),
        "w1": w1,
        "w2": w2,
    }
    for k, p in enumerate((p1, p2), 1):
        case |= {f"lif{k}": [p.du, p.dv, p.vth, p.bias_exp], f"bias{k}": p.bias_mant}
    s1, s2 = run_lava(tmp_path, case)
    assert 0.02 < s1.mean() < 0.98
    assert 0.02 < s2.mean() < 0.98
    ours = run_layer(p1, w1.T, spikes[None], exponent=1)
    assert np.array_equal(ours[0], s1)
    assert np.array_equal(run_layer(p2, w2.T, ours, exponent=-3)[0], s2)


def test_real_float_run_equals_step(tmp_path: Any) -> None:
    pytest.importorskip("lava.proc.lif.process")
    rng = np.random.default_rng(1)
    spikes = rng.random((30, 20)) < 0.3
    # Multiples of 1/64 add up without rounding, in whatever order Lava's Dense adds them.
    w1, w2 = rng.integers(-40, 64, (15, 20)) / 64, rng.integers(-40, 64, (6, 15)) / 64
    p1, p2 = Lif(du=0.5, dv=0.25, vth=1.5, bias=rng.normal(size=15) / 4), Lif(du=1, dv=0.1, vth=0.7, bias=np.zeros(6))
    case: dict[str, Any] = {
        "tag": "floating_pt",
        "exponents": [0, 0],
        "spikes": spikes.astype(float),
        "w1": w1,
        "w2": w2,
    }
    sent: NDArray[Any] = spikes
    for k, p in enumerate((p1, p2), 1):
        case |= {f"lif{k}": [p.du, p.dv, p.vth, 0], f"bias{k}": p.bias}
    rasters = run_lava(tmp_path, case)
    for p, w, theirs in zip((p1, p2), (w1, w2), rasters, strict=True):
        assert 0.02 < theirs.mean() < 0.98
        state, a, ours = LifState(np.zeros(len(w)), np.zeros(len(w))), np.zeros(len(w)), []
        for row in sent:
            s, state = step(p, state, a)
            ours.append(s)
            a = w @ row
        sent = np.stack(ours)
        assert np.array_equal(sent, theirs)
