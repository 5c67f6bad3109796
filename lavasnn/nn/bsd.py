"""BSD networks in torch: a feedforward pathway from stimulus to concept, and one of its own weights from concept to stimulus.

Layer 1 receives the stimulus, layer L the concept. Type 1 neurons of layer i hear W[i-1] s of the layer below at their basal
dendrites, Type 2 neurons hear Theta[i] s' of the layer above; each dendrite is also the apical one of the other type in its
layer. The stimulus is a constant current of Type 1 in layer 1, the concept one of Type 2 in layer L.

Both pathways run over T steps from rest. Sums over a window are kept as means: v = mean over t of v[t], r the spike rate. As
synapses are linear, v = W r of the layer before; with batch norm, of hidden layers, it is affine.

Axes: voltages and rates are (sample, neuron), weights those of `lavasnn.nn.bsd_layers.Link`.

Source: Biologically Plausible Learning via Bidirectional Spike-Based Distillation (ICLR 2026), equations 4 and 5, algorithm 1,
appendix E.2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from lavasnn.architecture import Convolution, Full, Layer, Mirror
from lavasnn.dynamics.pyramidal import Pyramidal, fire, integrate, threshold
from lavasnn.errors import InputError
from lavasnn.nn.bsd_layers import Folded, Link, Norm, linked
from lavasnn.nn.surrogate import heaviside

HELD = 32_000_000
"""Numbers of the widest layer that an evaluation holds at a time, at most."""


@dataclass(frozen=True)
class Pathway:
    """What one pathway did in a window, by layer, layer 1 first.

    Attributes:
        v: Mean basal voltage, shape (sample, neuron) each; of the first population of the pathway its current.
        r: Spike rate, the same.
        spikes: Every spike of the last population of the pathway, shape (sample, step, neuron), 0 or 1.
        trains: Those of all layers if they were asked for, shape (step, sample, neuron) each.
        gain: Factors of batch norm between the sum of a neuron's synapses and its voltage, shape (neuron,); None without.
    """

    v: tuple[Tensor, ...]
    r: tuple[Tensor, ...]
    spikes: Tensor
    trains: tuple[Tensor, ...] = ()
    gain: tuple[Tensor | None, ...] = ()


class BSDNet(nn.Module):
    """BSD network of fully connected layers and convolutions, also in reverse.

    Args:
        plan: Its layers, stimulus to concept, at least two; or, fully connected, the neurons of all its layers, both ends
            included.
        steps: T, at least 1.
        tau: Time constant of all somata.
        thresholds: Of Type 1 and Type 2.
        generator: Random numbers of the weights, uniform within 1 / sqrt(inputs).
        entry: Threshold of the two populations that a current drives, stimulus and concept; None takes their types'.
        norm: Whether hidden populations of both types have batch norm behind their synapses.

    Attributes:
        W: Weights of Type 1, W[i] from layer i + 1 to i + 2 in the paper's count, shape (post, pre).
        Theta: Weights of Type 2, Theta[i] from layer i + 2 to i + 1, shape (post, pre).
        up, down: What W and Theta connect.
        norm_up, norm_down: Batch norm behind those that lead to hidden layers, by their place in W and Theta.
        type1, type2: Neurons of the two types; `first1` and `first2` those that a current drives.

    Raises:
        InputError: Fewer than three layers of neurons, one without neurons, no step, or a convolution with an even kernel.
        RangeError: A time constant or threshold out of range.
    """

    def __init__(
        self,
        plan: Sequence[int] | Sequence[Layer | Mirror],
        steps: int = 4,
        tau: float = 2.0,
        thresholds: tuple[float, float] = (0.2, 0.1),
        generator: torch.Generator | None = None,
        *,
        entry: float | None = None,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.plan = layered(plan)
        self.sizes = (*(layer.inputs for layer in self.plan[:1]), *(layer.size for layer in self.plan))
        if len(self.sizes) < 3 or min(self.sizes) < 1 or steps < 1:
            raise InputError(
                f"BSDNet: sizes {self.sizes}, {steps} steps; needed are three layers of 1 neuron or more, and a step"
            )
        self.steps = steps
        self.type1, self.type2 = (Pyramidal(tau, threshold) for threshold in thresholds)
        self.first1, self.first2 = (Pyramidal(tau, entry or threshold) for threshold in thresholds)
        self.up, self.down = (tuple(linked(layer, down) for layer in self.plan) for down in (False, True))
        self.W = nn.ParameterList(drawn(link.shape, generator) for link in self.up)
        self.Theta = nn.ParameterList(drawn(link.shape, generator) for link in self.down)
        self.norm_up = nn.ModuleDict({str(i): Norm(link) for i, link in enumerate(self.up[:-1])} if norm else {})
        self.norm_down = nn.ModuleDict({str(i): Norm(link) for i, link in enumerate(self.down) if i} if norm else {})

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a stimulus: channels, rows and columns where it is an image to the network, else its size."""
        first = self.plan[0]
        return first.image if isinstance(first, Convolution) else (first.inputs,)

    def rows(self) -> int:
        """Samples to evaluate at a time, so that the widest layer's voltages of all steps stay below `HELD`."""
        return max(1, min(1000, HELD // (self.steps * max(self.sizes))))

    @torch.no_grad()
    def perceive(self, x: Tensor, *, every: bool = False) -> Pathway:
        """Type 1 from a stimulus, shape (sample, neuron): its values are the current of layer 1 in every step.

        `every` keeps all spikes of all layers.
        """
        return self._run((self.first1, self.type1), _chain(self.up, self.W, self.norm_up), x, every)

    @torch.no_grad()
    def recall(self, concept: Tensor, *, every: bool = False) -> Pathway:
        """Type 2 from a concept, shape (sample, class): its values are the current of layer L in every step.

        `every` keeps all spikes of all layers.
        """
        found = self._run((self.first2, self.type2), _chain(self.down, self.Theta, self.norm_down)[::-1], concept, every)
        return Pathway(found.v[::-1], found.r[::-1], found.spikes, found.trains[::-1], found.gain[::-1])

    def forward(self, input: Tensor) -> Tensor:
        """Mean voltage of the concept's Type 1 neurons, shape (sample, class); carries no gradient."""
        return self.perceive(input).v[-1]

    def folded(self) -> tuple[tuple[Folded, ...], tuple[Folded, ...]]:
        """Synapses of Type 1 (W) and Type 2 (Theta) as evaluation has them, batch norm folded in, in the order of `plan`.

        What is basal to one type is apical to the other, so a layer's two populations hear the same sums, biases included.
        """
        up, down = _chain(self.up, self.W, self.norm_up), _chain(self.down, self.Theta, self.norm_down)
        return tuple(_folded(*parts) for parts in up), tuple(_folded(*parts) for parts in down)

    def unrolled(self, x: Tensor) -> Tensor:
        """What `forward` gives, with gradients through synapses, batch norm, time and spikes: for backpropagation alone."""
        parts = _chain(self.up, self.W, self.norm_up)
        return self._run((self.first1, self.type1), parts, x, False, traced).v[-1]

    def _run(
        self,
        neurons: tuple[Pyramidal, Pyramidal],
        chain: Sequence[_Part],
        current: Tensor,
        every: bool,
        spikes_of: Callable[[Pyramidal, Tensor], Tensor] | None = None,
    ) -> Pathway:
        samples = len(current)
        rates, trains = list[Tensor](), list[Tensor]()
        voltages, gains = [current], list[Tensor | None]([None])

        def sent(neuron: Pyramidal, basal: Tensor) -> Tensor:
            spikes = (spikes_of or fired)(neuron, basal)
            rates.append(spikes.mean(0))
            trains.extend([spikes] if every else [])
            return spikes

        spikes = sent(neurons[0], current.expand(self.steps, samples, -1))
        for link, weight, norm in chain:
            basal, gain = link.voltages(weight, spikes.flatten(0, 1)), None
            if norm is not None:
                basal, gain = norm(basal)
            basal = basal.view(self.steps, samples, -1)
            voltages.append(basal.mean(0))
            gains.append(gain)
            spikes = sent(neurons[1], basal)
        return Pathway(tuple(voltages), tuple(rates), spikes.transpose(0, 1), tuple(trains), tuple(gains))


_Part = tuple[Link, Tensor, Norm | None]
"""Synapses, their weights, and the batch norm behind them."""


def _chain(links: Sequence[Link], weights: nn.ParameterList, norms: nn.ModuleDict) -> list[_Part]:
    by_place = cast(dict[str, Norm], dict(norms.items()))
    return [(link, weight, by_place.get(str(i))) for i, (link, weight) in enumerate(zip(links, weights, strict=True))]


def layered(plan: Sequence[int] | Sequence[Layer | Mirror]) -> tuple[Layer | Mirror, ...]:
    """The layers of a network from them, or from the neurons of all its layers if it is fully connected."""
    sizes = [entry for entry in plan if isinstance(entry, int)]
    given = [entry for entry in plan if not isinstance(entry, int)]
    return (*(Full(pre, post) for pre, post in pairwise(sizes)), *given)


def fired(neuron: Pyramidal, basal: Tensor) -> Tensor:
    """Spikes, 0 or 1 in the dtype of the input, of basal input (step, sample, neuron), from rest.

    This is `lavasnn.dynamics.pyramidal.step` in place, which takes half the time.
    """
    decay, at = 1 - 1 / neuron.tau, threshold(neuron)
    v, found = torch.zeros_like(basal[0]), torch.empty(basal.shape, dtype=basal.dtype, device=basal.device)
    for a, s in zip(basal, found, strict=True):
        v.mul_(decay).add_(a)
        torch.ge(v, at, out=s)
        v.addcmul_(v, s, value=-1)
    return found


def traced(neuron: Pyramidal, basal: Tensor) -> Tensor:
    """`fired` with a gradient: that of a spike by H - threshold is ATan's, and none passes through a reset."""
    v, found = torch.zeros_like(basal[0]), list[Tensor]()
    for a in basal:
        v = integrate(neuron, v, a)
        likely = heaviside(v / neuron.tau - neuron.threshold)
        s, v = fire(neuron, v)
        found.append(s + likely - likely.detach())
    return torch.stack(found)


def drawn(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """A parameter of that shape, post first, uniform within 1 / sqrt(inputs of a neuron)."""
    bound = math.prod(shape[1:]) ** -0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))


@torch.no_grad()
def _folded(link: Link, weight: Tensor, norm: Norm | None) -> Folded:
    if norm is None:
        return Folded(link, weight.detach().clone(), weight.new_zeros(link.channels))
    scale, shift = norm.affine()
    return Folded(link, weight * scale.view(-1, *[1] * (weight.dim() - 1)), shift)
