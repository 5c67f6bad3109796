"""Speed, as ratios measured in one run: `python -m lavasnn.cli.bench bench.json` (what `make bench` does).

Five questions: how much less processor time does the exact executor take than Lava's stock process graph for the same
spikes; how fast does DiffPC train beside backpropagation of the same network; what does a pool of pairs cost in torch beside a
linear layer; what does a synaptic operation cost the exact executor in networks with pairs and without; and how fast is a step
of BSD's training beside the same losses through autograd?
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from compile.backends import exact, lava
from compile.backends.guard import Job, run_guarded
from compile.backends.spiking import run_spiking
from compile.verify import compare
from lavasnn.cli import guarded
from lavasnn.cli.common import machine
from lavasnn.config import RunConfig
from lavasnn.data import Images
from lavasnn.dynamics.lif import LifInt
from lavasnn.dynamics.pyramidal import Pyramidal, step
from lavasnn.encode import Encoding
from lavasnn.files import write_text
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.synapses import Dense, Grid

SIZES = (784, 400, 10)
BATCH = 1024
STEPS = 25
LAVA_SAMPLES = (40, 120)
"""Lava runs both; the difference leaves its start-up out."""
TRAIN_BATCHES = 469
WARM_EPOCHS = 2
POOL_ROWS = 512
BSD_SIZES = (784, 1024, 1024, 512, 256, 10)
PAIR_SAMPLES = 10_240


def network(seed: int = 0) -> Graph:
    """784-400-10 stock LIF with random 8-bit weights, thresholds for moderate firing."""
    random = np.random.default_rng(seed)
    names = ("input", "hidden1", "output")
    populations = [Population("input", SIZES[0], Source())]
    projections: list[Projection] = []
    for l in (1, 2):
        weight = (2 * random.integers(-64, 64, (SIZES[l], SIZES[l - 1]))).astype(np.int16)
        neuron = LifInt(du=4095, dv=2048, vth=900 if l == 1 else 600)
        populations.append(Population(names[l], SIZES[l], neuron))
        projections.append(Projection(f"w{l}", names[l - 1], names[l], Dense(weight, Grid())))
    return Graph(tuple(populations), tuple(projections), Encoding("bernoulli", levels=10), "output", STEPS)


def exact_vs_lava() -> dict[str, Any]:
    """Processor time per sample and step of both, and whether all spikes of all populations agree."""
    graph = network()
    pixels = np.ones((BATCH, SIZES[0]), np.uint8)  # level 1 of 10: every input spikes in a tenth of the steps
    few = pixels[: LAVA_SAMPLES[0]]
    proof = compare(graph, exact.run(graph, few, record=True), lava.run(graph, few, record=True))
    lava_s = lava_seconds(graph, pixels)
    exact_s, layers_s = exact_seconds(graph, pixels)
    return {
        "cpu_ratio": round(lava_s / exact_s, 1),
        "cpu_ratio_of_layers_alone": round(lava_s / layers_s, 1),
        "spikes_equal": proof.equal,
        "values_compared": proof.compared,
        "lava_cpu_us_per_sample_step": round(1e6 * lava_s, 2),
        "exact_cpu_us_per_sample_step": round(1e6 * exact_s, 3),
        "network": "784-400-10 stock LIF, 10 % input, batch 1024, 25 steps",
        "lava_processes": "RingBuffer, Dense, LIFReset, Dense, LIFReset, Recorder: the output alone is recorded",
        "threads": {"exact": 1, "lava": "one process each"},
    }


def exact_seconds(graph: Graph, pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Processor time of one sample and step, the fastest of 7 rounds: of `exact.run`, which also draws the input and counts
    messages, and of its layers alone with the input given, as Lava's RingBuffer has it.
    """
    given = graph.encoding.spikes(pixels, np.arange(len(pixels)), STEPS)

    def fastest(work: Callable[[], object]) -> float:
        rounds: list[float] = []
        for _ in range(8):
            started = time.process_time()
            work()
            rounds.append(time.process_time() - started)
        return min(rounds[1:]) / (len(pixels) * STEPS)

    return fastest(lambda: exact.run(graph, pixels, batch=BATCH)), fastest(lambda: run_spiking(graph, given))


def lava_seconds(graph: Graph, pixels: NDArray[np.uint8]) -> float:
    """Processor time of one sample and step, all of Lava's processes together, start-up left out."""
    spent: list[float] = []
    for n in LAVA_SAMPLES:
        with Job() as job:
            graph.save(job / "graph.safetensors")
            np.save(job / "pixels.npy", pixels[:n])
            run_guarded("lavasnn.cli.bench:lava_job", job, 300)
            spent.append(float((job / "seconds").read_text()))
    return (spent[1] - spent[0]) / ((LAVA_SAMPLES[1] - LAVA_SAMPLES[0]) * STEPS)


def lava_job(job: Path) -> None:
    """The child's part: run, stop, and write the processor time of this process and its children."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    graph, pixels = Graph.load(job / "graph.safetensors"), np.load(job / "pixels.npy")
    processes, steps = lava.emit(graph, pixels, None, False, np.arange(len(pixels)), job, record=False)
    first = processes[graph.source.name]
    first.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    first.stop()
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    (job / "seconds").write_text(str(sum(u.ru_utime + u.ru_stime for u in spent)))


def training(seed: int = 0) -> dict[str, Any]:
    """Samples per second of both methods: same network, data, optimiser and batches, in turns, one thread."""
    from lavasnn.learning.trainer import Trainer

    random = np.random.default_rng(seed)
    images = blobs(random, TRAIN_BATCHES * 128)
    speeds: dict[str, list[float]] = {"diffpc": [], "backprop": []}
    trainers: dict[str, Trainer] = {}
    for method in speeds:
        epochs = WARM_EPOCHS + 5
        run = RunConfig().with_training(method=method, epochs=epochs)
        trainers[method] = Trainer(run, images, None, seed)
    for epoch in range(WARM_EPOCHS + 5):
        for method, trainer in trainers.items():
            started = time.perf_counter()
            trainer.run_epoch()
            if epoch >= WARM_EPOCHS:
                speeds[method].append(len(images) / (time.perf_counter() - started))
    medians = {method: statistics.median(v) for method, v in speeds.items()}
    return {
        "samples_per_s_ratio": round(medians["diffpc"] / medians["backprop"], 3),
        "diffpc_samples_per_s": round(medians["diffpc"]),
        "backprop_samples_per_s": round(medians["backprop"]),
        "epochs_before_measuring": WARM_EPOCHS,
        "error_spikes_per_sample": trainers["diffpc"].progress.history[-1].error_spikes,
        "network": "784-400-10, batch 128, AdamW",
        "data": images.name,
        "threads": torch.get_num_threads(),
    }


def blobs(random: np.random.Generator, n: int) -> Images:
    """MNIST's training images if they are here, else ten noisy prototypes of the same size and density."""
    from lavasnn import data
    from lavasnn.errors import DataError

    try:
        return data.load("mnist:train").take(n) if n < 60_000 else data.load("mnist:train")
    except DataError:
        pass
    prototypes = np.where(random.random((10, SIZES[0])) < 0.2, random.integers(64, 256, (10, SIZES[0])), 0)
    labels = random.integers(0, 10, n)
    keep = random.random((n, SIZES[0])) < 0.8
    pixels = np.where(keep, prototypes[labels], 0).astype(np.uint8)
    return Images("ten noisy prototypes", "train", pixels, labels.astype(np.int64), (28, 28), 255, 10)


def pool_layer(seed: int = 0) -> dict[str, Any]:
    """Seconds of forward and backward through synapses alone: a pool of n pairs, and linear layers of n and of 2 n inputs."""
    from torch import nn

    from lavasnn.nn.dlif import PairPool
    from lavasnn.nn.pairs import active_pairs, random_pairs

    torch.manual_seed(seed)
    n, m = SIZES[:2]
    x = (torch.rand(POOL_ROWS, n) < 0.1).float()
    layers = {
        "random pairs": PairPool(n, m, random_pairs(n, n, seed)),
        "active pairs": PairPool(n, m, active_pairs(x, n, seed)),
        "linear": nn.Linear(n, m, bias=False),
        "linear of n + P inputs": nn.Linear(2 * n, m, bias=False),
    }
    inputs = {name: (torch.cat((x, x), 1) if "+" in name else x).requires_grad_() for name in layers}
    spent: dict[str, list[float]] = {name: [] for name in layers}
    for _ in range(40):
        for name, layer in layers.items():  # in turns, so that a busy moment meets all of them
            started = time.perf_counter()
            layer(inputs[name]).sum().backward()
            spent[name].append(time.perf_counter() - started)
    fastest = {name: min(times) for name, times in spent.items()}
    return {
        "ratio_to_linear_of_n_plus_p": round(fastest["random pairs"] / fastest["linear of n + P inputs"], 3),
        "ratio_to_linear_of_n": round(fastest["random pairs"] / fastest["linear"], 3),
        "ms": {name: round(1e3 * s, 3) for name, s in fastest.items()},
        "layer": f"n = {n}, m = {m}, P = n, {POOL_ROWS} rows, forward and backward, fastest of 40",
        "threads": torch.get_num_threads(),
    }


def exact_pairs(seed: int = 0) -> dict[str, Any]:
    """Processor time of the exact executor for one synaptic operation, forming pairs included, with and without pairs."""
    from compile.cost import count
    from compile.pipeline import compile_graph
    from lavasnn.config import parse
    from lavasnn.export import to_graph
    from lavasnn.learning.trainer import Trainer

    images = blobs(np.random.default_rng(seed), PAIR_SAMPLES)
    found: dict[str, dict[str, float]] = {}
    for name, (neuron, choice, pairs) in {
        "lif": ("lif", "random", [1, 1]),
        "random pairs": ("dlif", "random", [SIZES[0], 0]),
        "covariance pairs": ("dlif", "covariance", [SIZES[0], 0]),
        "random pairs in both layers": ("dlif", "random", [SIZES[0], SIZES[1]]),
        "covariance pairs in both layers": ("dlif", "covariance", [SIZES[0], SIZES[1]]),
    }.items():
        spiking = {"steps": 4, "pairs": pairs, "pair_choice": choice}
        network = {"neuron": neuron, "hidden": [SIZES[1]]}
        training = {"epochs": 2, "weight_decay": 0.0, "clip_norm": 0.0}
        run = parse({"data": {"name": "mnist"}, "network": network, "spiking": spiking, "training": training}, "bench")
        trainer = Trainer(run, images, None, seed)
        trainer.run()
        assert isinstance(trainer.net, torch.nn.Sequential)
        program = compile_graph(
            to_graph(trainer.net, trainer.encoding, run.spiking.steps), images.pixels[:64], images.labels[:64]
        )
        counts = count(program, exact.run(program.graph, images.pixels, measure=True))
        spent: list[float] = []
        for _ in range(6):
            started = time.process_time()
            exact.run(program.graph, images.pixels, batch=BATCH)
            spent.append(time.process_time() - started)
        each = min(spent[1:]) / len(images)
        found[name] = {
            "ns_per_syn_op": round(1e9 * each / (counts.total("syn_ops") / counts.samples), 4),
            "us_per_sample_step": round(1e6 * each / run.spiking.steps, 3),
            "syn_ops_per_sample": round(counts.total("syn_ops") / counts.samples, 1),
        }
    plain = found["lif"]["ns_per_syn_op"]
    ratios = {name: round(numbers["ns_per_syn_op"] / plain, 3) for name, numbers in found.items() if name != "lif"}
    return {
        "ratio_per_syn_op": ratios,
        **found,
        "network": f"{'-'.join(map(str, SIZES))}, as many pairs as a layer has inputs, 4 steps, two epochs of training",
        "data": images.name,
    }


def bsd_training(seed: int = 0) -> dict[str, Any]:
    """Seconds of a whole training step (both pathways, gradients, clipping, AdamW) and of gradients alone, both ways."""
    from torch import Tensor
    from torch.nn import functional

    from lavasnn.learning.bsd import bsd
    from lavasnn.learning.rules import Batch
    from lavasnn.nn.bsd import BSDNet
    from lavasnn.sections import BSDSection

    generator = torch.Generator().manual_seed(seed)
    x, labels = torch.rand(128, BSD_SIZES[0], generator=generator), torch.arange(128) % BSD_SIZES[-1]
    batch, section = Batch(x, torch.eye(BSD_SIZES[-1])[labels], [], []), BSDSection()

    def reco(v: Tensor, w: Tensor) -> Tensor:
        C = functional.normalize(v, dim=1) @ functional.normalize(w, dim=1).T
        own = torch.eye(len(C))
        return ((1 - C) * own).square().sum() + section.penalty * (C.clamp(min=0) * (1 - own)).square().sum()

    def stepped(neuron: Pyramidal, basal: Tensor) -> Tensor:
        """Spikes as the neuron's own step has them."""
        v, found = torch.zeros_like(basal[0]), list[Tensor]()
        for a in basal:
            s, v = step(neuron, v, a)
            found.append(s.to(a.dtype))
        return torch.stack(found)

    def voltages(neurons: tuple[Pyramidal, Pyramidal], weights: Sequence[Tensor], current: Tensor) -> list[Tensor]:
        """Mean voltages of a pathway behind its first population, which carry gradients; spikes carry none."""
        spikes, found = stepped(neurons[0], current.expand(section.steps, *current.shape)), list[Tensor]()
        for weight in weights:
            basal = spikes @ weight.T
            found.append(basal.mean(0))
            spikes = stepped(neurons[1], basal.detach())
        return found

    def losses(up: list[Tensor], down: list[Tensor]) -> Tensor:
        """Of all layers, from voltages behind W and behind Theta; each side takes the other's as given."""
        loss = functional.cross_entropy(up[-1], labels, reduction="sum")
        for v, u in zip([x, *up[:-1]], down, strict=True):
            loss = loss + reco(u, v.detach())
        for v, u in zip(up[:-1], down[1:], strict=True):
            loss = loss + reco(v, u.detach())
        return loss

    def differentiated(net: BSDNet, loss: Tensor) -> None:
        net.zero_grad()
        loss.backward()

    def autograd(net: BSDNet) -> None:
        """As one writes the paper's algorithm in torch: spikes detached, both pathways' steps and samples in the graph."""
        up = voltages((net.first1, net.type1), list(net.W), x)
        down = voltages((net.first2, net.type2), list(net.Theta)[::-1], batch.target)[::-1]
        differentiated(net, losses(up, down))

    def autograd_of_means(net: BSDNet) -> None:
        """The same on our own forward pass, where only means over time are in the graph, as synapses are linear."""
        up, down = net.perceive(x), net.recall(batch.target)
        means = [r @ weight.T for r, weight in zip(up.r, net.W, strict=False)]
        differentiated(net, losses(means, [r @ weight.T for r, weight in zip(down.r[1:], net.Theta, strict=True)]))

    ways: dict[str, Callable[[BSDNet], object]] = {
        "closed form": lambda net: bsd(net, batch, section),
        "autograd": autograd,
        "autograd of means": autograd_of_means,
    }
    nets = {name: BSDNet(BSD_SIZES, generator=torch.Generator().manual_seed(seed)) for name in ways}
    optimisers = {name: torch.optim.AdamW(net.parameters(), 1e-3) for name, net in nets.items()}
    gradient: dict[str, list[float]] = {name: [] for name in ways}
    whole: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(12):
        for name, way in ways.items():
            started = time.perf_counter()
            way(nets[name])
            gradient[name].append(time.perf_counter() - started)
            torch.nn.utils.clip_grad_norm_(nets[name].parameters(), 0.3)
            optimisers[name].step()
            whole[name].append(time.perf_counter() - started)
    best = {
        kind: {name: min(times[2:]) for name, times in spent.items()}
        for kind, spent in (("whole", whole), ("gradient", gradient))
    }
    return {
        "step_ratio": round(best["whole"]["autograd"] / best["whole"]["closed form"], 3),
        "gradient_ratio": round(best["gradient"]["autograd"] / best["gradient"]["closed form"], 3),
        "step_ratio_of_means": round(best["whole"]["autograd of means"] / best["whole"]["closed form"], 3),
        "gradient_ratio_of_means": round(best["gradient"]["autograd of means"] / best["gradient"]["closed form"], 3),
        "ms_per_step": {name: round(1e3 * s, 2) for name, s in best["whole"].items()},
        "network": f"{'-'.join(map(str, BSD_SIZES))}, batch 128, T = 4, AdamW, random stimuli",
        "threads": torch.get_num_threads(),
    }


@click.command()
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
def bench(output: Path) -> None:
    """Measure and write OUTPUT (JSON)."""
    torch.set_num_threads(1)
    values = {
        "exact_vs_lava": exact_vs_lava(),
        "diffpc_vs_backprop": training(),
        "pair_pool_vs_linear": pool_layer(),
        "exact_pairs_vs_lif": exact_pairs(),
        "bsd_vs_autograd": bsd_training(),
        "machine": machine(),
    }
    write_text(output, json.dumps(values, indent=1) + "\n")
    click.echo(json.dumps(values, indent=1))


if __name__ == "__main__":
    sys.exit(guarded(lambda: bench.main(standalone_mode=False)))
