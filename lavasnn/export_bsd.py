"""From a BSD network in torch to a Graph of both its pathways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lavasnn.architecture import Convolution
from lavasnn.dynamics.pyramidal import Pyramidal
from lavasnn.encode import Encoding
from lavasnn.export import array
from lavasnn.ir import Graph, Population, Projection
from lavasnn.nn.bsd import BSDNet
from lavasnn.nn.bsd_layers import Folded
from lavasnn.synapses import Conv, Deconv, Dense, Owned, Shared, as_sparse, sparse_from


def bsd_graph(net: BSDNet, encoding: Encoding, readout: Literal["voltage", "spikes"] = "voltage") -> Graph:
    """Graph of a network: "type1-1" to "type1-L" perceive, "type2-L" down to "type2-1" recall.

    W[i] leads to the basal dendrites of Type 1 and the apical ones of Type 2 in the layer above, Theta[i] the other way round.
    Batch norm is folded into weights and biases, which arrive at both dendrites.

    Args:
        net: Trained or not.
        encoding: Of kind "direct": a pixel is a constant current.
        readout: By voltage, or by spikes with ties broken by voltage.
    """
    up, down = net.folded()
    # Of layer i: what arrives from below, and from above.
    below = [0.0, *(_bias(folded) for folded in up)]
    above = [*(_bias(folded) for folded in down), 0.0]
    neurons = _pathway(net.first1, net.type1, below, above, "stimulus")
    recalling = _pathway(net.first2, net.type2, above[::-1], below[::-1], "concept")[::-1]
    first, second = ([f"type{kind}-{i}" for i in range(1, len(net.sizes) + 1)] for kind in (1, 2))
    populations = [Population(*parts) for parts in zip(first, net.sizes, neurons, strict=True)]
    populations += [Population(*parts) for parts in zip(second, net.sizes, recalling, strict=True)][::-1]
    projections: list[Projection] = []
    for i, pair in enumerate(zip(up, down, strict=True)):
        low, high = (first[i], second[i]), (first[i + 1], second[i + 1])
        for name, folded, source, (basal, apical) in (
            (f"w{i + 1}", pair[0], low[0], high),
            (f"theta{i + 1}", pair[1], high[1], low[::-1]),
        ):
            projections.append(Projection(name, source, basal, _synapses(folded), "s", "basal"))
            projections.append(Projection(f"{name}-apical", source, apical, Shared(name), "s", "apical"))
    read: Literal["voltage", "messages"] = "voltage" if readout == "voltage" else "messages"
    return Graph(tuple(populations), tuple(projections), encoding, first[-1], net.steps, read)


def _pathway(
    entry: Pyramidal, others: Pyramidal, basal: Sequence[Any], apical: Sequence[Any], drive: Literal["stimulus", "concept"]
) -> list[Pyramidal]:
    """Neurons of a pathway's populations from where its current enters."""
    found = [replace(others, bias=b, bias_apical=a) for b, a in zip(basal, apical, strict=True)]
    return [replace(entry, drive=drive, bias_apical=apical[0]), *found[1:]]


def _bias(folded: Folded) -> Any:
    """Of each neuron, or 0 if there is none."""
    bias = np.repeat(array(folded.bias), folded.link.positions)
    return bias if bias.any() else 0.0


def _synapses(folded: Folded) -> Owned:
    """Downwards a convolution sees each neuron above as often as upsampling repeats it; what falls together adds up.

    That is a transposed convolution with the upward one's stride s: between neurons v above and y below the weight depends on
    y - s v alone. Its kernel is s - 1 larger. Where the last repetition is cropped that holds at the border no more, and every
    synapse is by itself.
    """
    layer, weight = folded.link.layer, array(folded.weight)
    if not isinstance(layer, Convolution):
        return Dense(weight)
    padding = (layer.padding, layer.padding)
    if not folded.link.down:
        return Conv(weight, layer.image, (layer.stride, layer.stride), padding)
    wide = Conv(weight, (layer.channels, *layer.image[1:]), padding=padding)
    if layer.stride == 1:
        return wide
    if not any(size % layer.stride for size in layer.image[1:]):
        return Deconv(Conv(_repeated(weight, layer.stride), layer.image, (layer.stride, layer.stride), padding))
    from scipy.sparse import csr_matrix

    wide = as_sparse(wide)
    return sparse_from(csr_matrix((wide.weight, _parents(layer)[wide.pre], wide.start), (layer.inputs, layer.size)))


def _repeated(weight: NDArray[Any], stride: int) -> NDArray[Any]:
    """Kernel of the transposed convolution, shape (channel in, channel out, row, column); senders repeat `stride` times."""
    turned = weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    for axis in (2, 3):
        parts = [(0, 0)] * 4
        moved: list[NDArray[Any]] = []
        for shift in range(stride):
            parts[axis] = (shift, stride - 1 - shift)
            moved.append(np.pad(turned, parts))
        turned = np.sum(moved, axis=0)
    return turned


def _parents(layer: Convolution) -> NDArray[np.int32]:
    """The neuron above whose spikes each pixel of the upsampled image repeats, shape (channel * row * column,)."""
    channels, rows, columns = layer.image_out
    c, y, x = np.indices((channels, *layer.image[1:]))
    return ((c * rows + y // layer.stride) * columns + x // layer.stride).reshape(-1).astype(np.int32)
