"""Backpropagation through time for networks of LIF and DLIF neurons on images.

The loss is the cross-entropy of the mean output spikes over the window, taken as logits: pushed up, the right output spikes
in every step, and the others fall silent. Gradients pass through spikes by a surrogate, see `lavasnn.nn.surrogate`.

Bernoulli spikes are drawn anew for every batch while training. To evaluate a network, images are shown as `Encoding` says,
and so as executors and the chip see them.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lavasnn.encode import Encoding
from lavasnn.learning.rules import Batch, Seen
from lavasnn.learning.spiking import SpikingNet
from lavasnn.sections import TrainingSection


def payload_scale(code: Encoding) -> float:
    """What a payload is multiplied by while training, so that the largest pixel is near 1; 1 for spikes.

    It is a power of two, so weights that take the chip's integers instead (`deployed`) give the very same products.
    """
    return 2.0 ** -round(np.log2(code.levels)) if code.kind == "direct" else 1.0


def presented(
    pixels: NDArray[np.uint8], code: Encoding, indices: NDArray[np.int64], steps: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Samples as evaluation shows them, shape (sample, step, feature), float32; a view of one step if all are the same."""
    if code.kind == "direct":
        shown = torch.from_numpy(code.messages(pixels, indices, 1)).to(torch.float32) * payload_scale(code)
        return shown.to(device).expand(-1, steps, -1)  # moved first: a view would be written out
    return torch.from_numpy(code.messages(pixels, indices, steps)).to(device, torch.float32)


def drawn(pixels: Tensor, code: Encoding, steps: int, generator: torch.Generator) -> Tensor:
    """Samples as training shows them, with new random spikes, shape (sample, step, feature), float32."""
    if code.kind != "bernoulli":
        indices = np.arange(len(pixels))
        return presented(pixels.cpu().numpy(), code, indices, steps, pixels.device)
    draws = torch.rand(len(pixels), steps, pixels.shape[1], generator=generator, device=pixels.device)
    return (draws * code.levels < pixels[:, None]).to(torch.float32)


def bptt(net: SpikingNet, batch: Batch, options: TrainingSection) -> Seen:
    """Gradients of the cross-entropy of mean output spikes, by torch's autograd through all steps."""
    del options
    net.train()
    for p in net.parameters():
        p.grad = None
    rates = net(batch.x).mean(1)
    functional.cross_entropy(rates, batch.target).backward()
    return Seen(rates.detach(), [], [])


def deployed(net: SpikingNet, code: Encoding) -> nn.Sequential:
    """The network as the chip runs it: where pixels come in as payloads, the first weights take them as integers."""
    if code.kind != "direct":
        return net
    layers = list(net)
    first = copy.deepcopy(net.synapses[0])
    with torch.no_grad():
        first.weight.mul_(payload_scale(code))
    layers[layers.index(net.synapses[0])] = first
    return nn.Sequential(*layers)
