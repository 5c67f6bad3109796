"""Design rules: each looks at a graph and names everything that the chip, or Lava, could not do with it.

Rules run before quantisation (a network of real numbers) and after it (registers); all violations are reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from compile.target import Target
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.graded import Graded, GradedInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.dynamics.pyramidal import Pyramidal, PyramidalInt
from lavasnn.errors import InputError
from lavasnn.ir import Coincidence, Graph, Source, Through
from lavasnn.paths import loops, loops_of
from lavasnn.synapses import Borrowed, Conv, Dense, Owned, Shared, Transposed, as_sparse

Rule = Callable[[Graph, Target], Iterator[str]]


def one_timing(graph: Graph, target: Target) -> Iterator[str]:
    """All DiffPC populations share thresholds and phases, and none is mixed with stock neurons."""
    kinds = {isinstance(p.dynamics, DiffPC | DiffPCInt) for p in graph.populations}
    timings = {p.dynamics.timing for p in graph.populations if isinstance(p.dynamics, DiffPC | DiffPCInt)}
    if len(timings) > 1:
        yield f"DiffPC populations have {len(timings)} different timings; a network has one"
    if kinds == {True, False}:
        yield "DiffPC and LIF populations in one network are not supported"


def timing_fits_depth(graph: Graph, target: Target) -> Iterator[str]:
    """With latched targets the first phase has a cycle for every weight layer."""
    timing = graph.timing
    depth = max((p.dynamics.depth for p in graph.populations if isinstance(p.dynamics, DiffPC | DiffPCInt)), default=0)
    if timing is not None and timing.targets == "latched" and timing.init_cycles < depth:
        yield f"init_cycles is {timing.init_cycles}, {depth} weight layers with latched targets need at least {depth}"


def powers_of_two(graph: Graph, target: Target) -> Iterator[str]:
    """A chip shifts: thresholds and gamma of DiffPC are powers of two."""
    timing = graph.timing
    if timing is None:
        return
    for check in (lambda: timing.exponents("activity"), lambda: timing.exponents("error"), lambda: timing.gamma_shift):
        try:
            check()
        except InputError as error:
            yield str(error)


def input_first(graph: Graph, target: Target) -> Iterator[str]:
    """Samples enter at the first population, which nothing leads into; every other one hears from somewhere or has a bias."""
    first = graph.source.dynamics
    enters = getattr(first, "role", "") == "input" or getattr(first, "drive", "") == "stimulus"
    if not isinstance(first, Source) and not enters:
        yield f"the first population {graph.source.name!r} is {type(first).__name__}, no input; samples enter there"
    roles = [p for p in graph.populations if isinstance(p.dynamics, Source)]
    if roles and roles != [graph.source]:
        yield f"{len(roles)} populations of input spikes; the first population has to be the only one"
    forward = [p.target for p in graph.projections if p.into in ("a", "a_x", "basal")]
    if graph.source.name in forward:
        yield f"a projection leads into the input population {graph.source.name!r}"
    for population in graph.populations[1:]:
        biases = [np.max(getattr(population.dynamics, name, 0)) for name in ("bias", "bias_u")]
        if population.name not in forward and max(biases) <= 0 and not getattr(population.dynamics, "drive", ""):
            yield f"population {population.name!r} receives nothing"


def one_arithmetic(graph: Graph, target: Target) -> Iterator[str]:
    """A network is of real numbers or of the chip's integers, not of both."""
    real = [p.name for p in graph.populations if isinstance(p.dynamics, Lif | Graded | DiffPC | Pyramidal)]
    whole = [p.name for p in graph.populations if isinstance(p.dynamics, LifInt | GradedInt | DiffPCInt | PyramidalInt)]
    for p in graph.projections:
        if not isinstance(p.synapses, Borrowed):
            (real if p.synapses.grid is None else whole).append(p.name)
    if real and whole:
        yield f"{', '.join(map(repr, real))} hold real numbers and {', '.join(map(repr, whole))} integers; one kind is allowed"


def diffpc_is_plain(graph: Graph, target: Target) -> Iterator[str]:
    """DiffPC networks are all-to-all between layers, without delays."""
    if graph.timing is None:
        return
    for p in graph.projections:
        if not isinstance(p.synapses, Dense | Transposed):
            yield f"projection {p.name!r} is {type(p.synapses).__name__}; between DiffPC populations it has to be Dense"
        if np.any(p.delay):
            yield f"projection {p.name!r} has delays; between DiffPC populations there are none"


def two_pathways(graph: Graph, target: Target) -> Iterator[str]:
    """Pyramidal neurons stand alone: one stimulus, at most one concept as large as the output, windows in step, no delays."""
    kinds = {isinstance(p.dynamics, Pyramidal | PyramidalInt) for p in graph.populations}
    if kinds == {True, False}:
        yield "pyramidal and other populations in one network are not supported"
    if kinds != {True}:
        return
    if graph.encoding.kind != "direct":
        yield f"pyramidal neurons take images as currents, code 'direct'; the network's is {graph.encoding.kind!r}"
    driven = [(p, getattr(p.dynamics, "drive", "")) for p in graph.populations]
    for drive in ("stimulus", "concept"):
        found = [p for p, mine in driven if mine == drive]
        if len(found) > 1:
            yield f"{len(found)} populations are driven by the {drive}; one is allowed"
        if drive == "concept" and found and found[0].size != graph.population(graph.output).size:
            yield (
                f"population {found[0].name!r} has {found[0].size} concepts, the output {graph.output!r} "
                f"{graph.population(graph.output).size} classes"
            )
    drives = {p.name for p, mine in driven if mine}
    for q in graph.projections:
        if np.any(q.delay):
            yield f"projection {q.name!r} has delays; between pyramidal populations there are none"
        if (q.into == "apical") != isinstance(q.synapses, Shared):
            what = "share the synapses that drive others" if q.into == "apical" else "have their own"
            yield f"projection {q.name!r} is {type(q.synapses).__name__} into {q.into!r}; {q.into} ones {what}"
        if q.into == "basal" and q.target in drives:
            yield f"projection {q.name!r} leads to the basal dendrites of {q.target!r}, which a current drives"
    if not graph.seamless:
        yield "ways to a pyramidal population differ in steps, or form a loop; its windows open at one step"
        return
    for p in graph.populations:
        opens = {graph.offsets[q.source] for q in graph.arriving(p.name) if q.into == "apical"}
        if len(opens) > 1:
            yield f"population {p.name!r}: what arrives at its apical dendrites opens at different steps"


def delays_in_range(graph: Graph, target: Target) -> Iterator[str]:
    """Delays fit their register."""
    for p in graph.projections:
        most = int(np.max(p.delay))
        if most > target.delay.value:
            yield f"projection {p.name!r}: a delay of {most} steps, {target.name} has up to {target.delay.value}"


def loops_take_time(graph: Graph, target: Target) -> Iterator[str]:
    """Populations that only pass on (`Through`) form no loop: there is no step in it."""
    through = [p.name for p in graph.populations if isinstance(p.dynamics, Through)]
    wires = [(q.source, q.target) for q in graph.projections if q.source in through and q.target in through]
    rank = loops(through, wires)
    for source, goal in wires:
        if rank[source] == rank[goal]:
            yield f"population {source!r} is part of a loop without any neuron or delay in it"
            return


def pairs_of_spikes(graph: Graph, target: Target) -> Iterator[str]:
    """A pair joins two spikes of 0 or 1: a product of anything else is no logical AND."""
    pairs = [p for p in graph.populations if isinstance(p.dynamics, Coincidence)]
    rank = loops_of(graph) if pairs else {}
    for p in pairs:
        arriving = graph.arriving(p.name)
        for q in arriving:
            d = graph.population(q.source).dynamics
            binary = isinstance(d, Lif) and d.vth_lo is None
            if not binary and not (isinstance(d, Source) and not graph.encoding.graded):
                kind = "graded input" if isinstance(d, Source) else type(d).__name__
                yield f"population {p.name!r} joins pairs of what {q.source!r} sends ({kind}); pairs need spikes of 0 or 1"
        if len(arriving) != 1 or not _picks_two(graph.synapses(arriving[0])):
            yield f"population {p.name!r}: each pair receives from two neurons of one population, with weights of 1"
        if any(rank[q.source] == rank[p.name] for q in arriving):
            yield f"population {p.name!r} is on a loop with what it joins; a pair takes a step, which would change the loop"


def _picks_two(s: Owned) -> bool:
    """Whether every receiver (of a kernel: every channel) has two weights of 1 and no other.

    Single synapses may be fewer: a pair at the border of an image lacks what lies beyond, where nothing spikes.
    """
    rows = s.weight.reshape(len(s.weight), -1) if isinstance(s, Dense | Conv) else None
    if rows is None:
        s = as_sparse(s)
        return bool((s.weight == 1).all() and np.diff(s.start).max(initial=0) == 2)
    return bool(((rows == 0) | (rows == 1)).all() and (rows.sum(axis=1) == 2).all())


def weights_on_grid(graph: Graph, target: Target) -> Iterator[str]:
    """Integer weights lie on the grid of their sign mode, of as many bits as the target has.

    Source: lava-nc 0.10.0, utils/weightutils.py, clip_weights and truncate_weights.
    """
    top = 2**target.weight_bits.value
    grids = {"mixed": (-top, top - 2, 2), "excitatory": (0, top - 1, 1), "inhibitory": (1 - top, 0, 1)}
    for p in graph.projections:
        s = p.synapses
        if isinstance(s, Borrowed) or s.grid is None:
            continue
        mode = s.grid.sign_mode
        low, high, step = grids[mode]
        off = int(((s.weight < low) | (s.weight > high) | (s.weight % step != 0)).sum())
        if off:
            yield f"projection {p.name!r}: {off} of {s.weight.size} weights are off the {mode} grid {low}..{high}:{step}"


def exponents_in_range(graph: Graph, target: Target) -> Iterator[str]:
    """Weight exponents fit their register."""
    low, high = target.weight_exponent_low.value, target.weight_exponent_high.value
    for p in graph.projections:
        grid = graph.synapses(p).grid
        if grid is not None and not low <= grid.exponent <= high:
            yield f"projection {p.name!r}: weight exponent {grid.exponent}, allowed {low}..{high}"
        if grid is not None and grid.exponent < 0 and np.ndim(p.delay):
            yield (
                f"projection {p.name!r}: weight exponent {grid.exponent} with several delays; the simulator shifts each "
                "delay's sum by itself"
            )


def registers(graph: Graph, target: Target) -> Iterator[str]:
    """Thresholds and biases fit the target's registers, which may be narrower than Lava's own."""
    for population in graph.populations:
        d = population.dynamics
        if isinstance(d, PyramidalInt) and d.vth >= 2**target.threshold_bits.value:
            yield f"population {population.name!r}: vth {d.vth}, allowed below {2**target.threshold_bits.value}"
        if isinstance(d, PyramidalInt):
            top = 2 ** (target.bias_bits.value - 1) - 1
            for name in ("bias", "bias_apical"):
                largest = int(np.abs(np.asarray(getattr(d, name))).max())
                if largest > top:
                    yield f"population {population.name!r}: a {name} of {largest:,}, allowed are {-top:,}..{top:,}"
        if isinstance(d, LifInt):
            if d.vth >= 2**target.threshold_bits.value:
                yield f"population {population.name!r}: vth {d.vth}, allowed below {2**target.threshold_bits.value}"
            top, bias = 2 ** (target.bias_bits.value - 1), np.asarray(d.bias_mant)
            if bias.max() >= top or bias.min() < -top:
                yield f"population {population.name!r}: bias mantissas {bias.min()}..{bias.max()}, allowed {-top}..{top - 1}"


def states(graph: Graph, target: Target) -> Iterator[str]:
    """DiffPC thresholds fit the target's states."""
    for population in graph.populations:
        d = population.dynamics
        if isinstance(d, DiffPCInt):
            highest = max(int(d.timing.exponents(k).max()) for k in ("activity", "error")) + d.point
            if highest >= target.state_bits.value - 1:
                yield (
                    f"population {population.name!r}: a threshold of 2**{highest}, signed {target.state_bits.value}-bit "
                    f"states allow up to 2**{target.state_bits.value - 2}"
                )


BEFORE: tuple[Rule, ...] = (
    one_timing,
    timing_fits_depth,
    powers_of_two,
    input_first,
    one_arithmetic,
    diffpc_is_plain,
    two_pathways,
    delays_in_range,
    loops_take_time,
    pairs_of_spikes,
)
AFTER: tuple[Rule, ...] = (*BEFORE, weights_on_grid, exponents_in_range, registers, states)


def check(graph: Graph, target: Target, rules: Iterable[Rule]) -> None:
    """Apply rules and report all violations at once.

    Raises:
        InputError: At least one violation.
    """
    violations = list(dict.fromkeys(v for rule in rules for v in rule(graph, target)))
    if violations:
        raise InputError(f"cannot compile for {target.name}: " + "; ".join(violations))
