"""DiffPC networks in torch: the step loop as it would run on a chip, and the same computed a cycle at a time.

Axes: activities are (sample, neuron), weights (post, pre). Layer 0 is the input, layer L the output.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from lavasnn.dynamics.diffpc import DiffPC as Parameters
from lavasnn.dynamics.diffpc import DiffPCInt, Role, State, collapse, collapse_kernel, step, track
from lavasnn.dynamics.timing import Timing
from lavasnn.errors import InputError


class DiffPC(nn.Module):
    """A DiffPC population as a layer: what its activity comes to at the end of the first phase, for a target that stays.

    In a network that holds for activities below 2**(m + 1), which one cycle announces; `DiffPCNet` is exact beyond that too.

    Args:
        role: "input", "hidden" or "output"; an output passes its prediction x_F through.
        timing: Thresholds and phases.
    """

    def __init__(self, role: Role = "hidden", timing: Timing | None = None) -> None:
        super().__init__()
        self.role: Role = role
        self.timing = timing or Timing()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Announced activity x_A for a target x, shape (sample, neuron); x itself for an output; carries no gradient."""
        return x if self.role == "output" else announce(x, self.timing)

    def extra_repr(self) -> str:
        return f"{self.role!r}, m={self.timing.m}, n={self.timing.n}"


class DiffPCNet(nn.Sequential):
    """Fully connected DiffPC network: input neurons, then Linear and DiffPC neurons in turn.

    Args:
        sizes: Neurons from input to output, at least two entries, all positive.
        timing: Thresholds and phases, with at least one cycle of the first phase for every weight layer.
        generator: Random numbers for the Kaiming-uniform (a = sqrt 5) weights; biases start at 0.

    Raises:
        InputError: Fewer than two layers, a layer without neurons, or too few cycles.
    """

    def __init__(self, sizes: Sequence[int], timing: Timing, generator: torch.Generator | None = None) -> None:
        if len(sizes) < 2:
            raise InputError(f"network: {len(sizes)} layers given, needed are at least an input and an output")
        for i, size in enumerate(sizes):
            if size < 1:
                raise InputError(f"network: layer {i} has {size} neurons, at least 1 is needed")
        check_depth(timing, len(sizes) - 1)
        modules: list[nn.Module] = [DiffPC("input", timing)]
        for i, (pre, post) in enumerate(pairwise(sizes)):
            linear = nn.Linear(pre, post)
            bound = 1.0 / pre**0.5
            with torch.no_grad():
                linear.weight.uniform_(-bound, bound, generator=generator)
                linear.bias.zero_()
            modules += [linear, DiffPC("output" if i == len(sizes) - 2 else "hidden", timing)]
        super().__init__(*modules)
        self.sizes = tuple(sizes)
        self.timing = timing

    @torch.no_grad()
    def forward(self, input: Tensor) -> Tensor:
        """x_F of the output at the end of the first phase for input targets, shape (sample, class); carries no gradient."""
        if obstacle(self.timing) is None:
            return collapsed(self, input).output
        return literal(self.populations, [layer.weight for layer in self.linears], input)[1][-1].x_F

    @property
    def linears(self) -> list[nn.Linear]:
        """Weight layers from input to output."""
        return [m for m in self if isinstance(m, nn.Linear)]

    @property
    def populations(self) -> list[Parameters]:
        """Parameters of layers 0..L."""
        last = len(self.sizes) - 1
        found = [Parameters("input", 0, self.timing)]
        for l, layer in enumerate(self.linears, start=1):
            found.append(Parameters("output" if l == last else "hidden", l, self.timing, layer.bias.detach()))
        return found


def check_depth(timing: Timing, layers: int, settle: bool = False) -> None:
    """Refuse timings whose phases end before the output has heard from the input, or the first layer from the output.

    Raises:
        InputError: Fewer first-phase cycles than weight layers with latched targets, or with `settle` fewer second-phase
            cycles than weight layers.
    """
    if settle and timing.settle_cycles < layers:
        raise InputError(
            f"timing: settle_cycles is {timing.settle_cycles}, errors of {layers} weight layers need at least {layers}"
        )
    if timing.targets == "latched" and timing.init_cycles < layers:
        raise InputError(
            f"timing: init_cycles is {timing.init_cycles}, a network of {layers} weight layers needs at least {layers}"
        )


def announce(x: Tensor, timing: Timing) -> Tensor:
    """x_A after the first phase for a target that stays at x, starting from 0; shape (sample, neuron)."""
    actual = torch.zeros_like(x)
    if obstacle(timing) is None:
        for cycle in range(timing.init_cycles):
            actual, _, behind = _cycle(timing, x, actual, "activity", cycle)
            if not behind and timing.schedule == "cyclic":
                break
        return actual
    for theta in timing.thresholds("activity")[: timing.init_steps].tolist():
        _, actual = track(x, actual, theta, timing.comparator, timing.gate)
    return actual


@dataclass(frozen=True)
class Settled:
    """What a batch comes to; lists run over layers.

    Args:
        output: x_F of the output layer at the end of the first phase, shape (sample, class).
        activity: x_A that the weight update uses, layers 0..L-1, shape (sample, neuron); all samples.
        rows: Samples that `error` of the hidden layers is restricted to; None means all.
        error: e_T at the end of the window, layers 1..L (hidden layers: rows only; the output: all samples).
        error_spikes: Number of error spikes sent by each of the layers 1..L.
        peak: Largest target activity of each layer 1..L-1 in the first phase.
    """

    output: Tensor
    activity: list[Tensor]
    rows: Tensor | None = None
    error: list[Tensor] = field(default_factory=list)
    error_spikes: list[int] = field(default_factory=list)
    peak: list[Tensor] = field(default_factory=list)


def obstacle(timing: Timing) -> str | None:
    """Why a cycle of this timing cannot be computed at once, or None if it can."""
    if timing.gate != ">=":
        return "timing: the collapsed form needs gate '>='; with '>' use form 'literal'"
    if timing.targets != "latched":
        return "timing: the collapsed form needs latched targets; with live ones use form 'literal'"
    if timing.schedule == "cyclic-decay" and timing.decay == "linear":
        return "timing: thresholds decay within a cycle (decay 'linear'); use decay 'binary' or form 'literal'"
    return None


def _levels(timing: Timing) -> int:
    return timing.n if timing.schedule == "constant" else 2**timing.n - 1


def _cycle(
    timing: Timing, target: Tensor, actual: Tensor, kind: Literal["activity", "error"], cycle: int = 0
) -> tuple[Tensor, int, bool]:
    """One cycle of comparisons at once; see `lavasnn.dynamics.diffpc.collapse`.

    Returns:
        The new actual, the number of spikes sent, and whether some neuron moved as far as a cycle can.
    """
    lowest, levels, floor = _lowest(timing, kind)[cycle], _levels(timing), kind == "activity"
    if timing.schedule == "constant" or not fused(target):
        k, after = collapse(target, actual, lowest, levels, timing.comparator, floor)
        size = k.abs()
        spikes = size if timing.schedule == "constant" else _popcount(timing.n, k.device)[size.to(torch.int64)]
        return after, int(spikes.sum()), bool((size >= levels).any())
    after = torch.empty_like(target, memory_format=torch.contiguous_format)
    goal, start, end = (a.contiguous().view(-1).numpy() for a in (target, actual, after))
    kind_of = goal.dtype.type
    spikes, most = collapse_kernel(
        goal, start, end, kind_of(1.0 / lowest), kind_of(lowest), kind_of(levels), timing.comparator == ">", floor
    )
    return after, spikes, most >= levels


def fused(target: Tensor) -> bool:
    """Whether a cycle runs in the compiled kernel (processor) or as array operations (any other device)."""
    return target.device.type == "cpu"


_ZEROS: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}


def zeros(like: Tensor) -> Tensor:
    """Zeros of a matrix's shape and type, to read only: one block serves all, as fresh memory costs more than the sums."""
    if like.ndim != 2:
        return torch.zeros_like(like)
    key = (like.shape[1], like.dtype, like.device)
    if key not in _ZEROS or len(_ZEROS[key]) < len(like):
        _ZEROS[key] = torch.zeros_like(like, memory_format=torch.contiguous_format)
    return _ZEROS[key][: len(like)]


@functools.lru_cache
def _popcount(n: int, device: torch.device) -> Tensor:
    return torch.tensor([bin(i).count("1") for i in range(2**n)], device=device)


@functools.lru_cache
def _lowest(timing: Timing, kind: Literal["activity", "error"]) -> tuple[float, ...]:
    """Smallest threshold of every cycle."""
    return tuple(timing.thresholds(kind)[timing.n - 1 :: timing.n].tolist())


def collapsed(
    net: DiffPCNet,
    x: Tensor,
    target: Tensor | None = None,
    alive: Sequence[Tensor | None] = (),
    scale: Sequence[float] = (),
) -> Settled:
    """Both phases, a cycle at a time: the same states and spike counts as `literal` with latched targets.

    Samples whose output sends no error spike stay silent in all hidden layers, so the second phase is computed for the
    others alone, and layers that cannot have heard anything yet are skipped.

    Args:
        net: The network.
        x: Input targets, shape (sample, input neuron).
        target: Output targets, shape (sample, class); None runs the first phase alone.
        alive: For each layer 0..L-1 a mask of neurons not dropped out, shape (sample, neuron), or None.
        scale: For each layer 0..L-1 a factor on its outgoing weights (inverted dropout).

    Returns:
        See `Settled`; without `target` no errors.

    Raises:
        InputError: A timing whose cycles cannot be computed at once (see `obstacle`), or no cycle for the second phase.
    """
    timing = net.timing
    reason = obstacle(timing)
    if reason is None and target is not None and timing.settle_cycles == 0:
        reason = "timing: settle_cycles is 0, so there is no second phase to show targets in"
    if reason is not None:
        raise InputError(reason)
    weights = [layer.weight for layer in net.linears]
    L = len(weights)
    gains = list(scale) or [1.0] * L
    masks = list(alive) or [None] * L
    if any(g != 1.0 for g in gains):
        weights = [w * g if g != 1.0 else w for w, g in zip(weights, gains, strict=True)]
    wide = False  # some activity is out of reach of a single cycle
    x_A: list[Tensor] = []
    x_F: list[Tensor] = [x]
    for l in range(L):
        goal = _masked(x_F[l], masks[l])
        actual, _, behind = _cycle(timing, goal, zeros(goal), "activity")
        wide = behind and timing.init_cycles > l + 1
        if wide:
            break
        x_A.append(actual)
        x_F.append(torch.addmm(net.linears[l].bias, actual, weights[l].T))
    if wide or timing.schedule != "cyclic":
        x_A, x_F = _init_cycle_by_cycle(net, x, weights, masks)
    peak = [f.amax() for f in x_F[1:L]]
    if target is None:
        return Settled(x_F[L], x_A, peak=peak)
    return _settle(net, weights, masks, x_A, x_F, target, peak)


def _init_cycle_by_cycle(
    net: DiffPCNet, x: Tensor, weights: Sequence[Tensor], masks: Sequence[Tensor | None]
) -> tuple[list[Tensor], list[Tensor]]:
    """First phase when some neurons need more than one cycle to reach their targets."""
    timing, L = net.timing, len(weights)
    x_F = [x, *(layer.bias.expand(len(x), -1) for layer in net.linears)]
    x_A = [torch.zeros_like(f) for f in x_F[:L]]
    for cycle in range(timing.init_cycles):
        moved: list[Tensor | None] = []
        for l in range(L):
            after = _cycle(timing, _masked(x_F[l], masks[l]), x_A[l], "activity", cycle)[0] if cycle >= l else x_A[l]
            moved.append(after - x_A[l] if cycle >= l else None)
            x_A[l] = after
        for l, delta in enumerate(moved):
            if delta is not None:
                x_F[l + 1] = x_F[l + 1] + delta @ weights[l].T
    return x_A, x_F


def _settle(
    net: DiffPCNet,
    weights: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    x_A: list[Tensor],
    x_F: list[Tensor],
    target: Tensor,
    peak: list[Tensor],
) -> Settled:
    """Second phase from the end of the first; lists hold layers 0..L-1 (x_A) and 0..L (x_F)."""
    timing, L = net.timing, len(weights)
    output, first = x_F[L], timing.init_cycles
    counts = [0] * (L + 1)
    e_A, spikes, far = _cycle(timing, target - output, zeros(output), "error", first)
    # Where activities have caught up with their targets, a sample without output errors stays silent in every layer.
    reach = 2.0 ** (timing.m + 1)
    calm = timing.schedule == "cyclic" and all(bool(p < reach) for p in (x_F[0].amax(), *peak))
    rows = (e_A != 0).any(dim=1).nonzero().squeeze(1) if calm else None
    if rows is not None and len(rows) == len(output):
        rows = None

    def pick(value: Tensor) -> Tensor:
        return value if rows is None else value.index_select(0, rows)

    low = 1 if calm else 0  # a calm input has nothing more to say
    unused = [target.new_empty(0)] * low
    drop = [None if m is None or l < low else pick(m) for l, m in enumerate(masks)]
    acts, preds = [*unused, *map(pick, x_A[low:])], [*unused, *map(pick, x_F[low:])]
    goals = [*preds[:L], pick(target)]
    errs = [*map(zeros, preds[:L]), pick(e_A)]
    e_in = [zeros(f) for f in preds]
    relu = [_masked((f > 0).to(f.dtype), m) for f, m in zip(preds[:L], drop, strict=True)]
    heard = [False] * (L + 1)
    for cycle in range(first, first + timing.settle_cycles):
        d_A: list[Tensor | None] = [None] * (L + 1)
        d_E: list[Tensor | None] = [None] * (L + 1)
        behind = [False] * (L + 1)  # layers with more to say than fits into this cycle
        last = cycle + 1 == first + timing.settle_cycles
        for l in range(low, L + 1):
            restless = 0 < l < L and (timing.gamma != 1.0 or timing.update_activity == "settled")
            if calm and not heard[l] and not restless and (l < L or cycle > first):
                continue
            if 0 < l < L and cycle > first:
                if timing.update_activity == "settled":
                    relu[l] = _masked((goals[l] > 0).to(output.dtype), drop[l])
                move = relu[l] * e_in[l] - (goals[l] - preds[l])
                goals[l] = goals[l] + (move if timing.gamma == 1.0 else timing.gamma * move)
            if l < L:
                after, _, behind[l] = _cycle(timing, _masked(goals[l], drop[l]), acts[l], "activity", cycle)
                d_A[l], acts[l] = after - acts[l], after
            if l == L and cycle == first:
                d_E[L], counts[L], behind[L] = errs[L], spikes, far
            elif l > 0 and cycle > first:
                error = goals[l] - preds[l]
                goal = error if l == L else _masked(error, drop[l])
                after, spikes, far = _cycle(timing, goal, errs[l], "error", cycle)
                d_E[l] = None if last else after - errs[l]
                errs[l], counts[l] = after, counts[l] + spikes
                behind[l] = behind[l] or far
        heard = behind
        for l in range(1, L + 1):  # what was sent in this cycle has arrived when the next one starts
            if (d := d_A[l - 1]) is not None:
                preds[l], heard[l] = torch.addmm(preds[l], d, weights[l - 1].T), True
            if l < L and (d := d_E[l + 1]) is not None:
                e_in[l], heard[l] = torch.addmm(e_in[l], d, weights[l]), True
    error = [goals[l] - preds[l] for l in range(1, L + 1)]
    if rows is not None:
        error[-1] = (target - output).index_copy(0, rows, error[-1])
    activity = x_A
    if timing.update_activity == "settled":
        whole = acts if rows is None else [f.index_copy(0, rows, p) for f, p in zip(x_A[low:], acts[low:], strict=True)]
        activity = [*x_A[:low], *whole[low if rows is None else 0 :]]
    return Settled(output, activity, rows, error, counts[1:], peak)


def _masked(value: Tensor, mask: Tensor | None) -> Tensor:
    return value if mask is None else value * mask


Trace = dict[str, Tensor]
"""For "population index.variable" its values, shape (sample, step, neuron)."""


def literal(
    populations: Sequence[Parameters | DiffPCInt],
    weights: Sequence[Tensor],
    x: Tensor,
    target: Tensor | None = None,
    *,
    shifts: Sequence[tuple[int, int]] = (),
    alive: Sequence[Tensor | None] = (),
    record: bool = False,
) -> tuple[list[State], list[State], dict[str, Tensor], Trace]:
    """The step loop: every layer, every step, one hop per step.

    Args:
        populations: Layers 0..L, all real or all integer.
        weights: W of layers 1..L, shape (post, pre); integers come as int64 and are summed exactly.
        x: Input targets, shape (sample, neuron), dtype of the states.
        target: Output targets; None runs the first phase alone.
        shifts: Integers only: for each weight layer the left shifts of W's and of W-transposed's sums.
        alive: As in `collapsed`.
        record: Keep every state and message of every step.

    Returns:
        States at the end of the first phase (with the arrivals of its last messages), states at the end of the window, messages
        by "layer.kind" as counts of shape (sample, step), and the traces.
    """
    timing = populations[0].timing
    L = len(weights)
    check_depth(timing, L)
    settle = target is not None
    masks = list(alive) or [None] * L
    shape = [(len(x), x.shape[1]), *((len(x), w.shape[0]) for w in weights)]
    states: list[State | None] = [None] * (L + 1)
    s_A = [torch.zeros(s, dtype=x.dtype, device=x.device) for s in shape]
    s_e = [torch.zeros(s, dtype=x.dtype, device=x.device) for s in shape]
    counts: dict[str, list[Tensor]] = {f"{l}.{kind}": [] for l in range(L + 1) for kind in Parameters.MESSAGES}
    names = (*Parameters.MESSAGES, *Parameters.STATES)
    traces: dict[str, list[Tensor]] = {f"{l}.{name}": [] for l in range(L + 1) for name in names} if record else {}
    ended: list[State] = []
    announced: list[Tensor] = []
    for t in range(timing.window(settle)):
        arriving = [
            (
                _sum(s_A[l - 1], weights[l - 1].T, shifts[l - 1][0] if shifts else 0) if l else torch.zeros_like(s_A[0]),
                _sum(s_e[l + 1], weights[l], shifts[l][1] if shifts else 0) if l < L else torch.zeros_like(s_A[L]),
            )
            for l in range(L + 1)
        ]
        for l, p in enumerate(populations):
            clamp = x if l == 0 else target if l == L else None
            mask = masks[l] if l < L else None
            states[l], s_A[l], s_e[l] = step(p, p.now(t, settle), states[l], *arriving[l], clamp, mask)
            counts[f"{l}.s_A"].append((s_A[l] != 0).sum(1))
            counts[f"{l}.s_e"].append((s_e[l] != 0).sum(1))
            if record:
                for name, value in zip(names, (s_A[l], s_e[l], *_states(states[l])), strict=True):
                    traces[f"{l}.{name}"].append(value)
        if t == timing.init_steps:
            ended = [replace(s, x_A=a) for s, a in zip(states, announced, strict=True) if s is not None]
        announced = [s.x_A for s in states if s is not None]
    return (
        ended,
        [s for s in states if s is not None],
        {key: torch.stack(value, 1) for key, value in counts.items()},
        {key: torch.stack(value, 1) for key, value in traces.items()},
    )


def _states(state: State | None) -> tuple[Tensor, ...]:
    return tuple(getattr(state, name) for name in Parameters.STATES)


def _sum(spikes: Tensor, weight: Tensor, shift: int) -> Tensor:
    """Weighted sums; integers through float64, exact below 2**53, then shifted as Lava's Dense shifts them."""
    if spikes.dtype.is_floating_point:
        return spikes @ weight
    total = (spikes.double() @ weight.double()).to(spikes.dtype)
    return total << shift if shift > 0 else total >> -shift
