"""LIF neurons as a torch module, trained through a surrogate gradient."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lavasnn.dynamics.lif import Lif, LifState, initial, step
from lavasnn.errors import InputError
from lavasnn.nn.surrogate import ATan, Sigmoid, Surrogate, Triangle, heaviside, named

Reset = Literal["hard", "soft"]
"""What a spike does to the voltage: "hard" sets it to 0, "soft" takes the threshold off it."""


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
        reset: "hard": v = 0 after a spike. "soft": v = v - vth, which keeps what was above the threshold; Lava's stock LIF
            has no such reset, so such neurons train here and do not export. No gradient passes through the choice of
            who is reset, nor through a voltage that was set to 0.

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
        reset: Reset = "hard",
    ) -> None:
        super().__init__()
        if reset not in ("hard", "soft"):
            raise InputError(f"LIF: reset {reset!r}; allowed are 'hard', which Lava's LIF has, and 'soft', which trains only")
        Lif(du=du, dv=dv, vth=vth)  # checks the ranges
        self.dv, self.du, self.vth = dv, du, vth
        self.reset: Reset = reset
        self.surrogate = named(surrogate)

    @property
    def params(self) -> Lif:
        """The neurons as an exporter takes them.

        Raises:
            InputError: The reset is soft.
        """
        if self.reset != "hard":
            raise InputError(f"LIF: reset {self.reset!r} has no counterpart in Lava's stock LIF; train with reset='hard'")
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
        surrogate = self.surrogate  # torch.compile reads no dataclass as an argument, so its parts go in
        if isinstance(surrogate, ATan):
            kind, size = "atan", surrogate.slope
        elif isinstance(surrogate, Sigmoid):
            kind, size = "sigmoid", surrogate.slope
        else:
            kind, size = "triangle", surrogate.width
        return _run(x, self.du, self.dv, self.vth, self.reset, kind, size)

    def extra_repr(self) -> str:
        """The parameters, for `repr`."""
        return f"dv={self.dv}, du={self.du}, vth={self.vth}, surrogate={self.surrogate}, reset={self.reset!r}"


_KINDS: dict[str, type[ATan] | type[Sigmoid] | type[Triangle]] = {"atan": ATan, "sigmoid": Sigmoid, "triangle": Triangle}


def _run(x: Tensor, du: float, dv: float, vth: float, reset: str, kind: str, size: float) -> Tensor:
    """Spikes of input (batch, time, features...), from rest."""
    params, surrogate = Lif(du=du, dv=dv, vth=vth), _KINDS[kind](size)
    above: list[Tensor] = []

    def spike(v: Tensor, threshold: Any) -> Tensor:
        above.append(v)
        return heaviside(v - threshold, surrogate)

    state = initial(params, (x.shape[0], *x.shape[2:]), like=x)
    spikes: list[Tensor] = []
    for a in x.unbind(dim=1):
        s, state = step(params, state, a, spike)
        if reset == "soft":
            state = LifState(state.u, cast(Tensor, above[-1] - params.vth * s.detach()))
        spikes.append(s)
    return torch.stack(spikes, dim=1) if spikes else torch.empty_like(x)


# torch.compile cannot read the step that numpy and torch share, but can take the loop over time as a whole.
torch.compiler.allow_in_graph(_run)
