"""Synapses between two layers of a BSD network, in both directions, and the batch norm behind them.

Layers are vectors of neurons here, whatever their shape: a convolution unfolds its images, channels outermost, and folds them
again. Upwards a convolution is the usual one. Downwards it is, in this order,

    nearest-neighbour upsampling by the stride, cropped at the bottom and right to the image of the layer below
    a convolution of the same kernel, stride 1, with weights of its own

so that both directions connect the same two layers; of a mirrored convolution, in a decoder, they change places. Strides halve
images where the paper pools: the largest of four spikes would need a neuron and a step of its own.

Source: Biologically Plausible Learning via Bidirectional Spike-based Distillation (ICLR 2026), appendix E.2.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from lavasnn.architecture import Convolution, Full, Layer, Mirror
from lavasnn.errors import InputError


@dataclass(frozen=True)
class Link:
    """Synapses of two layers in one direction.

    Args:
        layer: What they are upwards, from stimulus to concept.
        down: Whether they lead from the upper layer to the lower one.

    Raises:
        InputError: A convolution with an even kernel, which has no centre to keep an image's size by.
    """

    layer: Layer
    down: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.layer, Convolution) and self.layer.kernel % 2 == 0:
            raise InputError(f"BSD: a convolution with a kernel of {self.layer.kernel}; allowed are odd ones")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weights: (post, pre), of a convolution (post channel, pre channel, row, column)."""
        layer = self.layer
        if isinstance(layer, Full):
            ends = (layer.size, layer.inputs)
            return ends[::-1] if self.down else ends
        ends = (layer.channels, layer.image[0])
        return (*(ends[::-1] if self.down else ends), layer.kernel, layer.kernel)

    @property
    def channels(self) -> int:
        """Of the layer that receives; each neuron is one where there are no images."""
        return self.shape[0]

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the layer that receives; where there are no images a neuron is a channel."""
        if isinstance(self.layer, Full):
            return self.channels, 1, 1
        return self.layer.image if self.down else self.layer.image_out

    @property
    def positions(self) -> int:
        """Neurons of a channel in the layer that receives."""
        return (self.layer.inputs if self.down else self.layer.size) // self.channels

    def voltages(self, weight: Tensor, spikes: Tensor) -> Tensor:
        """What arrives, shape (row, post neuron), of spikes (row, pre neuron)."""
        if isinstance(self.layer, Full):
            return spikes @ weight.T
        return functional.conv2d(self._images(spikes), weight, None, self._stride, self.layer.padding).flatten(1)

    def gradient(self, d: Tensor, r: Tensor) -> Tensor:
        """Of the weights: by `d`, that of what arrives, (row, post neuron), and `r`, what was sent, (row, pre neuron)."""
        if isinstance(self.layer, Full):
            return d.T @ r
        x = self._images(r)
        return conv2d_weight(x, self.shape, d.view(-1, *self.image), self._stride, self.layer.padding)

    @property
    def _stride(self) -> int:
        return 1 if self.down or isinstance(self.layer, Full) else self.layer.stride

    def _images(self, x: Tensor) -> Tensor:
        """The images that the kernel moves over."""
        layer = self.layer
        assert isinstance(layer, Convolution)
        if not self.down:
            return x.view(-1, *layer.image)
        wide = x.view(-1, *layer.image_out).repeat_interleave(layer.stride, 2).repeat_interleave(layer.stride, 3)
        return wide[:, :, : layer.image[1], : layer.image[2]]


def linked(layer: Layer | Mirror, down: bool) -> Link:
    """Synapses of a network's layer, upwards or downwards; those of a mirror are its convolution's the other way."""
    return Link(layer.layer, not down) if isinstance(layer, Mirror) else Link(layer, down)


@dataclass(frozen=True)
class Folded:
    """Synapses as they are evaluated: what arrives in a step is `link.voltages(weight, spikes)` plus the channel's bias.

    Attributes:
        link: Where they lead.
        weight: Shape `link.shape`, scaled by batch norm.
        bias: A constant current of each channel, shape (channel,); 0 without batch norm.
    """

    link: Link
    weight: Tensor
    bias: Tensor

    def voltages(self, spikes: Tensor) -> Tensor:
        """Shape (row, post neuron), of spikes (row, pre neuron)."""
        return self.link.voltages(self.weight, spikes) + self.bias.repeat_interleave(self.link.positions)


class Norm(nn.Module):
    """Batch norm of each channel's voltage, to mean 0 and variance 1; it has no weights of its own.

    The mean and variance are those of a batch's samples, steps and positions in training, running ones in evaluation. Learning
    takes the variance as a given number, the mean as what it is.

    Args:
        link: Behind which synapses.
    """

    MOMENTUM = 0.1
    EPSILON = 1e-5
    mean: Tensor
    var: Tensor

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.channels, self.positions = link.channels, link.positions
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("var", torch.ones(self.channels))

    def affine(self) -> tuple[Tensor, Tensor]:
        """Factor and shift of each channel in evaluation, shape (channel,)."""
        return _affine(self.mean, self.var)

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised voltages of (row, neuron), and each neuron's factor; in training the running statistics move too."""
        if self.training:
            var, mean = torch.var_mean(input.view(len(input), self.channels, self.positions), dim=(0, 2), correction=0)
            self.mean.lerp_(mean.detach().to(self.mean.dtype), self.MOMENTUM)
            self.var.lerp_(var.detach().to(self.var.dtype), self.MOMENTUM)
            scale, shift = _affine(mean, var)
        else:
            scale, shift = self.affine()
        factor = scale.repeat_interleave(self.positions)
        return torch.addcmul(shift.repeat_interleave(self.positions), input, factor), factor


def _affine(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    scale = (var + Norm.EPSILON).rsqrt()
    return scale, -mean * scale
