"""BSD that learns in Lava: weights, tags, sums, spikes and traces of LearningDense's own rule against integers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from compile.backends.guard import Job, run_guarded
from lavasnn.learning.online_bsd import OnlineBSDInt, OnlineSettings

pytestmark = pytest.mark.lava
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "bsd_online.py"


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bsd_online", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("sizes", "power"), [((16, 12, 8, 4), True), ((20, 14, 5), False)])
def test_sixty_samples_are_learned_bit_for_bit(sizes: tuple[int, ...], power: bool) -> None:
    random, n = np.random.default_rng(len(sizes)), 60
    labels = random.integers(0, sizes[-1], n)
    prototypes = random.random((sizes[-1], sizes[0]))
    x = np.clip(prototypes[labels] + random.normal(0, 0.1, (n, sizes[0])), 0, 1)
    settings = OnlineSettings(sizes, rate=4, rate_top=4, power=power)
    compared, differ = example().differences(settings, x, labels)
    assert differ == 0
    assert compared > 20_000
    net, first = OnlineBSDInt(settings), OnlineBSDInt(settings)
    for a, label in zip(x, labels, strict=True):
        net.learn(a, int(label))
    assert net.saturated == 0
    for now, before in zip(net.W + net.Theta, first.W + first.Theta, strict=True):
        assert (now != before).mean() > 0.1  # each matrix learned


RULE = """
import numpy as np


def task(job) -> None:
    from lava.magma.core.learning.learning_rule import Loihi3FLearningRule
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.dense.process import LearningDense
    from lava.proc.io.source import RingBuffer
    from lavasnn.dynamics.concept import RULE_TAG, RULE_W

    told = np.load(job / "told.npz")
    from lavasnn.processes.online import steady_seed

    rule = Loihi3FLearningRule(dw=RULE_W, dt=RULE_TAG, t_epoch=1, rng_seed=steady_seed(told["x"].shape[1]))
    dense = LearningDense(weights=told["weights"], learning_rule=rule)
    for name, port in (("x", "s_in"), ("y1", "s_in_y1"), ("y2", "s_in_y2"), ("gate", "s_in_y3")):
        RingBuffer(data=told[name]).s_out.connect(getattr(dense, port))
    dense.run(condition=RunSteps(num_steps=told["x"].shape[1]), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    np.savez(job / "found.npz", weights=dense.weights.get(), tags=dense.tag_1.get())
    dense.stop()
"""


def test_stock_rule_adds_up_exactly_what_spikes_and_traces_say(tmp_path: Path) -> None:
    """64 weight + tag has moved by 2 sum of x (y1 - y2); with the gate closed nothing moves."""
    (tmp_path / "rule_task.py").write_text(RULE)
    random, steps = np.random.default_rng(0), 400
    told = {"weights": 2 * random.integers(-40, 40, (6, 9)), "x": random.integers(0, 2, (9, steps))}
    drift = random.integers(-8, 9, (6, 1))  # so that many a tag is handed over
    y = np.clip(random.integers(-43, 44, (6, steps)) + drift, -63, 63)
    gate = np.repeat(32 * (np.arange(steps) // 4 % 2)[None], 6, 0)
    y = y * (gate > 0)
    told |= {"y1": np.maximum(y, 0), "y2": np.maximum(-y, 0), "gate": gate}
    with Job() as job:
        np.savez(job / "told.npz", **told)
        run_guarded("rule_task:task", job, 120, python_path=[tmp_path])
        found = dict(np.load(job / "found.npz"))
    assert np.array_equal(64 * found["weights"] + found["tags"], 64 * told["weights"] + 2 * y @ told["x"].T)
    assert (found["weights"] % 2 == 0).all()
    assert np.abs(found["tags"]).max() <= 188
    assert (found["weights"] != told["weights"]).mean() > 0.8
