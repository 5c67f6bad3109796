"""LIF swapped for DLIF in a small spiking ResNet and in a spiking Transformer block: what changes, what stays, and why.

Run it with `python docs/examples/swap_lif.py`; it needs torch alone. It prints what became of every LIF, and the loss of both
networks, before and after the swap, trained alike on one batch whose classes differ in what spikes together.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lavasnn.nn import LIF, replace_lif


class Steps(nn.Sequential):
    """Layers that know no time, applied to each step of (batch, time, ...)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(0, 1)).unflatten(0, input.shape[:2])


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Steps(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.conv2 = Steps(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.lif1, self.lif2 = LIF(vth=0.5), LIF(vth=0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.lif2(self.conv2(self.lif1(self.conv1(x))) + x)


class ResNet(nn.Sequential):
    """A stem, two residual blocks and a readout, on (batch, time, channel, row, column)."""

    def __init__(self) -> None:
        stem = Steps(nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        super().__init__(stem, LIF(vth=0.5), Residual(8), Residual(8), Steps(nn.Flatten(), nn.Linear(8 * 6 * 6, 2)))


class Transformer(nn.Module):
    """Spiking self-attention without softmax, q k^T v, and two layers behind it, on (batch, time, token, feature)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.lif_q, self.lif_k, self.lif_v, self.lif_a, self.lif_o, self.lif_1 = (LIF(vth=0.3) for _ in range(6))
        self.wide, self.read = nn.Linear(width, 2 * width), nn.Linear(2 * width, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.lif_q(self.q(x)), self.lif_k(self.k(x)), self.lif_v(self.v(x))
        y = self.lif_o(self.out(self.lif_a((q @ k.transpose(-2, -1)) @ v)))
        return self.read(self.lif_1(self.wide(y)).mean(2))


def batch(*shape: int) -> tuple[Tensor, Tensor]:
    """Spikes of probability 1/2; in class 1 the second half of the last axis repeats the first, in class 0 it negates it."""
    labels = torch.arange(64) % 2
    half = (torch.rand(64, 4, *shape[:-1], shape[-1] // 2) < 0.5).float()
    same = labels.view(-1, *[1] * len(shape[:-1]), 1, 1).float()
    return torch.cat((half, half * same + (1 - half) * (1 - same)), -1), labels


def trained(model: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Loss after sixty steps of Adam on one batch."""
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    loss = torch.zeros(())
    for _ in range(60):
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x).mean(1), labels)
        loss.backward()
        optimiser.step()
    return loss.item()


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cases: tuple[tuple[str, Callable[[], nn.Module], tuple[int, ...]], ...] = (
        ("ResNet", ResNet, (2, 6, 6)),
        ("Transformer block", lambda: Transformer(8), (5, 8)),
    )
    for name, make, shape in cases:
        model, (x, labels) = make(), batch(*shape)
        changed, report = replace_lif(model)
        print(f"{name}: {len(report.replaced)} of {len(report.replaced) + len(report.kept)} LIF have dendrites now")
        print("  " + str(report).replace("\n", "\n  "))
        assert torch.equal(changed.eval()(x), model.eval()(x))  # the same function until it is trained
        losses = [trained(m.train(), x, labels) for m in (model, changed)]
        print(f"  loss after training: LIF {losses[0]:.3f}, DLIF {losses[1]:.3f}")
