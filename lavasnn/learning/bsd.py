"""Local learning of BSD: each neuron aligns its basal voltage with its apical one, by gradients in closed form.

In a layer let v be the voltages that Type 1 receives from below, shape (sample, neuron), and u those that Type 2 receives from
above, one row for each class, since Type 2 sees the label alone. Both populations hold both: what is basal to one is apical to
the other. With C_kc = cos(v_k, u_c) and n_c samples of class c in the batch, the ReCo losses of the two types (equations 7 and
18) are, once equal terms are gathered by class,

    L  = sum_k (1 - C_k,y(k))^2 + lambda sum_k sum_c m_kc max(0, C_kc)^2
    L' = the same sum, differentiated by u instead of v

where m_kc counts the other samples of class c. "literal" takes the paper's sum over all j other than k, same-class samples
included, though their u is the positive one itself: m_kc = n_c - [c = y(k)]. "other_class" leaves those out. The gradients are

    dL/dv_k  = sum_c G_kc (u_c/|u_c| - C_kc v_k/|v_k|) / |v_k|,      G = dL/dC
    dL'/du_c = sum_k G_kc (v_k/|v_k| - C_kc u_c/|u_c|) / |u_c|

and the weights' follow from the synapses' own inputs: dW = (dL/dv)^T r of the layer below, dTheta = (dL'/du)^T r' of the layer
above. Cosines are those of whole layers, images flattened. A convolution adds the products up over its places. Batch norm
multiplies dL/dv by its factor first, whose variance counts as a given number, and takes away the mean over the batch, whose
gradient that is. Nothing is differentiated through a spike or a layer. The top layer's Type 1 learns by cross-entropy, with the
target it hears from the concept itself. Losses are sums over the batch.

Source: Biologically Plausible Learning via Bidirectional Spike-Based Distillation (ICLR 2026), equations 6 to 9, 13 to 22,
algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lavasnn.learning.rules import Batch, Seen
from lavasnn.nn.bsd import BSDNet, Pathway
from lavasnn.nn.bsd_layers import Link
from lavasnn.sections import BSDSection

TINY = 1e-12
"""Norms count as at least this: what is silent has no direction, and no gradient worth following."""


@torch.no_grad()
def bsd(net: BSDNet, batch: Batch, section: BSDSection) -> Seen:
    """Algorithm 1 for one batch of labelled samples: fills in the gradients of W and Theta."""
    net.train()
    labels = batch.target.argmax(1)
    up, down = net.perceive(batch.x), net.recall(torch.eye(net.sizes[-1], dtype=batch.x.dtype, device=batch.x.device))
    last = len(net.W) - 1
    for i in range(last + 1):
        dv, du = local_gradients(up.v[i], down.v[i], labels, section)
        if i:
            learn_up(net, up, i, dv)
        learn_down(net, down, i, du)
    learn_up(net, up, last + 1, torch.softmax(up.v[-1], 1) - batch.target)
    return Seen(up.v[-1], [], [])


def learn_up(net: BSDNet, up: Pathway, i: int, dv: Tensor) -> None:
    """Fill in the gradient of the synapses W into layer i, counted from 0, by that of its voltages, (sample, neuron)."""
    link = net.up[i - 1]
    net.W[i - 1].grad = link.gradient(_through(link, dv, up.gain[i]), up.r[i - 1])


def learn_down(net: BSDNet, down: Pathway, i: int, du: Tensor) -> None:
    """The same of the synapses Theta into layer i."""
    net.Theta[i].grad = net.down[i].gradient(_through(net.down[i], du, down.gain[i]), down.r[i + 1])


def _through(link: Link, d: Tensor, gain: Tensor | None) -> Tensor:
    """The gradient by the sum of a neuron's synapses, from that by its voltage: times each channel's factor, less its mean."""
    if gain is None:
        return d
    by_channel = (d * gain).view(len(d), link.channels, link.positions)
    return (by_channel - by_channel.mean((0, 2), keepdim=True)).flatten(1)


def local_gradients(v: Tensor, u: Tensor, labels: Tensor, section: BSDSection) -> tuple[Tensor, Tensor]:
    """Gradients of one layer's two local losses, by v for Type 1 and by u for Type 2.

    Args:
        v: Voltages of Type 1, shape (sample, neuron).
        u: Voltages of Type 2 for each class, shape (class, neuron).
        labels: Class of each sample, shape (sample,), int64.
        section: Which loss, and its numbers.

    Returns:
        Shapes (sample, neuron) and (class, neuron), both summed over the batch.
    """
    mine = functional.one_hot(labels, len(u)).to(v.dtype)
    if section.loss == "mse":
        apart = v - u[labels]
        return 2 * apart, -2 * mine.T @ apart
    if section.loss == "infonce":
        return _by_cosines(v, u, lambda C: _infonce(C, mine, section))
    others = _others(mine, section.negatives == "literal")
    return _by_cosines(v, u, lambda C: _reco(C, mine, others, section))


def pair_gradients(v: Tensor, u: Tensor, section: BSDSection, kinds: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same where each sample has a row of Type 2 of its own: equations 6, 7 and 18 as they stand.

    Args:
        v: Voltages of Type 1, shape (..., sample, neuron); each (sample, neuron) is a batch by itself.
        u: Voltages of Type 2, likewise.
        section: Which loss, and its numbers.
        kinds: With "other_class", what tells samples apart, integers of shape (..., sample): pairs with the same number do
            not count as negatives.

    Returns:
        Gradients by v and by u, in their shapes, summed over the batch.
    """
    if section.loss == "mse":
        apart = v - u
        return 2 * apart, -2 * apart
    mine = torch.eye(v.shape[-2], dtype=v.dtype, device=v.device)
    others = 1 - mine
    if section.negatives == "other_class" and kinds is not None:
        others = (kinds[..., :, None] != kinds[..., None, :]).to(v.dtype)
    if section.loss == "reco":
        return _by_cosines(v, u, lambda C: _reco(C, mine, others, section))

    def infonce(C: Tensor) -> tuple[Tensor, Tensor]:
        e = (others + mine) * torch.exp((C - 1) / section.temperature)
        G, back = ((e / e.sum(axis, keepdim=True) - mine) / section.temperature for axis in (-1, -2))
        return G, back

    return _by_cosines(v, u, infonce)


def _by_cosines(v: Tensor, u: Tensor, by: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Gradients by v and u of losses that see their cosines alone: `by` has dL/dC of Type 1 and of Type 2."""
    length, size = (x.norm(dim=-1, keepdim=True).clamp(min=TINY) for x in (v, u))
    a, b = v / length, u / size
    C = a @ b.mT
    G, back = by(C)
    dv = (G @ b - (G * C).sum(-1, keepdim=True) * a) / length
    du = (back.mT @ a - (back * C).sum(-2)[..., None] * b) / size
    return dv, du


def _others(mine: Tensor, literal: bool) -> Tensor:
    """m_kc: how many other samples of class c a sample is told from."""
    counts = mine.sum(0)
    return counts - mine if literal else counts * (1 - mine)


def _reco(C: Tensor, mine: Tensor, others: Tensor, section: BSDSection) -> tuple[Tensor, Tensor]:
    """dL/dC of both types, which are the same matrix."""
    G = 2 * section.penalty * others * C.clamp(min=0) - 2 * (1 - C) * mine
    return G, G


def _infonce(C: Tensor, mine: Tensor, section: BSDSection) -> tuple[Tensor, Tensor]:
    """The same for -log softmax of C / temperature over the batch, at the paired sample.

    Type 1 compares a sample with every u of the batch, Type 2 a class's u with every v.
    """
    literal, counts = section.negatives == "literal", mine.sum(0)
    e = torch.exp((C - 1) / section.temperature)
    weight = _others(mine, literal) + mine
    G = (weight * e / (weight * e).sum(1, keepdim=True) - mine) / section.temperature
    if literal:
        back = (counts * e / e.sum(0) - mine) / section.temperature
    else:
        own, rest = e * mine, (e * (1 - mine)).sum(0)
        share = own / (own + rest)  # of its own sample in each same-class row
        each = (mine / (own + rest + (1 - mine))).sum(0)  # sum over the class's samples of 1 / denominator
        back = (share + e * (1 - mine) * each - mine) / section.temperature
    return G, back


@torch.no_grad()
def alignment(net: BSDNet) -> list[float]:
    """For each two neighbouring layers the cosine of W and the transpose of Theta; of convolutions Theta's kernels are turned.

    A kernel turned by half a circle is the transpose of the convolution's matrix. Independent weights have 0, give or take
    1 / sqrt(number of weights).

    Source: Biologically Plausible Learning via Bidirectional Spike-Based Distillation (ICLR 2026), appendix F.4.
    """
    found: list[float] = []
    for W, Theta in zip(net.W, net.Theta, strict=True):
        back = Theta.transpose(0, 1).flip([2, 3] if Theta.dim() == 4 else [])
        found.append(float(functional.cosine_similarity(W.flatten(), back.flatten(), 0)))
    return found


@torch.no_grad()
def likeness(net: BSDNet, x: Tensor, labels: Tensor) -> list[dict[str, float]]:
    """How alike the two types of each layer are, for samples and their own concepts.

    Args:
        net: Trained or not; it is left in evaluation.
        x: Stimuli from 0 to 1, shape (sample, neuron).
        labels: Classes, shape (sample,).

    Returns:
        For each layer `hamming`, the share of (sample, step, neuron) in which both send the same, the `cosine` of their
        voltages, and mean rates, `rate` and `rate_recall`: two silent populations agree everywhere.
    """
    net.eval()
    sums: list[dict[str, float]] = [dict.fromkeys(("hamming", "cosine", "rate", "rate_recall"), 0.0) for _ in net.sizes]
    concepts = torch.eye(net.sizes[-1], dtype=x.dtype, device=x.device)
    for some in torch.arange(len(x), device=x.device).split(net.rows()):
        up, down = net.perceive(x[some], every=True), net.recall(concepts[labels[some]], every=True)
        for row, s, z, v, u in zip(sums, up.trains, down.trains, up.v, down.v, strict=True):
            row["hamming"] += len(v) * float((s == z).to(torch.float64).mean())
            row["cosine"] += float(functional.cosine_similarity(v, u).sum())
            row["rate"] += len(v) * float(s.mean())
            row["rate_recall"] += len(v) * float(z.mean())
    return [{name: value / len(x) for name, value in row.items()} for row in sums]
