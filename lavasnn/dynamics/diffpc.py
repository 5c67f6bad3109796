"""DiffPC: predictive coding with ternary spikes that carry differences of states.

Every neuron of layer l keeps a prediction x_F received from below, a target x_T, the announced activity x_A that follows
x_T, an error e_T = x_T - x_F and the announced error e_A that follows e_T. In each step it compares what it has announced
with what it should have, and sends a spike of +1 or -1 where they differ by the threshold theta(t) or more:

    x_F += theta(t-1) W s_A(below, t-1)            e_in += theta_e(t-1) W_above^T s_e(above, t-1)
    d = x_T - x_A;  s_A = sign(d) [|d| >= theta] [x_A + theta s_A >= 0];  x_A += theta s_A
    d = e_T - e_A;  s_e = sign(d) [|d| >= theta_e];                       e_A += theta_e s_e

In the first phase ("init", no labels) x_T = x_F everywhere above the clamped input. In the second ("settle") the output is
clamped to its label and, at the first step of every cycle, hidden layers move by x_T += gamma (mask e_in - e_T).
A window ends with one step that only receives ("drain"), so that the last spikes are not lost.

Source: Difference Predictive Coding (ICLR 2026), sections on dual states, spiking ReLU, cyclic and cyclic decay schedules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numba
import numpy as np
from array_api_compat import array_namespace, device

from lavasnn.dynamics.fixedpoint import STATE_MAX
from lavasnn.dynamics.timing import Timing
from lavasnn.errors import InputError, RangeError

Array = Any
"""A numpy array or a torch tensor."""

Role = Literal["input", "hidden", "output"]


@dataclass(frozen=True)
class Now:
    """What a neuron derives from the step number, in the arithmetic of its population.

    `theta` and `theta_error` are the thresholds, `gain` and `gain_error` what an arriving sum is multiplied by (powers of
    two in integers, so a chip shifts), `speaks` whether the population may send activity yet.
    """

    first: bool
    settling: bool
    settle_start: bool
    cycle_start: bool
    drain: bool
    speaks: bool
    theta: float
    theta_error: float
    gain: float
    gain_error: float


VARIABLES = ("x_F", "x_T", "x_A", "e_in", "e_T", "e_A")
"""States that are numbers of up to 24 bits; the mask is one bit."""


@dataclass(frozen=True)
class State:
    """State of a DiffPC population; every array has shape (..., neuron), units as in `DiffPC` or `DiffPCInt`."""

    x_F: Array
    x_T: Array
    x_A: Array
    e_in: Array
    e_T: Array
    e_A: Array
    mask: Array


@dataclass(frozen=True)
class DiffPC:
    """Real-valued DiffPC population (Lava: "floating_pt"); arriving sums are W s.

    Args:
        role: "input" is clamped to the sample, "output" to the label in the second phase, "hidden" is free.
        depth: Synapses between the input and this population; 0 for the input.
        timing: Thresholds and phases, the same for all populations of a network.
        bias: Preloaded into x_F, scalar or shape (neuron,).

    Raises:
        InputError: Not-a-number biases, or a role and depth that contradict each other.
    """

    role: Role
    depth: int
    timing: Timing
    bias: Any = 0.0

    MESSAGES: ClassVar[tuple[str, ...]] = ("s_A", "s_e")
    INPUTS: ClassVar[tuple[str, ...]] = ("a_x", "a_e")
    STATES: ClassVar[tuple[str, ...]] = ("x_A", "x_F", "e_A")

    def __post_init__(self) -> None:
        _check_role(self.role, self.depth)
        bias = self.bias.detach().cpu() if hasattr(self.bias, "detach") else self.bias  # a torch parameter may be elsewhere
        if not np.all(np.isfinite(np.asarray(bias, dtype=np.float64))):
            raise InputError(f"DiffPC {self.role} population: a bias is not finite")

    def now(self, t: int, settle: bool) -> Now:
        """Constants of step t (0-based within the window); `settle` tells whether the window has a second phase."""
        theta, theta_e = _tables(self.timing, "float")
        return _now(self, t, settle, theta[t], theta_e[t], theta[t - 1], theta_e[t - 1])

    def damp(self, move: Array) -> Array:
        """gamma times a move of the targets."""
        return move if self.timing.gamma == 1.0 else self.timing.gamma * move


@dataclass(frozen=True)
class DiffPCInt:
    """Integer DiffPC population (Lava: "fixed_pt"): states in units of 2**-point within signed 24 bits.

    Arriving sums come in units of 2**-(point + lowest threshold exponent of their kind), so x_F grows by the sum shifted
    left by the exponents between that threshold and the one it was sent under; nothing but add, compare and shift.

    Args:
        role: As in `DiffPC`.
        depth: As in `DiffPC`.
        timing: As in `DiffPC`; powers of two only.
        bias: Integers in units of 2**-point, scalar or shape (neuron,).
        point: Fractional bits of all states, so that theta = 1 << (point + exponent).

    Raises:
        InputError: Role and depth that contradict each other, thresholds or a gamma that are no powers of two.
        RangeError: The largest threshold or a bias leaves signed 24 bits, or the smallest falls below 1.
    """

    role: Role
    depth: int
    timing: Timing
    bias: Any = 0
    point: int = 8

    MESSAGES: ClassVar[tuple[str, ...]] = DiffPC.MESSAGES
    INPUTS: ClassVar[tuple[str, ...]] = DiffPC.INPUTS
    STATES: ClassVar[tuple[str, ...]] = DiffPC.STATES

    def __post_init__(self) -> None:
        _check_role(self.role, self.depth)
        _ = self.timing.gamma_shift
        for kind in ("activity", "error"):
            exponents = self.timing.exponents(kind) + self.point
            if exponents.max() >= 23:
                raise RangeError(
                    f"DiffPC {kind} threshold 2**{exponents.max()} at {self.point} fractional bits: "
                    f"signed 24-bit states allow thresholds up to 2**22"
                )
            if exponents.min() < 0:
                raise RangeError(
                    f"DiffPC {kind} threshold 2**{exponents.min() - self.point} needs {-(exponents.min() - self.point)} "
                    f"fractional bits, the population has {self.point}"
                )
        if np.max(np.abs(np.asarray(self.bias, dtype=np.int64)), initial=0) > STATE_MAX:
            raise RangeError(f"DiffPC {self.role} population: a bias leaves signed 24 bits (limit +-{STATE_MAX:,})")

    def now(self, t: int, settle: bool) -> Now:
        """Constants of step t (0-based within the window); `settle` tells whether the window has a second phase."""
        e, e_e = _tables(self.timing, "int")
        p = self.point
        return _now(self, t, settle, 1 << (p + e[t]), 1 << (p + e_e[t]), 1 << (e[t - 1] - min(e)), 1 << (e_e[t - 1] - min(e_e)))

    def damp(self, move: Array) -> Array:
        """gamma times a move of the targets, rounded down (an arithmetic shift)."""
        return move if self.timing.gamma_shift == 0 else move >> self.timing.gamma_shift


Dynamics = DiffPC | DiffPCInt


def _check_role(role: str, depth: int) -> None:
    if role not in ("input", "hidden", "output"):
        raise InputError(f"DiffPC role is {role!r}, allowed are 'input', 'hidden', 'output'")
    if (role == "input") != (depth == 0) or depth < 0:
        raise InputError(f"DiffPC {role} population: depth is {depth}; the input has depth 0, all others more")


_TABLES: dict[tuple[Timing, str], tuple[list[Any], list[Any]]] = {}


def _tables(timing: Timing, arithmetic: str) -> tuple[list[Any], list[Any]]:
    """Thresholds (float) or their exponents (int) of all steps, for activity and for errors."""
    key = (timing, arithmetic)
    if key not in _TABLES:
        table = timing.thresholds if arithmetic == "float" else timing.exponents
        _TABLES[key] = (table("activity").tolist(), table("error").tolist())
    return _TABLES[key]


def _now(p: Dynamics, t: int, settle: bool, theta: Any, theta_e: Any, gain: Any, gain_e: Any) -> Now:
    timing = p.timing
    drain = t == timing.window(settle) - 1
    return Now(
        first=t == 0,
        settling=t >= timing.init_steps and not drain,
        settle_start=t == timing.init_steps and not drain,
        cycle_start=t % timing.n == 0,
        drain=drain,
        speaks=not drain and (timing.targets == "live" or t >= p.depth * timing.n),
        theta=theta,
        theta_error=theta_e,
        gain=gain,
        gain_error=gain_e,
    )


def initial(p: Dynamics, like: Array) -> State:
    """State at the opening of a window: the bias in x_F, zero elsewhere; arrays shaped and typed as `like`."""
    xp = array_namespace(like)
    zero = xp.zeros_like(like)
    if hasattr(p.bias, "detach"):  # a torch parameter
        bias = p.bias.detach().to(like)
    elif isinstance(p.bias, int | float):
        bias = p.bias
    else:
        bias = xp.asarray(p.bias, dtype=like.dtype, device=device(like))
    return State(x_F=zero + bias, x_T=zero, x_A=zero, e_in=zero, e_T=zero, e_A=zero, mask=zero)


def track(target: Array, actual: Array, theta: Any, comparator: str, gate: str | None) -> tuple[Array, Array]:
    """One comparison: the spikes that bring `actual` nearer to `target`, and the new `actual`.

    Args:
        target: x_T or e_T, shape (..., neuron).
        actual: x_A or e_A, same shape and dtype.
        theta: Threshold and step size.
        comparator: ">=" or ">".
        gate: ">=" or ">" for the spiking ReLU of activities, None for errors.

    Returns:
        Spikes in {-1, 0, 1} in the dtype of the states, and actual + theta * spikes.
    """
    xp = array_namespace(target, actual)
    d = target - actual
    size = xp.abs(d)
    s = xp.sign(d) * xp.astype(size >= theta if comparator == ">=" else size > theta, d.dtype)
    if gate is not None:
        after = actual + theta * s
        s = s * xp.astype(after >= 0 if gate == ">=" else after > 0, d.dtype)
    return s, actual + theta * s


def step(
    p: Dynamics,
    now: Now,
    state: State | None,
    a_x: Array | None,
    a_e: Array | None,
    target: Array | None,
    alive: Array | None = None,
) -> tuple[State, Array, Array]:
    """One time step of a population.

    Args:
        p: The population's parameters.
        now: Constants of this step, `p.now(t, settle)`.
        state: State after the previous step; ignored at the first step of a window.
        a_x: Weighted activity spikes that arrive now, shape (..., neuron); at the first step only its shape matters. None
            means that nothing arrives, which saves the addition.
        a_e: Weighted error spikes that arrive now, same shape, or None; ignored at the first step.
        target: Clamped x_T of an input (all steps) or output (second phase), same shape; unused by hidden populations.
        alive: 0 where a neuron is dropped out for this sample, 1 elsewhere; None means all live.

    Returns:
        The state, activity spikes s_A and error spikes s_e (dtype of the states, values -1, 0, 1).
    """
    timing = p.timing
    if now.first or state is None:
        state = initial(p, a_x)
        a_x = a_e = None
    x_F = state.x_F if a_x is None else state.x_F + now.gain * a_x
    e_in = state.e_in if a_e is None else state.e_in + now.gain_error * a_e
    x_T, mask = state.x_T, state.mask
    xp = array_namespace(x_F)
    clamped: Array = target
    moves = timing.targets == "live" or now.cycle_start  # the closing step starts a cycle, too
    if p.role == "input":
        x_T = clamped
    elif now.settle_start or (not now.settling and not now.drain and moves):
        x_T = x_F
    if now.settling and p.role == "output":
        x_T = clamped
    elif now.settling and p.role == "hidden":
        if now.settle_start or (now.cycle_start and timing.update_activity == "settled"):
            mask = xp.astype(x_T > 0, x_F.dtype)
            mask = mask if alive is None else mask * alive
        if now.cycle_start and not now.settle_start:
            x_T = x_T + p.damp(mask * e_in - (x_T - x_F))
    e_T = state.e_T if p.role == "input" or not moves else x_T - x_F
    zero = xp.zeros_like(x_F)
    s_A, x_A, s_e, e_A = zero, state.x_A, zero, state.e_A
    if now.speaks:
        goal = x_T if alive is None else x_T * alive
        s_A, x_A = track(goal, x_A, now.theta, timing.comparator, timing.gate)
    if now.settling and p.role != "input":
        goal = e_T if alive is None else e_T * alive
        s_e, e_A = track(goal, e_A, now.theta_error, timing.comparator, None)
    return State(x_F, x_T, x_A, e_in, e_T, e_A, mask), s_A, s_e


def check_24_bits(state: State, who: str, t: int, first: int = 0) -> None:
    """Refuse a state that signed 24 bits cannot hold.

    Args:
        state: Integer states, shape (neuron,) or (sample, neuron).
        who: Name of the population.
        t: Step within the window.
        first: Row that the first sample has in the run.

    Raises:
        RangeError: Names population, state, neuron, value and step (and the sample's row, if there are several).

    Source: lava-nc 0.10.0, proc/lif/models.py, uv_bitwidth = 24.
    """
    for name in VARIABLES:
        value = getattr(state, name)
        xp = array_namespace(value)
        if int(xp.max(value)) > STATE_MAX or int(xp.min(value)) < -STATE_MAX:
            flat = xp.reshape(value, (-1,))
            index = int(xp.argmax(xp.abs(flat)))
            row = f" of row {first + index // value.shape[-1]}" if value.ndim > 1 else ""
            raise RangeError(
                f"population {who!r}: {name} of neuron {index % value.shape[-1]}{row} is {int(flat[index]):,} at step {t}, "
                f"signed 24 bits hold up to +-{STATE_MAX:,}"
            )


def collapse(target: Array, actual: Array, lowest: float, levels: int, comparator: str, floor: bool) -> tuple[Array, Array]:
    """A whole cycle of `track` against a target that stays.

    n comparisons with halving thresholds write the distance in binary, from the most significant digit down, so the cycle
    moves by the truncated distance and sends one spike for every 1 among its digits. With a constant threshold it moves by
    whole thresholds, one spike each.

    Args:
        target: x_T or e_T, shape (..., neuron).
        actual: x_A or e_A, a multiple of `lowest`.
        lowest: Smallest threshold of the cycle, theta_max / 2**(n - 1).
        levels: Most units of `lowest` that one cycle can move: 2**n - 1, or n with a constant threshold.
        comparator: ">=" or ">".
        floor: True for activities under the spiking ReLU with gate ">=" (then actual >= 0), False for errors.

    Returns:
        k in 0..levels with its sign, in units of `lowest`, and the new actual. The number of spikes is popcount(|k|),
        or |k| with a constant threshold.
    """
    xp = array_namespace(target, actual)
    goal = xp.clip(target, 0, None) if floor else target
    d = (goal - actual) / lowest
    size = xp.abs(d)
    if comparator == ">=":
        k = xp.floor(size)
    else:
        k = xp.ceil(size) - 1
        if floor:
            k = xp.where(target < 0, xp.floor(size), k)
    k = xp.sign(d) * xp.clip(k, 0, levels)
    return k, actual + k * lowest


@numba.njit(cache=True, nogil=True, fastmath={"nsz"})
def collapse_kernel(
    target: Any, actual: Any, after: Any, per_unit: Any, lowest: Any, levels: Any, strict: bool, floor: bool
) -> Any:
    """`collapse` over flat arrays in one pass: fills `after`, returns (spikes sent, largest |k|).

    Spikes are counted as popcount(|k|); `per_unit` is 1 / lowest, a power of two. float32 or float64.
    """
    spikes, most = 0, 0
    for i in range(target.size):
        goal = target[i]
        below = goal < 0
        if floor and below:
            goal = goal * 0
        d = (goal - actual[i]) * per_unit
        size = abs(d)
        k = min(np.floor(size), levels)
        if strict and not (floor and below):
            k = max(min(np.ceil(size) - 1, levels), 0)
        bits = np.int32(k)
        most = max(most, bits)
        after[i] = actual[i] + np.copysign(k, d) * lowest
        bits = bits - ((bits >> 1) & 0x55555555)
        bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
        bits = (bits + (bits >> 4)) & 0x0F0F0F0F
        spikes += ((bits * 0x01010101) & 0xFFFFFFFF) >> 24
    return spikes, most
