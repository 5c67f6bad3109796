"""The learning signal of BSD for one sample at a time: a loss over concepts, a critic for each layer, and post traces.

Type 2 hears the label alone, so the batch term of a layer's loss is a sum over concepts. With v what Type 1 added up for the
sample in hand, u_c what Type 2 last added up for class c, C_c their cosine and y the label,

    L = (1 - C_y)^2 + penalty sum_c m_c max(0, C_c)^2,     m_c = others - [c = y], or others [c != y] without same-class pairs

where `others` stands for the samples of a class in a batch. G = dL/dC gives two kinds of numbers for a whole layer,

    alpha_c = G_c / (|v| |u_c|),    beta = sum_c G_c C_c / |v|^2,

and with them a neuron knows its own gradient: delta_j = dL/dv_j = sum_c alpha_c u_cj - beta v_j. Type 2 does the same with the
roles swapped, u_y against what Type 1 last added up for each class. The critic finds alpha and beta; the rest is a neuron's.

In integers `critic_int` keeps FRACTION bits of C and G and FRACTION + GAIN bits of alpha and beta. Norms are integer square
roots, or the power of two next to them, by which one divides with a shift.

Source: Biologically Plausible Learning via Bidirectional Spike-Based Distillation (ICLR 2026), equations 7, 8, 18 to 20.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavasnn.errors import RangeError

FRACTION = 12
"""Fraction bits of a cosine, of G, and of the top layer's error."""
GAIN = 24
"""Further fraction bits of alpha and beta."""
FACTOR_MAX = 2**23 - 1
"""Largest alpha and beta."""
TRACE_MAX = 63
"""Largest post trace: what a tag can take in every step without overflow, though traces have 7 bits."""
CARRY_AT = 63
"""A tag beyond this is handed over to the weight."""
GATE = 32
"""y3 while a replay runs: Lava shifts its product with a sign right by 5 bits."""
WEIGHT_MIN, WEIGHT_MAX = -256, 254
"""Weights of both signs on the grid of 8 bits."""
RULE_TAG = "-2^6*sgn(t-63)*x0*y3 - 2^6*sgn(t+63)*x0*y3 + 2^1*x0*y1 - 2^1*x0*y2"
"""dt of Lava's learning rule; the hand-over comes first, so that no sum on the way saturates."""
RULE_W = "2^0*sgn(t+63)*x0*y3 + 2^0*sgn(t-63)*x0*y3"
"""dw of the same."""
TINY = 1e-12
"""Real norms count as at least this: what is silent has no direction."""
_WEIGHT_BITS = 4  # fraction bits of 2 penalty m_c

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]


@dataclass(frozen=True)
class ConceptLoss:
    """The loss over concepts.

    Args:
        penalty: lambda, from 0.
        others: Samples of each class in the batch that this stands for, from 1.
        same_class: Whether other samples of the label's class count as negatives, as the paper's text has it.

    Raises:
        RangeError: A number out of range.
    """

    penalty: float = 0.6
    others: float = 12.8
    same_class: bool = True

    def __post_init__(self) -> None:
        for name, low in (("penalty", 0), ("others", 1)):
            if not low <= getattr(self, name) <= 1024:
                raise RangeError(f"ConceptLoss: {name} is {getattr(self, name)!r}; allowed are numbers {low}..1024")

    def slopes(self, classes: int, label: int) -> Reals:
        """2 penalty m_c, shape (class,)."""
        m = np.full(classes, self.others)
        m[label] = self.others - 1 if self.same_class else 0.0
        return 2 * self.penalty * m


def critic(own: Reals, table: Reals, label: int, loss: ConceptLoss) -> tuple[Reals, float]:
    """alpha, shape (class,), and beta of a layer in real numbers.

    Args:
        own: What the learning type added up, shape (neuron,).
        table: What the other type added up for each class, shape (class, neuron).
        label: The sample's class.
        loss: Of which to take the gradient.
    """
    length, sizes = max(float(np.linalg.norm(own)), TINY), np.maximum(np.linalg.norm(table, axis=1), TINY)
    C = table @ own / (length * sizes)
    G = loss.slopes(len(table), label) * np.maximum(C, 0)
    G[label] -= 2 * (1 - C[label])
    return G / (length * sizes), float(G @ C) / length**2


def norm_int(squares: int, power: bool) -> int:
    """Square root of a sum of squares, rounded down; or with `power` the power of two nearest to it by ratio, 0 for 0."""
    if squares == 0 or not power:
        return math.isqrt(squares)
    exponent = (squares.bit_length() - 1) // 2  # 4**exponent <= squares < 4 * 4**exponent: by ratio, twice is the middle
    return 1 << (exponent + (squares > 2 * 4**exponent))


def critic_int(own: Ints, table: Ints, label: int, loss: ConceptLoss, power: bool) -> tuple[Ints, int]:
    """The same in integers: alpha and beta in units of 2**-(FRACTION + GAIN), at most FACTOR_MAX.

    Divisions round down; what is silent has alpha = 0, and a silent layer beta = 0.

    Args:
        own: Shape (neuron,), integers of 24 bits.
        table: Shape (class, neuron), integers of 24 bits.
        label: The sample's class.
        loss: Of which to take the gradient.
        power: Whether norms are powers of two.
    """
    one, length = 1 << FRACTION, norm_int(int(own @ own), power)
    alpha, beta = np.zeros(len(table), np.int64), 0
    if length == 0:
        return alpha, 0
    for c, slope in enumerate(loss.slopes(len(table), label)):
        size = norm_int(int(table[c] @ table[c]), power)
        if size == 0:
            continue
        C = _limited((int(table[c] @ own) << FRACTION) // (length * size), one)
        away = (round(slope * 2**_WEIGHT_BITS) * max(C, 0)) >> _WEIGHT_BITS
        G = away - (2 * (one - C) if c == label else 0)
        alpha[c] = _limited((G << GAIN) // (length * size), FACTOR_MAX)
        beta += G * C
    return alpha, _limited(((beta << GAIN) >> FRACTION) // length**2, FACTOR_MAX)


def _limited(x: int, most: int) -> int:
    return max(-most, min(most, x))


def traces(delta: Ints, shift: int) -> tuple[Ints, Ints]:
    """Post traces y1, for weights that grow, and y2, for weights that shrink: -delta / 2**shift to the nearest, one of them 0.

    Args:
        delta: Gradients, any shape.
        shift: Right shift that holds unit and learning rate, 0..62.
    """
    y = np.clip(-((delta + ((1 << shift) >> 1)) >> shift), -TRACE_MAX, TRACE_MAX)
    return np.maximum(y, 0), np.maximum(-y, 0)


def plastic_step(weight: Ints, tag: Ints, x: Ints, y1: Ints, y2: Ints) -> tuple[Ints, Ints]:
    """One step of the rule in RULE_W and RULE_TAG, gate open.

    A synapse holds 64 weight + tag, of which messages see the weight. With a spike, a tag beyond 63 hands 128 over as 2 of the
    weight, and the tag gains 2 (y1 - y2). An even tag stays even and within ±188 as long as traces keep to TRACE_MAX. Weights
    must stay within WEIGHT_MIN..WEIGHT_MAX: the caller checks, since beyond them Lava rounds at random.

    Args:
        weight: Shape (post, pre), even.
        tag: Same shape, even.
        x: Spikes, shape (pre,), 0 or 1.
        y1: Shape (post,).
        y2: Shape (post,).
    """
    carry = ((tag > CARRY_AT).astype(np.int64) - (tag < -CARRY_AT)) * x
    return weight + 2 * carry, tag - 128 * carry + 2 * np.outer(y1 - y2, x)


@dataclass(frozen=True)
class Plasticity:
    """How one layer learns.

    Args:
        classes: Number of concepts.
        loss: Over the concepts.
        shift: Right shift of Type 1's gradients; None if no weights lead here from below.
        shift_recall: Of Type 2's; None if none lead here from above.
        top: Whether this is the concept's layer, whose Type 1 learns by cross-entropy.
        unit: Real voltage of one unit of Type 1's sum, for the softmax of the top layer.
        power: Whether the critic's norms are powers of two.
    """

    classes: int
    loss: ConceptLoss
    shift: int | None
    shift_recall: int | None
    top: bool
    unit: float
    power: bool


class Compartments:
    """What the neurons of a layer remember, and the signals they learn by.

    Args:
        size: Neurons.
        how: The layer's plasticity.

    Attributes:
        v: What Type 1 last added up for each class, shape (class, neuron).
        u: What Type 2 did, same shape.
    """

    def __init__(self, size: int, how: Plasticity) -> None:
        self.how = how
        self.v, self.u = (np.zeros((how.classes, size), np.int64) for _ in range(2))

    def signals(self, v: Ints, u: Ints, label: int) -> Ints:
        """Post traces of a sample's replay: y1 and y2 of Type 1, then of Type 2, shape (4, neuron); 0 where nothing learns.

        Args:
            v: What Type 1 added up, shape (neuron,).
            u: What Type 2 added up, same shape.
            label: The sample's class.
        """
        how, found = self.how, np.zeros((4, len(v)), np.int64)
        self.v[label], self.u[label] = v, u
        if how.shift is not None:
            delta = cross_entropy(v, how.unit, label) if how.top else self._delta(v, self.u, label)
            found[:2] = traces(delta, how.shift)
        if how.shift_recall is not None:
            found[2:] = traces(self._delta(u, self.v, label), how.shift_recall)
        return found

    def _delta(self, own: Ints, table: Ints, label: int) -> Ints:
        alpha, beta = critic_int(own, table, label, self.how.loss, self.how.power)
        return alpha @ table - beta * own


def cross_entropy(v: Ints, unit: float, label: int) -> Ints:
    """softmax(unit v) - one-hot in FRACTION bits, shape (class,); what the host computes for the top layer."""
    e = np.exp(unit * (v - v.max()))
    error = np.rint(e / e.sum() * 2**FRACTION).astype(np.int64)
    error[label] -= 1 << FRACTION
    return error
