"""Networks of LIF and DLIF neurons in torch, as a configuration says: their layers, and which pairs of inputs they join."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lavasnn import architecture
from lavasnn.architecture import Full, Layer, as_image, layers
from lavasnn.config import RunConfig
from lavasnn.data import Images
from lavasnn.encode import Encoding
from lavasnn.errors import InputError
from lavasnn.nn.dlif import PairConv2d, PairPool
from lavasnn.nn.lif import LIF
from lavasnn.nn.pairs import active_pairs, channel_pairs, covariance_pairs, field_pairs, random_pairs
from lavasnn.sections import SpikingSection

PAIR_IMAGES = 10_000
"""Training images, the first ones, that pairs are chosen by: no more, and with many steps fewer."""
PAIR_STEPS = 320_000
"""Steps of all these images together."""

Synapses = nn.Linear | nn.Conv2d | PairPool | PairConv2d


class SpikingNet(nn.Sequential):
    """Synapses (in hidden layers perhaps with batch norm behind them) and LIF neurons in turn.

    Takes (sample, step, input) and returns (sample, step, class). Inputs that are a view of one step, the same in all, are
    weighed once.

    Attributes:
        shape: Of an input: its size, rows and columns, or channels, rows and columns.
    """

    shape: tuple[int, ...]

    @property
    def synapses(self) -> list[Synapses]:
        """The synapses of all layers, input side first."""
        return [m for m in self if isinstance(m, Synapses)]

    @property
    def image(self) -> tuple[int, int, int] | None:
        """Channels, rows and columns of the input if the first layer is a convolution, else None."""
        return None if isinstance(self.synapses[0], nn.Linear | PairPool) else as_image(self.shape)

    def forward(self, input: Tensor) -> Tensor:
        """Spikes of the output, shape (sample, step, class)."""
        samples, steps = input.shape[:2]
        x = input[:, :1] if input.stride(1) == 0 else input
        x = x.flatten(0, 1) if self.image is None else x.reshape(-1, *self.image)
        for layer in self:
            if isinstance(layer, LIF):
                x = layer(x.unflatten(0, (samples, -1)).expand(-1, steps, *x.shape[1:])).flatten(0, 1)
            else:
                x = layer(x)
        return x.unflatten(0, (samples, steps))


@contextlib.contextmanager
def silenced(net: nn.Module) -> Generator[None]:
    """The network with the coefficients of all pairs at 0 for as long as the context lasts."""
    pools = [m for m in net.modules() if isinstance(m, PairPool | PairConv2d)]
    learned = [pool.k.detach().clone() for pool in pools]
    with torch.no_grad():
        for pool in pools:
            pool.k.zero_()
        try:
            yield
        finally:
            for pool, k in zip(pools, learned, strict=True):
                pool.k.copy_(k)


def planned(config: RunConfig, shape: Sequence[int], classes: int) -> tuple[Layer, ...]:
    """The layers of a configuration for inputs of that shape."""
    return layers(shape, config.network.hidden, classes, config.spiking.pair_field == "pixel")


def build(
    spiking: SpikingSection,
    shape: Sequence[int],
    plan: Sequence[Layer],
    pairs: Sequence[Tensor | None],
    generator: torch.Generator | None = None,
) -> SpikingNet:
    """An untrained network: weights within 1 / sqrt(inputs) of 0, coefficients of pairs and biases 0.

    Args:
        spiking: Its neurons.
        shape: Of an input.
        plan: Its layers.
        pairs: Of each layer's inputs, shape (pair, 2), of a convolution's (pair, 6), or None for plain LIF.
        generator: Of the weights.
    """
    modules: list[nn.Module] = []
    flat = isinstance(plan[0], Full)
    for layer, some in zip(plan, pairs, strict=True):
        synapses = _synapses(layer, some, spiking.bias)
        with torch.no_grad():
            bound = (layer.weights // layer.outputs) ** -0.5
            synapses.weight.uniform_(-bound, bound, generator=generator)
            if synapses.bias is not None:
                synapses.bias.zero_()
        if isinstance(layer, Full) and not flat:
            modules.append(nn.Flatten())
            flat = True
        modules.append(synapses)
        if spiking.norm and layer is not plan[-1]:
            modules.append(nn.BatchNorm1d(layer.size) if isinstance(layer, Full) else nn.BatchNorm2d(layer.channels))
        modules.append(LIF(spiking.dv, spiking.du, spiking.vth, spiking.surrogate))
    net = SpikingNet(*modules)
    net.shape = tuple(shape)
    return net


def _synapses(layer: Layer, pairs: Tensor | None, bias: bool) -> Synapses:
    if isinstance(layer, Full):
        if pairs is None:
            return nn.Linear(layer.inputs, layer.size, bias)
        return PairPool(layer.inputs, layer.size, pairs, bias)
    sizes = (layer.image[0], layer.channels, layer.kernel)
    if pairs is None:
        return nn.Conv2d(*sizes, layer.stride, layer.padding, bias=bias)
    return PairConv2d(*sizes, pairs, layer.stride, layer.padding, bias=bias)


def stored_pairs(spiking: SpikingSection, plan: Sequence[Layer], arrays: dict[str, Any]) -> list[Tensor | None]:
    """The pairs of each layer in a state dict: those of the module at which `build` puts the layer's synapses."""
    found: list[Tensor | None] = []
    place, flat = 0, isinstance(plan[0], Full)
    for layer in plan:
        if isinstance(layer, Full) and not flat:
            place, flat = place + 1, True
        pairs = arrays.get(f"{place}.pairs")
        found.append(None if pairs is None else torch.from_numpy(pairs.copy()))
        place += 3 if spiking.norm else 2
    return found


def pair_numbers(config: RunConfig, plan: Sequence[Layer]) -> list[int]:
    """How many pairs each layer has; 0 means plain LIF.

    Raises:
        InputError: More than its inputs have.
    """
    spiking = config.spiking
    if config.network.neuron == "lif":
        return [0] * len(plan)
    there = [layer.heard * (layer.heard - 1) // 2 for layer in plan]
    if spiking.sparsity is not None:
        numbers = [round((1 - spiking.sparsity) * n) for n in there]
    else:
        numbers = [spiking.pairs] * len(plan) if isinstance(spiking.pairs, int) else list(spiking.pairs)
    if spiking.code == "direct":
        numbers[0] = 0
    for number, (number_of, layer, most) in enumerate(zip(numbers, plan, there, strict=True), start=1):
        if number_of > most:
            raise InputError(f"spiking.pairs: {number_of:,} for layer {number}, its {layer.heard} inputs have {most:,}")
    return numbers


def choose_pairs(config: RunConfig, images: Images, code: Encoding, seed: int) -> list[Tensor | None]:
    """Pairs of every layer, those of a first full layer by the training samples, others at random; None for plain LIF.

    Args:
        config: How many and how.
        images: Training samples; some (`PAIR_IMAGES`) are shown, with all their steps, each step one observation.
        code: How they become spikes.
        seed: Of everything random here.

    Raises:
        InputError: More pairs than a layer's inputs have.
    """
    spiking = config.spiking
    plan = planned(config, images.shape, images.classes)
    found: list[Tensor | None] = []
    for place, (layer, number) in enumerate(zip(plan, pair_numbers(config, plan), strict=True)):
        own = int(np.random.SeedSequence((seed, place)).generate_state(1, np.uint64)[0]) >> 1
        if not number:
            found.append(None)
        elif not isinstance(layer, Full):
            centre = (layer.padding, layer.padding)
            found.append(
                channel_pairs(layer.image[0], number, own, centre)
                if layer.pixel
                else field_pairs(layer.image[0], layer.kernel, number, own)
            )
        elif place or spiking.pair_choice == "random":
            found.append(random_pairs(layer.inputs, number, own))
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


def widened(config: RunConfig, shape: Sequence[int], classes: int) -> RunConfig:
    """The LIF network with at least as many parameters as a DLIF network, its hidden layers wider by one factor.

    Hidden layers of h_1, h_2, ... neurons or channels become round(h_l w / h_1), with the smallest w of at least h_1 for which
    the number of weights (and biases, and two of batch norm for each neuron or channel) is no less than that of weights,
    biases and pair coefficients: the baseline gets the rest.

    Raises:
        InputError: There are no hidden layers.
    """
    hidden = config.network.hidden
    if not hidden:
        raise InputError("baseline 'lif-wide': network.hidden is empty, so there is no layer to widen")
    plan = planned(config, shape, classes)
    wanted = _parameters(config.spiking, plan, pair_numbers(config, plan))
    width = plan[0].outputs
    while True:
        wider = architecture.widened(hidden, width)
        if _parameters(config.spiking, layers(shape, wider, classes), [0] * len(plan)) >= wanted:
            return config.with_lif(wider)
        width += 1


def _parameters(spiking: SpikingSection, plan: Sequence[Layer], pairs: Sequence[int]) -> int:
    """Numbers that such a network learns."""
    norm = 2 * sum(layer.outputs for layer in plan[:-1]) if spiking.norm else 0
    return norm + sum(layer.weights + (p + spiking.bias) * layer.outputs for layer, p in zip(plan, pairs, strict=True))
