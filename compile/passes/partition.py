"""Neurons onto cores.

A population is cut into ranges of neurons that fit a core, of equal size if equal ones do; the ranges fill cores in order,
several to a core while there is room.

Where convolutions lead in or out, neurons are those of an image, and two ways to count them are tried, each for the whole
network: channel by channel, and in blocks of channels position by position (`compile.program.Order`), with as many channels as
leave half of a core's memory free of kernels. A range of a few positions has short receptive fields and tells few others, one
of a few channels holds few kernels. The way that takes fewer cores is kept, of equals the first. Ranges end with a block (or
channel), or with a row, or a position, if one fits.

Memory of a range is an estimate, for Intel publishes no layout. In bytes:

    weights    all-to-all: 1 each;  sparse: 1 each and 2 for the number of the receiving neuron;
               convolution, transposed or not: 1 for each weight of the kernels of the channels that the range touches, once for
               all its neurons
    state      3 for each 24-bit variable of a neuron: u and v of LIF; a sum of graded neurons; x_F, x_T, x_A, e_in, e_T, e_A of
               DiffPC and a byte for its ReLU mask, x_T and x_A of its input; 2 for a bias where biases differ (LIF)
    delays     3 a neuron for each step of a ring of partial sums: the largest delay + 1, where there are delays
    axons      4 for each input axon (see `compile.passes.links`) and for each output axon: one for each range it leads to

Not counted: programs of neurons, spike buffers, learning. How many output axons a range has depends on how its receivers are
cut, so cutting starts at the output and is repeated until nothing changes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compile.passes.links import Ints, Wires, fan_out, links
from compile.passes.state import State
from compile.program import Order, Slice
from compile.target import Target
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.graded import Graded, GradedInt
from lavasnn.dynamics.pyramidal import Pyramidal, PyramidalInt
from lavasnn.errors import Violation
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.synapses import Conv, Deconv, Owned

STATE_BYTES = 3
AXON_BYTES = 4
BIAS_BYTES = 2
DIFFPC_BYTES = 6 * STATE_BYTES + 1
INPUT_BYTES = 2 * STATE_BYTES
LIF_BYTES = 2 * STATE_BYTES
PYRAMIDAL_BYTES = 4 * STATE_BYTES
"""Soma, two dendrites, spike count."""
ROUNDS = 12
"""Of cutting; later ranges change by little, and what is over a limit then is reported."""
RESOURCES = {
    "neurons": ("neurons_per_core", "neurons on a core", "raise neurons_per_core"),
    "memory": ("memory_per_core", "bytes for one neuron and its axons", "give it fewer inputs"),
    "weights": ("synapses_per_core", "stored weights for one neuron", "give it fewer inputs"),
    "axons in": ("fan_in_per_core", "input axons", "give it fewer inputs"),
    "axons out": ("fan_out_per_core", "output axons for one neuron", "let it lead to fewer or smaller populations"),
}
"""Of a core: its limit, how a violation names it, and what helps."""

Range = tuple[int, int]
Image = tuple[int, int, int]
"""Channels, rows and columns."""
Use = Mapping[str, int]


@dataclass(frozen=True)
class Partition:
    """Fill cores population by population, in order."""

    def apply(self, state: State) -> State:
        """See the module's text; what does not fit is in the new state's `violations`."""
        graph, target = state.graph, state.target
        synapses = [(q, graph.synapses(q)) for q in graph.projections]
        images = {p.name: _image(p.name, synapses) for p in graph.populations if not isinstance(p.dynamics, Source)}
        blocks = _blocks(images, target, synapses)
        ways: list[dict[str, Order]] = [{}, blocks] if blocks else [{}]
        best = min((_filled(graph, target, synapses, images, way) for way in ways), key=lambda filled: filled.price)
        cuts, slices = best.cuts, best.slices
        first, at = {}, 0
        for name, cut in cuts.items():
            first[name] = at
            at += len(cut.pieces)
        told = links(best.wires, {name: cut.pieces for name, cut in cuts.items()}, first, state.traffic)
        used = {"cores": [slices[-1].core + 1 if slices else 0, target.cores.value * target.chips.value], "slices": len(slices)}
        return replace(
            state,
            slices=tuple(slices),
            orders=best.orders,
            links=told,
            violations=(*state.violations, *best.violations),
            report={**state.report, "partition": used},
        )


def neuron_bytes(population: Population, delay: int) -> int:
    """State of one neuron, with its share of delayed sums."""
    ring = STATE_BYTES * (delay + 1) if delay else 0
    match population.dynamics:
        case DiffPC(role="input") | DiffPCInt(role="input"):
            return INPUT_BYTES + ring
        case DiffPC() | DiffPCInt():
            return DIFFPC_BYTES + ring
        case Graded() | GradedInt():
            return STATE_BYTES + ring
        case Pyramidal(bias=bias) | PyramidalInt(bias=bias):
            return PYRAMIDAL_BYTES + ring + (BIAS_BYTES if np.ndim(bias) else 0)
        case other:
            bias = getattr(other, "bias_mant", getattr(other, "bias", 0))
            varies = np.ndim(bias) > 0 and len(np.unique(bias)) > 1
            return LIF_BYTES + ring + (BIAS_BYTES if varies else 0)


class _Cut:
    """One population: what its ranges use, and where it is cut.

    What leads in is the same in every round and is remembered; what leads out changes with its receivers.
    """

    def __init__(
        self, population: Population, target: Target, arriving: list[Wires], leaving: list[Wires], grains: list[int]
    ) -> None:
        self.population, self.arriving, self.leaving = population, arriving, leaving
        self.limits = {key: int(getattr(target, name).value) for key, (name, _, _) in RESOURCES.items()}
        self.target_limits = dict(self.limits)
        self.bytes = neuron_bytes(population, max((int(np.max(w.projection.delay)) for w in arriving), default=0))
        self.grains = grains
        self.pieces: list[Range] = []
        self.inward: dict[Range, dict[str, int]] = {}
        self.spread: list[Ints] = []

    def use(self, start: int, stop: int) -> dict[str, int]:
        """What the neurons start..stop-1 need of each resource."""
        if (start, stop) not in self.inward:
            held = [w.held(start, stop) for w in self.arriving]
            axons = sum(w.n_needed(start, stop) for w in self.arriving)
            self.inward[start, stop] = {
                "neurons": stop - start,
                "memory": (stop - start) * self.bytes + sum(b for _, b in held) + AXON_BYTES * axons,
                "weights": sum(n for n, _ in held),
                "axons in": axons,
                "synapses": sum(int(w.into[stop] - w.into[start]) for w in self.arriving),
            }
        inward = self.inward[start, stop]
        out = sum(int(reach[w.sent(start, stop)].sum()) for w, reach in zip(self.leaving, self.spread, strict=True))
        return inward | {"axons out": out, "memory": inward["memory"] + AXON_BYTES * out}

    def fits(self, start: int, stop: int) -> bool:
        """Whether a core holds these neurons; a single one that no core holds has had its limits lifted."""
        if stop - start > self.limits["neurons"]:
            return False
        use = self.use(start, stop)
        return all(use[key] <= limit for key, limit in self.limits.items())

    def cut(self, spread: list[Ints]) -> bool:
        """Cut anew for receivers that each axon reaches so many ranges of; says whether anything changed."""
        self.spread = spread
        self.limits = dict(self.target_limits)
        pieces = next((p for p in map(self._greedy, self.grains) if p is not None), None)
        assert pieces is not None  # a grain of one neuron always ends
        changed, self.pieces = pieces != self.pieces, pieces
        return changed

    def _greedy(self, grain: int) -> list[Range] | None:
        """Ranges of whole grains, or None if one grain is too much for a core."""
        size = self.population.size
        pieces: list[Range] = []
        start = 0
        while start < size:
            if not self.fits(start, min(start + grain, size)):
                if grain > 1:
                    return None
                need = self.use(start, start + 1)
                self.limits = {key: max(limit, need[key]) for key, limit in self.limits.items()}
            low, high = 1, max(1, min(math.ceil((size - start) / grain), self.limits["neurons"] // grain))
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if self.fits(start, min(start + middle * grain, size)) else (low, middle - 1)
            pieces.append((start, min(start + low * grain, size)))
            start = pieces[-1][1]
        grains = math.ceil(size / grain)
        share = grain * math.ceil(grains / len(pieces))
        equal = [(at, min(at + share, size)) for at in range(0, size, share)]
        return equal if all(self.fits(*piece) for piece in equal) else pieces

    def violations(self) -> list[Violation]:
        """Resources of which its neediest range takes more than a core has."""
        found: list[Violation] = []
        uses = [self.use(*piece) for piece in self.pieces]
        for key, (_, resource, hint) in RESOURCES.items():
            most = max(use[key] for use in uses)
            if most > self.target_limits[key]:
                found.append(Violation(f"population {self.population.name!r}", resource, most, self.target_limits[key], hint))
        return found


def _grains(image: Image | None, order: Order | None) -> list[int]:
    """Neurons of a block, of a row, of a position, and one; only one where no convolution is near."""
    if image is None:
        return [1]
    block = order.block if order else 1
    return [block * image[1] * image[2], block * image[2], block, 1]


def _image(name: str, synapses: Sequence[tuple[Projection, Owned]]) -> Image | None:
    """What a population is to the convolutions near it, to those that lead in before others."""
    near = [(q, s) for q, s in synapses if isinstance(s, Conv | Deconv)]
    found = [s.image_out for q, s in near if q.target == name] + [s.image for q, s in near if q.source == name]
    return found[0] if found else None


def _blocks(
    images: Mapping[str, Image | None], target: Target, synapses: Sequence[tuple[Projection, Owned]]
) -> dict[str, Order]:
    """Orders by blocks of the populations that are images of several channels."""
    room = min(target.memory_per_core.value // 2, target.synapses_per_core.value)
    orders: dict[str, Order] = {}
    for name, image in images.items():
        if image is None:
            continue
        kernels = [s.per_channel for q, s in synapses if q.target == name and isinstance(s, Conv | Deconv)]
        most = max(1, room // max(1, sum(kernels)))
        block = max(n for n in range(1, image[0] + 1) if image[0] % n == 0 and n <= most)
        if block > 1:
            orders[name] = Order(image[0], image[1] * image[2], block)
    return orders


@dataclass(frozen=True)
class _Filled:
    """Cores filled with neurons that are counted in one way."""

    orders: dict[str, Order]
    wires: list[Wires]
    cuts: dict[str, _Cut]
    slices: list[Slice]
    violations: list[Violation]

    @property
    def price(self) -> tuple[int, int]:
        """What does not fit, and cores."""
        return len(self.violations), self.slices[-1].core + 1 if self.slices else 0


def _filled(
    graph: Graph,
    target: Target,
    synapses: Sequence[tuple[Projection, Owned]],
    images: Mapping[str, Image | None],
    orders: dict[str, Order],
) -> _Filled:
    counted = {name: order.neurons() for name, order in orders.items()}
    wires = [Wires(q, s, counted.get(q.source), counted.get(q.target)) for q, s in synapses]
    cuts = _cuts(graph, target, wires, {name: _grains(image, orders.get(name)) for name, image in images.items()})
    slices = _on_cores(cuts, target)
    over = [v for cut in cuts.values() for v in cut.violations()]
    return _Filled(orders, wires, cuts, slices, [*over, *_whole(slices, target)])


def _cuts(graph: Graph, target: Target, wires: list[Wires], grains: Mapping[str, list[int]]) -> dict[str, _Cut]:
    """All populations that take cores, cut so that receivers and senders agree."""
    cuts = {
        p.name: _Cut(
            p,
            target,
            [w for w in wires if w.projection.target == p.name],
            [w for w in wires if w.projection.source == p.name],
            grains[p.name],
        )
        for p in graph.populations
        if p.name in grains
    }
    for _ in range(ROUNDS):
        changed = False
        for cut in reversed(cuts.values()):
            changed |= cut.cut([fan_out(w, cuts[w.projection.target].pieces) for w in cut.leaving])
        if not changed:
            break
    for cut in cuts.values():  # what is counted are the receivers as they are now
        cut.spread = [fan_out(w, cuts[w.projection.target].pieces) for w in cut.leaving]
    return cuts


def _on_cores(cuts: Mapping[str, _Cut], target: Target) -> list[Slice]:
    """Ranges in order, each on the core of the one before it if it fits there, else on the next."""
    limits = {key: int(getattr(target, name).value) for key, (name, _, _) in RESOURCES.items()}
    slices: list[Slice] = []
    core, used = -1, dict.fromkeys(limits, 0)
    for name, cut in cuts.items():
        for start, stop in cut.pieces:
            use = cut.use(start, stop)
            if core < 0 or any(used[key] + use[key] > limit for key, limit in limits.items()):
                core, used = core + 1, dict.fromkeys(limits, 0)
            used = {key: used[key] + use[key] for key in limits}
            slices.append(
                Slice(core, name, start, stop, use["synapses"], use["memory"], axons_in=use["axons in"], weights=use["weights"])
            )
    return slices


def _whole(slices: list[Slice], target: Target) -> list[Violation]:
    """What the whole network needs more of than all chips have."""
    if not slices:
        return []
    chips, count = target.chips.value, slices[-1].core + 1
    ((most, share),) = Counter(s.population for s in slices).most_common(1)
    found: list[Violation] = []
    for resource, needed, limit, hint in (
        ("cores", count, target.cores.value, f"population {most!r} alone is cut into {share} ranges; make it smaller"),
        ("neurons", sum(s.stop - s.start for s in slices), target.neurons_per_chip.value, "make populations smaller"),
        ("stored weights", sum(s.weights for s in slices), target.synapses_per_chip.value, "make populations smaller"),
    ):
        if needed > limit * chips:
            found.append(Violation(f"the network on {target.name}", resource, needed, limit * chips, hint))
    return found
