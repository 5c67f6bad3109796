"""Pyramidal populations on Lava, both pathways at once and pipelined, against a loop in Python numbers and against torch."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compile.backends import exact
from compile.backends.guard import Job, run_guarded
from compile.pipeline import compile_graph
from lavasnn.architecture import layers
from lavasnn.cli.verify import prove
from lavasnn.data import Images
from lavasnn.encode import Encoding
from lavasnn.errors import InputError, LavaRunError
from lavasnn.export_bsd import bsd_graph
from lavasnn.nn.bsd import BSDNet

pytestmark = pytest.mark.lava
TASK = """
import json
import numpy as np
from itertools import pairwise
from pathlib import Path
from lavasnn.dynamics.pyramidal import Pyramidal as Real, PyramidalInt


def task(job: Path) -> None:
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.dense.process import Dense
    from lavasnn.processes.pyramidal import Pyramidal

    setting, arrays = json.loads((job / "setting.json").read_text()), np.load(job / "arrays.npz")
    L, T, period, whole = setting["layers"], setting["steps"], setting["period"], setting["whole"]
    make = PyramidalInt if whole else Real
    params = [make(**entry) for entry in setting["params"]]
    n = len(arrays["stimuli"])
    layers = {0: [], 1: []}
    for i in range(L):
        size = (arrays["stimuli"] if i == 0 else arrays[f"W{i - 1}"].T).shape[1]
        for kind in (0, 1):
            at = (i, L - 1 - i) if kind == 0 else (L - 1 - i, i)
            end = i == (0 if kind == 0 else L - 1)
            current = arrays["stimuli" if kind == 0 else "concepts"] if end else None
            layers[kind].append(
                Pyramidal(
                    shape=(size,), params=params[kind], steps=T, period=period, basal_at=at[0], apical_at=at[1],
                    current=current, samples=n, record=str(job / f"out{kind}-{i}.npz"), name=f"type{kind + 1}-{i}",
                )
            )
    for i, (low, high) in enumerate(pairwise(range(L))):
        for name, kind, source, target in ((f"W{i}", 0, low, high), (f"Theta{i}", 1, high, low)):
            exponent = {"weight_exp": int(setting["exponents"][name])} if whole else {}
            dense = Dense(weights=arrays[name], **exponent)
            layers[kind][source].s_out.connect(dense.s_in)
            dense.a_out.connect([layers[kind][target].basal_in, layers[1 - kind][target].apical_in])
    tag = "fixed_pt" if whole else "floating_pt"
    steps = (n - 1) * period + T + L - 1
    layers[0][0].run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag=tag))
"""


def on_lava(tmp_path: Path, setting: dict[str, Any], arrays: dict[str, np.ndarray]) -> list[list[dict[str, np.ndarray]]]:
    """What every population recorded, by type and layer."""
    import json

    (tmp_path / "pyramidal_task.py").write_text(TASK)
    with Job() as job:
        (job / "setting.json").write_text(json.dumps(setting))
        np.savez(job / "arrays.npz", **arrays)
        run_guarded("pyramidal_task:task", job, 120, python_path=[tmp_path])
        return [[dict(np.load(job / f"out{kind}-{i}.npz")) for i in range(setting["layers"])] for kind in (0, 1)]


def loop(
    weights: list[list[list[int]]], shifts: list[int], current: list[int], vth: int, dv: int, T: int
) -> list[dict[str, Any]]:
    """One sample through one pathway: for each layer its spikes (step, neuron) and what its basal dendrite added up."""
    found: list[dict[str, Any]] = []
    for weight, shift in zip([None, *weights], [0, *shifts], strict=True):
        size = len(current) if weight is None else len(weight)
        V, total, trains = [0] * size, [0] * size, []
        for t in range(T):
            sent = []
            for j in range(size):
                if weight is None:
                    a = current[j]
                else:
                    a = sum(w * s for w, s in zip(weight[j], found[-1]["s"][t], strict=True))
                    a = a << shift if shift >= 0 else a >> -shift
                V[j] = int(math.copysign((abs(V[j]) * (4096 - dv)) >> 12, V[j])) + (a << 6)
                V[j] = max(-(2**23) + 1, min(2**23 - 1, V[j]))
                sent.append(int(V[j] >= vth << 6))
                V[j] = 0 if sent[-1] else V[j]
                total[j] += a
            trains.append(sent)
        found.append({"s": trains, "acc": total})
    return found


@pytest.mark.parametrize(("period", "seed"), [(4, 0), (9, 1)])
def test_integers_of_both_pathways(tmp_path: Path, period: int, seed: int) -> None:
    random, sizes, T, n = np.random.default_rng(seed), (12, 9, 7, 5, 3), 4, 50
    arrays: dict[str, np.ndarray] = {
        "stimuli": random.integers(0, 256, (n, 12)),
        "concepts": np.eye(3, dtype=int)[random.integers(0, 3, n)] * 255,
    }
    exponents: dict[str, int] = {}
    for i, (pre, post) in enumerate(pairwise(sizes)):
        arrays[f"W{i}"], arrays[f"Theta{i}"] = (2 * random.integers(-60, 90, shape) for shape in ((post, pre), (pre, post)))
        exponents |= {f"W{i}": int(random.integers(-1, 2)), f"Theta{i}": int(random.integers(-1, 2))}
    params = [{"vth": 90, "dv": 2048}, {"vth": 50, "dv": 1500}]
    setting = {"layers": 5, "steps": T, "period": period, "whole": True, "params": params, "exponents": exponents}
    found = on_lava(tmp_path, setting, arrays)
    compared = 0
    for k in range(n):
        for kind, name, current in ((0, "W", "stimuli"), (1, "Theta", "concepts")):
            order = range(4) if kind == 0 else range(3, -1, -1)
            weights = [arrays[f"{name}{i}"].tolist() for i in order]
            shifts = [exponents[f"{name}{i}"] for i in order]
            truth = loop(weights, shifts, arrays[current][k].tolist(), params[kind]["vth"], params[kind]["dv"], T)
            for place, wanted in enumerate(truth):
                i = place if kind == 0 else 4 - place
                mine, other = found[kind][i], found[1 - kind][i]
                assert mine["s"][k].tolist() == wanted["s"]
                assert mine["cnt"][k, -1].tolist() == np.sum(wanted["s"], 0).tolist()
                assert mine["acc_b"][k, -1].tolist() == wanted["acc"]
                if place:  # the end of a pathway gets its current itself, and no one else does
                    assert other["acc_a"][k, -1].tolist() == wanted["acc"]
                compared += mine["s"][k].size + 3 * mine["cnt"][k, -1].size
    assert compared > 20_000
    assert all(p["s"].any() and not p["s"].all() for kind in found for p in kind)


def test_real_numbers_are_those_of_torch(tmp_path: Path) -> None:
    sizes, n = (10, 14, 8, 4), 20
    net = BSDNet(sizes, 4, 2.0, (0.2, 0.1), torch.Generator().manual_seed(0)).double()
    x, labels = torch.rand(n, 10, generator=torch.Generator().manual_seed(1)).double(), torch.arange(n) % 4
    arrays = {"stimuli": x.numpy(), "concepts": torch.eye(4).double()[labels].numpy()}
    arrays |= {f"{name}{i}": p.detach().numpy() for name, ps in (("W", net.W), ("Theta", net.Theta)) for i, p in enumerate(ps)}
    setting = {
        "layers": 4,
        "steps": 4,
        "period": 4,
        "whole": False,
        "params": [{"tau": 2.0, "threshold": 0.2}, {"tau": 2.0, "threshold": 0.1}],
    }
    found = on_lava(tmp_path, setting, arrays)
    for kind, seen in enumerate((net.perceive(x, every=True), net.recall(torch.eye(4).double()[labels], every=True))):
        for i in range(4):
            assert np.array_equal(found[kind][i]["s"], seen.trains[i].transpose(0, 1).numpy())
            np.testing.assert_allclose(found[kind][i]["acc_b"][:, -1] / 4, seen.v[i].numpy(), rtol=0, atol=1e-12)
            if 0 < i < 3:
                np.testing.assert_array_equal(found[1 - kind][i]["acc_a"], found[kind][i]["acc_b"])


def test_an_input_beyond_16_bits_is_refused(tmp_path: Path) -> None:
    arrays = {
        "stimuli": np.array([[40_000, 0]]),
        "concepts": np.array([[1]]),
        "W0": np.array([[2, 2]]),
        "Theta0": np.array([[2], [2]]),
    }
    setting = {
        "layers": 2,
        "steps": 2,
        "period": 2,
        "whole": True,
        "params": [{"vth": 5}, {"vth": 5}],
        "exponents": {"W0": 0, "Theta0": 0},
    }
    with pytest.raises(LavaRunError, match="type1-0: sample 0, step 0 brings 40,000, a dendrite holds ±32,767"):
        on_lava(tmp_path, setting, arrays)


def test_sums_beyond_24_bits_are_refused_as_by_the_exact_executor(tmp_path: Path) -> None:
    arrays = {
        "stimuli": np.array([[30_000, 0]]),
        "concepts": np.array([[1]]),
        "W0": np.array([[2, 2]]),
        "Theta0": np.array([[2], [2]]),
    }
    setting = {
        "layers": 2,
        "steps": 300,
        "period": 300,
        "whole": True,
        "params": [{"vth": 5}, {"vth": 5}],
        "exponents": {"W0": 0, "Theta0": 0},
    }
    with pytest.raises(LavaRunError, match="type1-0: sample 0, step 0: 300 inputs of 30,000 do not add up within 24 bits"):
        on_lava(tmp_path, setting, arrays)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"steps": 0}, "0 steps, a period of 4"),
        ({"period": 3}, "4 steps, a period of 3"),
        ({"basal_at": -1}, "phases -1 and 0"),
        ({"current": [[0, 0, 0, 0]]}, r"currents have shape \(1, 4\), needed \(sample, 3\)"),
    ],
)
def test_what_fits_no_window(tmp_path: Path, entries: dict[str, Any], message: str) -> None:
    """In a child, for Lava's own process complains of what its constructor did not finish."""
    (tmp_path / "refused.py").write_text(
        "import numpy as np\nfrom lavasnn.dynamics.pyramidal import PyramidalInt\n\n\n"
        "def task(job):\n    from lavasnn.processes.pyramidal import Pyramidal\n"
        f"    entries = {entries!r}\n    entries |= {{k: np.array(v) for k, v in entries.items() if k == 'current'}}\n"
        "    Pyramidal(**({'shape': (3,), 'params': PyramidalInt(5), 'steps': 4, 'period': 4, 'name': 'p'} | entries))\n"
    )
    with Job() as job, pytest.raises((InputError, LavaRunError), match=message):
        run_guarded("refused:task", job, 60, python_path=[tmp_path])


@pytest.mark.parametrize("plan", [(16, 20, 12, 5), layers((1, 4, 4), ("3c3s2", "2c3", 6), 5)], ids=["full", "conv"])
@pytest.mark.parametrize(("whole", "readout"), [(True, "voltage"), (False, "spikes")])
def test_compiled_networks_agree_everywhere(whole: bool, readout: Any, plan: Any) -> None:
    """50 samples through both pathways: every spike, count and accumulator of exact, torch and Lava."""
    image = not isinstance(plan[0], int)
    net = BSDNet(plan, 4, 2.0, (0.2, 0.1), torch.Generator().manual_seed(2), norm=image).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.5).add_(0.03)
        for name, buffer in net.named_buffers():
            buffer.fill_(0.2 if name.endswith("var") else -0.05)
    random = np.random.default_rng(3)
    pixels, labels = random.integers(0, 17, (50, 16)).astype(np.uint8), random.integers(0, 5, 50)
    graph = bsd_graph(net, Encoding("direct", 0, 16), readout)
    graph = compile_graph(graph, pixels, labels).graph if whole else graph
    proofs = prove(graph, Images("given", "test", pixels, labels, (4, 4), 16, 5), 32, True)
    assert [p.backends[1] for p in proofs] == ["torch", "lava"]
    sizes = [p.size for p in graph.populations]
    assert all(p.equal and p.compared >= 50 * 4 * 4 * sum(sizes) and p.samples == 50 for p in proofs)
    assert all(len(p.populations) == len(sizes) for p in proofs)
    sent = exact.run(graph, pixels, labels).messages
    assert all(messages.any() for messages in sent.values())
