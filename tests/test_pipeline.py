"""Rules, calibration and programs: whole compilations, against bounds and overflows worked out by hand."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from compile import rules
from compile.backends import exact
from compile.passes.calibrate import Calibrate, worst_states
from compile.passes.state import State
from compile.pipeline import PASSES, compile_graph
from compile.program import Program
from compile.target import LOIHI2, named
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.errors import FileFormatError, InputError, LimitError, RangeError
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.synapses import Dense, Grid, Transposed

TIMING = Timing(m=2, n=4, init_cycles=2, settle_cycles=2)
SIGNED_24 = 2**23 - 1


def diffpc(weights: Sequence[Any], timing: Timing = TIMING, scale: int = -2, point: int | None = None, shift: int = 0) -> Graph:
    """A DiffPC network, real, or in integers with `point` fractional bits and weight exponents `shift`."""
    weights = [np.asarray(w) for w in weights]
    sizes = [weights[0].shape[1], *(len(w) for w in weights)]
    names = [f"p{l}" for l in range(len(sizes))]
    populations: list[Population] = []
    projections: list[Projection] = []
    for l, size in enumerate(sizes):
        role = "input" if l == 0 else "output" if l == len(weights) else "hidden"
        neuron = DiffPC(role, l, timing) if point is None else DiffPCInt(role, l, timing, point=point)
        populations.append(Population(names[l], size, neuron))
        if l:
            w = weights[l - 1]
            synapses = Dense(w.astype(np.float64)) if point is None else Dense(w.astype(np.int16), Grid(shift))
            projections.append(Projection(f"w{l}", names[l - 1], names[l], synapses, "s_A", "a_x"))
        if l > 1:
            projections.append(Projection(f"w{l}t", names[l], names[l - 1], Transposed(f"w{l}", shift), "s_e", "a_e"))
    return Graph(tuple(populations), tuple(projections), Encoding("value", scale, 16), names[-1])


def lif(weight: NDArray[Any], vth: float = 100.0) -> Graph:
    populations = (Population("input", weight.shape[1], Source()), Population("output", len(weight), Lif(1.0, 0.0, vth)))
    projection = Projection("w", "input", "output", Dense(weight.astype(np.float64)))
    return Graph(populations, (projection,), Encoding("bernoulli", levels=16), "output", 6)


def full(n: int, pre: int, level: int = 16) -> NDArray[np.uint8]:
    return np.full((n, pre), level, np.uint8)


def none(n: int) -> NDArray[np.int64]:
    return np.zeros(n, np.int64)


def test_a_program_holds_everything_and_comes_back_from_its_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    graph = diffpc([random.normal(0, 0.5, (7, 9)), random.normal(0, 0.5, (3, 7))])
    pixels = random.integers(0, 17, (20, 9)).astype(np.uint8)
    program = compile_graph(graph, pixels, random.integers(0, 3, 20), source="here")
    assert program.graph.integer
    assert list(program.report["seconds"]) == [type(step).__name__.lower() for step in PASSES]
    assert {"partition", "place", "route"} <= set(program.report)
    assert program.report["calibrate"]["samples"] == 20
    assert program.fit["neurons"] == 19
    assert program.fit["synapses"] == 7 * 9 + 3 * 7 + 7 * 3  # and the transposed ones
    program.save(tmp_path / "p")
    again = Program.load(tmp_path / "p")
    assert (again.target, again.slices, again.source) == (program.target, program.slices, "here")
    assert (again.places, again.routes) == (program.places, program.routes)
    assert dict(again.offsets) == dict(program.offsets)
    assert again.fit == program.fit
    assert again.report["quantize"] == program.report["quantize"]
    assert list(again.report["warnings"]) == list(program.report["warnings"])
    for p in program.graph.projections:
        q = again.graph.projection(p.name)
        assert (q.carries, q.into, again.graph.synapses(q).grid) == (p.carries, p.into, program.graph.synapses(p).grid)
        assert np.array_equal(again.graph.weight(q), program.graph.weight(p))
    assert [p.dynamics.timing for p in again.graph.populations] == [TIMING] * 3
    runs = [exact.run(g, pixels, none(20), settle=True, record=True) for g in (program.graph, again.graph)]
    assert all(np.array_equal(runs[0].traces[k], runs[1].traces[k]) for k in runs[0].traces)
    with pytest.raises(FileFormatError, match="holds a program, needed is a graph"):
        Graph.load(tmp_path / "p")


def test_no_calibration_samples_are_refused() -> None:
    with pytest.raises(InputError, match="0 calibration samples, at least 1 is needed"):
        compile_graph(diffpc([np.ones((2, 3))]), full(0, 3), none(0))


def test_an_unknown_target_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="target 'loihi9' is unknown; known are loihi2"):
        named("loihi9")


def test_passes_leave_their_state_as_it_is() -> None:
    random = np.random.default_rng(0)
    state = State(diffpc([random.normal(size=(3, 4))]), LOIHI2, full(2, 4), none(2))
    for step in PASSES:
        copy = deepcopy(state)
        after = step.apply(state)
        assert after is not state
        assert (state.report, state.warnings, state.slices, state.offsets) == (
            copy.report,
            copy.warnings,
            copy.slices,
            copy.offsets,
        )
        assert np.array_equal(state.pixels, copy.pixels)
        assert all(np.array_equal(state.graph.weight(p), copy.graph.weight(p)) for p in state.graph.projections)
        state = after


# Rules


def test_rules_report_all_violations_at_once() -> None:
    """A population that hears nothing, weights off the grid, an exponent and a delay beyond their registers."""
    neuron = LifInt(du=4095, dv=0, vth=5)
    names = ("input", "a", "b", "deaf")
    populations = tuple(Population(n, 2, Source() if n == "input" else neuron) for n in names)
    odd = Dense(np.array([[3, -4], [300, -2]], np.int16), Grid(exponent=9))
    weight = Dense(np.zeros((2, 2), np.int16), Grid())
    projections = (
        Projection("w1", "input", "a", odd),
        Projection("w2", "a", "b", weight),
        Projection("back", "b", "a", weight, delay=63),
    )
    graph = Graph(populations, projections, Encoding("bernoulli", levels=16), "b", 4)
    with pytest.raises(InputError) as caught:
        rules.check(graph, LOIHI2, rules.AFTER)
    text = str(caught.value)
    assert text.startswith("cannot compile for loihi2: ")
    for part in (
        "population 'deaf' receives nothing",
        "projection 'back': a delay of 63 steps, loihi2 has up to 62",
        "projection 'w1': 2 of 4 weights are off the mixed grid -256..254:2",
        "projection 'w1': weight exponent 9, allowed -8..7",
    ):
        assert part in text
    assert "\n" not in text
    with pytest.raises(InputError, match=r"receives nothing.*a delay of 63 steps"):
        compile_graph(graph, full(1, 2), none(1))


def test_rules_on_diffpc_networks() -> None:
    graph = diffpc([np.ones((2, 3)), np.ones((2, 2)), np.ones((2, 2))], replace(TIMING, gamma=0.3))
    violations = [v for rule in rules.BEFORE for v in rule(graph, LOIHI2)]
    assert len(violations) == 2
    assert violations[0] == "init_cycles is 2, 3 weight layers with latched targets need at least 3"
    assert "gamma is 0.3; integers need a power of two" in violations[1]
    linear = replace(TIMING, schedule="cyclic-decay", final=0.5, decay="linear")
    with pytest.raises(InputError, match="no powers of two"):
        compile_graph(diffpc([np.ones((2, 3))], linear), full(1, 3), none(1))


def test_rules_on_mixtures() -> None:
    real, whole = diffpc([np.ones((2, 3))]), diffpc([np.ones((2, 3))], point=6)
    mixed = replace(real, populations=(real.populations[0], whole.populations[1]))
    found = [v for rule in rules.BEFORE for v in rule(mixed, LOIHI2)]
    assert found == ["'p0', 'w1' hold real numbers and 'p1' integers; one kind is allowed"]
    timings = replace(real, populations=(real.populations[0], diffpc([np.ones((2, 3))], replace(TIMING, m=1)).populations[1]))
    assert any("2 different timings" in v for rule in rules.BEFORE for v in rule(timings, LOIHI2))


def test_a_network_without_input_is_refused() -> None:
    populations = (Population("a", 3, Lif(1.0, 0.0, 1.0)), Population("b", 2, Lif(1.0, 0.0, 1.0)))
    graph = Graph(populations, (Projection("w", "a", "b", Dense(np.ones((2, 3)))),), Encoding("bernoulli", levels=16), "b", 4)
    with pytest.raises(InputError, match="first population 'a' is Lif, no input; samples enter there"):
        compile_graph(graph, full(1, 3), none(1))


@pytest.mark.parametrize("vth, bias, word", [(2**15, 0, "vth 32768, allowed below 32768"), (5, 300, "bias mantissas 300..300")])
def test_registers_of_a_narrower_target_are_checked(vth: int, bias: int, word: str) -> None:
    target = replace(
        LOIHI2,
        threshold_bits=replace(LOIHI2.threshold_bits, value=15),
        bias_bits=replace(LOIHI2.bias_bits, value=9),
    )
    graph = lif(np.ones((2, 3)))
    neuron = LifInt(du=4095, dv=0, vth=vth, bias_mant=bias)
    whole = replace(
        graph,
        populations=(graph.source, replace(graph.populations[1], dynamics=neuron)),
        projections=(replace(graph.projections[0], synapses=Dense(np.zeros((2, 3), np.int16), Grid())),),
    )
    assert any(word in v for v in rules.registers(whole, target))
    assert not list(rules.registers(whole, LOIHI2))


# Calibration of LIF: 16-bit inputs


def test_lif_inputs_beyond_16_bits_on_the_samples_are_refused() -> None:
    """130 inputs that always spike times 254 are 33,020."""
    weight = np.full((2, 130), 254.0)
    weight[0, 0] = -254.0  # mixed signs: this neuron receives less
    with pytest.raises(RangeError, match=r"population 'output' receives sums up to 33,020, its input holds \+-32,767"):
        compile_graph(lif(weight), full(2, 130), none(2))


def test_lif_inputs_that_could_be_too_large_are_warned_of() -> None:
    weight = np.full((2, 130), 254.0)
    weight[0, 0] = -254.0
    pixels = full(2, 130)
    pixels[:, 100:] = 0
    program = compile_graph(lif(weight), pixels, none(2))
    warning, always = program.report["warnings"]
    assert always == (
        "calibrate: population 'output': all 2 neurons send in every step in 2 samples of 6 steps: inputs from 24,892 "
        "to 25,400, the threshold is 100"
    )
    assert "population 'output' receives 33,020; 16 bits hold +-32,767 (largest on 2 calibration samples: 25,400)" in warning
    found = program.report["calibrate"]["populations"]["output"]
    assert (found["largest_input"], found["worst_input"], found["input_limit"]) == (25_400, 33_020, 32_767)
    narrow = compile_graph(lif(weight[:, :129]), full(2, 129), none(2)).report["warnings"]
    assert [w for w in narrow if "if all its inputs spike at once" in w] == []


def test_exponents_count_in_the_lif_input() -> None:
    """64 inputs times 254 times 2 are 32,512, which fits; times 4 they do not."""
    graph = lif(np.full((1, 64), 254.0))
    neuron = LifInt(du=4095, dv=0, vth=5)
    for exponent in (1, 2):
        synapses = Dense(np.full((1, 64), 254, np.int16), Grid(exponent, "excitatory"))
        whole = replace(
            graph,
            populations=(graph.source, replace(graph.populations[1], dynamics=neuron)),
            projections=(replace(graph.projections[0], synapses=synapses),),
        )
        state = State(whole, LOIHI2, full(1, 64), none(1))
        if exponent == 1:
            found = Calibrate().apply(state).report["calibrate"]["populations"]["output"]
            assert (found["largest_input"], found["worst_input"]) == (32_512, 32_512)
        else:
            with pytest.raises(RangeError, match="65,024"):
                Calibrate().apply(state)


# Calibration of DiffPC: 24-bit states


def first_overflow(records: Sequence[Any], names: Sequence[str]) -> tuple[str, str, int, int, int]:
    """Where the plain loop of conftest.py first leaves signed 24 bits: population, state, neuron, value and step."""
    for t, record in enumerate(records):
        for name, layer in zip(names, record.states, strict=True):
            for variable in ("x_F", "x_T", "x_A", "e_in", "e_T", "e_A"):
                values = [getattr(neuron, variable) for neuron in layer]
                if max(values) > SIGNED_24 or min(values) < -SIGNED_24:
                    neuron = max(range(len(values)), key=lambda j: abs(values[j]))
                    return name, variable, neuron, values[neuron], t
    raise AssertionError("the plain loop stays within 24 bits")


def overflow(plain: Any, graph: Graph, shift: int, point: int, pixels: Sequence[int], label: int | None) -> str:
    weights = [graph.weight(p).tolist() for p in graph.projections if p.into == "a_x"]
    x = [int(p) << (graph.encoding.scale_exponent + point) for p in pixels]
    size = graph.populations[-1].size
    target = None if label is None else [(j == label) << point for j in range(size)]
    biases = [[0] * len(w) for w in weights]
    shifts = [(shift, shift)] * len(weights)
    records = plain.network(graph.timing, weights, biases, x, target, point=point, shifts=shifts)
    name, variable, neuron, value, t = first_overflow(records, [p.name for p in graph.populations])
    return rf"population '{name}': {variable} of neuron {neuron} of row 0 is {value:,} at step {t}, "


def test_a_state_that_leaves_24_bits_in_the_first_phase_is_refused(plain: Any) -> None:
    """16 inputs of activity 7.5 times 254 << 7 in units of 2**-1: 254 * 128 * 15 * 20 is above 2**23."""
    weight = np.full((3, 20), 254)
    weight[0] = 2
    graph = diffpc([weight, np.full((2, 3), 2)], point=10, shift=7, scale=-1)
    expected = overflow(plain, graph, 7, 10, [16] * 20, None)
    assert "'p1': x_F of neuron 1" in expected
    with pytest.raises(RangeError) as caught:
        compile_graph(graph, full(2, 20), none(2))
    assert expected in str(caught.value)
    assert "signed 24 bits hold up to +-8,388,607" in str(caught.value)
    dim = compile_graph(graph, full(2, 20, 1), none(2))
    with pytest.raises(RangeError) as later:
        exact.run(dim.graph, full(1, 20))
    assert expected in str(later.value)


def test_a_state_that_leaves_24_bits_only_in_the_second_phase_is_refused(plain: Any) -> None:
    """Outputs of 60,000 against labels of 1: each of 12 errors comes back times 254 << 7, 15 more steps every cycle."""
    back = np.full((12, 2), 254)
    back[:, 0] = 0
    back[0, 0] = 2
    timing = Timing(m=2, n=4, init_cycles=2, settle_cycles=4)
    graph = diffpc([np.full((2, 3), 2), back], timing, point=4, shift=7)
    assert (
        exact.run(graph, full(1, 3), none(1)).steps == timing.init_steps + 1
    )  # the first phase alone stays within its registers
    expected = overflow(plain, graph, 7, 4, [16] * 3, 0)
    assert int(expected.rsplit("step ", 1)[1].rstrip(", ")) >= timing.init_steps
    with pytest.raises(RangeError) as caught:
        compile_graph(graph, full(1, 3), none(1))
    assert expected in str(caught.value)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["latched", "live"]), st.sampled_from([">=", ">"]))
def test_no_prediction_passes_its_worst_case(seed: int, targets: Any, gate: Any) -> None:
    random = np.random.default_rng(seed)
    sizes = [int(random.integers(1, 6)) for _ in range(3)]
    timing = replace(TIMING, targets=targets, gate=gate)
    weights = [random.normal(0, 2, (post, pre)) for pre, post in pairwise(sizes)]
    pixels = (16 * random.integers(0, 2, (40, sizes[0]))).astype(np.uint8)
    labels = random.integers(0, sizes[-1], 40)
    program = compile_graph(diffpc(weights, timing), pixels, labels)
    bound = worst_states(program.graph, timing)
    peaks = exact.run(program.graph, pixels, labels, settle=True).meta["peaks"]
    for p in program.graph.populations[1:]:
        assert peaks[f"{p.name}.x_F"] <= bound[f"{p.name}.x_F"]


def test_the_worst_case_is_met_by_the_worst_input() -> None:
    """Input activity 3.75 (15/4 of the largest 4) times 2: x_F is 7.5, and the input announces no more."""
    graph = compile_graph(diffpc([[[2.0]]]), full(1, 1), none(1)).graph
    point = graph.populations[1].dynamics.point
    peak = exact.run(graph, full(1, 1)).meta["peaks"]["p1.x_F"]
    assert worst_states(graph, TIMING)["p1.x_F"] == peak == 2 * 4 * 2**point


def test_the_provable_worst_case_is_warned_of_with_its_headroom() -> None:
    """On the samples p1 reaches a 64th of what all inputs at full scale would give."""
    random = np.random.default_rng(3)
    weight = np.full((2, 64), 254.0)
    weight[0] = 2 * random.integers(-100, 100, 64)
    timing = Timing(m=2, n=6, init_cycles=2)
    pixels = np.zeros((2, 64), np.uint8)
    pixels[0, 0], pixels[1, 1] = 16, 16
    program = compile_graph(diffpc([weight * 64], timing), pixels, none(2))
    found = program.report["calibrate"]
    worst = np.log2(64 * 254 * 64 * 4 * 2.0 ** program.graph.populations[1].dynamics.point) + 1
    most = max(found["state_bits"].values())
    assert worst > 24
    assert found["worst_state_bits"]["p1.x_F"] == pytest.approx(worst, abs=0.01)
    assert found["headroom_bits"] == pytest.approx(24 - most)
    (warning,) = (w for w in program.report["warnings"] if w.startswith("calibrate"))
    assert found["worst_state_bits"]["p1.e_T"] == pytest.approx(worst + 1, abs=0.01)  # the output target may be -x_F
    assert f"in the worst case p1.e_T needs {worst + 1:.1f} bits of 24" in warning
    assert f"the 2 calibration samples needed {most:.1f} ({24 - most:.1f} bits of headroom)" in warning


def test_thresholds_beyond_24_bits_are_refused() -> None:
    with pytest.raises(RangeError, match=r"DiffPC activity threshold 2\*\*23 .* up to 2\*\*22"):
        DiffPCInt("input", 0, Timing(m=20, n=4), point=3)
    wide = Timing(m=20, n=20, init_cycles=2)
    pixels = full(1, 3)
    with pytest.raises(RangeError, match=r"threshold 2\*\*23|signed 24"):
        compile_graph(diffpc([np.full((2, 3), 254.0)], replace(wide, m=16, m_error=-10, n=10), scale=12), pixels, none(1))


def test_a_network_that_does_not_fit_is_refused_with_exit_1() -> None:
    target = replace(LOIHI2, cores=replace(LOIHI2.cores, value=1))
    wide = replace(target, neurons_per_core=replace(LOIHI2.neurons_per_core, value=4))
    with pytest.raises(LimitError, match=r"^the network on loihi2: needs 2 cores, the target has 1; ") as caught:
        compile_graph(diffpc([np.ones((2, 3))]), full(1, 3), none(1), wide)
    assert caught.value.exit_code == 1
    narrow = replace(wide, fan_in_per_core=replace(LOIHI2.fan_in_per_core, value=2))
    with pytest.raises(LimitError, match=r"^does not fit for 2 reasons: population 'p1': needs 3 input axons") as caught:
        compile_graph(diffpc([np.ones((2, 3))]), full(1, 3), none(1), narrow)
    assert [v.resource for v in caught.value.violations] == ["input axons", "cores"]


def test_a_network_is_placed_by_the_messages_of_its_calibration_samples() -> None:
    """Two cores of neurons of which only one speaks: all messages of the program's routes are that one's."""
    populations = (
        Population("input", 2, Source()),
        Population("a", 4, Lif(1.0, 0.0, 1.0)),
        Population("b", 2, Lif(1.0, 0.0, 1.0)),
    )
    first = np.array([[2.0, 0], [0, 0], [0, 0], [0, 0]])
    projections = (Projection("w", "input", "a", Dense(first)), Projection("v", "a", "b", Dense(np.full((2, 4), 2.0))))
    graph = Graph(populations, projections, Encoding("bernoulli", levels=16), "b", 6)
    target = replace(LOIHI2, neurons_per_core=replace(LOIHI2.neurons_per_core, value=2))
    program = compile_graph(graph, full(3, 2), none(3), target)
    assert [(r.source, r.target, r.axons, r.messages) for r in program.routes] == [(0, 2, 2, 6.0), (1, 2, 2, 0.0)]
    assert program.report["place"]["hops"] == 6.0
    assert len(program.places) == program.cores == 3
