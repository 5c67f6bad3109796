"""DiffPC written out for single neurons in plain Python numbers: the truth that several test files compare with.

It follows the equations in the text of `lavasnn.dynamics.diffpc` and shares no code with it but `Timing`'s fields.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from lavasnn.dynamics.timing import Timing

# Time limits belong to pytest-timeout: a busy machine is no bug. Examples are the same in every run.
settings.register_profile("lavasnn", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lavasnn")

Number = Any
"""A Python int (integers of 2**-point) or float."""


@dataclass
class Neuron:
    """State of one neuron."""

    x_F: Number
    x_T: Number = 0
    x_A: Number = 0
    e_in: Number = 0
    e_T: Number = 0
    e_A: Number = 0
    mask: Number = 0


def thresholds(timing: Timing, kind: str) -> list[float]:
    """theta(t) = d(t) 2**m / 2**(t mod n) for all steps of the two phases and the closing one."""
    m = timing.m_error if kind == "error" and timing.m_error is not None else timing.m
    last = timing.n * (timing.init_cycles + timing.settle_cycles)
    found: list[float] = []
    for t in range(last + 1):
        if timing.schedule == "constant":
            found.append(2.0**m)
            continue
        theta = 2.0**m / 2.0 ** (t % timing.n)
        if timing.schedule == "cyclic-decay":
            s = t if timing.decay == "linear" else t // timing.n * timing.n
            d = 1.0 - (1.0 - timing.final) * s / last
            if timing.decay == "binary":
                d = min((2.0**-k for k in range(60)), key=lambda power: abs(math.log2(power) - math.log2(d)))
            theta *= d
        found.append(theta)
    return found


def compared(target: Number, actual: Number, theta: Number, comparator: str, gate: str | None) -> int:
    """The spike that one comparison sends."""
    d = target - actual
    if not (abs(d) >= theta if comparator == ">=" else abs(d) > theta) or d == 0:
        return 0
    s = 1 if d > 0 else -1
    after = actual + s * theta
    if gate is not None and not (after >= 0 if gate == ">=" else after > 0):
        return 0
    return s


class Clock:
    """Thresholds and gains of every step, real or as shifts of integers."""

    def __init__(self, timing: Timing, point: int | None) -> None:
        self.timing, self.point = timing, point
        self.real = {kind: thresholds(timing, kind) for kind in ("activity", "error")}

    def theta(self, kind: str, t: int) -> Number:
        """theta(t) in the units of the states."""
        value = self.real[kind][t]
        return value if self.point is None else int(value * 2**self.point)

    def arrived(self, kind: str, t: int, total: Number) -> Number:
        """What a sum of weights sent at t - 1 adds to a state."""
        if self.point is None:
            return self.real[kind][t - 1] * total
        return total << int(math.log2(self.real[kind][t - 1] / min(self.real[kind])))

    def damped(self, move: Number) -> Number:
        """gamma times a move; integers round down."""
        if self.point is None:
            return self.timing.gamma * move
        return move // round(1 / self.timing.gamma)


def neuron_step(
    clock: Clock,
    role: str,
    depth: int,
    t: int,
    settle: bool,
    old: Neuron | None,
    a_x: Number,
    a_e: Number,
    clamp: Number,
    alive: int = 1,
    bias: Number = 0,
) -> tuple[Neuron, int, int]:
    """Step t of one neuron: its new state, s_A and s_e."""
    timing = clock.timing
    n, start = timing.n, timing.n * timing.init_cycles
    end = start + (n * timing.settle_cycles if settle else 0)
    settling, live = start <= t < end, timing.targets == "live"
    if t == 0 or old is None:
        new = Neuron(x_F=bias)
    else:
        new = Neuron(**vars(old))
        new.x_F = old.x_F + clock.arrived("activity", t, a_x)
        new.e_in = old.e_in + clock.arrived("error", t, a_e)
    if role == "input" or (role == "output" and settling):
        new.x_T = clamp
    elif t < start and (live or t % n == 0):
        new.x_T = new.x_F
    elif settling and t % n == 0:
        if t == start:
            new.x_T = new.x_F
        if t == start or timing.update_activity == "settled":
            new.mask = alive if new.x_T > 0 else 0
        if t > start:
            new.x_T = new.x_T + clock.damped(new.mask * new.e_in - (new.x_T - new.x_F))
    if role != "input" and (live or t % n == 0 or t == end):
        new.e_T = new.x_T - new.x_F
    s_A = s_e = 0
    if t < end and (live or t >= depth * n):
        theta = clock.theta("activity", t)
        s_A = compared(new.x_T * alive, new.x_A, theta, timing.comparator, timing.gate)
        new.x_A = new.x_A + theta * s_A
    if settling and role != "input":
        theta = clock.theta("error", t)
        s_e = compared(new.e_T * alive, new.e_A, theta, timing.comparator, None)
        new.e_A = new.e_A + theta * s_e
    return new, s_A, s_e


@dataclass
class Record:
    """One step of a network: states, s_A and s_e by layer and neuron."""

    states: list[list[Neuron]]
    s_A: list[list[int]]
    s_e: list[list[int]]


def network(
    timing: Timing,
    weights: Sequence[Sequence[Sequence[Number]]],
    biases: Sequence[Sequence[Number]],
    x: Sequence[Number],
    target: Sequence[Number] | None,
    *,
    alive: Sequence[Sequence[int] | None] = (),
    point: int | None = None,
    shifts: Sequence[tuple[int, int]] = (),
) -> list[Record]:
    """A whole window of one sample.

    Args:
        timing: Thresholds and phases.
        weights: weights[l][post][pre] of layers 1..L; Python ints with `point`.
        biases: biases[l][post].
        x: Clamped input.
        target: Clamped output of the second phase; None leaves it out.
        alive: For layers 0..L-1 which neurons are not dropped out, or None.
        point: Fractional bits of integers; None means real numbers.
        shifts: Integers: for each weight layer the left shifts of sums on the way up and down.
    """
    L, settle, clock = len(weights), target is not None, Clock(timing, point)
    sizes = [len(x), *(len(w) for w in weights)]
    alive = list(alive) or [None] * L
    window = timing.n * (timing.init_cycles + (timing.settle_cycles if settle else 0)) + 1
    records: list[Record] = []
    states: list[list[Neuron | None]] = [[None] * size for size in sizes]
    s_A, s_e = [[0] * size for size in sizes], [[0] * size for size in sizes]

    def shifted(total: Number, shift: int) -> Number:
        return total if point is None else total * 2**shift if shift >= 0 else total // 2**-shift

    for t in range(window):
        next_A, next_e = [[0] * size for size in sizes], [[0] * size for size in sizes]
        for l, size in enumerate(sizes):
            role = "input" if l == 0 else "output" if l == L else "hidden"
            for j in range(size):
                a_x = a_e = 0
                if l > 0:
                    a_x = sum(weights[l - 1][j][i] * s for i, s in enumerate(s_A[l - 1]))
                    a_x = shifted(a_x, shifts[l - 1][0] if shifts else 0)
                if l < L:
                    a_e = sum(weights[l][k][j] * s for k, s in enumerate(s_e[l + 1]))
                    a_e = shifted(a_e, shifts[l][1] if shifts else 0)
                clamp = x[j] if l == 0 else target[j] if target is not None and l == L else 0
                mask = alive[l] if l < L else None
                states[l][j], next_A[l][j], next_e[l][j] = neuron_step(
                    clock,
                    role,
                    l,
                    t,
                    settle,
                    states[l][j],
                    a_x,
                    a_e,
                    clamp,
                    1 if mask is None else int(mask[j]),
                    biases[l - 1][j] if l else 0,
                )
        s_A, s_e = next_A, next_e
        records.append(Record([[Neuron(**vars(s)) for s in layer if s is not None] for layer in states], s_A, s_e))
    return records


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs Lava where it is not installed, or fail if nothing may be skipped."""
    if importlib.util.find_spec("lava") is None:
        for item in items:
            if item.get_closest_marker("lava"):
                item.add_marker(pytest.mark.skip(reason="Lava is not installed"))


@pytest.fixture
def stored(request: pytest.FixtureRequest) -> Path:
    """What the test names below LAVASNN_DATA, as in `@pytest.mark.data("nets/netx")`; skips where it is not."""
    (folder,) = request.node.get_closest_marker("data").args
    root = os.environ.get("LAVASNN_DATA")
    if not root or not (Path(root) / folder).exists():
        pytest.skip(f"LAVASNN_DATA has no {folder}" if root else "LAVASNN_DATA is not set")
    return Path(root) / folder


@pytest.fixture(scope="session")
def plain() -> SimpleNamespace:
    """The functions above: `thresholds`, `compared`, `neuron_step`, `network`, and the class `Clock`."""
    parts: dict[str, Callable[..., Any]] = {
        "thresholds": thresholds,
        "compared": compared,
        "neuron_step": neuron_step,
        "network": network,
        "Clock": Clock,
    }
    return SimpleNamespace(**parts)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many data tests were skipped and how to run them."""
    skipped = terminalreporter.stats.get("skipped", [])
    if n := sum("LAVASNN_DATA" in str(report.longrepr) for report in skipped):
        terminalreporter.write_line(
            f"{n} data tests skipped: set LAVASNN_DATA to a folder with the data that README names to run them"
        )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With LAVASNN_NO_SKIPS=1 (make test-all) a skipped test fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("LAVASNN_NO_SKIPS") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
