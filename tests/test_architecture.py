"""Layers from the short notation, against torch's own convolutions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lavasnn.architecture import Convolution, Full, layers, parsed, widened
from lavasnn.errors import InputError


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12)),
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 3)), max_size=3),
    st.integers(1, 5),
)
def test_sizes_are_those_of_torch(image: tuple[int, int, int], convolutions: list[tuple[int, int, int]], classes: int) -> None:
    notation = [f"{c}c{k}" + (f"s{s}" if s > 1 else "") for c, k, s in convolutions]
    found = layers(image, [*notation, 7], classes)
    x, inside = torch.zeros(1, *image), image[0]
    for layer, (channels, kernel, stride) in zip(found, convolutions, strict=False):
        assert isinstance(layer, Convolution) and layer.inputs == x.numel()
        convolution = nn.Conv2d(inside, channels, kernel, stride, kernel // 2, bias=False)
        x, inside = convolution(x), channels
        assert (layer.image_out, layer.size) == (tuple(x.shape[1:]), x.numel())
        assert (layer.weights, layer.outputs) == (convolution.weight.numel(), channels)
    assert found[-2:] == (Full(x.numel(), 7), Full(7, classes))


def test_a_plain_image_has_one_channel() -> None:
    assert layers((6, 5), ["2c3"], 3)[0] == Convolution((1, 6, 5), 2, 3)
    assert layers((30,), [4], 3) == (Full(30, 4), Full(4, 3))


def test_pairs_are_of_channels_or_of_the_field() -> None:
    assert [layers((4, 6, 5), ["2c3"], 3, pixel)[0].heard for pixel in (True, False)] == [4, 36]


@pytest.mark.parametrize("text", ["", "c3", "0c3", "32c", "32c0", "32c3s", "32c3s0", "32c3p1", " 32c3", "-1c3", "320000c3"])
def test_what_is_no_notation(text: str) -> None:
    assert parsed(text) is None
    with pytest.raises(InputError, match=r"network.hidden\[1\] is '.*'; allowed is a size, or CHANNELScKERNEL"):
        layers((3, 8, 8), [5, text], 2)


@pytest.mark.parametrize(("shape", "hidden"), [((64,), ["4c3"]), ((8, 8), [10, "4c3"])])
def test_a_convolution_needs_an_image(shape: tuple[int, ...], hidden: list[int | str]) -> None:
    with pytest.raises(InputError, match="a convolution follows images or convolutions alone"):
        layers(shape, hidden, 2)


def test_all_layers_widen_by_one_factor() -> None:
    assert widened(["16c3s2", "32c5", 100], 24) == ("24c3s2", "48c5", 150)
