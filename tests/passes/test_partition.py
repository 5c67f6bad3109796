"""Neurons onto cores: everything once, nothing over a limit, and a clear word where that cannot be."""

from collections import defaultdict
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from compile.passes.links import NO_LINKS
from compile.passes.partition import Partition
from compile.passes.schedule import Schedule
from compile.passes.state import State
from compile.target import LOIHI2, Target
from lavasnn.dynamics.diffpc import DiffPCInt
from lavasnn.dynamics.graded import GradedInt
from lavasnn.dynamics.lif import LifInt
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.synapses import Conv, Deconv, Dense, Grid, Owned, Sparse, Transposed, sparse_from


def lif(sizes: list[int]) -> Graph:
    names = [f"p{i}" for i in range(len(sizes))]
    neuron = LifInt(du=4095, dv=0, vth=5)
    populations = [Population(n, s, Source() if i == 0 else neuron) for i, (n, s) in enumerate(zip(names, sizes, strict=True))]
    projections = [
        Projection(f"w{i}", names[i - 1], names[i], Dense(np.zeros((sizes[i], sizes[i - 1]), np.int16), Grid()))
        for i in range(1, len(sizes))
    ]
    return Graph(tuple(populations), tuple(projections), Encoding("bernoulli", levels=16), names[-1], 4)


def diffpc(sizes: list[int]) -> Graph:
    names = [f"p{i}" for i in range(len(sizes))]
    timing = Timing(m=2, n=3, init_cycles=len(sizes))
    populations: list[Population] = []
    projections: list[Projection] = []
    for i, size in enumerate(sizes):
        role = "input" if i == 0 else "output" if i == len(sizes) - 1 else "hidden"
        populations.append(Population(names[i], size, DiffPCInt(role, i, timing, point=4)))
        if i:
            weight = np.zeros((size, sizes[i - 1]), np.int16)
            projections.append(Projection(f"w{i}", names[i - 1], names[i], Dense(weight, Grid()), "s_A", "a_x"))
        if i > 1:
            projections.append(Projection(f"w{i}t", names[i], names[i - 1], Transposed(f"w{i}"), "s_e", "a_e"))
    return Graph(tuple(populations), tuple(projections), Encoding("value", -2, 16), names[-1])


def small(**limits: int) -> Target:
    """Loihi 2 with other limits."""
    return replace(LOIHI2, **{name: replace(getattr(LOIHI2, name), value=value) for name, value in limits.items()})


def many(cores: int, **limits: int) -> Target:
    """Loihi 2 with as many cores, in one row."""
    return small(cores=cores, mesh_width=cores, mesh_height=1, **limits)


def state(graph: Graph, target: Target = LOIHI2) -> State:
    return State(graph, target, np.zeros((1, graph.source.size), np.uint8), np.zeros(1, np.int64))


Synapse = tuple[int, int, Any]
"""Receiver, sender, and what in memory holds the weight."""


def single_synapses(s: Owned) -> list[Synapse]:
    """Every synapse by itself, from the definition of each structure."""
    if isinstance(s, Dense):
        return [(j, i, (j, i)) for j in range(s.weight.shape[0]) for i in range(s.weight.shape[1])]
    if isinstance(s, Deconv):
        return [(i, j, w) for j, i, w in single_synapses(s.conv)]
    if isinstance(s, Sparse):
        return [(j, int(s.pre[k]), k) for j in range(len(s.start) - 1) for k in range(s.start[j], s.start[j + 1])]
    out, inside, high, wide = s.weight.shape
    (_, rows, columns), (_, below, right) = s.image, s.image_out
    found: list[Synapse] = []
    for o, y, x, c, i, j in product(range(out), range(below), range(right), range(inside), range(high), range(wide)):
        v = y * s.stride[0] - s.padding[0] + i * s.dilation[0]
        h = x * s.stride[1] - s.padding[1] + j * s.dilation[1]
        if 0 <= v < rows and 0 <= h < columns:
            sender = ((o // (out // s.groups)) * inside + c) * rows * columns + v * columns + h
            found.append(((o * below + y) * right + x, sender, (o, c, i, j)))
    return found


def axon(s: Owned, sender: int) -> int:
    """A neuron's axon: its own, or that of its position and group in the image of a convolution."""
    if not isinstance(s, Conv | Deconv):
        return sender
    plane = s.image[1] * s.image[2]
    return sender // plane // (s.image[0] // s.groups) * plane + sender % plane


@dataclass
class Use:
    """What the test counts for a slice."""

    memory: int
    synapses: int
    weights: int
    axons_in: int
    axons_out: int


def sitting(after: State) -> list[list[int]]:
    """The neurons of each slice: in an image with an order sorted by block, position and channel, in all others as they are."""
    found: list[list[int]] = []
    for piece in after.slices:
        numbers = list(range(after.graph.population(piece.population).size))
        if (order := after.orders.get(piece.population)) is not None:
            assert len(numbers) == order.channels * order.positions
            numbers.sort(key=lambda j: (j // order.positions // order.block, j % order.positions, j))
        found.append(numbers[piece.start : piece.stop])
    return found


def counted(after: State, traffic: Mapping[str, NDArray[np.float64]]) -> tuple[list[Use], dict[tuple[int, int], float]]:
    """Resources of all slices and messages between them from single synapses: the rules of the module's text in plain loops."""
    graph, slices, neurons = after.graph, after.slices, [set(some) for some in sitting(after)]
    uses = [Use(0, 0, 0, 0, 0) for _ in slices]
    ring = [0] * len(slices)
    messages: defaultdict[tuple[int, int], float] = defaultdict(float)
    for q in graph.projections:
        s = graph.synapses(q)
        parts = single_synapses(s)
        for n, piece in enumerate(slices):
            if piece.population != q.target:
                continue
            mine = [(i, w) for j, i, w in parts if j in neurons[n]]
            axons = {axon(s, i) for i, _ in mine}
            held = len({w for _, w in mine})
            if isinstance(s, Conv | Deconv):
                held = channels(s, neurons[n]) * s.weight.size // s.image_out[0]
            uses[n].synapses += len(mine)
            uses[n].weights += held
            uses[n].axons_in += len(axons)
            uses[n].memory += held * (3 if isinstance(s, Sparse) else 1) + 4 * len(axons)
            ring[n] = max(ring[n], int(np.max(q.delay)))
            for m, origin in enumerate(slices):
                if origin.population == q.source:
                    out = {axon(s, i) for i, _ in mine if i in neurons[m]}
                    uses[m].axons_out += len(out)
                    uses[m].memory += 4 * len(out)
                    if out:
                        own = [i for i in neurons[m] if axon(s, i) in out]
                        messages[m, n] += float(traffic[f"{q.source}.{q.carries}"][own].sum())
    for n, piece in enumerate(slices):
        state = 6
        if graph.timing is not None and piece.population != graph.source.name:
            state = 19
        dynamics = graph.population(piece.population).dynamics
        if isinstance(dynamics, GradedInt):
            state = 3
        if isinstance(dynamics, LifInt) and np.ndim(dynamics.bias_mant):
            state += 2
        state += 3 * (ring[n] + 1) if ring[n] else 0
        uses[n].memory += (piece.stop - piece.start) * state
    return uses, dict(messages)


def channels(s: Conv | Deconv, neurons: set[int]) -> int:
    plane = s.image_out[1] * s.image_out[2]
    return len({j // plane for j in neurons})


def mixed(seed: int) -> Graph:
    """Convolution, back too if it has one group, sparse and all-to-all synapses, delays, a loop, biases, graded neurons."""
    random = np.random.default_rng(seed)
    groups = int(random.choice([1, 2]))
    kernel = (int(random.integers(1, 4)) * 2, 4 // groups, int(random.integers(1, 4)), int(random.integers(1, 4)))
    conv = Conv(
        random.integers(-5, 5, kernel).astype(np.int16) * 2,
        (4, int(random.integers(4, 8)), int(random.integers(4, 8))),
        stride=(int(random.integers(1, 3)), int(random.integers(1, 3))),
        padding=(int(random.integers(0, 2)), int(random.integers(0, 2))),
        groups=groups,
        grid=Grid(),
    )
    n, first, last = conv.shape[0], int(np.prod(conv.image)), int(random.integers(3, 12))
    loop = sparse_from(random.integers(0, 2, (n, n)) * 2 * (random.random((n, n)) < 0.2), Grid())
    weight = Dense(np.full((last, n), 2, np.int16), Grid())
    neuron = LifInt(du=4095, dv=0, vth=5, bias_mant=np.arange(n, dtype=np.int32))
    populations = (
        Population("in", first, Source()),
        Population("image", first, LifInt(du=4095, dv=0, vth=5)),
        Population("hidden", n, neuron),
        Population("out", last, GradedInt(3)),
    )
    own = sparse_from(np.eye(first, dtype=np.int16) * 2, Grid())
    projections = (
        Projection("given", "in", "image", own),
        Projection("conv", "image", "hidden", conv),
        Projection(
            "loop", "hidden", "hidden", replace(loop, weight=loop.weight.astype(np.int16)), delay=int(random.integers(0, 4))
        ),
        Projection("read", "hidden", "out", weight, delay=random.integers(0, 3, n)),
    )
    if groups == 1:
        populations = (*populations, Population("again", first, LifInt(du=4095, dv=0, vth=5)))
        projections = (*projections, Projection("back", "hidden", "again", Deconv(conv)))
    return Graph(populations, projections, Encoding("bernoulli", levels=16), "out", 4)


def check(graph: Graph, target: Target) -> State:
    """Every neuron once, in order; every count as the plain loops give it; no core over a limit unless it is told."""
    random = np.random.default_rng(0)
    traffic = {f"{q.source}.{q.carries}": random.random(graph.population(q.source).size) for q in graph.projections}
    after = Partition().apply(replace(state(graph, target), traffic=traffic))
    slices = after.slices
    cores = [s.core for s in slices]
    assert cores[0] == 0 and all(b - a in (0, 1) for a, b in pairwise(cores))
    wanted = [(p.name, i) for p in graph.populations if not isinstance(p.dynamics, Source) for i in range(p.size)]
    assert [(s.population, i) for s in slices for i in range(s.start, s.stop)] == wanted
    assert {(s.population, i) for s, some in zip(slices, sitting(after), strict=True) for i in some} == set(wanted)
    uses, messages = counted(after, traffic)
    links = {(a, b): n for a, b, n in zip(after.links.source, after.links.target, after.links.axons, strict=True)}
    passing = zip(after.links.source.tolist(), after.links.target.tolist(), after.links.messages.tolist(), strict=True)
    assert {(a, b): n for a, b, n in passing} == pytest.approx(messages)
    for n, (s, use) in enumerate(zip(slices, uses, strict=True)):
        found = (s.memory_bytes, s.synapses, s.weights, s.axons_in, sum(v for (a, _), v in links.items() if a == n))
        assert found == (use.memory, use.synapses, use.weights, use.axons_in, use.axons_out)
    for core in range(cores[-1] + 1):
        here = [n for n, s in enumerate(slices) if s.core == core]
        for total, limit in (
            (sum(slices[n].stop - slices[n].start for n in here), target.neurons_per_core),
            (sum(uses[n].memory for n in here), target.memory_per_core),
            (sum(uses[n].weights for n in here), target.synapses_per_core),
            (sum(uses[n].axons_in for n in here), target.fan_in_per_core),
            (sum(uses[n].axons_out for n in here), target.fan_out_per_core),
        ):
            assert total <= limit.value or after.violations
    return after


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 60), min_size=2, max_size=4),
    st.booleans(),
    st.integers(1, 40),
    st.integers(400, 4000),
    st.integers(60, 500),
)
def test_every_neuron_sits_once_and_no_core_is_overfull(
    sizes: list[int], stock: bool, neurons: int, memory_bytes: int, axons: int
) -> None:
    graph = lif(sizes) if stock else diffpc(sizes)
    check(graph, many(10_000, neurons_per_core=neurons, memory_per_core=memory_bytes, fan_out_per_core=axons))


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(400, 6000), st.integers(20, 200), st.integers(30, 800))
def test_convolutions_loops_and_delays_are_counted_as_single_synapses_would_be(
    seed: int, memory_bytes: int, neurons: int, axons: int
) -> None:
    graph = mixed(seed)
    after = check(graph, many(10_000, neurons_per_core=neurons, memory_per_core=memory_bytes, fan_out_per_core=axons))
    told = {v.resource for v in after.violations}
    assert told <= {"bytes for one neuron and its axons", "output axons for one neuron", "input axons"}


def looking(channels: int, rows: int, kernel: int = 1, inside: int = 1) -> Graph:
    """An image of that many channels and rows, of 5 columns, behind a convolution of an input of as many rows."""
    weight = np.full((channels, inside, kernel, kernel), 2, np.int16)
    conv = Conv(weight, (inside, rows, 5), padding=(kernel // 2, kernel // 2), grid=Grid())
    neuron = LifInt(du=4095, dv=0, vth=5)
    populations = (Population("in", conv.shape[1], Source()), Population("image", conv.shape[0], neuron))
    return Graph(populations, (Projection("w", "in", "image", conv),), Encoding("bernoulli", levels=16), "image", 4)


@pytest.mark.parametrize(
    "channels, rows, neurons, size, ordered",
    [
        (6, 4, 45, 40, False),  # two channels of 20, where positions of 6 would fill four cores
        (1, 12, 12, 10, False),  # two rows of 5
        (6, 4, 12, 12, True),  # two positions, where two rows of a channel would fill twelve cores
        (6, 4, 3, 3, False),  # neither a row nor a position
    ],
)
def test_whole_channels_rows_and_positions_stay_together_if_they_fit(
    channels: int, rows: int, neurons: int, size: int, ordered: bool
) -> None:
    after = check(looking(channels, rows), many(100, neurons_per_core=neurons))
    assert {s.stop - s.start for s in after.slices} == {size}
    assert ("image" in after.orders) == ordered


def two_images() -> Graph:
    """16 channels of 4 x 5 lead to 16 of the same size with 16 x 9 weights each."""
    first, conv = looking(16, 4), Conv(np.full((16, 16, 3, 3), 2, np.int16), (16, 4, 5), padding=(1, 1), grid=Grid())
    return replace(
        first,
        populations=(*first.populations, replace(first.populations[1], name="next")),
        projections=(*first.projections, Projection("v", "image", "next", conv)),
        output="next",
    )


@pytest.mark.parametrize("memory, weights, block", [(4608, 2304, 16), (4607, 2304, 8), (4608, 2303, 8)])
def test_positions_take_fewer_cores_where_many_channels_lead_on(memory: int, weights: int, block: int) -> None:
    """A core reaches 40 axons: a position of one channel reaches a core for each channel or two, one of all channels a few
    neighbours. 16 kernels are 2,304 weights, half a memory of 4,608 bytes; with less room for them there are two blocks.
    """
    target = many(1000, neurons_per_core=40, memory_per_core=memory, synapses_per_core=weights, fan_out_per_core=40)
    after = check(two_images(), target)
    assert {name: order.block for name, order in after.orders.items()} == {"image": 16, "next": block}
    assert not after.violations


@pytest.mark.parametrize("weights, ordered", [(11_600, True), (11_599, False)])
def test_blocks_are_not_taken_where_their_copies_of_kernels_are_too_many(weights: int, ordered: bool) -> None:
    """Five cores of 64 neurons hold all 2,320 kernel weights each, where channel by channel every one is held once."""
    target = many(1000, neurons_per_core=64, memory_per_core=6000, fan_out_per_core=400, synapses_per_chip=weights)
    after = check(two_images(), target)
    assert bool(after.orders) == ordered
    assert not after.violations
    assert sum(s.weights for s in after.slices) == (11_600 if ordered else 2320)


def test_as_few_cores_as_the_limits_allow() -> None:
    """100 neurons of 64 + 6 bytes over cores with 256 bytes of axons and room for 20: five cores of 20."""
    target = small(memory_per_core=4 * 64 + 20 * 70)
    slices = Partition().apply(state(lif([64, 100]), target)).slices
    assert [(s.start, s.stop) for s in slices] == [(0, 20), (20, 40), (40, 60), (60, 80), (80, 100)]
    assert [s.core for s in slices] == [0, 1, 2, 3, 4]
    assert {s.memory_bytes for s in slices} == {4 * 64 + 20 * 70}


def test_small_populations_share_a_core() -> None:
    """Three of 10 neurons: 30 on a core of 30, 10 and 20 on cores of 29."""
    graph = lif([8, 10, 10, 10])
    assert [s.core for s in Partition().apply(state(graph, small(neurons_per_core=30))).slices] == [0, 0, 0]
    assert [s.core for s in Partition().apply(state(graph, small(neurons_per_core=29))).slices] == [0, 0, 1]


def test_senders_are_cut_for_the_cores_they_lead_to() -> None:
    """30 neurons lead to 4 ranges of receivers: with 40 output axons a core, 10 of them fit one."""
    graph = lif([5, 30, 40])
    after = check(graph, small(neurons_per_core=30, memory_per_core=10 * 36 + 30 * 4, fan_out_per_core=40))
    assert [s.stop - s.start for s in after.slices if s.population == "p2"] == [10, 10, 10, 10]
    assert [s.stop - s.start for s in after.slices if s.population == "p1"] == [10, 10, 10]


def told(graph: Graph, target: Target) -> list[tuple[str, str, int, int]]:
    return [(v.who, v.resource, v.needed, v.limit) for v in Partition().apply(state(graph, target)).violations]


@pytest.mark.parametrize(
    "graph, target, expected",
    [
        (lif([64, 10]), small(fan_in_per_core=63), ("population 'p1'", "input axons", 64, 63)),
        (diffpc([4, 8, 9]), small(fan_in_per_core=12), ("population 'p1'", "input axons", 13, 12)),
        (lif([64, 10]), small(memory_per_core=325), ("population 'p1'", "bytes for one neuron and its axons", 326, 325)),
        (lif([64, 10]), small(synapses_per_core=63), ("population 'p1'", "stored weights for one neuron", 64, 63)),
        (
            lif([4, 1, 9]),
            small(neurons_per_core=2, fan_out_per_core=4),
            ("population 'p1'", "output axons for one neuron", 5, 4),
        ),
        (lif([8, 50]), small(neurons_per_core=7, cores=7), ("the network on loihi2", "cores", 8, 7)),
        (lif([8, 50]), small(neurons_per_chip=49), ("the network on loihi2", "neurons", 50, 49)),
        (lif([8, 50]), small(synapses_per_chip=399), ("the network on loihi2", "stored weights", 400, 399)),
    ],
    ids=["fan-in", "fan-in with errors", "memory", "weights", "fan-out", "cores", "neurons", "all weights"],
)
def test_what_does_not_fit_is_named_with_need_and_limit(graph: Graph, target: Target, expected: tuple[Any, ...]) -> None:
    assert told(graph, target) == [expected]
    (violation,) = Partition().apply(state(graph, target)).violations
    assert str(violation).startswith(f"{expected[0]}: needs {expected[2]} {expected[1]}, the target has {expected[3]}; ")


def test_all_that_does_not_fit_is_named_at_once() -> None:
    """A neuron of p3 takes 70 + 6 + 280 bytes: 5 ranges. So one of p2 takes 10 + 6 + 20, seven a core: 10 ranges. So one of
    p1 takes 64 + 6 + 256 + 40, a core each.
    """
    target = small(fan_in_per_core=63, memory_per_core=300, cores=3, neurons_per_chip=15)
    assert told(lif([64, 10, 70, 5]), target) == [
        ("population 'p1'", "bytes for one neuron and its axons", 366, 300),
        ("population 'p1'", "input axons", 64, 63),
        ("population 'p3'", "bytes for one neuron and its axons", 356, 300),
        ("population 'p3'", "input axons", 70, 63),
        ("the network on loihi2", "cores", 25, 3),
        ("the network on loihi2", "neurons", 85, 15),
    ]


def test_too_many_cores_names_the_population_that_takes_most() -> None:
    (violation,) = Partition().apply(state(lif([8, 50, 20]), small(neurons_per_core=10, cores=6))).violations
    assert (violation.needed, violation.limit) == (7, 6)
    assert "population 'p1' alone is cut into 5 ranges" in violation.hint


@pytest.mark.parametrize("sizes", [[784, 400, 10], [784, 1024, 512, 256, 10]])
def test_loihi2_takes_networks_of_the_examples_size(sizes: list[int]) -> None:
    after = Partition().apply(state(diffpc(sizes)))
    assert after.report["partition"] == {"cores": [after.slices[-1].core + 1, 120], "slices": len(after.slices)}
    assert not after.violations
    assert sum(s.stop - s.start for s in after.slices) == sum(sizes)


def test_messages_of_links_are_those_of_the_senders() -> None:
    """Sparse: neuron 0 leads to both ranges of receivers, neuron 1 to the second, neuron 2 nowhere."""
    weight = np.array([[2, 0, 0], [0, 0, 0], [2, 2, 0], [0, 2, 0]], np.int16)
    neuron = LifInt(du=4095, dv=0, vth=5)
    populations = (Population("in", 3, Source()), Population("a", 3, neuron), Population("b", 4, neuron))
    own = Dense(np.full((3, 3), 2, np.int16), Grid())
    projections = (Projection("w", "in", "a", own), Projection("v", "a", "b", sparse_from(weight, Grid())))
    graph = Graph(populations, projections, Encoding("bernoulli", levels=16), "b", 4)
    before = replace(state(graph, small(neurons_per_core=2)), traffic={"a.s": np.array([0.5, 3.0, 100.0])})
    after = Partition().apply(before)
    assert [(s.population, s.start, s.stop) for s in after.slices] == [("a", 0, 2), ("a", 2, 3), ("b", 0, 2), ("b", 2, 4)]
    found = [*zip(*(v.tolist() for v in vars(after.links).values()), strict=True)]
    assert found == [(0, 2, 1, 0.5), (0, 3, 2, 3.5)]


def test_the_state_given_stays_as_it_is() -> None:
    before = replace(state(diffpc([6, 5, 4])), report={"earlier": 1})
    copy = deepcopy(before)
    for step in (Partition(), Schedule()):
        after = step.apply(before)
        assert after.report["earlier"] == 1
        assert after.graph is before.graph
        assert (before.slices, before.offsets, before.report) == (copy.slices, copy.offsets, copy.report)
        assert (before.links, before.violations) == (NO_LINKS, ())


def test_windows_of_feed_forward_layers_open_one_step_apart() -> None:
    assert Schedule().apply(state(lif([6, 5, 4, 3]))).offsets == {"p0": 0, "p1": 1, "p2": 2, "p3": 3}
    assert Schedule().apply(state(diffpc([6, 5, 4]))).offsets == {"p0": 0, "p1": 0, "p2": 0}
