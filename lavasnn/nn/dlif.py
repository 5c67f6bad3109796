"""Bilinear dendrites: synapses that also add a coefficient wherever two inputs spike in the same step.

With binary inputs s of a step, the synaptic input of output neuron o is

    I_o = b_o + Σ_i W_oi s_i + Σ_p k_op s_i(p) s_j(p),    i < j,    k = K_ij + K_ji = 2 K_ij

where p runs over the pairs of inputs that interact and K is symmetric with a zero diagonal. The product of two spikes is
their logical AND. Of values that are not spikes it is a multiplication, which no stock synapse of the chip does: inputs
have to be 0 or 1 (these modules do not look at them; exporting for the chip does). The neurons behind are those of `LIF`.

The parameterisations differ in who owns a pair. `PairPool`: one list of pairs for the whole layer, each formed once.
`PrivatePairs`: every output neuron has its own. `LowRankPairs`: all pairs, with coefficients of low rank. `PairConv2d`:
pairs within the receptive field of a convolution, shared over positions. Each starts as its linear part alone: the
coefficients are 0, their gradients are not.

Axes: fully connected synapses take (..., input) and return (..., output), convolutions (..., channel, row, column); the
neurons want (batch, time, ...), batch first.

Source: Beyond Linear Processing: Dendritic Bilinear Integration in Spiking Neural Networks (ICLR 2026).
"""

from __future__ import annotations

import math
from typing import Any, Protocol, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lavasnn.errors import RangeError
from lavasnn.nn.lif import LIF, Reset
from lavasnn.nn.pairs import check_pairs, check_sites, kept, private_pairs
from lavasnn.nn.surrogate import Surrogate


class PairPool(nn.Module):
    """Linear synapses and a pool of pairs that all output neurons share.

    Args:
        in_features: Inputs n.
        out_features: Output neurons m.
        pairs: Shape (pair, 2), int64, i < j in each row, no row twice; may have no rows.
        bias: Whether each output has a bias.

    Attributes:
        weight: W, shape (m, n).
        k: Coefficient of each pair in each output, shape (m, pair); 0 at first.
        bias: b, shape (m,), or None.
        pairs: As given; a buffer, saved with the parameters.

    Raises:
        InputError: Pairs of another shape or type, twice the same, or not in order.
        RangeError: No inputs or outputs, or a pair of inputs that do not exist.
    """

    pairs: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, pairs: Tensor, bias: bool = False) -> None:
        super().__init__()
        _check_sizes(self, in_features=in_features, out_features=out_features)
        check_pairs(pairs, in_features, "PairPool")
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("pairs", pairs.clone())
        self.weight, self.bias = _linear((out_features, in_features), bias)
        self.k = nn.Parameter(torch.zeros(out_features, len(pairs)))

    def forward(self, x: Tensor) -> Tensor:
        """Synaptic input, shape (..., output), of spikes `x`, shape (..., input)."""
        rows = _rows(x)
        i, j = self.pairs.unbind(1)
        q = rows.index_select(1, i) * rows.index_select(1, j)
        # Two products into one sum: joining inputs and weights for a single product would copy both.
        return torch.addmm(F.linear(rows, self.weight, self.bias), q, self.k.t()).view(*x.shape[:-1], self.out_features)

    def pruned(self, count: int) -> PairPool:
        """A pool with copies of the `count` pairs whose coefficients are largest, and of the linear part.

        Raises:
            RangeError: More pairs than there are.
        """
        keep = kept(self, count)
        return _copied(self, PairPool(self.in_features, self.out_features, self.pairs[keep].cpu(), self.bias is not None), keep)

    def extra_repr(self) -> str:
        """The sizes, for `repr`."""
        return f"{self.in_features}, {self.out_features}, pairs={self.k.shape[1]}, bias={self.bias is not None}"


class PrivatePairs(nn.Module):
    """Linear synapses, and for each output neuron a symmetric K of its own in which most unordered pairs are masked.

    The paper's form, for small layers and its ablation: it multiplies with dense matrices of m·n² entries. What is masked
    are unordered pairs: masks of (i, j) and of (j, i) drawn apart at 0.9 would leave 19 % of the pairs, not 10 %.

    Args:
        in_features: Inputs n.
        out_features: Output neurons m.
        sparsity: Share of the n·(n − 1)/2 pairs that each neuron lacks, 0..1.
        seed: Of the draw of pairs.
        bias: Whether each output has a bias.

    Attributes:
        weight: W, shape (m, n).
        k: 2 K_ij of each neuron's pairs, shape (m, pair); 0 at first.
        bias: b, shape (m,), or None.
        pairs: The pairs of each neuron, shape (m, pair, 2), i < j; a buffer, saved with the parameters.

    Raises:
        RangeError: No inputs or outputs, or a sparsity out of range.
    """

    pairs: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, sparsity: float = 0.9, seed: int = 0, bias: bool = False) -> None:
        super().__init__()
        _check_sizes(self, in_features=in_features, out_features=out_features)
        if not 0 <= sparsity <= 1:
            raise RangeError(f"PrivatePairs: sparsity = {sparsity}; allowed is 0..1")
        self.in_features, self.out_features, self.sparsity = in_features, out_features, sparsity
        count = round((1 - sparsity) * (in_features * (in_features - 1) // 2))
        self.register_buffer("pairs", private_pairs(in_features, out_features, count, seed))
        self.weight, self.bias = _linear((out_features, in_features), bias)
        self.k = nn.Parameter(torch.zeros(out_features, count))

    def matrix(self) -> Tensor:
        """K of each output, shape (output, input, input): symmetric, zero on the diagonal and where masked."""
        m, n = self.out_features, self.in_features
        i, j = self.pairs.unbind(2)
        half = self.k.new_zeros(m, n * n).scatter(1, i * n + j, self.k / 2).view(m, n, n)
        return half + half.transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Synaptic input, shape (..., output), of spikes `x`, shape (..., input)."""
        rows = _rows(x)
        joined = (rows @ self.matrix().flatten(0, 1).t()).view(len(rows), self.out_features, self.in_features)
        bilinear = (joined @ rows.unsqueeze(2)).squeeze(2)
        return (F.linear(rows, self.weight, self.bias) + bilinear).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """The sizes, for `repr`."""
        return f"{self.in_features}, {self.out_features}, sparsity={self.sparsity}, bias={self.bias is not None}"


class LowRankPairs(nn.Module):
    """Linear synapses, and for each output neuron a K of low rank between all pairs; for the paper's ablation.

    K is the symmetric part of Σ_r left_r right_rᵀ with its diagonal taken out, which leaves

        sᵀ K s = Σ_r (left_r · s)(right_r · s) − Σ_i (Σ_r left_ri right_ri) s_i²

    Args:
        in_features: Inputs n.
        out_features: Output neurons m.
        rank: Terms of the sum for each neuron, from 0.
        bias: Whether each output has a bias.

    Attributes:
        weight: W, shape (m, n).
        left: Shape (m, rank, n), drawn as W is.
        right: Shape (m, rank, n); 0 at first, so that K is.
        bias: b, shape (m,), or None.

    Raises:
        RangeError: No inputs or outputs, or a negative rank.
    """

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = False) -> None:
        super().__init__()
        _check_sizes(self, in_features=in_features, out_features=out_features)
        if rank < 0:
            raise RangeError(f"LowRankPairs: rank = {rank}; allowed is a whole number from 0")
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.weight, self.bias = _linear((out_features, in_features), bias)
        self.left = nn.Parameter(torch.empty(out_features, rank, in_features).uniform_(-1, 1) / math.sqrt(in_features))
        self.right = nn.Parameter(torch.zeros(out_features, rank, in_features))

    def matrix(self) -> Tensor:
        """K of each output, shape (output, input, input): symmetric, zero on the diagonal."""
        product = self.left.transpose(1, 2) @ self.right
        symmetric = (product + product.transpose(1, 2)) / 2
        return symmetric * (1 - torch.eye(self.in_features, dtype=product.dtype, device=product.device))

    def forward(self, x: Tensor) -> Tensor:
        """Synaptic input, shape (..., output), of spikes `x`, shape (..., input)."""
        rows = _rows(x)
        sums = (rows @ self.left.flatten(0, 1).t()) * (rows @ self.right.flatten(0, 1).t())
        bilinear = sums.view(len(rows), self.out_features, self.rank).sum(2)
        diagonal = F.linear(rows * rows, (self.left * self.right).sum(1))
        return (F.linear(rows, self.weight, self.bias) + bilinear - diagonal).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """The sizes, for `repr`."""
        return f"{self.in_features}, {self.out_features}, rank={self.rank}, bias={self.bias is not None}"


class PairConv2d(nn.Module):
    """A convolution, and pairs within its receptive field with coefficients shared over positions.

    At each output position the pairs are formed from what the kernel covers there (beyond the image is silence), and a
    1×1 convolution with k weighs them.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Rows and columns of the kernel, or one number for both; likewise the three below.
        pairs: Shape (pair, 6), int64: channel, kernel row, kernel column of the one input, then of the other, which comes
            later in that order; no row twice; may have no rows. See `channel_pairs` and `field_pairs`.
        stride: Step between output positions.
        padding: Rows and columns of silence around the image.
        dilation: Step between kernel positions.
        bias: Whether each output channel has a bias.

    Attributes:
        weight: W, shape (out channel, in channel, kernel row, kernel column).
        k: Coefficient of each pair in each output channel, shape (out channel, pair); 0 at first.
        bias: b, shape (out channel,), or None.
        pairs: As given; a buffer, saved with the parameters.

    Raises:
        InputError: Pairs of another shape or type, twice the same, or not in order.
        RangeError: A size or step below 1, or a pair outside the receptive field.
    """

    pairs: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        pairs: Tensor,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = _two(kernel_size), _two(stride), _two(padding)
        self.dilation = _two(dilation)
        _check_sizes(self, in_channels=in_channels, out_channels=out_channels)
        _check_sizes(self, kernel_size=min(self.kernel_size), stride=min(self.stride), dilation=min(self.dilation))
        if min(self.padding) < 0:
            raise RangeError(f"PairConv2d: padding = {min(self.padding)}; allowed is a whole number from 0")
        check_sites(pairs, in_channels, self.kernel_size, "PairConv2d")
        self.register_buffer("pairs", pairs.clone())
        self.weight, self.bias = _linear((out_channels, in_channels, *self.kernel_size), bias)
        self.k = nn.Parameter(torch.zeros(out_channels, len(pairs)))
        self.register_load_state_dict_post_hook(_taps_again)
        _taps_again(self)

    def coincidences(self, x: Tensor) -> Tensor:
        """Where each pair coincides, shape (image, pair, row, column), for images (image, channel, row, column)."""
        (h, w), (dy, dx), (sy, sx) = self.padding, self.dilation, self.stride
        size = (
            (x.shape[2] + 2 * h - dy * (self.kernel_size[0] - 1) - 1) // sy + 1,
            (x.shape[3] + 2 * w - dx * (self.kernel_size[1] - 1) - 1) // sx + 1,
        )
        wide = F.pad(x, (w, w, h, h)) if h or w else x
        views = [
            wide[:, :, y * dy : y * dy + sy * (size[0] - 1) + 1 : sy, z * dx : z * dx + sx * (size[1] - 1) + 1 : sx]
            for y, z in self._taps
        ]
        seen = views[0] if len(views) == 1 else torch.cat(views, 1)
        i, j = self.pairs[:, 0], self.pairs[:, 3]
        if len(views) > 1:  # all kernel positions, one after the other
            i = i + (self.pairs[:, 1] * self.kernel_size[1] + self.pairs[:, 2]) * self.in_channels
            j = j + (self.pairs[:, 4] * self.kernel_size[1] + self.pairs[:, 5]) * self.in_channels
        return seen.index_select(1, i) * seen.index_select(1, j)

    def forward(self, x: Tensor) -> Tensor:
        """Synaptic input of spikes `x`, both of shape (..., channel, row, column)."""
        images = x.flatten(0, -4) if x.ndim > 3 else x.unsqueeze(0)
        linear = F.conv2d(images, self.weight, self.bias, self.stride, self.padding, self.dilation)
        if self.k.shape[1]:
            linear = linear + F.conv2d(self.coincidences(images), self.k[:, :, None, None])
        return linear.reshape(*x.shape[:-3], *linear.shape[1:])

    def pruned(self, count: int) -> PairConv2d:
        """A convolution with copies of the `count` pairs whose coefficients are largest, and of the linear part.

        Raises:
            RangeError: More pairs than there are.
        """
        keep = kept(self, count)
        sizes = (self.in_channels, self.out_channels, self.kernel_size, self.pairs[keep].cpu())
        return _copied(self, PairConv2d(*sizes, self.stride, self.padding, self.dilation, self.bias is not None), keep)

    def extra_repr(self) -> str:
        """The sizes, for `repr`."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, pairs={self.k.shape[1]}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, bias={self.bias is not None}"
        )


class DLIF(nn.Module):
    """LIF neurons behind bilinear dendrites.

    Args:
        in_features: Inputs.
        out_features: Neurons.
        pairs: Pairs of inputs that all neurons share, shape (pair, 2); see `lavasnn.nn.pairs`.
        bias: Whether each neuron has a bias in its synaptic input.
        dv: Share of the voltage that leaks away in a step; this and the following as in `LIF`.
        du: Share of the current that leaks away in a step.
        vth: Threshold.
        surrogate: Name or object.
        reset: "hard" or "soft".

    Attributes:
        synapses: `PairPool`, or what was given to `of`.
        neuron: `LIF`.

    Raises:
        InputError: See `PairPool` and `LIF`.
        RangeError: See `PairPool` and `LIF`.
    """

    synapses: PairPool | PrivatePairs | LowRankPairs
    neuron: LIF

    def __init__(
        self,
        in_features: int,
        out_features: int,
        pairs: Tensor,
        *,
        bias: bool = False,
        dv: float = 0.5,
        du: float = 1.0,
        vth: float = 1.0,
        surrogate: str | Surrogate = "atan",
        reset: Reset = "hard",
    ) -> None:
        super().__init__()
        self.synapses = PairPool(in_features, out_features, pairs, bias)
        self.neuron = LIF(dv, du, vth, surrogate, reset)

    @classmethod
    def of(cls, synapses: PairPool | PrivatePairs | LowRankPairs, **neuron: Any) -> DLIF:
        """Neurons with these synapses; `neuron` are arguments of `LIF`."""
        return _joined(cls, synapses, LIF(**neuron))

    def forward(self, x: Tensor) -> Tensor:
        """Spikes, shape (batch, time, neuron), for spikes `x`, shape (batch, time, input)."""
        return self.neuron(self.synapses(x))


class ConvDLIF(nn.Module):
    """LIF neurons behind a convolution with pairs; arguments as in `PairConv2d` and `LIF`.

    Attributes:
        synapses: `PairConv2d`.
        neuron: `LIF`.
    """

    synapses: PairConv2d
    neuron: LIF

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        pairs: Tensor,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        *,
        bias: bool = False,
        dv: float = 0.5,
        du: float = 1.0,
        vth: float = 1.0,
        surrogate: str | Surrogate = "atan",
        reset: Reset = "hard",
    ) -> None:
        super().__init__()
        self.synapses = PairConv2d(in_channels, out_channels, kernel_size, pairs, stride, padding, dilation, bias)
        self.neuron = LIF(dv, du, vth, surrogate, reset)

    @classmethod
    def of(cls, synapses: PairConv2d, **neuron: Any) -> ConvDLIF:
        """Neurons with these synapses; `neuron` are arguments of `LIF`."""
        return _joined(cls, synapses, LIF(**neuron))

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of shape (batch, time, channel, row, column) for spikes `x` of such a shape."""
        return self.neuron(self.synapses(x))


Made = TypeVar("Made", DLIF, ConvDLIF)
Synapses = TypeVar("Synapses", PairPool, PairConv2d)


def _joined(cls: type[Made], synapses: Any, neuron: LIF) -> Made:
    """A layer of parts that are already there."""
    layer = cls.__new__(cls)
    nn.Module.__init__(layer)
    layer.synapses, layer.neuron = synapses, neuron
    return layer


def _copied(source: Synapses, target: Synapses, keep: Tensor) -> Synapses:
    """`target` with the weights, coefficients of the pairs `keep`, type, device and mode of `source`."""
    target = target.to(source.weight).train(source.training)
    with torch.no_grad():
        target.weight.copy_(source.weight)
        target.k.copy_(source.k[:, keep])
        if source.bias is not None and target.bias is not None:
            target.bias.copy_(source.bias)
    return target


class _Convolution(Protocol):
    pairs: Tensor
    kernel_size: tuple[int, int]
    _taps: list[tuple[int, int]]


def _taps_again(module: Any, _: object = None) -> None:
    """Note which kernel positions the pairs of a `PairConv2d` need: the one they share, or all."""
    conv = cast(_Convolution, module)
    places = conv.pairs.view(-1, 3)[:, 1:].unique(dim=0).tolist() if len(conv.pairs) else []
    rows, columns = conv.kernel_size
    everywhere = [(y, x) for y in range(rows) for x in range(columns)]
    conv._taps = [(places[0][0], places[0][1])] if len(places) == 1 else everywhere  # pyright: ignore[reportPrivateUsage]


def _linear(shape: tuple[int, ...], bias: bool) -> tuple[Tensor, Tensor | None]:
    """Weight and bias, drawn as `nn.Linear` and `nn.Conv2d` draw theirs."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
    return weight, nn.Parameter(torch.empty(shape[0]).uniform_(-bound, bound)) if bias else None


def _rows(x: Tensor) -> Tensor:
    """Spikes as a matrix, (row, input)."""
    return x.flatten(0, -2) if x.ndim > 1 else x.unsqueeze(0)


def _two(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _check_sizes(who: nn.Module, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise RangeError(f"{type(who).__name__}: {name} = {size}; allowed is a whole number from 1")
