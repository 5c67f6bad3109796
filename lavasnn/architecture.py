"""What layers a network has: fully connected ones and convolutions, from the short notation of configurations.

A number is that many neurons. `32c3s2` is a convolution of 32 channels with a kernel of 3 x 3 that moves by 2 pixels, with
3 // 2 rows and columns of silence around the image; `s1` is left out. A stride takes the place of pooling, which would add
up spikes to numbers that are none. An autoencoder has the convolutions of its encoder once more, in reverse, as its decoder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lavasnn.errors import InputError

NOTATION = re.compile(r"([1-9]\d{0,4})c([1-9]\d?)(?:s([1-9]\d?))?")


@dataclass(frozen=True)
class Full:
    """All inputs to all neurons."""

    inputs: int
    size: int

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.inputs * self.size

    @property
    def outputs(self) -> int:
        """Numbers of biases, and of coefficients that one pair has."""
        return self.size

    @property
    def heard(self) -> int:
        """Inputs among which one neuron's pairs are chosen."""
        return self.inputs

    def held(self, pairs: int) -> int:
        """Most numbers that one step of one sample takes at a place in the layer."""
        return max(self.inputs, self.size, pairs)


@dataclass(frozen=True)
class Convolution:
    """One kernel at all places.

    Args:
        image: Channels, rows and columns of the input.
        channels: Of the output.
        kernel: Rows and columns of the kernel.
        stride: Pixels between its places, in both directions.
        pixel: Whether pairs are formed of channels at the kernel's centre alone.
    """

    image: tuple[int, int, int]
    channels: int
    kernel: int
    stride: int = 1
    pixel: bool = True

    @property
    def padding(self) -> int:
        """Rows and columns of silence around the image."""
        return self.kernel // 2

    @property
    def image_out(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the output."""
        rows, columns = ((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in self.image[1:])
        return self.channels, rows, columns

    @property
    def inputs(self) -> int:
        """Neurons of the input."""
        return self.image[0] * self.image[1] * self.image[2]

    @property
    def size(self) -> int:
        """Neurons of the output."""
        channels, rows, columns = self.image_out
        return channels * rows * columns

    @property
    def weights(self) -> int:
        """Number of weights, each counted once."""
        return self.channels * self.image[0] * self.kernel**2

    @property
    def outputs(self) -> int:
        """Numbers of biases, and of coefficients that one pair has."""
        return self.channels

    @property
    def heard(self) -> int:
        """Inputs among which one neuron's pairs are chosen."""
        return self.image[0] if self.pixel else self.image[0] * self.kernel**2

    def held(self, pairs: int) -> int:
        """Most numbers that one step of one sample takes at a place in the layer."""
        _, rows, columns = self.image_out
        return max(self.inputs, self.size, max(pairs, self.heard if pairs else 0) * rows * columns)


Layer = Full | Convolution


@dataclass(frozen=True)
class Mirror:
    """A convolution from its output to its input: what is up to it is down here."""

    layer: Convolution

    @property
    def inputs(self) -> int:
        """Neurons of the input."""
        return self.layer.size

    @property
    def size(self) -> int:
        """Neurons of the output."""
        return self.layer.inputs


def parsed(entry: str) -> tuple[int, int, int] | None:
    """Channels, kernel and stride of a convolution's notation; None if it is none."""
    found = NOTATION.fullmatch(entry)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3] or 1))


def layers(shape: Sequence[int], hidden: Sequence[int | str], classes: int, pixel: bool = True) -> tuple[Layer, ...]:
    """The layers of a network, input side first; the last one has a neuron for each class.

    Args:
        shape: Of an input: its size, rows and columns, or channels, rows and columns.
        hidden: Sizes or convolutions.
        classes: Neurons of the output.
        pixel: See `Convolution`.

    Raises:
        InputError: A convolution of something that is no image.
    """
    image = as_image(shape)
    inputs, found = math.prod(shape), list[Layer]()
    for i, entry in enumerate([*hidden, classes]):
        layer: Layer
        if isinstance(entry, int):
            layer, image = Full(inputs, entry), None
        else:
            sizes = parsed(entry)
            if sizes is None:
                raise InputError(
                    f"network.hidden[{i}] is {entry!r}; allowed is a size, or CHANNELScKERNEL[sSTRIDE] such as 32c3s2"
                )
            if image is None:
                raise InputError(f"network.hidden[{i}] is {entry!r}; a convolution follows images or convolutions alone")
            layer = Convolution(image, *sizes, pixel)
            image = layer.image_out
        found.append(layer)
        inputs = layer.size
    return tuple(found)


def autoencoder(shape: Sequence[int], hidden: Sequence[str]) -> tuple[Convolution | Mirror, ...]:
    """An encoder of convolutions, and their mirrors back to the image.

    Args:
        shape: Of an image: rows and columns, or channels, rows and columns.
        hidden: The convolutions of the encoder, the last one's output the bottleneck.

    Raises:
        InputError: No convolution, a full layer, or something that is no image.
    """
    encoder = [layer for layer in layers(shape, hidden, 1)[:-1] if isinstance(layer, Convolution)]
    if len(encoder) != len(hidden) or not encoder:
        raise InputError(f"network.hidden is {list(hidden)}; an autoencoder has one convolution or more, and no full layers")
    return (*encoder, *(Mirror(layer) for layer in reversed(encoder)))


def as_image(shape: Sequence[int]) -> tuple[int, int, int] | None:
    """Channels, rows and columns of an input of that shape; None if it is no image."""
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    return (1, shape[0], shape[1]) if len(shape) == 2 else None


def widened(hidden: Sequence[int | str], width: int) -> tuple[int | str, ...]:
    """Hidden layers with the first one `width` neurons or channels wide and the others by the same factor."""
    first = _width(hidden[0])

    def wider(entry: int | str) -> int | str:
        size = round(_width(entry) * width / first)
        return size if isinstance(entry, int) else f"{size}{entry[entry.index('c') :]}"

    return tuple(wider(entry) for entry in hidden)


def _width(entry: int | str) -> int:
    return entry if isinstance(entry, int) else int(entry[: entry.index("c")])
