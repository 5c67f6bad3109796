"""BSD on one sample at a time, by plain gradient steps: in real numbers, and in the integers of Lava's learning synapses.

For each sample both pathways run, a critic in each layer turns the sums into post traces, and the T steps are replayed with
these (`lavasnn.dynamics.concept`). An integer synapse has a weight of 8 bits on the grid of even numbers and a tag
that holds what is less; no number is drawn at random, and what traces say is never rounded away.

Axes: weights (post, pre), spikes (step, neuron).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.dynamics.concept import (
    FRACTION,
    GAIN,
    WEIGHT_MAX,
    WEIGHT_MIN,
    Compartments,
    ConceptLoss,
    Plasticity,
    critic,
    plastic_step,
)
from lavasnn.dynamics.pyramidal import Pyramidal, PyramidalInt, step
from lavasnn.errors import InputError

Array = NDArray[Any]
CURRENT = 255
"""Integer current of a stimulus or concept of 1."""


@dataclass(frozen=True)
class OnlineSettings:
    """What online BSD is told.

    Args:
        sizes: Neurons of all layers, stimulus and concept included; at least three.
        steps: T; a power of two for integers.
        tau: Time constant of all somata.
        thresholds: Of Type 1 and Type 2.
        loss: Over the concepts.
        rate: The learning rate of hidden layers is 2**-rate.
        rate_top: That of the top layer.
        headroom: Integer weights hold this many times the bound of the first ones.
        headroom_top: The same of Type 1's top matrix, whose weights grow.
        power: Whether the integer critic's norms are powers of two.
        seed: Of the first weights.

    Raises:
        InputError: Fewer than three layers, or steps that are no power of two.
    """

    sizes: tuple[int, ...]
    steps: int = 4
    tau: float = 2.0
    thresholds: tuple[float, float] = (0.2, 0.1)
    loss: ConceptLoss = field(default_factory=ConceptLoss)
    rate: int = 6
    rate_top: int = 5
    headroom: float = 4.0
    headroom_top: float = 32.0
    power: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.sizes) < 3 or min(self.sizes) < 1 or self.steps < 1 or self.steps & (self.steps - 1):
            raise InputError(
                f"OnlineSettings: sizes {self.sizes}, {self.steps} steps; needed are three layers of 1 neuron or more, and a "
                "power of two of steps"
            )


@dataclass(frozen=True)
class Window:
    """One sample through one pathway, by layer, layer 1 first.

    Attributes:
        acc: Basal sums, shape (neuron,) each; of the first population of the pathway its current's.
        s: Spikes, shape (step, neuron) each.
    """

    acc: list[Array]
    s: list[Array]


def run(weights: Sequence[Array], neurons: Sequence[Pyramidal | PyramidalInt], current: Array, steps: int) -> Window:
    """A pathway from rest, in the order of its layers; `neurons` has one entry for each population."""
    basal = np.repeat(current[None], steps, 0)
    found = Window([], [])
    for weight, neuron in zip((*weights, None), neurons, strict=True):
        v, s = np.zeros_like(basal[0]), np.zeros(basal.shape, np.float32)
        for t, a in enumerate(basal):
            s[t], v = step(neuron, v, a)
        found.acc.append(basal.sum(0))
        found.s.append(s)
        if weight is not None:
            basal = (s @ weight.T).astype(current.dtype)
    return found


class OnlineBSD:
    """The network in real numbers (float32).

    Attributes:
        W: Weights of Type 1, layer 1 to 2 first.
        Theta: Weights of Type 2, layer 2 to 1 first.
    """

    def __init__(self, settings: OnlineSettings) -> None:
        self.settings, random = settings, np.random.default_rng(settings.seed)
        shapes = [(post, pre) for pre, post in pairwise(settings.sizes)]
        shapes += [(post, pre) for post, pre in pairwise(settings.sizes)]
        drawn = [random.uniform(-(pre**-0.5), pre**-0.5, (post, pre)).astype(np.float32) for post, pre in shapes]
        half = len(drawn) // 2
        self.W, self.Theta = drawn[:half], drawn[half:]
        self.up: list[Pyramidal | PyramidalInt] = [Pyramidal(settings.tau, settings.thresholds[0])] * (half + 1)
        self.down: list[Pyramidal | PyramidalInt] = [Pyramidal(settings.tau, settings.thresholds[1])] * (half + 1)
        classes = settings.sizes[-1]
        self.v, self.u = ([np.zeros((classes, n)) for n in settings.sizes] for _ in range(2))

    def perceive(self, x: Array) -> Window:
        """Type 1 from a stimulus of 0 to 1, shape (neuron,)."""
        return run(self.W, self.up, self.current(x), self.settings.steps)

    def recall(self, label: int) -> Window:
        """Type 2 from a concept."""
        code = self.current(np.eye(self.settings.sizes[-1])[label])
        down = run(self.Theta[::-1], self.down[::-1], code, self.settings.steps)
        return Window(down.acc[::-1], down.s[::-1])

    def current(self, x: Array) -> Array:
        """The current that a stimulus or concept of 0 to 1 is."""
        return x.astype(np.float32)

    def learn(self, x: Array, label: int) -> list[Array]:
        """Both pathways, then one gradient step of every weight; returns nothing to replay."""
        settings, last = self.settings, len(self.W) - 1
        up, down = self.perceive(x), self.recall(label)
        for i in range(last + 2):
            v, u = up.acc[i].astype(np.float64) / settings.steps, down.acc[i].astype(np.float64) / settings.steps
            self.v[i][label], self.u[i][label] = v, u
            if i == last + 1:
                e = np.exp(v - v.max())
                self._step(self.W[last], e / e.sum() - np.eye(len(v))[label], up.s[last], settings.rate_top)
            elif i:
                self._step(self.W[i - 1], self._delta(v, self.u[i], label), up.s[i - 1], settings.rate)
            if i <= last:
                self._step(self.Theta[i], self._delta(u, self.v[i], label), down.s[i + 1], settings.rate)
        return []

    def accuracy(self, x: Array, labels: Array) -> float:
        """Share of samples whose class has the largest voltage."""
        return float(np.mean([self.perceive(a).acc[-1].argmax() == y for a, y in zip(x, labels, strict=True)]))

    def _delta(self, own: Array, table: Array, label: int) -> Array:
        alpha, beta = critic(own, table, label, self.settings.loss)
        return alpha @ table - beta * own

    def _step(self, weight: Array, delta: Array, s: Array, rate: int) -> None:
        weight -= np.outer((delta * 2.0**-rate).astype(np.float32), s.mean(0))


def exponents(settings: OnlineSettings) -> tuple[list[int], list[int]]:
    """Powers of two that one unit of each integer matrix stands for, of W and of Theta."""
    up = [settings.headroom] * (len(settings.sizes) - 2) + [settings.headroom_top]
    rooms = zip(up, settings.sizes[:-1], strict=True), ((settings.headroom, n) for n in settings.sizes[1:])
    of_W, of_Theta = ([math.ceil(math.log2(room * n**-0.5 / 256)) for room, n in entries] for entries in rooms)
    return of_W, of_Theta


def plasticity(settings: OnlineSettings) -> list[Plasticity]:
    """How each layer learns in integers, layer 1 first.

    A gradient by a sum of units 2**e becomes one by a mean voltage when multiplied by T 2**-e, and a step of the real weight
    counts 2**e T / 32 in units of a trace: the hidden layers' right shift is FRACTION + GAIN - 5 + 2 e + rate. The top layer's
    error is by the mean voltage already.
    """
    up, down = exponents(settings)
    last, log_steps = len(up), settings.steps.bit_length() - 1
    hidden = FRACTION + GAIN - 5 + settings.rate
    found: list[Plasticity] = []
    for i in range(last + 1):
        top = i == last
        shift = None if i == 0 else FRACTION - 5 + up[-1] + log_steps + settings.rate_top if top else hidden + 2 * up[i - 1]
        found.append(
            Plasticity(
                classes=settings.sizes[-1],
                loss=settings.loss,
                shift=shift,
                shift_recall=None if top else hidden + 2 * down[i],
                top=top,
                unit=2.0 ** up[i - 1] / settings.steps if i else 1.0,
                power=settings.power,
            )
        )
    if bad := [p for p in found for s in (p.shift, p.shift_recall) if s is not None and not 0 <= s <= 62]:
        raise InputError(f"online BSD: shifts {[(p.shift, p.shift_recall) for p in bad]} of the traces lie outside 0..62")
    return found


class OnlineBSDInt(OnlineBSD):
    """The network in integers, bit for bit what Lava's LearningDense and `lavasnn.processes` compute.

    Weights are whole numbers held in float32, which sums of spikes leave exact.

    Attributes:
        tags: Of the synapses of W and of Theta, shapes as theirs.
        saturated: How often a weight would have left its range and was held; Lava rounds such a one at random, so the two are
            equal as long as this is 0.
    """

    def __init__(self, settings: OnlineSettings) -> None:
        super().__init__(settings)
        up, down = exponents(settings)
        for weights, es in ((self.W, up), (self.Theta, down)):
            for weight, e in zip(weights, es, strict=True):
                weight[:] = np.clip(2 * np.rint(weight * 2.0 ** -(e + 1)), WEIGHT_MIN, WEIGHT_MAX)
        thr1, thr2 = (settings.tau * thr for thr in settings.thresholds)
        dv, ends = round(4096 / settings.tau), [math.ceil(thr * CURRENT) for thr in (thr1, thr2)]
        self.up = [PyramidalInt(ends[0], dv), *(PyramidalInt(max(1, round(thr1 * 2.0**-e)), dv) for e in up)]
        self.down = [*(PyramidalInt(max(1, round(thr2 * 2.0**-e)), dv) for e in down), PyramidalInt(ends[1], dv)]
        self.saturated = 0
        self.tags = [[np.zeros(w.shape, np.int64) for w in weights] for weights in (self.W, self.Theta)]
        self.layers = [Compartments(n, how) for n, how in zip(settings.sizes, plasticity(settings), strict=True)]

    def current(self, x: Array) -> Array:
        """Rounded to a current of 0..255."""
        return np.rint(x * CURRENT).astype(np.int64)

    def learn(self, x: Array, label: int) -> list[Array]:
        """Both pathways, the critics, the replay; returns each layer's post traces, shape (4, neuron)."""
        up, down = self.perceive(x), self.recall(label)
        signals = [layer.signals(v, u, label) for layer, v, u in zip(self.layers, up.acc, down.acc, strict=True)]
        for i, (y1, y2, z1, z2) in enumerate(signals):
            if i:
                self.saturated += _replay(self.W[i - 1], self.tags[0][i - 1], y1, y2, up.s[i - 1])
            if i < len(self.W):
                self.saturated += _replay(self.Theta[i], self.tags[1][i], z1, z2, down.s[i + 1])
        return signals


def _replay(weight: Array, tag: Array, y1: Array, y2: Array, s: Array) -> int:
    """The rule in every step; returns how often a weight would have left its range."""
    found = 0
    for x in s:
        on = np.flatnonzero(x)
        if len(on):
            w, tag[:, on] = plastic_step(weight[:, on], tag[:, on], np.ones(len(on), np.int64), y1, y2)
            weight[:, on] = np.clip(w, WEIGHT_MIN, WEIGHT_MAX)
            found += int(np.count_nonzero((w < WEIGHT_MIN) | (w > WEIGHT_MAX)))
    return found


def trained(net: OnlineBSD, x: Array, labels: Array, seed: int, passes: int = 1) -> OnlineBSD:
    """Learn all samples in a drawn order, `passes` times; returns the network."""
    random = np.random.default_rng(seed)
    for _ in range(passes):
        for k in random.permutation(len(x)):
            net.learn(x[k], int(labels[k]))
    return net
