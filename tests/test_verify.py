"""`compare` finds what was planted, where it was planted, and refuses runs that are not of the same thing."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from compile.backends import exact
from compile.pipeline import compile_graph
from compile.verify import TOLERANCE, compare, dyadic
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.lif import Lif
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.nn.run import run as torch_run
from lavasnn.results import RunResult
from lavasnn.synapses import Conv, Deconv, Dense, Grid, Owned, Sparse, Transposed, as_dense

N = 5
SIZES = (4, 6, 3)
TIMING = Timing(m=2, n=4, init_cycles=2, settle_cycles=2)


def real_graph() -> Graph:
    random = np.random.default_rng(0)
    w1, w2 = random.normal(0, 0.7, (6, 4)), random.normal(0, 0.7, (3, 6))
    names = ("input", "hidden", "output")
    populations = tuple(
        Population(name, size, DiffPC(role, depth, TIMING))  # type: ignore[arg-type]
        for depth, (name, size, role) in enumerate(zip(names, SIZES, names, strict=True))
    )
    projections = (
        Projection("w1", "input", "hidden", Dense(w1), "s_A", "a_x"),
        Projection("w2", "hidden", "output", Dense(w2), "s_A", "a_x"),
        Projection("w2t", "output", "hidden", Transposed("w2"), "s_e", "a_e"),
    )
    return Graph(populations, projections, Encoding("value", -2, 16), "output")


PIXELS = np.random.default_rng(1).integers(0, 17, (N, 4)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 0, 1])
PROGRAM = compile_graph(real_graph(), PIXELS, LABELS).graph
RUN = exact.run(PROGRAM, PIXELS, LABELS, settle=True, record=True)
FLOAT = exact.run(real_graph(), PIXELS, LABELS, settle=True, record=True)


def changed(run: RunResult, changes: dict[str, Callable[[NDArray[Any]], None]]) -> RunResult:
    """The run as another backend's, with some traces changed in copies."""
    traces = {key: value.copy() for key, value in run.traces.items() if not key.endswith(".margin")}
    for key, change in changes.items():
        change(traces[key])
    return replace(run, backend="other", traces=traces)


def plus(place: tuple[int, int, int], amount: float) -> Callable[[NDArray[Any]], None]:
    def change(trace: NDArray[Any]) -> None:
        trace[place] += amount

    return change


def flip(place: tuple[int, int, int]) -> Callable[[NDArray[Any]], None]:
    def change(trace: NDArray[Any]) -> None:
        trace[place] = 1 if trace[place] == 0 else 0

    return change


def test_equal_runs_are_equal_and_every_value_counts() -> None:
    found = compare(PROGRAM, RUN, changed(RUN, {}))
    steps = TIMING.window(True)
    assert found.equal
    assert (found.samples, found.steps, found.populations) == (N, steps, ("input", "hidden", "output"))
    assert found.compared == 5 * sum(SIZES) * N * steps + N * 3  # s_A, s_e, x_A, x_F, e_A; and the outputs
    assert found.first is None
    assert json.loads(json.dumps(found.to_json())) == {
        "backends": ["exact", "other"],
        "samples": N,
        "steps": steps,
        "populations": 3,
        "compared": found.compared,
        "mismatches": 0,
        "ties": 0,
        "first": None,
    }


@pytest.mark.parametrize("groups, back", [(1, Deconv), (2, Sparse)])
def test_errors_pass_back_through_a_convolution_as_through_its_matrix(groups: int, back: type) -> None:
    """DiffPC's feedback is the transpose of its forward synapses, with a weight exponent of its own."""
    random = np.random.default_rng(7)
    kernel = 2 * random.integers(-20, 21, (4, 2 // groups, 3, 3)).astype(np.int16)
    conv = Conv(kernel, (2, 4, 4), (2, 2), (1, 1), groups=groups, grid=Grid(-3))
    below = Dense(2 * random.integers(-20, 21, (32, 6)).astype(np.int16), Grid(-3))

    def network(above: Owned) -> Graph:
        sizes = {"input": 6, "hidden": 32, "output": 16}
        neurons = (DiffPCInt("input", 0, TIMING, point=4), DiffPCInt("hidden", 1, TIMING, point=4))
        dynamics = (*neurons, DiffPCInt("output", 2, TIMING, point=4))
        populations = tuple(Population(name, n, d) for (name, n), d in zip(sizes.items(), dynamics, strict=True))
        projections = (
            Projection("w1", "input", "hidden", below, "s_A", "a_x"),
            Projection("w2", "hidden", "output", above, "s_A", "a_x"),
            Projection("w2t", "output", "hidden", Transposed("w2", -4), "s_e", "a_e"),
        )
        return Graph(populations, projections, Encoding("value", -2, 16), "output")

    graph, plain = network(conv), network(Dense(as_dense(conv), conv.grid))
    turned = graph.synapses(graph.projection("w2t"))
    assert isinstance(turned, back) and turned.grid == Grid(-4)
    assert np.array_equal(as_dense(turned), as_dense(conv).T)
    pixels, labels = random.integers(0, 17, (5, 6)).astype(np.uint8), random.integers(0, 16, 5)
    wanted = exact.run(plain, pixels, labels, settle=True, record=True)
    assert wanted.traces["output.s_e"].any()
    assert compare(plain, wanted, exact.run(graph, pixels, labels, settle=True, record=True)).equal
    assert compare(graph, wanted, torch_run(graph, pixels, labels, settle=True, record=True)).equal


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["input", "hidden", "output"]),
            st.sampled_from(["s_A", "s_e", "x_A", "x_F", "e_A"]),
            st.integers(0, N - 1),
            st.integers(0, TIMING.window(True) - 1),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=5,
        unique=True,
    )
)
def test_the_first_of_planted_differences_is_named(places: list[tuple[str, str, int, int, int]]) -> None:
    """First is the smallest (sample, step, population); all planted ones are counted."""
    traces = {key: value.copy() for key, value in RUN.traces.items()}
    for population, variable, *place in places:
        traces[f"{population}.{variable}"][tuple(place)] ^= 1
    found = compare(PROGRAM, RUN, replace(RUN, backend="other", traces=traces))
    order = ["input", "hidden", "output"]
    sample, step, which = min((s, t, order.index(p)) for p, _, s, t, _ in places)
    assert found.mismatches == len(places)
    assert found.first is not None
    assert (found.first.sample, found.first.step, found.first.population) == (sample, step, order[which])
    assert (order[which], found.first.variable, sample, step, found.first.neuron) in places
    place = (sample, step, found.first.neuron)
    key = f"{order[which]}.{found.first.variable}"
    assert found.first.values == {"exact": RUN.traces[key][place], "other": traces[key][place]}
    assert not found.equal


def test_a_difference_reads_as_one_line() -> None:
    before = int(RUN.traces["hidden.x_F"][1, 7, 2])
    found = compare(PROGRAM, RUN, changed(RUN, {"hidden.x_F": plus((1, 7, 2), 1)}))
    assert str(found.first) == (
        f"population 'hidden', x_F of neuron 2, sample 1, step 7: exact {before:g}, other {before + 1:g} "
        "(likely cause: rounding: the values differ in the last bits)"
    )
    assert found.to_json()["first"] == str(found.first)


def delayed(trace: NDArray[Any]) -> None:
    trace[:, 1:] = trace[:, :-1].copy()


def ahead(trace: NDArray[Any]) -> None:
    trace[:, :-1] = trace[:, 1:].copy()


KEYS = [f"hidden.{v}" for v in ("s_A", "s_e", "x_A", "x_F", "e_A")]


@pytest.mark.parametrize(
    "changes, cause",
    [
        ({"hidden.x_F": plus((0, 9, 1), -2)}, "rounding"),
        ({"hidden.x_F": plus((0, 9, 1), 300)}, "decay or accumulation"),
        ({"hidden.x_F": plus((0, 9, 1), 2**23)}, "saturation"),
        ({"hidden.s_A": flip((0, 9, 1))}, "threshold"),
        (dict.fromkeys(KEYS, delayed), "ordering: other is 1 step behind"),
        (dict.fromkeys(KEYS, ahead), "ordering: other is 1 step ahead"),
    ],
    ids=["rounding", "accumulation", "saturation", "threshold", "behind", "ahead"],
)
def test_the_cause_is_guessed(changes: dict[str, Any], cause: str) -> None:
    found = compare(PROGRAM, RUN, changed(RUN, changes))
    assert found.first is not None
    assert found.first.population == "hidden"
    assert found.first.cause.startswith(cause)


def test_outputs_are_compared_too() -> None:
    outputs = RUN.outputs.copy()
    outputs[3, 1] += 1
    found = compare(PROGRAM, RUN, replace(changed(RUN, {}), outputs=outputs))
    assert (found.mismatches, found.first) == (1, None)


def test_runs_of_different_things_are_refused() -> None:
    fewer = exact.run(PROGRAM, PIXELS[:3], LABELS[:3], settle=True, record=True)
    shorter = exact.run(PROGRAM, PIXELS, LABELS, record=True)
    silent = exact.run(PROGRAM, PIXELS, LABELS, settle=True)
    partial = replace(RUN, traces={k: v for k, v in RUN.traces.items() if k != "hidden.e_A"})
    wider = replace(RUN, traces=RUN.traces | {"hidden.e_A": RUN.traces["input.e_A"]})
    for other, words in (
        (fewer, "did not run the same samples"),
        (shorter, "differ in their phases"),
        (silent, "did not record the same"),
        (partial, "differing: hidden.e_A"),
        (wider, "hidden.e_A has shape"),
        (replace(RUN, labels=1 + LABELS), "did not run the same samples"),
        (replace(changed(FLOAT, {}), outputs=FLOAT.outputs), "differ in their precision: "),
    ):
        for pair in ((RUN, other), (other, RUN)):
            with pytest.raises(InputError, match=words):
                compare(PROGRAM, *pair)
    with pytest.raises(InputError, match="all traces"):
        compare(PROGRAM, silent, silent)


# Real numbers


def without_ties(run: RunResult) -> RunResult:
    """The run with no decision close to its threshold."""
    wide = {key: np.full_like(v, 1.0) for key, v in run.traces.items() if key.endswith(".margin")}
    return replace(run, traces=run.traces | wide)


def test_real_states_may_differ_by_rounding_and_messages_may_not() -> None:
    run = without_ties(FLOAT)
    assert run.precision == "float"
    assert not dyadic(real_graph())
    near = changed(run, {"hidden.x_F": plus((0, 5, 1), 0.9 * TOLERANCE)})
    assert compare(real_graph(), run, near).equal
    far = compare(real_graph(), run, changed(run, {"hidden.x_F": plus((0, 5, 1), 3 * TOLERANCE)}))
    assert far.mismatches == 1
    assert far.first is not None
    assert far.first.cause.startswith("rounding")
    message = compare(real_graph(), run, changed(run, {"output.s_e": flip((4, 9, 0))}))
    assert (message.mismatches, message.first and message.first.variable) == (1, "s_e")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_never_agree(value: float) -> None:
    run = without_ties(FLOAT)

    def spoil(trace: NDArray[Any]) -> None:
        trace[2, 5, 1] = value

    assert compare(real_graph(), run, changed(run, {"hidden.x_F": spoil})).mismatches == 1


def test_samples_are_compared_up_to_their_first_tie() -> None:
    """Sample 1 ties at step 6, sample 3 at steps 2 and 9; what differs from there on does not count."""
    run = without_ties(FLOAT)
    margin = np.full_like(run.traces["hidden.margin"], 1.0)
    for sample, step in ((1, 6), (3, 2), (3, 9)):
        margin[sample, step] = TOLERANCE / 2
    run = replace(run, traces=run.traces | {"hidden.margin": margin})
    graph, steps = real_graph(), TIMING.window(True)

    def from_tie(trace: NDArray[Any]) -> None:
        trace[1, 6:] += 1.0
        trace[3, 2:] += 1.0

    found = compare(graph, run, changed(run, {"hidden.x_F": from_tie, "output.e_A": from_tie}))
    assert found.equal
    assert found.ties == 3
    counted = 3 * steps + 6 + 2
    assert found.compared == 5 * sum(SIZES) * counted + 3 * 3  # outputs only of the samples without ties
    for place in ((1, 5, 0), (3, 1, 0), (0, 20 % steps, 0)):
        late = compare(graph, run, changed(run, {"hidden.x_F": from_tie, "hidden.e_A": plus(place, 1.0)}))
        assert (late.mismatches, late.first and (late.first.sample, late.first.step)) == (1, place[:2])


def test_a_tie_of_a_run_is_found_where_a_sum_meets_its_threshold() -> None:
    """x_F = 3 w is exactly the smallest threshold (0.5) when w = 1/6, so rounding decides whether that spike is sent."""
    weight = np.full((1, 3), 0.5 / 3 / 0.5)
    populations = (
        Population("input", 3, DiffPC("input", 0, TIMING)),
        Population("output", 1, DiffPC("output", 1, TIMING)),
    )
    projection = Projection("w", "input", "output", Dense(weight), "s_A", "a_x")
    graph = Graph(populations, (projection,), Encoding("value", -2, 16), "output")
    pixels = np.array([[2, 2, 2], [1, 0, 0]], np.uint8)  # activity 0.5 each: the sum is 0.5; and none
    run = exact.run(graph, pixels, np.zeros(2, np.int64), record=True)
    found = compare(graph, run, changed(run, {}))
    assert found.ties >= 1
    assert found.equal
    assert run.traces["output.margin"][0].min() < TOLERANCE < run.traces["output.margin"][1].min()


def test_dyadic_networks_are_compared_to_the_end() -> None:
    """Their sums are exact, so that even a decision on its threshold falls the same way everywhere."""
    graph = real_graph()
    rounded = replace(
        graph,
        projections=tuple(
            replace(p, synapses=Dense(np.round(graph.weight(p) * 8) / 8)) if isinstance(p.synapses, Dense) else p
            for p in graph.projections
        ),
    )
    assert dyadic(rounded)
    run = exact.run(rounded, PIXELS, LABELS, settle=True, record=True)
    assert min(v.min() for k, v in run.traces.items() if k.endswith(".margin")) < TOLERANCE
    found = compare(rounded, run, changed(run, {}))
    assert (found.ties, found.mismatches) == (0, 0)
    assert found.compared == 5 * sum(SIZES) * N * TIMING.window(True) + N * 3


def test_lif_runs_compare_by_their_spikes() -> None:
    populations = (Population("input", 4, Source()), Population("output", 3, Lif(1.0, 0.5, 0.4)))
    projection = Projection("w", "input", "output", Dense(np.random.default_rng(2).normal(0, 1, (3, 4))))
    graph = Graph(populations, (projection,), Encoding("bernoulli", levels=16), "output", 9)
    run = exact.run(graph, PIXELS, LABELS, record=True)
    assert compare(graph, run, changed(run, {})).compared == N * 9 * 7 + N * 3
    found = compare(graph, run, changed(run, {"output.s": flip((2, 3, 1))}))
    assert found.first is not None
    assert (found.first.population, found.first.sample, found.first.step, found.first.neuron) == ("output", 2, 3, 1)
    assert found.first.cause == "a state that is not recorded"


def test_nothing_compared_is_not_equal() -> None:
    """A graph in which the first step already is a tie leaves nothing to compare; that is no proof."""
    populations = (Population("input", 4, Source()), Population("output", 3, Lif(1.0, 0.5, 0.4, bias=0.4)))
    projection = Projection("w", "input", "output", Dense(np.random.default_rng(2).normal(0, 1, (3, 4))))
    graph = Graph(populations, (projection,), Encoding("bernoulli", levels=16), "output", 9)
    run = exact.run(graph, np.zeros((2, 4), np.uint8), record=True)
    found = compare(graph, run, changed(run, {}))
    assert (found.compared, found.mismatches, found.equal) == (0, 0, False)


def test_neurons_at_rest_are_no_ties() -> None:
    """With a threshold of 0 a silent neuron sits on it, but nothing was added up that could round."""
    populations = (Population("input", 4, Source()), Population("output", 3, Lif(1.0, 0.5, 0.0)))
    projection = Projection("w", "input", "output", Dense(np.random.default_rng(2).normal(0, 1, (3, 4))))
    graph = Graph(populations, (projection,), Encoding("bernoulli", levels=16), "output", 9)
    run = exact.run(graph, np.zeros((2, 4), np.uint8), record=True)
    found = compare(graph, run, changed(run, {}))
    assert (found.compared, found.ties, found.equal) == (2 * 9 * 7 + 2 * 3, 0, True)
