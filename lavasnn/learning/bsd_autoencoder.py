"""Local learning of a BSD autoencoder, whose stimulus and concept are the same image.

Type 1 runs from the image through the bottleneck to its reconstruction, Type 2 the other way round through the same layers.
Both hear the image x, so every sample has a u of its own, and `lavasnn.learning.bsd` is used with sample k as class k: C_kj is
equation 6 and the losses are equations 7 and 18 as they stand.

In a hidden layer both dendrites' mean voltages v and u are split in the frequency domain, each channel an image of H x W:

    v = v_low + v_high;   v_low = F^-1[M F[v]],   M = 1 where sqrt(f_y^2 + f_x^2) <= cutoff / 2, else 0

with f in cycles a neuron, so that 1 / 2 is the highest frequency of a row or column and cutoff the normalised radius of the
paper. Each band has cosines and a lambda of its own,

    L_i = sum over both bands b of [ sum_k (1 - C^b_kk)^2 + lambda_b sum_k sum_{j != k} max(0, C^b_kj)^2 ]

As M is symmetric, splitting is an orthogonal projection: the gradient by v is the sum of the bands' closed forms.
At the ends each pathway meets the image itself, and learns by its squared error,

    L_L = sum_k |v_L,k - x_k|^2 (Type 1);   L'_1 = sum_k |u_1,k - x_k|^2 (Type 2)

which the split would leave as it is. Losses are sums over the batch.

What the paper leaves open: it decomposes the image and all voltages and gives each frequency domain its lambda (section 4.4,
appendix E.2.4), but writes no equation. Cosines and positive pairs of each band, and a radius in units of the highest
frequency, are our reading. "At the top layer" (section 4.4) is taken as the end of either pathway, as equation 9 is symmetric.

Source: Biologically Plausible Learning via Bidirectional Spike-based Distillation (ICLR 2026), section 4.4, appendices E.2.4
and F.3.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lavasnn.learning.bsd import learn_down, learn_up, local_gradients
from lavasnn.nn.bsd import BSDNet
from lavasnn.sections import COLDEST, BSDSection, Section


class AutoencoderSection(Section):
    """Networks of pyramidal neurons that bring back what they see; the defaults are the paper's on MNIST.

    Attributes:
        steps, tau, threshold, threshold_recall, threshold_entry: As in `lavasnn.sections.BSDSection`.
        loss: Of hidden layers.
        cutoff: Radius of the low frequencies as a share of the highest one; 0, and a radius that leaves no high ones, leave
            voltages whole, with penalty_low.
        penalty_low: ReCo: lambda of low frequencies.
        penalty_high: ReCo: lambda of high frequencies.
        temperature: InfoNCE: what similarities are divided by.
    """

    steps: int = Field(default=8, ge=1, le=1000)
    tau: float = Field(default=2.0, ge=1, le=1000)
    threshold: float = Field(default=0.4, gt=0, le=1000)
    threshold_recall: float = Field(default=0.4, gt=0, le=1000)
    threshold_entry: float | None = Field(default=None, gt=0, le=1000)
    loss: Literal["reco", "infonce", "mse"] = "reco"
    cutoff: float = Field(default=0.6, ge=0, le=1.5)
    penalty_low: float = Field(default=0.005, ge=0, le=1000)
    penalty_high: float = Field(default=0.01, ge=0, le=1000)
    temperature: float = Field(default=0.1, ge=COLDEST, le=1000)

    def band(self, penalty: float) -> BSDSection:
        """The loss of one band."""
        return BSDSection(loss=self.loss, penalty=penalty, temperature=self.temperature)


@torch.no_grad()
def distil(net: BSDNet, x: Tensor, section: AutoencoderSection) -> tuple[Tensor, Tensor]:
    """One batch: fills in the gradients of W and Theta.

    Args:
        net: An autoencoder.
        x: Images from 0 to 1, shape (sample, pixel).
        section: Which losses.

    Returns:
        What Type 1 reconstructs at the top and Type 2 at the bottom, shape (sample, pixel) each.
    """
    net.train()
    up, down = net.perceive(x), net.recall(x)
    top = len(net.W)
    for i in range(1, top):
        dv, du = hidden_gradients(up.v[i], down.v[i], net.up[i - 1].image, section)
        learn_up(net, up, i, dv)
        learn_down(net, down, i, du)
    learn_up(net, up, top, 2 * (up.v[top] - x))
    learn_down(net, down, 0, 2 * (down.v[0] - x))
    return up.v[top], down.v[0]


def hidden_gradients(v: Tensor, u: Tensor, image: tuple[int, int, int], section: AutoencoderSection) -> tuple[Tensor, Tensor]:
    """Gradients of one hidden layer's losses, by v for Type 1 and by u for Type 2.

    Args:
        v: Voltages of Type 1, shape (sample, neuron).
        u: Voltages of Type 2, likewise.
        image: Channels, rows and columns of the layer.
        section: Which loss, and how frequencies are split.
    """
    own = torch.arange(len(v), device=v.device)
    if not section.cutoff or low_frequencies(*image[1:], section.cutoff).all():
        return local_gradients(v, u, own, section.band(section.penalty_low))
    dv, du = torch.zeros_like(v), torch.zeros_like(u)
    penalties = (section.penalty_low, section.penalty_high)
    for a, b, penalty in zip(split(v, image, section.cutoff), split(u, image, section.cutoff), penalties, strict=True):
        for total, part in zip((dv, du), local_gradients(a, b, own, section.band(penalty)), strict=True):
            total += part
    return dv, du


def split(v: Tensor, image: tuple[int, int, int], cutoff: float) -> tuple[Tensor, Tensor]:
    """Low and high frequencies of images, shape (sample, neuron) each; they add up to `v`."""
    each = v.view(-1, *image)
    rows, columns = image[1:]
    mask = low_frequencies(rows, columns, cutoff).to(v.device)
    low = torch.fft.irfft2(torch.fft.rfft2(each) * mask, s=(rows, columns)).reshape(v.shape)
    return low, v - low


def low_frequencies(rows: int, columns: int, cutoff: float) -> Tensor:
    """The mask M of real images' half of the spectrum, as `torch.fft.rfft2` has it: shape (rows, columns // 2 + 1), bool."""
    return torch.hypot(torch.fft.fftfreq(rows)[:, None], torch.fft.rfftfreq(columns)) <= cutoff / 2
