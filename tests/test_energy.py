"""Estimates from counts: by hand, with their labels and sources; and populations that never or always send."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compile.backends import exact
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.dynamics.graded import Graded, GradedInt
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.ir import Graph, Population, Projection, Source
from lavasnn.measure import activity, energy
from lavasnn.measure.energy import COUNTED, Counts, LayerCounts
from lavasnn.synapses import Dense, Grid

COUNTS = Counts(
    samples=4,
    steps=20,
    latency_steps=22,
    layers=(
        LayerCounts("input", 0, 0, 0, 0, 0, 0, 90),
        LayerCounts("hidden", 30, 900, 700, 2400, 50, 90, 100),
        LayerCounts("output", 10, 1000, 1000, 800, 20, 100, 0),
    ),
    messages_by_hops={0: 10, 1: 60, 3: 30},
    messages_across_chips=0,
    messages_from_outside=90,
    cores=4,
    chips=1,
    memory_bytes=5000,
)


def test_proxy_by_hand() -> None:
    assert energy.proxy(COUNTS) == (1900 + 10 * 3200) / 4


def test_estimates_by_hand() -> None:
    latency, dynamic, static = energy.estimates(COUNTS)
    assert (latency.low, latency.high, latency.unit) == (pytest.approx(22e-6), pytest.approx(220e-6), "s")
    # 190 deliveries of 1.7 pJ; 60 + 3 * 30 hops of 3 or 4 pJ; 70 active updates at least, 3200 at most; in pJ for 4 samples:
    low = 1700 * 23.6 + 70 * 81 + 3130 * 52 + 190 * 1.7 + 150 * 3.0
    high = 1900 * 23.6 + 3200 * 81 + 190 * 1.7 + 150 * 4.0
    assert (dynamic.low, dynamic.high) == (pytest.approx(low * 1e-12 / 4), pytest.approx(high * 1e-12 / 4))
    # A board of 1.78 W for 20 steps of 1 to 10 microseconds.
    assert (static.low, static.high) == (pytest.approx(1.78 * 20e-6), pytest.approx(1.78 * 200e-6))
    two = energy.estimates(replace(COUNTS, chips=2))[2]
    assert (two.low, two.high) == (2 * static.low, 2 * static.high)
    assert "2 chips, 3.56 W" in two.label


def test_every_estimate_says_that_it_is_one() -> None:
    found = [e.to_json() for e in energy.estimates(COUNTS)]
    assert [e["name"] for e in found] == ["latency", "dynamic energy", "static energy"]
    for entry in found:
        assert entry["estimate"] is True
        assert entry["label"].startswith("estimate: ")
        assert entry["source"]
        assert 0 < entry["low"] < entry["high"]
    assert found[1]["label"] == "estimate: Loihi 1, pre-silicon, lower bound"
    assert "2303.09503" in found[0]["source"]
    assert "Davies" in found[1]["source"]
    assert "2609.32317" in found[2]["source"]
    json.dumps(found)


def test_static_power_dominates_a_small_network() -> None:
    _, dynamic, static = energy.estimates(COUNTS)
    assert static.low > 100 * dynamic.high


@given(st.sampled_from(COUNTED), st.integers(1, 10**9))
def test_more_work_never_costs_less(name: str, more: int) -> None:
    layer = COUNTS.layers[1]
    if name in ("syn_ops_nonzero", "active_updates"):  # parts of other counts
        layer = replace(layer, syn_ops=layer.syn_ops + more, dendrite_updates=layer.dendrite_updates + more)
    busier = replace(COUNTS, layers=(COUNTS.layers[0], replace(layer, **{name: getattr(layer, name) + more}), COUNTS.layers[2]))
    before, after = energy.estimates(COUNTS)[1], energy.estimates(busier)[1]
    assert after.low >= before.low and after.high >= before.high and after.low <= after.high


def test_counts_as_json() -> None:
    values = COUNTS.to_json()
    assert values["total"] == {
        "syn_ops": 1900,
        "syn_ops_nonzero": 1700,
        "dendrite_updates": 3200,
        "active_updates": 70,
        "spikes_in": 190,
        "axon_out": 190,
    }
    assert values["per_sample"]["syn_ops"] == 475
    assert values["layers"][1]["per_sample"]["spikes_in"] == 22.5
    assert values["messages_by_hops"] == {"0": 10, "1": 60, "3": 30}
    assert "memory_bytes" in values and "footprint" not in values
    json.dumps(values)


def network(vth: float, *, whole: bool = False) -> Graph:
    """Three inputs onto two neurons without memory."""
    neuron = LifInt(4095, 4095, int(vth)) if whole else Lif(1.0, 1.0, vth)
    synapses = Dense(np.full((2, 3), 2, np.int16), Grid()) if whole else Dense(np.full((2, 3), 2.0))
    populations = (Population("input", 3, Source()), Population("output", 2, neuron))
    return Graph(populations, (Projection("w", "input", "output", synapses),), Encoding("given", levels=1), "output", 5)


@pytest.mark.parametrize("whole", [False, True])
def test_a_silent_population_is_told_with_its_range_and_threshold(whole: bool) -> None:
    graph = network(7, whole=whole)
    shown = np.zeros((2, 5, 3), np.int8)
    shown[0, 1] = 1  # 6 is the largest input
    lines = activity.quiet(exact.run(graph, shown, measure=True), activity.thresholds(graph))
    assert lines == (
        "population 'output' never sends anything in 2 samples of 5 steps: inputs from 0 to 6, the threshold is 7",
    )


def test_a_population_that_always_sends_is_told() -> None:
    graph = network(1.0)
    shown = np.ones((2, 5, 3), np.int8)
    result = exact.run(graph, shown, measure=True)
    assert activity.quiet(result, activity.thresholds(graph)) == (
        "population 'input': all 3 neurons send in every step in 2 samples of 5 steps",
        "population 'output': all 2 neurons send in every step in 2 samples of 5 steps: inputs from 6 to 6, the threshold is 1",
    )
    shown[1, 4, 2] = 0
    assert len(activity.quiet(exact.run(graph, shown, measure=True), {})) == 1  # the input no longer does


def test_kinds_of_messages_are_looked_at_one_by_one() -> None:
    """A DiffPC population that only ever sends one kind is not silent, and one kind alone may be sent in every step."""
    run = exact.run(network(1.0), np.zeros((1, 5, 3), np.int8))
    none, some, every = (np.full((1, 5), n, np.int32) for n in (0, 1, 2))
    lines = activity.quiet(replace(run, sizes={"p": 2}, messages={"p.s_A": none, "p.s_e": some}), {})
    assert lines == ()
    run = replace(run, meta={})
    lines = activity.quiet(replace(run, sizes={"p": 2}, messages={"p.s_A": none, "p.s_e": every}), {})
    assert lines == ("population 'p': all 2 neurons send in every step in 1 sample of 5 steps",)


def test_nothing_is_said_of_a_network_that_works() -> None:
    graph = network(1.0)
    shown = np.zeros((1, 5, 3), np.int8)
    shown[0, 2, 1] = 1
    assert activity.quiet(exact.run(graph, shown), activity.thresholds(graph)) == ()


def test_a_silent_input_has_no_threshold() -> None:
    lines = activity.quiet(exact.run(network(1.0), np.zeros((1, 5, 3), np.int8)), {})
    assert lines[0] == "population 'input' never sends anything in 1 sample of 5 steps"


def test_thresholds_of_all_stock_neurons() -> None:
    kinds = (Source(), Lif(1.0, 0.0, 2.5), Graded(0.5), LifInt(4095, 0, 3), GradedInt(4))
    graph = Graph(tuple(Population(f"p{i}", 1, d) for i, d in enumerate(kinds)), (), Encoding("given", levels=1), "p0", 1)
    assert activity.thresholds(graph) == {"p1": 2.5, "p2": 0.5, "p3": 3, "p4": 4}


def test_the_threshold_of_diffpc_is_its_smallest_one() -> None:
    timing = Timing(m=2, n=4)  # 4, 2, 1, 1/2
    for dynamics, wanted in ((DiffPC("input", 0, timing), 0.5), (DiffPCInt("input", 0, timing, 0, 6), 32)):
        graph = Graph((Population("p", 1, dynamics),), (), Encoding("value"), "p")
        assert activity.thresholds(graph) == {"p": wanted}
