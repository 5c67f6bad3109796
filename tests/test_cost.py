"""Counts of a run against plain loops over every message, and the command `lavasnn cost`."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compile import cost
from compile.backends import exact
from compile.pipeline import compile_graph
from compile.program import Order, Program, Route, Slice
from compile.target import LOIHI2, Target
from lavasnn.cli import main
from lavasnn.dynamics.diffpc import DiffPC
from lavasnn.dynamics.graded import GradedInt
from lavasnn.dynamics.lif import LifInt
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.measure import energy, neurobench
from lavasnn.measure.energy import Counts
from lavasnn.results import RunResult
from lavasnn.synapses import Conv, Deconv, Dense, Grid, Owned, Sparse, Transposed, sparse_from

Synapse = tuple[int, int, int]
"""Receiver, sender, weight."""


def written_out(s: Owned) -> list[Synapse]:
    """Every stored synapse, by plain loops."""
    if isinstance(s, Deconv):
        return [(i, j, w) for j, i, w in written_out(s.conv)]
    if isinstance(s, Dense):
        return [(j, i, int(w)) for j, row in enumerate(s.weight) for i, w in enumerate(row)]
    if isinstance(s, Sparse):
        return [
            (j, int(s.pre[k]), int(s.weight[k])) for j in range(s.shape[0]) for k in range(int(s.start[j]), int(s.start[j + 1]))
        ]
    found: list[Synapse] = []
    (outs, rows, columns), (channels, height, width) = s.image_out, s.image
    inside, per_group = channels // s.groups, outs // s.groups
    for o in range(outs):
        for y in range(rows):
            for x in range(columns):
                for c in range(inside):
                    for i in range(s.weight.shape[2]):
                        for j in range(s.weight.shape[3]):
                            v = y * s.stride[0] - s.padding[0] + i * s.dilation[0]
                            h = x * s.stride[1] - s.padding[1] + j * s.dilation[1]
                            if 0 <= v < height and 0 <= h < width:
                                pre = ((o // per_group * inside + c) * height + v) * width + h
                                found.append(((o * rows + y) * columns + x, pre, int(s.weight[o, c, i, j])))
    return found


def in_order(program: Program, population: str, n: int) -> int:
    """The neuron that slices count as number n: in blocks of channels, in a block position by position."""
    if (order := program.orders.get(population)) is None:
        return n
    block, rest = divmod(n, order.block * order.positions)
    position, channel = divmod(rest, order.block)
    return (block * order.block + channel) * order.positions + position


def plain(program: Program, result: RunResult, target: Target) -> tuple[dict[str, Counter[str]], Counter[int], int, int]:
    """Counts of each population, messages by hops, across chips and from outside: one message at a time, from traces."""
    graph = program.graph
    counts: dict[str, Counter[str]] = {p.name: Counter() for p in graph.populations}
    hops, across, outside = Counter[int](), 0, 0
    home = {(s.population, in_order(program, s.population, n)): s.core for s in program.slices for n in range(s.start, s.stop)}
    for p in graph.projections:
        synapses = written_out(graph.synapses(p))
        for _, _, sender in np.argwhere(result.traces[f"{p.source}.{p.carries}"]):
            mine = [s for s in synapses if s[1] == sender]
            counts[p.target]["syn_ops"] += len(mine)
            counts[p.target]["syn_ops_nonzero"] += sum(w != 0 for _, _, w in mine)
            for core in {home[p.target, j] for j, _, _ in mine}:
                counts[p.target]["spikes_in"] += 1
                counts[p.source]["axon_out"] += 1
                if (p.source, sender) not in home:
                    outside += 1
                    continue
                places = [program.places[home[p.source, sender]], program.places[core]]
                (x, y), (v, w) = [(column, chip * target.mesh_height.value + row) for chip, column, row in places]
                borders = abs(places[0][0] - places[1][0])  # chips lie below one another
                hops[abs(x - v) + abs(y - w) - borders] += 1
                across += borders > 0
    return counts, hops, across, outside


def check(program: Program, result: RunResult, target: Target) -> Counts:
    """Compare all that both count."""
    found = cost.count(program, result)
    counts, hops, across, outside = plain(program, result, target)
    for layer in found.layers:
        mine = counts[layer.population]
        for name in ("syn_ops", "syn_ops_nonzero", "spikes_in", "axon_out"):
            assert getattr(layer, name) == mine[name], (layer.population, name)
    assert dict(found.messages_by_hops) == {h: n for h, n in sorted(hops.items()) if n}
    assert (found.messages_across_chips, found.messages_from_outside) == (across, outside)
    return found


def tight(neurons: int, chips: int = 1, cores: int | None = None) -> Target:
    """A target whose cores hold few neurons."""
    limits: dict[str, Any] = {"neurons_per_core": replace(LOIHI2.neurons_per_core, value=neurons)}
    limits["chips"] = replace(LOIHI2.chips, value=chips)
    if cores is not None:
        side = round(cores**0.5)
        limits |= {"cores": replace(LOIHI2.cores, value=cores)}
        limits |= {name: replace(getattr(LOIHI2, name), value=side) for name in ("mesh_width", "mesh_height")}
    return replace(LOIHI2, **limits)


def even(random: np.random.Generator, *shape: int, keep: float = 0.6) -> NDArray[np.int16]:
    return (2 * random.integers(-20, 30, shape) * (random.random(shape) < keep)).astype(np.int16)


def stock(random: np.random.Generator) -> Graph:
    """All kinds of synapses, payloads, and a loop."""
    conv = Conv(even(random, 4, 1, 3, 3), (2, 5, 4), (2, 1), (1, 0), groups=2, grid=Grid())
    populations = (
        Population("input", 40, Source()),
        Population("maps", conv.shape[0], LifInt(4095, 1024, 20)),
        Population("vector", 9, GradedInt(20)),
        Population("output", 5, LifInt(4095, 512, 100)),
    )
    projections = (
        Projection("conv", "input", "maps", conv),
        Projection("sparse", "maps", "vector", sparse_from(even(random, 9, conv.shape[0], keep=0.15), Grid())),
        Projection("dense", "vector", "output", Dense(even(random, 5, 9), Grid(exponent=-3))),
        Projection("loop", "output", "output", Dense(even(random, 5, 5), Grid()), delay=2),
    )
    return Graph(populations, projections, Encoding("bernoulli", levels=10), "output", 7)


@pytest.mark.parametrize(
    "target", [LOIHI2, tight(4), tight(4, chips=3, cores=4), tight(11)], ids=["large", "tight", "three chips", "by position"]
)
def test_a_stock_network_agrees_with_plain_loops(target: Target) -> None:
    """With 11 neurons a core, two positions of all 4 channels fit one where one channel of 6 positions does."""
    random = np.random.default_rng(3)
    graph, pixels = stock(random), random.integers(0, 11, (4, 40)).astype(np.uint8)
    program = compile_graph(graph, pixels, np.zeros(4, np.int64), target)
    assert program.orders == ({"maps": Order(channels=4, positions=6, block=4)} if target == tight(11) else {})
    result = exact.run(program.graph, pixels, record=True, measure=True)
    found = check(program, result, target)
    assert all(layer.syn_ops > layer.syn_ops_nonzero > 0 for layer in found.layers if layer.population in ("maps", "output"))
    assert [layer.neurons for layer in found.layers] == [0, *(p.size for p in graph.populations[1:])]
    assert [layer.dendrite_updates for layer in found.layers] == [0, *(p.size * 7 * 4 for p in graph.populations[1:])]
    spiking = {"maps", "vector", "output"}
    active = {layer.population: layer.active_updates for layer in found.layers}
    assert {name: active[name] for name in spiking} == {n: int(result.messages[f"{n}.s"].sum()) for n in spiking}
    assert found.messages_from_outside > 0
    assert found.chips == len({chip for chip, _, _ in program.places})
    assert (found.chips > 1) == (found.messages_across_chips > 0)
    assert found.latency_steps == 7  # with a loop all windows open together
    assert found.memory_bytes == program.fit["memory_bytes"]


def test_a_transposed_convolution_agrees_with_plain_loops() -> None:
    random = np.random.default_rng(4)
    back = Deconv(Conv(even(random, 2, 3, 4, 4), (3, 6, 6), (2, 2), (1, 1), grid=Grid()))
    populations = (
        Population("input", back.shape[1], Source()),
        Population("wide", back.shape[0], LifInt(4095, 1024, 20)),
        Population("output", 4, GradedInt(20)),
    )
    projections = (
        Projection("back", "input", "wide", back),
        Projection("dense", "wide", "output", Dense(even(random, 4, back.shape[0]), Grid())),
    )
    graph = Graph(populations, projections, Encoding("bernoulli", levels=10), "output", 7)
    pixels = random.integers(0, 11, (4, back.shape[1])).astype(np.uint8)
    program = compile_graph(graph, pixels, np.zeros(4, np.int64), tight(9))
    assert program.orders == {"wide": Order(channels=3, positions=36, block=3)}
    found = check(program, exact.run(program.graph, pixels, record=True, measure=True), tight(9))
    assert found.total("syn_ops") > found.total("syn_ops_nonzero") > 0


def diffpc(random: np.random.Generator) -> Graph:
    timing = Timing(m=1, n=4, init_cycles=2, settle_cycles=2)
    sizes, roles = (12, 9, 4), ("input", "hidden", "output")
    w1, w2 = random.normal(0, 0.5, (9, 12)), random.normal(0, 0.7, (4, 9)) * (random.random((4, 9)) < 0.5)
    return Graph(
        tuple(Population(role, sizes[l], DiffPC(role, l, timing)) for l, role in enumerate(roles)),
        (
            Projection("w1", "input", "hidden", Dense(w1), "s_A", "a_x"),
            Projection("w2", "hidden", "output", Dense(w2), "s_A", "a_x"),
            Projection("w2t", "output", "hidden", Transposed("w2"), "s_e", "a_e"),
        ),
        Encoding("value", -2, 16),
        "output",
    )


@pytest.mark.parametrize("settle", [False, True])
def test_diffpc_agrees_with_plain_loops_in_both_phases(settle: bool) -> None:
    random = np.random.default_rng(5)
    pixels, labels = random.integers(0, 17, (5, 12)).astype(np.uint8), random.integers(0, 4, 5)
    program = compile_graph(diffpc(random), pixels, labels, tight(5))
    result = exact.run(program.graph, pixels, labels, settle=settle, record=True, measure=True)
    found = check(program, result, tight(5))
    steps = program.graph.phases(settle)[-1].stop
    assert [layer.dendrite_updates for layer in found.layers] == [size * steps * 5 for size in (12, 9, 4)]
    assert found.messages_from_outside == 0  # DiffPC's input neurons sit on cores
    for layer in found.layers:
        kinds = [result.traces[f"{layer.population}.{kind}"] != 0 for kind in DiffPC.MESSAGES]
        either = int((kinds[0] | kinds[1]).sum())
        assert max(int(k.sum()) for k in kinds) <= layer.active_updates <= either


def by_hand() -> tuple[Program, RunResult]:
    """3-2-1 neurons; hidden on two cores, output on a third, two columns and a row away; one route between chips."""
    grid = Grid()
    graph = Graph(
        (
            Population("input", 3, Source()),
            Population("hidden", 2, LifInt(4095, 0, 1)),
            Population("output", 1, LifInt(4095, 0, 3)),
        ),
        (
            Projection("w1", "input", "hidden", Dense(np.array([[2, 0, 2], [0, 0, 4]], np.int16), grid)),
            Projection("w2", "hidden", "output", sparse_from(np.array([[0, 4]], np.int16), grid)),
        ),
        Encoding("given", levels=1),
        "output",
        3,
    )
    slices = (Slice(0, "hidden", 0, 1, 3, 10), Slice(1, "hidden", 1, 2, 3, 10), Slice(2, "output", 0, 1, 1, 10))
    routes = (Route(1, 2, 1, 0.0, 3, 1),)
    places = ((0, 0, 0), (0, 1, 0), (1, 3, 1))
    program = Program(graph, "loihi2", slices, graph.offsets, places=places, routes=routes)
    shown = np.array([[[1, 1, 0], [0, 0, 0], [0, 0, 0]], [[0, 0, 1], [1, 0, 1], [0, 0, 0]]], np.int8)
    return program, exact.run(graph, shown, measure=True)


def test_by_hand() -> None:
    program, result = by_hand()
    found = cost.count(program, result)
    # Five messages of the input, each with two stored synapses on two cores; weights other than zero: 2 x 1, 1 x 0, 2 x 2.
    # Both hidden neurons spike whenever something arrives, and the second one alone has a synapse behind it.
    assert [(layer.syn_ops, layer.syn_ops_nonzero) for layer in found.layers] == [(0, 0), (10, 6), (2, 2)]
    assert [(layer.spikes_in, layer.axon_out) for layer in found.layers] == [(0, 10), (10, 2), (2, 0)]
    assert [layer.active_updates for layer in found.layers] == [0, 5, 2]
    assert [layer.dendrite_updates for layer in found.layers] == [0, 12, 6]
    assert (dict(found.messages_by_hops), found.messages_across_chips, found.messages_from_outside) == ({3: 2}, 2, 10)
    assert (found.samples, found.steps, found.latency_steps, found.cores, found.chips) == (2, 3, 5, 3, 2)


def test_a_program_without_places_has_no_hops() -> None:
    program, result = by_hand()
    found = cost.count(replace(program, places=(), routes=()), result)
    assert (dict(found.messages_by_hops), found.chips) == ({}, 1)
    assert found.total("axon_out") == 12


def test_what_cannot_be_counted_is_refused() -> None:
    program, result = by_hand()
    with pytest.raises(InputError, match=r"run with measure=True keeps them"):
        cost.count(program, replace(result, by_neuron={}))
    with pytest.raises(
        InputError, match=r"the run is of {'input': 4}, the program of {'input': 3, .*}; they have to be the same"
    ):
        cost.count(program, replace(result, sizes={"input": 4}))
    with pytest.raises(InputError, match=r"'w2' has no route from slice 1 to slice 2; compile it again"):
        cost.count(replace(program, routes=(Route(0, 2, 1, 0.0, 3, 1),)), result)


def lavasnn(*arguments: object) -> tuple[int, str, str]:
    """Run a command in this process: exit status, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return int(stop.value.code or 0), out.getvalue(), err.getvalue()


def test_the_command_prints_counts_before_estimates(tmp_path: Path) -> None:
    program, result = by_hand()
    program.save(tmp_path / "p")
    shown = np.array([[[1, 1, 0], [0, 0, 0], [0, 0, 0]], [[0, 0, 1], [1, 0, 1], [0, 0, 0]]], np.int8)
    np.save(tmp_path / "shown.npy", shown)
    status, out, err = lavasnn("cost", tmp_path / "p", "--input", tmp_path / "shown.npy", "--json")
    assert status == 0, err
    assert out.count("\n") == 1
    values = json.loads(out)
    counts = cost.count(program, result)
    assert values["counts"] == counts.to_json()
    assert values["proxy_per_sample"] == (12 + 10 * 18) / 2 == energy.proxy(counts)
    assert values["estimates"] == [e.to_json() for e in energy.estimates(counts)]
    assert values["neurobench"] == neurobench.metrics(program.graph, result)
    assert values["phases"] == ["run"]
    status, out, err = lavasnn("cost", tmp_path / "p", "--input", tmp_path / "shown.npy")
    assert status == 0, err
    order = [
        "2 samples of 3 steps (run) on 3 cores of 2 chips",
        "Counted, per sample",
        "Messages between cores, by distance",
        "3 hops",
        "from the host, hops unknown",
        "of all: across chips",
        "NeuroBench: footprint 32 bytes",
        "Intel's proxy, SynOPS + 10 NeuronOPS: 96.0 per sample, no unit",
        "latency: 5 us to 50 us per sample (estimate: ",
        "dynamic energy: ",
        "(estimate: Loihi 1, pre-silicon, lower bound)",
        "static energy: 10.7 uJ to 107 uJ per sample (estimate: static power of 2 chips, 3.56 W, times wall time)",
        "2609.32317",
    ]
    places = [out.index(text) for text in order]
    assert places == sorted(places)


def test_the_command_counts_the_second_phase_too(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    pixels, labels = random.integers(0, 17, (5, 12)).astype(np.uint8), random.integers(0, 4, 5)
    program = compile_graph(diffpc(random), pixels, labels, tight(5))
    program.save(tmp_path / "p")
    np.savez(tmp_path / "samples.npz", x=pixels, labels=labels)
    found: dict[str, Any] = {}
    for phases in ("init", "both"):
        status, out, err = lavasnn(
            "cost", tmp_path / "p", "--input", tmp_path / "samples.npz", "--phases", phases, "--batch", 2, "--json"
        )
        assert status == 0, err
        found[phases] = json.loads(out)["counts"]
        result = exact.run(program.graph, pixels, labels, settle=phases == "both", measure=True)
        assert found[phases] == cost.count(program, result).to_json()
    assert found["both"]["total"]["syn_ops"] > found["init"]["total"]["syn_ops"]


def test_the_command_takes_programs_alone(tmp_path: Path) -> None:
    by_hand()[0].graph.save(tmp_path / "g")
    status, out, err = lavasnn("cost", tmp_path / "g", "--input", "random")
    assert (status, out) == (2, "")
    assert err == f"error: cost: {tmp_path / 'g'} is a graph, a program is needed; run `lavasnn compile` on it\n"
