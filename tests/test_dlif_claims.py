"""What is claimed of bilinear dendrites, as far as it is a theorem or shows on a small task.

Claims with trained networks on images are measured elsewhere; here the trained tasks are small and their seeds fixed.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lavasnn.errors import InputError, RangeError
from lavasnn.measure.correlation import Depth, correlation_by_depth
from lavasnn.nn import DLIF, LIF, PairPool, PrivatePairs
from lavasnn.nn.pairs import covariance_pairs, random_pairs

XOR = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
ANSWERS = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
STEPS = 4


def shown(x: Tensor, steps: int) -> Tensor:
    """The same input in each step, (sample, step, input)."""
    return x[:, None].expand(-1, steps, -1)


def test_a_known_neuron_answers_xor() -> None:
    layer = DLIF(2, 1, random_pairs(2, 1, 0), dv=0.5, vth=1.0).double()
    with torch.no_grad():
        layer.synapses.weight.copy_(torch.tensor([[0.66, 0.62]]))
        layer.synapses.k.fill_(-1.28)  # type: ignore[union-attr]
    assert layer(shown(XOR, STEPS)).amax((1, 2)).tolist() == ANSWERS.tolist()
    # By hand: 0.66 → 0.99 → 1.155 spikes, 0.62 → 0.93 → 1.085 spikes, 0.66 + 0.62 − 1.28 = 0 never does.
    with torch.no_grad():
        layer.synapses.k.zero_()  # type: ignore[union-attr]
    assert layer(shown(XOR, STEPS)).amax((1, 2)).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_trained_neuron_answers_xor(seed: int) -> None:
    torch.manual_seed(seed)
    layer = DLIF(2, 1, random_pairs(2, 1, 0), bias=True, surrogate="atan").double()
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(200):
        rate = layer(shown(XOR, STEPS)).mean((1, 2))
        optimiser.zero_grad()
        (rate - 0.5 * ANSWERS).square().sum().backward()
        optimiser.step()
    assert (layer(shown(XOR, STEPS)).amax((1, 2)) == ANSWERS).all()


def test_the_best_single_lif_does_not_answer_xor() -> None:
    """All neurons of a grid, read through every threshold on the number of their spikes, and both ways round."""
    axis = torch.linspace(-2, 2, 17, dtype=torch.float64)
    w1, w2, bias = (a.flatten() for a in torch.meshgrid(axis, axis, axis, indexing="ij"))
    currents = w1[:, None] * XOR[:, 0] + w2[:, None] * XOR[:, 1] + bias[:, None]
    best = 0.0
    for dv, vth in product((0.0, 0.25, 0.5, 0.75, 1.0), (0.25, 0.5, 1.0)):
        counts = LIF(dv=dv, vth=vth)(currents[:, None].expand(-1, STEPS, -1)).sum(1)
        for least in range(1, STEPS + 1):
            right = ((counts >= least) == ANSWERS.bool()).double().mean(1)
            best = max(best, float(right.max()), float(1 - right.min()))
    assert best == 0.75


@dataclass(frozen=True)
class Setting:
    """Two distributions over all states of n binary inputs, with equal means p: state (state, input), probability (state,)."""

    states: Tensor
    first: Tensor
    second: Tensor
    p: float

    def covariance(self, probability: Tensor) -> Tensor:
        mean = probability @ self.states
        return (self.states.T * probability) @ self.states - torch.outer(mean, mean)

    @property
    def difference(self) -> Tensor:
        """C_1 − C_2."""
        return self.covariance(self.first) - self.covariance(self.second)

    def gap(self, K: Tensor) -> float:
        """Difference of the means of sᵀ K s, by summing over all states."""
        values = torch.tensor([float(s @ K @ s) for s in self.states], dtype=torch.float64)
        return float((self.first - self.second) @ values)

    def draw(self, probability: Tensor, samples: int, steps: int, generator: torch.Generator) -> Tensor:
        """Spikes, (sample, step, input)."""
        at = torch.multinomial(probability, samples * steps, True, generator=generator)
        return self.states[at].view(samples, steps, -1)


def partners(n: int, p: float, rho: float) -> Setting:
    """Inputs 2i and 2i + 1 correlate by rho in the first distribution, by -rho in the second; all else is independent."""
    states = torch.tensor(list(product([0.0, 1.0], repeat=n)), dtype=torch.float64)

    def probability(c: float) -> Tensor:
        joint = torch.tensor([[(1 - p) ** 2 + c, p * (1 - p) - c], [p * (1 - p) - c, p * p + c]], dtype=torch.float64)
        found = torch.ones(len(states), dtype=torch.float64)
        for i in range(0, n, 2):
            found = found * joint[states[:, i].long(), states[:, i + 1].long()]
        return found

    return Setting(states, probability(rho * p * (1 - p)), probability(-rho * p * (1 - p)), p)


def common(n: int, p: float, share: float) -> Setting:
    """In the first distribution each input copies one hidden coin with probability `share`; the second is independent."""
    states = torch.tensor(list(product([0.0, 1.0], repeat=n)), dtype=torch.float64)
    ones = states.sum(1)

    def probability(a: float) -> Tensor:
        return sum(  # type: ignore[return-value]
            weight * (a * coin + (1 - a) * p) ** ones * (1 - a * coin - (1 - a) * p) ** (n - ones)
            for coin, weight in ((1.0, p), (0.0, 1 - p))
        )

    return Setting(states, probability(share), probability(0.0), p)


SETTINGS = {"partners": partners(10, 0.5, 0.3), "rare partners": partners(10, 0.3, 0.3), "common": common(10, 0.5, 0.4)}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_what_the_theorem_asks_for(name: str) -> None:
    setting = SETTINGS[name]
    for probability in (setting.first, setting.second):
        assert probability.min() > 0 and float(probability.sum()) == pytest.approx(1, abs=1e-12)
        assert (probability @ setting.states).tolist() == pytest.approx([setting.p] * 10, abs=1e-12)
    assert setting.difference.norm() > 0.1 and setting.difference.diagonal().abs().max() < 1e-12


@pytest.mark.parametrize("name", SETTINGS)
def test_theorem_1_the_gap_and_its_maximum(name: str) -> None:
    setting = SETTINGS[name]
    difference = setting.difference
    norm = float(difference.norm())
    best = difference / norm
    assert setting.gap(best) == pytest.approx(norm, rel=1e-9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        K = torch.randn(10, 10, dtype=torch.float64, generator=generator)
        K = (K + K.T) * (1 - torch.eye(10))
        K /= K.norm()
        assert setting.gap(K) == pytest.approx(float((K * difference).sum()), abs=1e-9)
        assert abs(setting.gap(K)) < norm
        near = best + 0.1 * K  # not even one nearby
        assert setting.gap(near / near.norm()) < norm
    # The layer computes that form: private pairs with k = 2 K_ij.
    layer = PrivatePairs(10, 1, 0.0).double()
    with torch.no_grad():
        layer.weight.zero_()
        layer.k.copy_(2 * best[layer.pairs[..., 0], layer.pairs[..., 1]])
        assert torch.allclose(layer.matrix()[0], best)
        values = layer(setting.states)[:, 0]
    assert float((setting.first - setting.second) @ values) == pytest.approx(norm, rel=1e-9)


def accuracy(setting: Setting, K: Tensor, w: Tensor, steps: int) -> float:
    """Share of 4000 samples told apart by the sum over steps of sᵀ K s + wᵀ s, cut half way between its two exact means."""
    values = ((setting.states @ K) * setting.states).sum(1) + setting.states @ w
    cut = steps * float((setting.first + setting.second) @ values) / 2
    generator = torch.Generator().manual_seed(0)
    right = 0.0
    for probability, sign in ((setting.first, 1.0), (setting.second, -1.0)):
        s = setting.draw(probability, 2000, steps, generator)
        sums = ((s @ K) * s).sum((1, 2)) + (s @ w).sum(1)
        right += float((sign * (sums - cut) > 0).double().mean()) / 2
    return right


@pytest.mark.parametrize(("name", "steps"), [("partners", 5), ("rare partners", 5), ("common", 5), ("common", 20)])
def test_the_linear_term_takes_the_first_order_noise_out(name: str, steps: int) -> None:
    """K* maximises the gap of the means, not accuracy. With w = -2 p K* 1 the sum is that of (s - p)ᵀ K* (s - p).

    The standard error of an accuracy is below 0.008; a gain of 0.05 is more than four of their difference's.
    """
    setting = SETTINGS[name]
    best = setting.difference / setting.difference.norm()
    without = accuracy(setting, best, torch.zeros(10, dtype=torch.float64), steps)
    with_term = accuracy(setting, best, -2 * setting.p * best.sum(1), steps)
    assert with_term > without + 0.05 and without > 0.55


def test_learned_coefficients_align_with_the_theorem_and_carry_the_answer() -> None:
    """One DLIF neuron with all 45 pairs, trained on its spike rate to tell the distributions apart."""
    setting, steps = SETTINGS["partners"], 10
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    layer = DLIF.of(PrivatePairs(10, 1, 0.0, bias=True), surrogate="atan")
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.02)

    def batch(half: int) -> tuple[Tensor, Tensor]:
        first, second = (setting.draw(p, half, steps, generator) for p in (setting.first, setting.second))
        return torch.cat((first, second)).float(), torch.cat((torch.ones(half), torch.zeros(half)))

    for _ in range(250):
        s, y = batch(64)
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(10 * (layer(s).mean((1, 2)) - 0.3), y).backward()
        optimiser.step()
    synapses = layer.synapses
    assert isinstance(synapses, PrivatePairs)
    K, best = synapses.matrix()[0].detach().double(), setting.difference / setting.difference.norm()
    assert float((K * best).sum() / K.norm()) > 0.8

    def best_accuracy() -> float:
        """Over all cuts of the spike rate, so that a shift alone costs nothing."""
        s, y = batch(1000)
        rate = layer(s).mean((1, 2)).detach()
        return max(float(((rate > cut / steps).float() == y).float().mean()) for cut in range(-1, steps))

    trained = best_accuracy()
    with torch.no_grad():
        synapses.k.zero_()
    assert trained > 0.85 and best_accuracy() < trained - 0.2


def test_a_digit_network_needs_the_coefficients_it_learned() -> None:
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    data, target = load_digits(return_X_y=True)
    pixels, labels = torch.from_numpy(data / 16).float(), torch.from_numpy(target).long()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(pixels), generator=generator)
    train, test = order[:1400], order[1400:]

    def spikes(of: Tensor) -> Tensor:
        return (torch.rand(len(of), STEPS, 64, generator=generator) < pixels[of][:, None]).float()

    seen = spikes(train)[:, 0].to(torch.uint8)
    pairs = covariance_pairs(seen, labels[train], 64, 0)
    model = nn.Sequential(DLIF(64, 40, pairs), nn.Linear(40, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(6):
        for part in train[torch.randperm(len(train), generator=generator)].split(100):
            optimiser.zero_grad()
            F.cross_entropy(model(spikes(part)).mean(1), labels[part]).backward()
            optimiser.step()

    def accuracy_now() -> float:
        return float((model(spikes(test)).mean(1).argmax(1) == labels[test]).float().mean())

    trained, layer = accuracy_now(), model[0]
    assert isinstance(layer, DLIF) and isinstance(layer.synapses, PairPool)
    with torch.no_grad():
        layer.synapses.k.zero_()
    assert trained > 0.85 and accuracy_now() < trained - 0.1


def test_correlations_over_depth() -> None:
    """What theorem 2 is about, on random weights: chosen pairs carry the difference on in the rates; LIF loses most of it."""
    small: dict[str, Any] = {"layers": 3, "samples": 200, "n": 32}

    def mean(values: list[Depth], field: str) -> Tensor:
        return torch.tensor([getattr(v, field) for v in values]).mean(0)

    lif = [correlation_by_depth("lif", seed, **small) for seed in range(3)]
    dlif = [correlation_by_depth("dlif", seed, choice="covariance", **small) for seed in range(3)]
    # Partners have covariance ±rho/4 among variances of 1/4.
    assert mean(lif, "covariance")[0].item() == pytest.approx(2 * 0.6 / (1 + 0.6**2) ** 0.5, rel=0.03)
    assert lif[0].covariance[0] == dlif[0].covariance[0] and lif[0] == correlation_by_depth("lif", 0, **small)
    assert mean(lif, "covariance")[1:].tolist() == sorted(mean(lif, "covariance")[1:].tolist(), reverse=True)
    assert bool((mean(dlif, "rate")[1:] > 1.5 * mean(lif, "rate")[1:]).all())
    assert bool((mean(dlif, "rate")[1:] > 3 * mean(dlif, "rate_floor")[1:]).all())
    assert len(correlation_by_depth("dlif", 0, layers=1, samples=2, steps=1).rate) == 2
    with pytest.raises(InputError, match=r"correlation_by_depth: 'plif', 'random'; allowed are 'lif', 'dlif' and"):
        correlation_by_depth("plif", 0)  # type: ignore[arg-type]
    with pytest.raises(RangeError, match=r"correlation_by_depth: n=3, layers=5, .*; allowed are an even n from 2"):
        correlation_by_depth("lif", 0, n=3)
