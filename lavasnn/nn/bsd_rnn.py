"""BSD's recurrent network in torch: one hidden layer that perceives a sequence forwards and recalls it backwards.

At position i of N, Type 1 hears the input x_i and what it sent itself at the position before, Type 2 the target y_i and what it
sent itself at the position after:

    h_i  = W_ih x_i + W_hh s_{i-1};         o_i = W_ho h_i;        s_i  = SN(h_i)      i = 1 .. N
    h'_i = Theta_oh y_i + Theta_hh s'_{i+1};  x^_i = Theta_hi h'_i;  s'_i = SN(h'_i)   i = N .. 1

with s_0 = 0 and s'_{N+1} = 0. Each position lasts T steps: x_i and y_i are constant currents, s_i a spike train of T steps,
heard step by step at the next position, and h_i, as all voltages here, the mean over its steps. Somata start each position at
rest, since equations 11 and 12 have s_i as a function of h_i alone; what a position leaves to the next one are its spikes.

Axes: (position, sample, neuron); weights (post, pre).

Source: Biologically Plausible Learning via Bidirectional Spike-Based Distillation (ICLR 2026), appendix C. There h_1 is
left out and s_1 = s'_N = 0; here all positions have a voltage in both types, so that each has an output and a local loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lavasnn.dynamics.pyramidal import Pyramidal
from lavasnn.errors import InputError
from lavasnn.nn.bsd import drawn, fired, traced


@dataclass(frozen=True)
class Passage:
    """What one type's hidden neurons did along a sequence.

    Attributes:
        h: Mean basal voltage, shape (position, sample, neuron).
        r: Spike rate, the same.
        out: What the other end hears of h, o or x^, shape (position, sample, output or input).
        trains: Every spike if it was asked for, shape (position, step, sample, neuron), else None.
    """

    h: Tensor
    r: Tensor
    out: Tensor
    trains: Tensor | None = None


class BSDRNN(nn.Module):
    """Recurrent BSD network.

    Args:
        inputs, hidden, outputs: Neurons, at least 1 each.
        steps: T, at least 1.
        tau: Time constant of all somata in steps.
        thresholds: Of Type 1 and Type 2.
        generator: Random numbers of the weights, uniform within 1 / sqrt(inputs of the synapses).

    Attributes:
        W_ih, W_hh, W_ho: Weights of Type 1.
        Theta_oh, Theta_hh, Theta_hi: Weights of Type 2.
        type1, type2: Neurons of the two types.

    Raises:
        InputError: A size or a number of steps below 1.
        RangeError: A time constant or threshold out of range.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        steps: int = 4,
        tau: float = 2.0,
        thresholds: tuple[float, float] = (1.0, 1.0),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(inputs, hidden, outputs, steps) < 1:
            raise InputError(
                f"BSDRNN: {inputs} inputs, {hidden} hidden neurons, {outputs} outputs and {steps} steps; allowed is 1 or more"
            )
        self.steps = steps
        self.type1, self.type2 = (Pyramidal(tau, threshold) for threshold in thresholds)
        self.W_ih = drawn((hidden, inputs), generator)
        self.W_hh = drawn((hidden, hidden), generator)
        self.W_ho = drawn((outputs, hidden), generator)
        self.Theta_oh = drawn((hidden, outputs), generator)
        self.Theta_hh = drawn((hidden, hidden), generator)
        self.Theta_hi = drawn((inputs, hidden), generator)

    @torch.no_grad()
    def perceive(self, x: Tensor, *, every: bool = False) -> Passage:
        """Type 1 from inputs, shape (position, sample, input); `every` keeps all spikes."""
        h, r, trains = self._run(self.type1, x @ self.W_ih.T, self.W_hh, fired, every)
        return Passage(h, r, h @ self.W_ho.T, trains)

    @torch.no_grad()
    def recall(self, y: Tensor, *, every: bool = False) -> Passage:
        """Type 2 from targets, shape (position, sample, output), last position first; `every` keeps all spikes."""
        found = self._run(self.type2, (y @ self.Theta_oh.T).flip(0), self.Theta_hh, fired, every)
        h, r, trains = (each if each is None else each.flip(0) for each in found)
        assert h is not None and r is not None
        return Passage(h, r, h @ self.Theta_hi.T, trains)

    def forward(self, input: Tensor) -> Tensor:
        """o of all positions, as `perceive` has it, with a gradient through time: that of spikes is ATan's of H - threshold."""
        return self._run(self.type1, input @ self.W_ih.T, self.W_hh, traced, False)[0] @ self.W_ho.T

    def _run(
        self,
        neuron: Pyramidal,
        drive: Tensor,
        weight: Tensor,
        spikes_of: Callable[[Pyramidal, Tensor], Tensor],
        every: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """h, rates and, if asked for, spikes of positions in the order of `drive`, what arrives from outside."""
        s = spikes_of(neuron, drive[0].expand(self.steps, -1, -1))
        h, r, trains = [drive[0]], [s.mean(0)], [s] if every else []
        for outside in drive[1:]:
            basal = (s.flatten(0, 1) @ weight.T).view(self.steps, *outside.shape) + outside
            s = spikes_of(neuron, basal)
            h.append(basal.mean(0))
            r.append(s.mean(0))
            trains.extend([s] if every else [])
        return torch.stack(h), torch.stack(r), torch.stack(trains) if every else None
