"""BSD networks in torch: a feedforward pathway from stimulus to concept, and one of its own weights from concept to stimulus.

Layer 1 receives the stimulus, layer L the concept. Type 1 neurons of layer i hear W[i-1] s of the layer below at their basal
dendrites, Type 2 neurons hear Theta[i] s' of the layer above; each dendrite is also the apical one of the other type in its
layer. The stimulus is a constant current of Type 1 in layer 1, the concept one of Type 2 in layer L.

Both pathways run over T steps from rest. Sums over a window are kept as means: v = mean over t of v[t], r the spike rate. As
synapses are linear, v = W r of the layer before.

Axes: voltages and rates are (sample, neuron), weights (post, pre).

Source: Biologically Plausible Learning via Bidirectional Spike-Based Distillation (ICLR 2026), equations 4 and 5, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from lavasnn.dynamics.pyramidal import Pyramidal, step
from lavasnn.errors import InputError


@dataclass(frozen=True)
class Pathway:
    """What one pathway did in a window, by layer, layer 1 first.

    Attributes:
        v: Mean basal voltage, shape (sample, neuron) each; of the first population of the pathway its current.
        r: Spike rate, the same.
        spikes: Every spike of the last population of the pathway, shape (sample, step, neuron), 0 or 1.
        trains: Those of all layers if they were asked for, shape (step, sample, neuron) each.
    """

    v: tuple[Tensor, ...]
    r: tuple[Tensor, ...]
    spikes: Tensor
    trains: tuple[Tensor, ...] = ()


class BSDNet(nn.Module):
    """Fully connected BSD network.

    Args:
        sizes: Neurons of all layers, stimulus and concept included; at least three.
        steps: T, at least 1.
        tau: Time constant of all somata.
        thresholds: Of Type 1 and Type 2.
        generator: Random numbers of the weights, uniform within 1 / sqrt(inputs).

    Attributes:
        W: Weights of Type 1, W[i] from layer i + 1 to i + 2 in the paper's count, shape (post, pre).
        Theta: Weights of Type 2, Theta[i] from layer i + 2 to i + 1, shape (post, pre).

    Raises:
        InputError: Fewer than three layers, a layer without neurons, or no step.
        RangeError: A time constant or threshold out of range.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        steps: int = 4,
        tau: float = 2.0,
        thresholds: tuple[float, float] = (0.2, 0.1),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if len(sizes) < 3 or min(sizes) < 1 or steps < 1:
            raise InputError(
                f"BSDNet: sizes {tuple(sizes)}, {steps} steps; needed are three layers of 1 neuron or more, and a step"
            )
        self.sizes, self.steps = tuple(sizes), steps
        self.type1, self.type2 = (Pyramidal(tau, threshold) for threshold in thresholds)
        self.W = nn.ParameterList(_drawn(post, pre, generator) for pre, post in pairwise(sizes))
        self.Theta = nn.ParameterList(_drawn(pre, post, generator) for pre, post in pairwise(sizes))

    @torch.no_grad()
    def perceive(self, x: Tensor, *, every: bool = False) -> Pathway:
        """Type 1 from a stimulus, shape (sample, neuron): its values are the current of layer 1 in every step.

        `every` keeps all spikes of all layers.
        """
        return self._run(self.type1, list(self.W), x, every)

    @torch.no_grad()
    def recall(self, concept: Tensor, *, every: bool = False) -> Pathway:
        """Type 2 from a concept, shape (sample, class): its values are the current of layer L in every step.

        `every` keeps all spikes of all layers.
        """
        down = self._run(self.type2, list(self.Theta)[::-1], concept, every)
        return Pathway(down.v[::-1], down.r[::-1], down.spikes, down.trains[::-1])

    def forward(self, input: Tensor) -> Tensor:
        """Mean voltage of the concept's Type 1 neurons, shape (sample, class); carries no gradient."""
        return self.perceive(input).v[-1]

    def _run(self, neuron: Pyramidal, weights: Sequence[Tensor], current: Tensor, every: bool) -> Pathway:
        samples = len(current)
        voltages, rates, trains = [current], list[Tensor](), list[Tensor]()
        basal = current.expand(self.steps, samples, -1)
        spikes = basal
        for weight in (*weights, None):
            spikes = fired(neuron, basal)
            rates.append(spikes.mean(0))
            trains += [spikes] if every else []
            if weight is not None:
                basal = (spikes.flatten(0, 1) @ weight.T).view(self.steps, samples, -1)
                voltages.append(basal.mean(0))
        return Pathway(tuple(voltages), tuple(rates), spikes.transpose(0, 1), tuple(trains))


def fired(neuron: Pyramidal, basal: Tensor) -> Tensor:
    """Spikes, 0 or 1 in the dtype of the input, of basal input (step, sample, neuron), from rest."""
    v, found = torch.zeros_like(basal[0]), torch.empty(basal.shape, dtype=basal.dtype, device=basal.device)
    for t, a in enumerate(basal):
        s, v = step(neuron, v, a)
        found[t] = s
    return found


def _drawn(post: int, pre: int, generator: torch.Generator | None) -> Tensor:
    bound = pre**-0.5
    weight = nn.Parameter(torch.empty(post, pre))
    with torch.no_grad():
        weight.uniform_(-bound, bound, generator=generator)
    return weight
