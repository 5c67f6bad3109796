"""BSD that learns on one sample at a time, in real numbers and in the integers of Lava's learning synapses.

Run it with `python docs/examples/bsd_online.py`: it trains both on scikit-learn's digits and prints how many test images they
know. Then it lets a small network learn in Lava, with LearningDense as it comes, and compares all weights, tags, sums, spikes
and traces with the integers. `--data mnist` takes another set, `--limit N` its first N training images; `--passes N` and
`--hidden N` change the training, `--samples N` how many samples Lava learns.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from compile.backends.guard import Job, run_guarded
from lavasnn.data import load
from lavasnn.dynamics.concept import ConceptLoss
from lavasnn.learning.online_bsd import CURRENT, OnlineBSD, OnlineBSDInt, OnlineSettings, plasticity, trained


def task(job: Path) -> None:
    """Build and run a network that learns; called in a child process, where alone Lava is loaded."""
    from lava.magma.core.learning.learning_rule import Loihi3FLearningRule
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.dense.process import LearningDense

    from lavasnn.dynamics.concept import RULE_TAG, RULE_W
    from lavasnn.processes.online import Learner, steady_seed
    from lavasnn.processes.pyramidal import Pyramidal

    told = json.loads((job / "settings.json").read_text())
    settings = OnlineSettings(**told | {"sizes": tuple(told["sizes"]), "loss": ConceptLoss(**told["loss"])})
    data = np.load(job / "data.npz")
    net, L, T = OnlineBSDInt(settings), len(settings.sizes), settings.steps
    period, n = 2 * T + L, len(data["labels"])
    stimuli, concepts = (
        np.rint(data["x"] * CURRENT).astype(int),
        CURRENT * np.eye(settings.sizes[-1], dtype=int)[data["labels"]],
    )
    layers, seed = [], steady_seed(n * period)
    for i, (size, how) in enumerate(zip(settings.sizes, plasticity(settings), strict=True)):
        ends = {"v": stimuli if i == 0 else None, "u": concepts if i == L - 1 else None}
        common = {"shape": (size,), "steps": T, "period": period}
        type1 = Pyramidal(params=net.up[i], basal_at=i, apical_at=L - 1 - i, current=ends["v"], **common)
        type2 = Pyramidal(params=net.down[i], basal_at=L - 1 - i, apical_at=i, current=ends["u"], **common)
        learner = Learner(
            shape=(size,), how=how, labels=data["labels"], steps=T, layers=L, layer=i, record=str(job / f"layer{i}.npz"),
            v_current=ends["v"], u_current=ends["u"],
        )  # fmt: skip
        type1.s_out.connect(learner.s_in)
        type2.s_out.connect(learner.z_in)
        layers.append((type1, type2, learner))
    synapses = {}
    for i in range(L - 1):
        (below1, below2, below), (above1, above2, above) = layers[i], layers[i + 1]
        for name, weights, spikes, learns, basal, apical in (
            (f"W{i}", net.W[i], below.s_out, (above.y1_out, above.y2_out, above.gate_out), (above1, above.v_in), above2),
            (
                f"Theta{i}",
                net.Theta[i],
                above.z_out,
                (below.z1_out, below.z2_out, below.gate_out),
                (below2, below.u_in),
                below1,
            ),
        ):
            rule = Loihi3FLearningRule(dw=RULE_W, dt=RULE_TAG, t_epoch=1, rng_seed=seed)
            dense = synapses[name] = LearningDense(weights=weights.astype(int), learning_rule=rule, name=name)
            spikes.connect(dense.s_in)
            for trace, port in zip(learns, (dense.s_in_y1, dense.s_in_y2, dense.s_in_y3), strict=True):
                trace.connect(port)
            dense.a_out.connect([basal[0].basal_in, basal[1], apical.apical_in])
    start = layers[0][0]
    start.run(condition=RunSteps(num_steps=n * period), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    found = {name: dense.weights.get() for name, dense in synapses.items()}
    found |= {f"tag-{name}": dense.tag_1.get() for name, dense in synapses.items()}
    np.savez(job / "weights.npz", **found)
    start.stop()


def differences(settings: OnlineSettings, x: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
    """Learn the samples in Lava and in integers; how many numbers were compared, and how many differ."""
    with Job() as job:
        (job / "settings.json").write_text(json.dumps(asdict(settings)))
        np.savez(job / "data.npz", x=x, labels=labels)
        run_guarded("bsd_online:task", job, 300, python_path=[Path(__file__).parent])
        found = [dict(np.load(job / f"layer{i}.npz")) for i in range(len(settings.sizes))]
        synapses = dict(np.load(job / "weights.npz"))
    net, pairs = OnlineBSDInt(settings), []
    for k, (a, label) in enumerate(zip(x, labels, strict=True)):
        up, down = net.perceive(a), net.recall(int(label))
        signals = net.learn(a, int(label))
        for i, seen in enumerate(found):
            pairs += [(seen["v"][k], up.acc[i]), (seen["u"][k], down.acc[i]), (seen["y"][k], signals[i])]
            pairs += [(seen["s"][k], up.s[i]), (seen["z"][k], down.s[i])]
    for name, weights, tags in (("W", net.W, net.tags[0]), ("Theta", net.Theta, net.tags[1])):
        for i, (weight, tag) in enumerate(zip(weights, tags, strict=True)):
            pairs += [(synapses[f"{name}{i}"], weight), (synapses[f"tag-{name}{i}"], tag)]
    return sum(mine.size for _, mine in pairs), sum(int((lavas != mine).sum()) for lavas, mine in pairs)


def main() -> None:
    """Train, measure, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="digits")
    for name, value in (("--limit", 10**9), ("--passes", 1), ("--hidden", 32), ("--samples", 20), ("--seed", 0)):
        parser.add_argument(name, type=int, default=value)
    told = parser.parse_args()
    train, test = load(f"{told.data}:train"), load(f"{told.data}:test")
    train = train.take(min(told.limit, len(train)))
    x, z = train.pixels / train.levels, test.pixels / test.levels
    for name, kind, power in (
        ("real numbers", OnlineBSD, True),
        ("integers, norms powers of two", OnlineBSDInt, True),
        ("integers, norms square roots", OnlineBSDInt, False),
    ):
        settings = OnlineSettings((train.features, told.hidden, train.classes), power=power, seed=told.seed)
        net = trained(kind(settings), x, train.labels, told.seed, told.passes)
        held = f", {net.saturated} weights held" if isinstance(net, OnlineBSDInt) else ""
        print(f"{name}: {net.accuracy(z, test.labels):.1%} of {len(test):,} test images{held}", flush=True)
    if told.samples:
        few = OnlineSettings((train.features, 16, train.classes), seed=told.seed)
        compared, differ = differences(few, x[: told.samples], train.labels[: told.samples])
        print(f"Lava: {told.samples} samples learned, {compared:,} numbers compared, {differ} differ")


if __name__ == "__main__":
    main()
