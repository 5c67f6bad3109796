"""Weights, thresholds and biases as registers: against the grid written out here, plain loops, and Lava's own rounding."""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from compile.backends import exact
from compile.passes.quantize import Quantize, real
from compile.passes.state import State
from compile.target import LOIHI2
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.graded import Graded
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.errors import InputError, RangeError
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.synapses import Dense, Grid, Transposed

Matrix = NDArray[np.float64]

TIMING = Timing(m=2, n=4, init_cycles=2, settle_cycles=2)
GRIDS = {
    "mixed": set(range(-256, 255, 2)),
    "excitatory": set(range(256)),
    "inhibitory": set(range(-255, 1)),
}
STEP = {"mixed": 2, "excitatory": 1, "inhibitory": 1}


def diffpc(weights: Sequence[Any], timing: Timing = TIMING, biases: Sequence[Any] = (), scale: int = -2) -> Graph:
    """A fully connected DiffPC network with weights (post, pre) from input to output."""
    weights = [np.asarray(w, np.float64) for w in weights]
    biases = list(biases) or [0.0] * len(weights)
    names = ["input", *(f"layer{l}" for l in range(1, len(weights) + 1))]
    populations = [Population("input", weights[0].shape[1], DiffPC("input", 0, timing))]
    projections: list[Projection] = []
    for l, weight in enumerate(weights, start=1):
        role = "output" if l == len(weights) else "hidden"
        populations.append(Population(names[l], len(weight), DiffPC(role, l, timing, biases[l - 1])))
        projections.append(Projection(f"w{l}", names[l - 1], names[l], Dense(weight), "s_A", "a_x"))
        if l > 1:
            projections.append(Projection(f"w{l}t", names[l], names[l - 1], Transposed(f"w{l}"), "s_e", "a_e"))
    return Graph(tuple(populations), tuple(projections), Encoding("value", scale, 16), names[-1])


def lif(weight: Any, vth: float = 1.0, bias: Any = 0.0, du: float = 1.0, dv: float = 0.0, steps: int = 8) -> Graph:
    """One layer of stock LIF neurons."""
    weight = np.asarray(weight, np.float64)
    populations = (
        Population("input", weight.shape[1], Source()),
        Population("output", weight.shape[0], Lif(du, dv, vth, bias)),
    )
    projection = Projection("w", "input", "output", Dense(weight))
    return Graph(populations, (projection,), Encoding("bernoulli", levels=16), "output", steps)


def images(pre: int, n: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 17, (n, pre)).astype(np.uint8)


def state(graph: Graph, n: int = 3) -> State:
    labels = np.arange(n) % graph.population(graph.output).size
    return State(graph, LOIHI2, images(graph.source.size, n), labels)


def quantized(graph: Graph) -> State:
    return Quantize().apply(state(graph))


def matrices(low: float = -3.0, high: float = 3.0) -> st.SearchStrategy[Matrix]:
    """Small matrices of one or both signs, at scales from 2**-8 to 4."""
    shapes = st.tuples(st.integers(1, 5), st.integers(1, 5))

    def filled(shape: tuple[int, int]) -> st.SearchStrategy[Matrix]:
        values = st.lists(st.floats(low, high, width=32), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
        return st.builds(
            lambda v, sign, scale: scale * sign(np.array(v).reshape(shape)),
            values,
            st.sampled_from([lambda a: a, np.abs, lambda a: -np.abs(a)]),
            st.sampled_from([2.0**-8, 0.1, 1.0, 1.3]),
        )

    return shapes.flatmap(filled)


def signs(weight: Matrix) -> str:
    values = [float(v) for v in weight.ravel()]
    if all(v >= 0 for v in values):
        return "excitatory"
    return "inhibitory" if all(v <= 0 for v in values) else "mixed"


def check_weights(weight: Matrix, compiled: Any, report: Any) -> None:
    """Grid, half a step, saturation and the report, one weight at a time in Python numbers."""
    assert compiled.grid.sign_mode == signs(weight)
    step, unit = STEP[compiled.grid.sign_mode], compiled.grid.unit
    grid = GRIDS[compiled.grid.sign_mode]
    changed, largest, saturated = 0, 0.0, 0
    for w, q in zip(weight.ravel().tolist(), compiled.weight.ravel().tolist(), strict=True):
        assert q in grid
        error = abs(w - q * unit)
        changed += error > 0
        largest = max(largest, error)
        if w > max(grid) * unit or w < min(grid) * unit:
            saturated += 1
            assert q == (max(grid) if w > 0 else min(grid))
        else:
            assert error <= step * unit / 2 * (1 + 1e-12)
    assert report["weights"] == weight.size
    assert report["changed"] == changed
    assert report["largest_error"] == pytest.approx(largest, rel=1e-12, abs=0)
    assert report["saturated"] == saturated
    assert report["sign_mode"] == compiled.grid.sign_mode
    assert report["unit"] == unit


@settings(max_examples=60, deadline=None)
@given(matrices())
def test_lif_weights_lie_on_the_grid_within_half_a_step_or_saturate(weight: Matrix) -> None:
    assume(weight.any())
    after = quantized(lif(weight, vth=float(np.abs(weight).max())))
    check_weights(weight, after.graph.projections[0].synapses, after.report["quantize"]["projections"]["w"])
    assert after.graph.projections[0].synapses.grid.exponent == 0


def test_a_stronger_projection_gets_an_exponent() -> None:
    """Two projections into one population: the weak one keeps its 8 bits, the strong one is shifted."""
    random = np.random.default_rng(0)
    weak, strong = random.normal(0, 0.1, (3, 4)), random.normal(0, 1.2, (3, 4))
    base = lif(weak, vth=1.0)
    p = base.projections[0]
    graph = replace(base, projections=(p, replace(p, name="strong", synapses=Dense(strong))))
    after = quantized(graph)
    units = set()
    for name, weight in (("w", weak), ("strong", strong)):
        s, report = after.graph.projection(name).synapses, after.report["quantize"]["projections"][name]
        units.add(s.grid.unit)
        worth = s.weight * s.grid.unit * 2.0**s.grid.exponent
        inside = (worth < 250 * report["unit"]) & (worth > -250 * report["unit"])
        assert np.abs(worth - weight)[inside].max() <= report["unit"] * (1 + 1e-12)
        assert report["exponent"] == s.grid.exponent
    assert len(units) == 1
    assert after.report["quantize"]["projections"]["strong"]["exponent"] >= 2


@pytest.mark.parametrize("ratio", [1.0, 1.2, 1.4, 1.5, 2.0, 2.8, 2.9])
def test_no_projection_is_clipped_for_the_sake_of_a_weaker_one(ratio: float) -> None:
    weight = np.array([[0.3, 0.15], [0.1, -0.3]])
    base = lif(weight, vth=1.0, dv=0.1, steps=20)
    p = base.projections[0]
    graph = replace(base, projections=(p, replace(p, name="strong", synapses=Dense(weight * ratio))))
    projections = quantized(graph).report["quantize"]["projections"]
    assert [projections[name]["saturated"] for name in ("w", "strong")] == [0, 0]


def test_units_leave_room_for_the_inputs_of_the_calibration_samples() -> None:
    """Five thousand synapses of full strength would add up beyond the dendrite's input; a coarser unit keeps them in it."""
    random = np.random.default_rng(0)
    weight = random.uniform(0.5, 1.0, (3, 5000))
    graph = lif(weight, vth=4000.0, dv=0.0)
    before = state(graph)
    after = Quantize().apply(before)
    s = after.graph.projection("w").synapses
    peak = exact.run(after.graph, before.pixels, measure=True).meta["peaks"]["output.a"]
    assert 0.2 * LOIHI2.dendrite_input.value < peak <= LOIHI2.dendrite_input.value
    assert np.abs(s.weight * s.grid.unit * 2.0**s.grid.exponent - weight).max() <= s.grid.unit * 2.0**s.grid.exponent
    real_run, mine = (exact.run(g, before.pixels, record=True) for g in (graph, after.graph))
    assert real_run.traces["output.s"].any()
    assert np.mean(real_run.traces["output.s"] != mine.traces["output.s"]) < 0.2


def test_payloads_that_come_back_are_refused() -> None:
    """Their unit is chosen after that of the population they come back to."""
    base = lif(np.eye(2))
    populations = (*base.populations, Population("loud", 2, Graded(0.5)))
    up, back = Projection("up", "output", "loud", Dense(np.eye(2))), Projection("back", "loud", "output", Dense(np.eye(2)))
    graph = replace(base, populations=populations, projections=(*base.projections, up, back))
    with pytest.raises(InputError, match=r"projection 'back' brings payloads of 'loud' back to 'output'; feedback has to be"):
        quantized(graph)


def test_the_unit_is_chosen_by_what_the_population_answers() -> None:
    """The error that is reported is that of the integers upon the real network's messages; no unit tried does better."""
    random = np.random.default_rng(3)
    weight = random.normal(0, 0.2, (30, 40))
    weight[0, 0] = 6.0  # an outlier that would cost all others three bits
    graph = lif(weight, vth=1.0)
    after = quantized(graph)
    pixels = after.pixels
    real_run = exact.run(graph, pixels, record=True)
    mine = exact.run(after.graph, pixels, record=True)
    found = float(np.mean(mine.traces["output.s"] != real_run.traces["output.s"]))
    assert after.report["quantize"]["output_error"]["output"] == pytest.approx(found)
    full = 6.0 / 254
    plain = replace(
        after.graph,
        populations=(
            graph.source,
            Population("output", 30, LifInt(du=4095, dv=round(graph.populations[1].dynamics.dv * 4096), vth=round(1 / full))),
        ),
        projections=(
            replace(
                graph.projections[0], synapses=Dense((2 * np.round(weight / full / 2)).astype(np.int16), Grid(0, "mixed", full))
            ),
        ),
    )
    plain_run = exact.run(plain, pixels, record=True)
    assert found <= float(np.mean(plain_run.traces["output.s"] != real_run.traces["output.s"]))
    assert after.report["quantize"]["projections"]["w"]["saturated"] >= 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(matrices(), st.integers(1, 4), st.integers(0, 99))
def test_diffpc_weights_lie_on_the_grid_within_half_a_step_or_saturate(first: Matrix, post: int, seed: int) -> None:
    second = np.random.default_rng(seed).normal(0, 0.5, (post, len(first)))
    after = quantized(diffpc([first, second]))
    for name, weight in (("w1", first), ("w2", second)):
        compiled = after.graph.projection(name).synapses
        check_weights(weight, compiled, after.report["quantize"]["projections"][name])
        assert math.log2(compiled.grid.unit) == round(math.log2(compiled.grid.unit))
    assert after.graph.integer


def test_an_outlier_may_saturate_when_that_is_the_smaller_error() -> None:
    weight = np.full((40, 40), 0.0101)
    weight[0, 0], weight[1, 1] = -0.0101, 2.02  # 2.02 alone would ask for a unit of 2**-6
    after = quantized(diffpc([weight]))
    report = after.report["quantize"]["projections"]["w1"]
    check_weights(weight, after.graph.projection("w1").synapses, report)
    assert report["saturated"] == 1


@pytest.mark.parametrize("low, high", [(-256, 254), (0, 255), (-255, 0)])
def test_integers_on_the_grid_pass_unchanged(low: int, high: int) -> None:
    step = 2 if low * high else 1
    values = np.arange(low, high + 1, step)
    weight = np.random.default_rng(0).permutation(np.resize(values, 16 * 17)).reshape(16, 17).astype(np.float64)
    for graph, name in ((lif(weight, vth=300.0), "w"), (diffpc([weight]), "w1")):
        after = quantized(graph)
        synapses = after.graph.projection(name).synapses
        report = after.report["quantize"]["projections"][name]
        assert (report["changed"], report["largest_error"], report["saturated"]) == (0, 0.0, 0)
        assert np.array_equal(synapses.weight * synapses.grid.unit, weight)
        if name == "w":
            assert synapses.grid.unit == 1.0
            assert after.graph.population("output").dynamics.vth == 300


def test_a_graph_of_integers_passes_unchanged_with_a_report() -> None:
    before = quantized(diffpc([np.random.default_rng(0).normal(size=(3, 4))]))
    after = Quantize().apply(replace(before, report={}))
    assert after.graph is before.graph
    report = after.report["quantize"]["projections"]["w1"]
    assert (report["weights"], report["changed"], report["largest_error"], report["saturated"]) == (12, 0, 0.0, 0)


@pytest.mark.parametrize("graph", [diffpc([np.zeros((3, 4)), np.zeros((2, 3))]), lif(np.zeros((3, 4)))], ids=["diffpc", "lif"])
def test_all_zero_weights_compile_and_run(graph: Graph) -> None:
    after = quantized(graph)
    assert all(not after.graph.weight(p).any() for p in after.graph.projections)
    result = exact.run(after.graph, images(4))
    assert not result.outputs.any()
    assert np.array_equal(result.outputs, exact.run(real(after.graph), images(4)).outputs)


@pytest.mark.lava
@pytest.mark.parametrize("sign, expected", [(0, "mixed"), (1, "excitatory"), (-1, "inhibitory")])
def test_weights_survive_lavas_own_rounding(sign: int, expected: str) -> None:
    utils = pytest.importorskip("lava.utils.weightutils")
    weight = np.random.default_rng(4).normal(0, 1, (30, 40))
    weight = np.abs(weight) * sign if sign else weight
    weight[0, 0] = 8.0 * (sign or 1)  # reaches the end of the grid
    for graph, name in ((lif(weight), "w"), (diffpc([weight]), "w1")):
        synapses = quantized(graph).graph.projection(name).synapses
        mode = utils.SignMode[expected.upper()]
        assert synapses.grid.sign_mode == expected
        clipped = utils.clip_weights(synapses.weight, mode, num_bits=8)
        assert np.array_equal(utils.truncate_weights(clipped, mode, num_weight_bits=8), synapses.weight)
        assert np.abs(synapses.weight).max() >= 254  # so that the ends are covered, and not vacuously


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 0.5, 0.25]), st.sampled_from([None, 0, 1]), st.integers(0, 2))
def test_the_real_form_of_a_program_reaches_the_same_states(seed: int, gamma: float, m_error: int | None, hidden: int) -> None:
    """Dyadic numbers: float64 states times 2**point are the integers, spike for spike, if no bit is missing."""
    random = np.random.default_rng(seed)
    sizes = [5, *[4] * hidden, 3]
    timing = Timing(m=2, n=4, m_error=m_error, gamma=gamma, init_cycles=3, settle_cycles=2)
    weights = [random.normal(0, 0.6, (post, pre)) for pre, post in pairwise(sizes)]
    biases = [random.integers(-8, 9, post) / 16 for post in sizes[1:]]
    before = replace(state(diffpc(weights, timing, biases)), labels=random.integers(0, 3, 3))
    after = Quantize().apply(before)
    assume(after.report["quantize"]["point"] == after.report["quantize"]["lossless_point"])
    point = after.report["quantize"]["point"]
    for settle in (False, True):
        whole = exact.run(after.graph, before.pixels, before.labels, settle=settle, record=True)
        floats = exact.run(real(after.graph), before.pixels, before.labels, settle=settle, record=True)
        assert floats.precision == "float"
        for key, values in whole.traces.items():
            scale = 1.0 if key.split(".")[1].startswith("s") else 2.0**point
            assert np.array_equal(floats.traces[key] * scale, values), key
        assert np.array_equal(floats.outputs * 2.0**point, whole.outputs)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(-2, 3))
def test_the_real_form_of_lif_sends_the_same_spikes(seed: int, exponent: int) -> None:
    """Neurons without voltage leak, so that nothing is truncated; thresholds that sums meet exactly, not just exceed."""
    random = np.random.default_rng(seed)
    graph = lif(random.normal(0, 0.3, (6, 20)), vth=0.5)
    compiled = quantized(graph).graph
    output = compiled.population("output")
    synapses = compiled.projections[0].synapses
    vth = int(random.integers(1, 40)) * 8
    weight = (8 * random.integers(-8, 9, (6, 20))).astype(np.int16)
    changed = replace(
        compiled,
        populations=(compiled.source, replace(output, dynamics=replace(output.dynamics, vth=vth))),
        projections=(
            replace(
                compiled.projections[0],
                synapses=replace(synapses, weight=weight, grid=replace(synapses.grid, exponent=exponent)),
            ),
        ),
    )
    whole, floats = (exact.run(g, images(20, 4), record=True) for g in (changed, real(changed)))
    assert np.array_equal(whole.traces["output.s"], floats.traces["output.s"])


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(1, 2**17 - 1))
def test_sums_in_a_lif_unit_are_exact(scale: float, count: int) -> None:
    weight = np.random.default_rng(count).normal(0, scale, (2, 3))
    unit = quantized(lif(weight, vth=scale)).graph.projections[0].synapses.grid.unit
    total = 0.0
    for _ in range(7):
        total += 253 * unit
    assert total == 7 * 253 * unit
    assert count * unit / unit == count
    assert (count * unit) * 4096 == (count * 4096) * unit


def test_lif_registers() -> None:
    """A unit of 2**-7: threshold 1 is 128, biases are in 1/64 of a unit."""
    graph = lif([[254 / 128, -1.0]], vth=1.0, bias=[-0.25], du=1.0, dv=0.5)
    after = quantized(graph)
    neuron = after.graph.population("output").dynamics
    assert after.graph.projections[0].synapses.grid.unit == 1 / 128
    assert after.graph.projections[0].synapses.weight.tolist() == [[254, -128]]
    assert (neuron.du, neuron.dv, neuron.vth) == (4095, 2048, 128)
    assert (np.asarray(neuron.bias_mant) << neuron.bias_exp).tolist() == [-0.25 * 128 * 64]
    assert after.report["quantize"]["projections"]["w"]["vth_error"] == 0.0


@pytest.mark.parametrize("leak, register", [(0.0, -1), (1.0, 4095), (0.25, 1023)])
def test_current_decay_counts_from_minus_one(leak: float, register: int) -> None:
    assert quantized(lif([[1.0]], du=leak)).graph.population("output").dynamics.du == register


@pytest.mark.parametrize("factor, fits", [(131071, True), (131072, False), (1e12, False)])
def test_thresholds_have_17_bits(factor: float, fits: bool) -> None:
    graph = lif([[255 / 256.0, 0.5]], vth=factor / 256)
    if fits:
        assert quantized(graph).graph.population("output").dynamics.vth == 131071
    else:
        with pytest.raises(RangeError, match=r"population 'output' needs vth .* holds up to 131,071 \(17 bits\)"):
            quantized(graph)


@pytest.mark.parametrize("weight", [1e-300, 1e-310, 1e-320])
def test_vanishing_lif_weights_are_refused_not_a_crash(weight: float) -> None:
    with pytest.raises(RangeError, match="needs vth"):
        quantized(lif([[weight, -weight / 2]], vth=1.0))


def test_lif_biases_have_13_bits_and_a_shift_of_7() -> None:
    largest = 4095 * 2**7 / 64
    after = quantized(lif([[255.0]], vth=1.0, bias=[largest]))
    assert (np.asarray(after.graph.population("output").dynamics.bias)).tolist() == [4095 * 128]
    for bias in (largest * 1.001, 1e300):
        with pytest.raises(RangeError, match="population 'output' has a bias of"):
            quantized(lif([[255.0]], vth=1.0, bias=[bias]))
    with pytest.raises(RangeError, match=r"needs vth|has a bias"):
        quantized(lif([[1e-300]], vth=1e-300, bias=[1e300]))


@pytest.mark.parametrize("weight", [1e8, 1e300, 1.7e308])
def test_a_weight_beyond_24_bits_is_refused(weight: float) -> None:
    with pytest.raises(RangeError, match=r"projection 'w1' holds a weight of magnitude .* 8,388,607"):
        quantized(diffpc([[[weight, 1.0]]]))


def test_states_beyond_24_bits_on_the_calibration_samples_are_refused() -> None:
    """Activity 4, weight 244 * 2**12: 4 million with 4 fractional bits is beyond 2**23 / 16."""
    timing = Timing(m=2, n=7, init_cycles=2, settle_cycles=1)
    graph = diffpc([[[1e6]]], timing)
    before = State(graph, LOIHI2, np.array([[16]], np.uint8), np.array([0]))
    with pytest.raises(RangeError, match=r"layer1\.\w+ reaches 3.998e\+06 .* 4 fractional bits .* hold 5.243e\+05"):
        Quantize().apply(before)


@pytest.mark.parametrize("small", [0.5, 2.0**-9, 2.0**-14])
def test_weight_exponents_stay_in_their_register(small: float) -> None:
    """A layer of fine weights asks for many fractional bits, a layer of coarse ones for a small shift; gamma for more bits."""
    random = np.random.default_rng(5)
    timing = Timing(m=1, n=4, gamma=0.5, init_cycles=2, settle_cycles=8)
    after = quantized(diffpc([small * random.normal(size=(4, 5)), random.normal(size=(3, 4))], timing))
    shifts = [after.graph.synapses(p).grid.exponent for p in after.graph.projections]
    assert max(shifts) <= 7
    assert min(shifts) >= -8
    report = after.report["quantize"]
    assert (report["point"] < report["lossless_point"]) == bool(after.warnings)


def test_the_state_given_stays_as_it_is() -> None:
    weights = [np.random.default_rng(0).normal(size=(3, 4)), np.random.default_rng(1).normal(size=(2, 3))]
    for graph in (diffpc(weights), lif(weights[0], vth=0.7, bias=[0.1, 0.0, -0.1])):
        before = replace(state(graph), report={"earlier": 1}, warnings=("earlier",))
        copy = deepcopy(before)
        after = Quantize().apply(before)
        assert after is not before
        assert (after.report["earlier"], after.warnings[:1]) == (1, ("earlier",))
        assert before.report == copy.report
        assert before.warnings == copy.warnings
        assert np.array_equal(before.pixels, copy.pixels)
        assert np.array_equal(before.labels, copy.labels)
        assert not before.graph.integer
        for p, q in zip(before.graph.projections, copy.graph.projections, strict=True):
            assert np.array_equal(before.graph.weight(p), copy.graph.weight(q))
        kinds = {type(p.dynamics) for p in after.graph.populations[1:]}
        assert kinds in ({DiffPCInt}, {LifInt})
        assert all(isinstance(p.synapses, Transposed) or p.synapses.grid is not None for p in after.graph.projections)
