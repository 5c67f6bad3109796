"""How a recurrent BSD network learns: at each position by what is there, and the same network by backpropagation through time.

At position i the hidden layer of Type 1 has the basal voltage h_i, and at its apical dendrite h'_i, the basal one of Type 2,
which hears h_i in turn. The local losses of `lavasnn.learning.bsd` compare them, each sample of the batch with all others at
the same position: an affinity matrix has a row and a column for each sample, and each position has its own. With d and d' the
gradients by h and h', summed over positions and samples,

    dW_ih = d_i^T x_i;       dW_hh = d_i^T r_{i-1};        dW_ho = e_i^T h_i
    dTheta_oh = d'_i^T y_i;  dTheta_hh = d'_i^T r'_{i+1};  dTheta_hi = e'_i^T h'_i

where r are rates. The error e_i = dL/do_i is that of the output at its own dendrite, L the cross-entropy of o_i and y_i for
characters and (o_i - y_i)^2 for numbers, and e' the same of x^_i and x_i. Neither reaches the hidden layer, and nothing reaches
an earlier position: x_i, y_i and rates count as given.

Source: Biologically Plausible Learning via Bidirectional Spike-Based Distillation (ICLR 2026), appendices C and D.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lavasnn.learning.bsd import pair_gradients
from lavasnn.nn.bsd_rnn import BSDRNN
from lavasnn.sections import BSDSection


@torch.no_grad()
def bsd(net: BSDRNN, x: Tensor, y: Tensor, section: BSDSection, *, characters: bool) -> Tensor:
    """Fill in the gradients of all weights for one batch.

    Args:
        net: The network.
        x: Inputs, shape (position, sample, input).
        y: Targets, shape (position, sample, output).
        section: Which loss the hidden layer has, and its numbers.
        characters: Whether inputs and targets are one-hot characters; else they are numbers.

    Returns:
        o, shape (position, sample, output).
    """
    up, down = net.perceive(x), net.recall(y)
    d, d_recall = pair_gradients(up.h, down.h, section, y.argmax(-1) if characters else None)
    net.W_ih.grad, net.W_hh.grad = _outer(d, x), _outer(d[1:], up.r[:-1])
    net.Theta_oh.grad, net.Theta_hh.grad = _outer(d_recall, y), _outer(d_recall[:-1], down.r[1:])
    net.W_ho.grad = _outer(error(up.out, y, characters), up.h)
    net.Theta_hi.grad = _outer(error(down.out, x, characters), down.h)
    return up.out


@torch.no_grad()
def readout(net: BSDRNN, x: Tensor, y: Tensor, *, characters: bool) -> Tensor:
    """W_ho's gradient alone; the hidden layer stays as it was drawn, which shows what its learning is worth."""
    up = net.perceive(x)
    net.W_ho.grad = _outer(error(up.out, y, characters), up.h)
    return up.out


def bptt(net: BSDRNN, x: Tensor, y: Tensor, *, characters: bool) -> Tensor:
    """Gradients of Type 1's weights by backpropagation through all positions and steps, of the same sum over the batch."""
    for weight in (net.W_ih, net.W_hh, net.W_ho):
        weight.grad = None
    out = net(x)
    loss(out, y, characters).backward()
    return out.detach()


def loss(out: Tensor, target: Tensor, characters: bool) -> Tensor:
    """Cross-entropy with one-hot characters in nats, or squared distance, summed over all positions and samples."""
    if characters:
        return functional.cross_entropy(out.flatten(0, 1), target.flatten(0, 1), reduction="sum")
    return functional.mse_loss(out, target, reduction="sum")


def error(out: Tensor, target: Tensor, characters: bool) -> Tensor:
    """Gradient of `loss` by `out`."""
    return torch.softmax(out, -1) - target if characters else 2 * (out - target)


def _outer(d: Tensor, sent: Tensor) -> Tensor:
    """Sum over positions and samples of d^T sent, shape (post, pre)."""
    return d.flatten(0, 1).T @ sent.flatten(0, 1)
