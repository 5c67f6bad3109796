"""How far a difference in input correlations reaches into a deep network of random weights, with LIF and with DLIF.

Two ensembles of spike trains have equal means: inputs 2i and 2i + 1 correlate by +rho in one and by -rho in the other.
Layers of random weights follow, the same for both ensembles; each neuron's input is brought to mean 0 and deviation 1
over both together, so that LIF and DLIF layers spike equally often. Behind each layer two differences between the
ensembles are measured: of the covariance matrices and of the mean rates.

Nothing here is trained: it measures what the neuron passes on by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lavasnn.errors import InputError, RangeError
from lavasnn.nn.dlif import PairPool
from lavasnn.nn.lif import LIF
from lavasnn.nn.pairs import covariance_pairs, random_pairs


@dataclass(frozen=True)
class Depth:
    """Differences at the input (entry 0) and behind each layer.

    Args:
        covariance: ‖C_1 − C_2‖_F / ‖C_1‖_F.
        covariance_floor: The same between two draws of the first ensemble: what sampling alone gives.
        rate: Euclidean norm of the difference of the neurons' mean rates.
        rate_floor: The same between two draws of the first ensemble.
        activity: Mean rate in the first ensemble.
    """

    covariance: tuple[float, ...]
    covariance_floor: tuple[float, ...]
    rate: tuple[float, ...]
    rate_floor: tuple[float, ...]
    activity: tuple[float, ...]


@torch.no_grad()
def correlation_by_depth(
    neuron: Literal["lif", "dlif"],
    seed: int,
    *,
    choice: Literal["random", "covariance"] = "random",
    n: int = 64,
    layers: int = 5,
    rho: float = 0.6,
    pairs: int = 4,
    samples: int = 400,
    steps: int = 20,
    dv: float = 0.5,
) -> Depth:
    """Differences between the two ensembles over depth.

    Args:
        neuron: "lif" (no pairs) or "dlif"; with one seed both have the same weights and inputs.
        seed: Of inputs, weights and pairs.
        choice: How the pairs of each layer are chosen: at random, or by `covariance_pairs` from the two ensembles there.
        n: Inputs, and neurons of each layer; even.
        layers: Layers, at least 1.
        rho: Correlation of partners, above 0 and up to 1.
        pairs: Pairs of each layer, in multiples of n; coefficients are normal with variance 1 / (pairs · n).
        samples: Samples of each ensemble.
        steps: Steps of each sample.
        dv: Decay of the voltage.

    Raises:
        InputError: An unknown neuron or choice.
        RangeError: A number out of range.
    """
    if neuron not in ("lif", "dlif") or choice not in ("random", "covariance"):
        raise InputError(f"correlation_by_depth: {neuron!r}, {choice!r}; allowed are 'lif', 'dlif' and 'random', 'covariance'")
    if n < 2 or n % 2 or layers < 1 or not 0 < rho <= 1 or pairs < 1 or samples < 2 or steps < 1:
        raise RangeError(
            f"correlation_by_depth: n={n}, layers={layers}, rho={rho}, pairs={pairs}, samples={samples}, steps={steps}; "
            "allowed are an even n from 2, layers, pairs and steps from 1, samples from 2, rho above 0 and up to 1"
        )
    generator = torch.Generator().manual_seed(seed)
    shown = [_partners(n, sign * rho, samples, steps, generator) for sign in (1, -1, 1)]
    found = [_compare(shown)]
    for layer in range(layers):
        count = min(pairs * n, n * (n - 1) // 2)
        if choice == "random":
            chosen = random_pairs(n, count, seed * layers + layer)
        else:
            both = torch.cat((shown[0].flatten(0, 1), shown[1].flatten(0, 1))).to(torch.uint8)
            labels = torch.arange(2).repeat_interleave(samples * steps)
            chosen = covariance_pairs(both, labels, count, seed * layers + layer, wide=1)
        pool = PairPool(n, n, chosen)
        pool.weight.copy_(torch.randn(n, n, generator=generator) / n**0.5)
        pool.k.copy_(torch.randn(n, count, generator=generator) / count**0.5)
        if neuron == "lif":
            pool.k.zero_()
        currents = [pool(s) for s in shown]
        both = torch.cat(currents[:2]).flatten(0, 1)
        mean, deviation = both.mean(0), both.std(0).clamp(min=1e-6)
        shown = [LIF(dv=dv, vth=0.5)((a - mean) / deviation) for a in currents]
        found.append(_compare(shown))
    return Depth(*(tuple(entries) for entries in zip(*found, strict=True)))


def _partners(n: int, rho: float, samples: int, steps: int, generator: torch.Generator) -> Tensor:
    """Spikes of probability 1/2 in which partners are equal with probability (1 + rho) / 2, (sample, step, input)."""
    first = (torch.rand(samples, steps, n // 2, generator=generator) < 0.5).float()
    equal = (torch.rand(samples, steps, n // 2, generator=generator) < (1 + rho) / 2).float()
    second = first * equal + (1 - first) * (1 - equal)
    return torch.stack((first, second), -1).flatten(2)


def _compare(shown: list[Tensor]) -> tuple[float, float, float, float, float]:
    """The entries of `Depth` at one place."""
    rows = [s.flatten(0, 1).double() for s in shown]
    means = [r.mean(0) for r in rows]
    covariances = [(r - m).T @ (r - m) / len(r) for r, m in zip(rows, means, strict=True)]
    size = float(covariances[0].norm())
    of_covariances = [float((covariances[0] - c).norm()) / size if size else 0.0 for c in covariances[1:]]
    of_rates = [float((means[0] - m).norm()) for m in means[1:]]
    return (*of_covariances, *of_rates, float(rows[0].mean()))  # type: ignore[return-value]
