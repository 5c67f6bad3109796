"""LIF neurons as a torch module, trained through a surrogate gradient."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lavasnn.dynamics.lif import Lif, initial, step
from lavasnn.errors import InputError
from lavasnn.nn.surrogate import Surrogate, heaviside, named


class LIF(nn.Module):
    """A layer of leaky integrate-and-fire neurons without weights; put `nn.Linear` or a convolution in front of it.

    The neurons are those of `lavasnn.dynamics.lif.Lif`, and the module calls the very same `step`. Input of time t
    leads to spikes of time t: there is no delay inside the module. On the chip and in Lava every synapse hop adds one
    step, so layer n of a network (without biases) sends there at step t + n what it sends here at t.

    Args:
        dv: Share of the voltage that leaks away in a step, 0..1.
        du: Share of the current that leaks away in a step, 0..1; 1 means no synaptic memory.
        vth: Threshold; a neuron spikes where v > vth.
        surrogate: "atan", "triangle", "sigmoid", or a surrogate object.
        reset: "hard": v = 0 after a spike. No gradient passes through the choice of who is reset, nor through a voltage
            that was.

    Raises:
        InputError: An unknown surrogate or reset, or a parameter that is not a number.
        RangeError: A parameter out of range.
    """

    def __init__(
        self,
        dv: float = 0.5,
        du: float = 1.0,
        vth: float = 1.0,
        surrogate: str | Surrogate = "atan",
        reset: Literal["hard"] = "hard",
    ) -> None:
        super().__init__()
        if reset != "hard":
            raise InputError(f"LIF: reset {reset!r}; allowed is 'hard', the reset that Lava's LIF has")
        self.dv, self.du, self.vth, self.reset = dv, du, vth, reset
        self.surrogate = named(surrogate)
        self.params  # noqa: B018  (checks the ranges)

    @property
    def params(self) -> Lif:
        """The neurons as an exporter takes them."""
        return Lif(du=self.du, dv=self.dv, vth=self.vth)

    def forward(self, x: Tensor) -> Tensor:
        """Run all time steps from rest.

        Args:
            x: Synaptic input, shape (batch, time, features...), floating point. Batch comes first.

        Returns:
            Spikes, 0 or 1, same shape and dtype.

        Raises:
            InputError: Fewer than three dimensions, or input that is not floating point.
        """
        if x.ndim < 3 or not x.is_floating_point():
            raise InputError(f"LIF: input of shape {tuple(x.shape)}, {x.dtype}; allowed is floating (batch, time, features)")

        def spike(v: Tensor, vth: Any) -> Tensor:
            return heaviside(v - vth, self.surrogate)

        params = self.params
        state = initial(params, (x.shape[0], *x.shape[2:]), like=x)
        spikes: list[Tensor] = []
        for a in x.unbind(dim=1):
            s, state = step(params, state, a, spike)
            spikes.append(s)
        return torch.stack(spikes, dim=1) if spikes else torch.empty_like(x)

    def extra_repr(self) -> str:
        """The parameters, for `repr`."""
        return f"dv={self.dv}, du={self.du}, vth={self.vth}, surrogate={self.surrogate}, reset={self.reset!r}"
