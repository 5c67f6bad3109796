"""Backpropagation through time for networks of LIF and DLIF neurons on images.

The loss is the cross-entropy of the mean output spikes over the window, taken as logits: pushed up, the right output spikes
in every step, and the others fall silent. Gradients pass through spikes by a surrogate, see `lavasnn.nn.surrogate`.

Bernoulli spikes are drawn anew for every batch while training. To evaluate a network, images are shown as `Encoding` says,
and so as executors and the chip see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lavasnn.config import RunConfig, SpikingSection, TrainingSection
from lavasnn.data import Images
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.learning.rules import Batch, Seen
from lavasnn.nn.dlif import PairPool
from lavasnn.nn.lif import LIF
from lavasnn.nn.pairs import active_pairs, covariance_pairs, random_pairs

PAIR_IMAGES = 10_000
"""Training images, the first ones, that pairs are chosen by: no more, and with many steps fewer."""
PAIR_STEPS = 320_000
"""Steps of all these images together."""


class SpikingNet(nn.Sequential):
    """Linear or PairPool synapses and LIF neurons in turn; (sample, step, input) to (sample, step, class)."""

    @property
    def synapses(self) -> list[nn.Linear | PairPool]:
        """The synapses of all layers, input side first."""
        return [m for m in self if isinstance(m, nn.Linear | PairPool)]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Neurons of all layers, the input included."""
        return (self.synapses[0].in_features, *(s.out_features for s in self.synapses))


def build(
    spiking: SpikingSection, sizes: Sequence[int], pairs: Sequence[Tensor | None], generator: torch.Generator | None = None
) -> SpikingNet:
    """An untrained network: weights within 1 / sqrt(inputs) of 0, coefficients of pairs and biases 0.

    Args:
        spiking: Its neurons.
        sizes: Neurons of all layers, the input included.
        pairs: Of each layer's inputs, shape (pair, 2), or None for plain LIF.
        generator: Of the weights.
    """
    layers: list[nn.Module] = []
    for (n, m), some in zip(pairwise(sizes), pairs, strict=True):
        synapses = nn.Linear(n, m, spiking.bias) if some is None else PairPool(n, m, some, spiking.bias)
        with torch.no_grad():
            synapses.weight.uniform_(-(n**-0.5), n**-0.5, generator=generator)
            if synapses.bias is not None:
                synapses.bias.zero_()
        layers += [synapses, LIF(spiking.dv, spiking.du, spiking.vth, spiking.surrogate)]
    return SpikingNet(*layers)


def pair_numbers(config: RunConfig, sizes: Sequence[int]) -> list[int]:
    """How many pairs each layer has; 0 means plain LIF.

    Raises:
        InputError: More than its inputs have.
    """
    spiking, layers = config.spiking, len(sizes) - 1
    if config.network.neuron == "lif":
        return [0] * layers
    numbers = [spiking.pairs] * layers if isinstance(spiking.pairs, int) else list(spiking.pairs)
    if spiking.code == "direct":
        numbers[0] = 0
    for layer, (number, n) in enumerate(zip(numbers, sizes, strict=False), start=1):
        if number > n * (n - 1) // 2:
            raise InputError(f"spiking.pairs: {number:,} for layer {layer}, its {n} inputs have {n * (n - 1) // 2:,}")
    return numbers


def choose_pairs(config: RunConfig, images: Images, code: Encoding, seed: int) -> list[Tensor | None]:
    """Pairs of every layer, those of the first one by the training images, deeper ones at random; None for plain LIF.

    Args:
        config: How many and how.
        images: Training images; some (`PAIR_IMAGES`) are shown, with all their steps, each step one observation.
        code: How they become spikes.
        seed: Of everything random here.

    Raises:
        InputError: More pairs than a layer's inputs have.
    """
    spiking = config.spiking
    sizes = (images.pixels.shape[1], *config.network.hidden)
    found: list[Tensor | None] = []
    for layer, (n, number) in enumerate(zip(sizes, pair_numbers(config, (*sizes, images.classes)), strict=True)):
        own = int(np.random.SeedSequence((seed, layer)).generate_state(1, np.uint64)[0]) >> 1
        if not number:
            found.append(None)
        elif layer or spiking.pair_choice == "random":
            found.append(random_pairs(n, number, own))
        else:
            some = images.take(min(PAIR_IMAGES, PAIR_STEPS // spiking.steps, len(images)))
            spikes = replace(code, seed=own).messages(some.pixels, np.arange(len(some)), spiking.steps)
            x = torch.from_numpy(spikes).flatten(0, 1)
            labels = torch.from_numpy(some.labels).repeat_interleave(spiking.steps)
            chosen = (
                covariance_pairs(x, labels, number, own)
                if spiking.pair_choice == "covariance"
                else active_pairs(x, number, own)
            )
            found.append(chosen)
    return found


def widened(config: RunConfig, inputs: int, classes: int) -> RunConfig:
    """The LIF network with at least as many parameters as a DLIF network, its hidden layers wider by one factor.

    Hidden layers of h_1, h_2, ... neurons become round(h_l w / h_1), with the smallest w of at least h_1 for which the number
    of weights (and biases) is no less than that of weights, biases and pair coefficients: the baseline gets the rest.

    Raises:
        InputError: There are no hidden layers.
    """
    hidden, bias = config.network.hidden, config.spiking.bias
    if not hidden:
        raise InputError("baseline 'lif-wide': network.hidden is empty, so there is no layer to widen")
    sizes = (inputs, *hidden, classes)
    wanted = sum((n + p + bias) * m for (n, m), p in zip(pairwise(sizes), pair_numbers(config, sizes), strict=True))
    width = hidden[0]
    while True:
        wider = tuple(round(h * width / hidden[0]) for h in hidden)
        if sum((n + bias) * m for n, m in pairwise((inputs, *wider, classes))) >= wanted:
            return config.with_lif(wider)
        width += 1


def payload_scale(code: Encoding) -> float:
    """What a payload is multiplied by while training, so that the largest pixel is near 1; 1 for spikes.

    It is a power of two, so weights that take the chip's integers instead (`deployed`) give the very same products.
    """
    return 2.0 ** -round(np.log2(code.levels)) if code.kind == "direct" else 1.0


def presented(pixels: NDArray[np.uint8], code: Encoding, indices: NDArray[np.int64], steps: int) -> Tensor:
    """Images as evaluation shows them, shape (sample, step, pixel), float32."""
    return torch.from_numpy(code.messages(pixels, indices, steps)).to(torch.float32) * payload_scale(code)


def drawn(pixels: Tensor, code: Encoding, steps: int, generator: torch.Generator) -> Tensor:
    """Images as training shows them, with new random spikes, shape (sample, step, pixel), float32."""
    if code.kind != "bernoulli":
        indices = np.arange(len(pixels))
        return presented(pixels.cpu().numpy(), code, indices, steps).to(pixels.device)
    draws = torch.rand(len(pixels), steps, pixels.shape[1], generator=generator, device=pixels.device)
    return (draws * code.levels < pixels[:, None]).to(torch.float32)


def bptt(net: SpikingNet, batch: Batch, options: TrainingSection) -> Seen:
    """Gradients of the cross-entropy of mean output spikes, by torch's autograd through all steps."""
    del options
    for p in net.parameters():
        p.grad = None
    rates = net(batch.x).mean(1)
    functional.cross_entropy(rates, batch.target).backward()
    return Seen(rates.detach(), [], [])


def deployed(net: SpikingNet, code: Encoding) -> nn.Sequential:
    """The network as the chip runs it: where pixels come in as payloads, the first weights take them as integers."""
    if code.kind != "direct":
        return net
    first = net.synapses[0]
    scaled = nn.Linear(first.in_features, first.out_features, first.bias is not None)
    with torch.no_grad():
        scaled.weight.copy_(first.weight * payload_scale(code))
        if first.bias is not None:
            scaled.bias.copy_(first.bias)
    return nn.Sequential(scaled, *list(net)[1:])
