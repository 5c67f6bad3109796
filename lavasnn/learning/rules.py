"""Local learning rules and their baselines: each fills in the gradients of one batch and reports what it saw.

All minimise 1/2 |label - output|^2, averaged over the batch. In DiffPC and predictive coding a weight changes by the product
of its target neuron's error and its source neuron's activity; nothing is differentiated through layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lavasnn.nn.diffpc import DiffPCNet, Settled, collapsed, literal
from lavasnn.sections import TrainingSection


@dataclass(frozen=True)
class Batch:
    """Inputs (sample, neuron), or (sample, step, neuron) if they spike, one-hot targets (sample, class), and dropout for
    layers 0..L-1.

    `alive` holds masks or None, `scale` the factor 1 / (1 - p) on outgoing weights.
    """

    x: Tensor
    target: Tensor
    alive: Sequence[Tensor | None]
    scale: Sequence[float]


@dataclass(frozen=True)
class Seen:
    """Output before the label was shown (sample, class), error spikes of layers 1..L, peak activity of hidden layers."""

    output: Tensor
    error_spikes: list[int]
    peak: list[Tensor]


@torch.no_grad()
def diffpc(net: DiffPCNet, batch: Batch, options: TrainingSection) -> Seen:
    """DiffPC: dF/dW_l = -e_T[l] x_A[l-1]^T, averaged over samples (paper: W_l <- W_l + alpha e_T phi(x_T)^T)."""
    run = collapsed if options.form == "collapsed" else stepwise
    settled = run(net, batch.x, batch.target, batch.alive, batch.scale)
    L = len(net.linears)
    for l, (layer, error) in enumerate(zip(net.linears, settled.error, strict=True), start=1):
        pre = settled.activity[l - 1]
        if l < L:
            mask = batch.alive[l]
            if settled.rows is not None:
                pre = pre.index_select(0, settled.rows)
                mask = None if mask is None else mask.index_select(0, settled.rows)
            error = error if mask is None else error * mask
        _local_update(layer, error, pre, len(batch.x), batch.scale[l - 1])
    return Seen(settled.output, settled.error_spikes, settled.peak)


def _local_update(layer: torch.nn.Linear, error: Tensor, pre: Tensor, samples: int, scale: float = 1.0) -> None:
    if layer.weight.grad is None:
        layer.weight.grad = torch.empty_like(layer.weight)
    torch.addmm(layer.weight.grad, error.T, pre, beta=0, alpha=-scale / samples, out=layer.weight.grad)
    layer.bias.grad = error.sum(0).mul_(-1.0 / samples)


def stepwise(net: DiffPCNet, x: Tensor, target: Tensor, alive: Sequence[Tensor | None], scale: Sequence[float]) -> Settled:
    """The same as `lavasnn.nn.diffpc.collapsed` by the step loop, for every timing."""
    weights = [layer.weight * s for layer, s in zip(net.linears, scale, strict=True)]
    started, ended, messages, _ = literal(net.populations, weights, x, target, alive=alive)
    activity = [s.x_A for s in (started if net.timing.update_activity == "initial" else ended)]
    L = len(weights)
    return Settled(
        output=started[L].x_F,
        activity=activity[:L],
        error=[s.e_T for s in ended[1:]],
        error_spikes=[int(messages[f"{l}.s_e"].sum()) for l in range(1, L + 1)],
        peak=[s.x_T.amax() for s in started[1:L]],
    )


def backprop(net: DiffPCNet, batch: Batch, options: TrainingSection) -> Seen:
    """Baseline: the same network with real ReLU activities, by torch's autograd."""
    del options
    x = batch.x
    for l, layer in enumerate(net.linears):
        x = functional.relu(x) if l else x
        x = x if (mask := batch.alive[l]) is None else x * mask * batch.scale[l]
        x = layer(x)
    for p in net.parameters():
        p.grad = None
    loss = 0.5 * (batch.target - x).square().sum() / len(x)
    loss.backward()
    return Seen(x.detach(), [], [])


@torch.no_grad()
def predictive_coding(net: DiffPCNet, batch: Batch, options: TrainingSection) -> Seen:
    """Baseline: float predictive coding; values of hidden layers relax for `iterations` steps, then weights learn locally.

    e_l = v_l - (W_l phi(v_{l-1}) + b_l);  v_l += rate * (phi'(v_l) W_{l+1}^T e_{l+1} - e_l), from a feed-forward start.
    """
    layers, L = net.linears, len(net.linears)
    values, acts = [batch.x], []
    for l, layer in enumerate(layers):
        phi = functional.relu(values[l]) if l else values[l]
        phi = phi if (mask := batch.alive[l]) is None else phi * mask * batch.scale[l]
        acts.append(phi)
        values.append(functional.linear(phi, layer.weight, layer.bias))
    output = values[L]
    values[L] = batch.target
    errors = [torch.zeros_like(v) for v in values]
    errors[L] = batch.target - output
    for _ in range(options.iterations):
        for l in range(1, L):
            slope = (values[l] > 0).to(output.dtype)
            slope = slope if (mask := batch.alive[l]) is None else slope * mask * batch.scale[l]
            values[l] = values[l] + options.relaxation_rate * (slope * (errors[l + 1] @ layers[l].weight) - errors[l])
            phi = functional.relu(values[l])
            acts[l] = phi if mask is None else phi * mask * batch.scale[l]
        for l in range(1, L + 1):
            errors[l] = values[l] - functional.linear(acts[l - 1], layers[l - 1].weight, layers[l - 1].bias)
    for l, layer in enumerate(layers, start=1):
        _local_update(layer, errors[l], acts[l - 1], len(batch.x))
    return Seen(output, [], [])


RULES = {"diffpc": diffpc, "backprop": backprop, "predictive-coding": predictive_coding}
"""Of DiffPC networks, by name."""
