"""Synapses of every structure against plain loops and torch's convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavasnn.errors import InputError
from lavasnn.synapses import (
    Conv,
    Deconv,
    Dense,
    Grid,
    Sparse,
    as_dense,
    as_sparse,
    average_pool,
    count,
    fan_in,
    fan_out,
    loud_fan_out,
    one_to_one,
    scaled_rows,
    sparse_from,
    strengths,
    transposed,
    with_weight,
)


@st.composite
def convolutions(draw: st.DrawFn) -> Conv:
    groups = draw(st.integers(1, 2))
    inside, outside = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    size = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(size, dilation, padding, strict=True)]
    image = (inside * groups, *(draw(st.integers(v, v + 4)) for v in least))
    kernel = np.random.default_rng(draw(st.integers(0, 99))).integers(-9, 10, (outside * groups, inside, *size))
    return Conv(kernel.astype(np.float64), image, stride, padding, dilation, groups)


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.integers(0, 99))
def test_a_convolution_is_torchs(s: Conv, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-3, 4, (2, *s.image)).astype(np.float64)
    kernel = torch.from_numpy(s.weight)
    wanted = torch.nn.functional.conv2d(torch.from_numpy(x), kernel, None, s.stride, s.padding, s.dilation, s.groups)
    assert s.image_out == tuple(wanted.shape[1:])
    assert np.array_equal(x.reshape(2, -1) @ as_dense(s).T, wanted.reshape(2, -1).numpy())


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_counts_and_strengths_are_those_of_single_synapses(s: Conv) -> None:
    """Written out: a synapse is a kernel position that falls inside the image."""
    post, pre = s.shape
    senders: list[list[int]] = [[] for _ in range(post)]
    weights: list[list[float]] = [[] for _ in range(post)]
    out, inside, high, wide = s.weight.shape
    _, rows, columns = s.image_out
    for o in range(out):
        for y in range(rows):
            for x in range(columns):
                for c in range(inside):
                    for i in range(high):
                        for j in range(wide):
                            v = y * s.stride[0] - s.padding[0] + i * s.dilation[0]
                            h = x * s.stride[1] - s.padding[1] + j * s.dilation[1]
                            if 0 <= v < s.image[1] and 0 <= h < s.image[2]:
                                channel = o // (out // s.groups) * inside + c
                                post_index = (o * rows + y) * columns + x
                                senders[post_index].append((channel * s.image[1] + v) * s.image[2] + h)
                                weights[post_index].append(s.weight[o, c, i, j])
    assert fan_in(s).tolist() == [len(v) for v in senders]
    assert fan_out(s).tolist() == [sum(row.count(i) for row in senders) for i in range(pre)]
    heard = [i for row, ws in zip(senders, weights, strict=True) for i, w in zip(row, ws, strict=True) if w != 0]
    loud = [heard.count(i) for i in range(pre)]
    assert loud_fan_out(s).tolist() == loud
    assert count(s) == sum(map(len, senders))
    assert strengths(s).tolist() == [sum(map(abs, row)) for row in weights]
    rows_of = as_sparse(s)
    for j in range(post):
        part = slice(rows_of.start[j], rows_of.start[j + 1])
        assert dict(zip(rows_of.pre[part].tolist(), rows_of.weight[part].tolist(), strict=True)) == dict(
            zip(senders[j], weights[j], strict=True)
        )
    back = transposed(s)
    assert np.array_equal(as_dense(back), as_dense(s).T)


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.integers(0, 99))
def test_a_transposed_convolution_is_torchs_and_counts_its_synapses_backwards(conv: Conv, seed: int) -> None:
    """torch's gradient of a convolution by its input is the transposed one, whatever remainder a stride leaves."""
    if conv.groups != 1:
        with pytest.raises(InputError, match=r"transposed convolution: 2 groups, allowed is 1"):
            Deconv(conv)
        return
    s = Deconv(conv)
    x = np.random.default_rng(seed).integers(-3, 4, (2, *s.image)).astype(np.float64)
    grad: Any = torch.nn.grad
    wanted = grad.conv2d_input(
        (2, *conv.image), torch.from_numpy(conv.weight), torch.from_numpy(x), conv.stride, conv.padding, conv.dilation
    )
    assert s.image_out == tuple(wanted.shape[1:])
    full = as_dense(s)
    assert np.array_equal(x.reshape(2, -1) @ full.T, wanted.reshape(2, -1).numpy())
    assert np.array_equal(full.T, as_dense(conv))
    assert transposed(s) is conv and transposed(conv) == s
    post, pre = as_sparse(conv), as_sparse(s)
    assert (post.shape, pre.shape) == (s.shape[::-1], s.shape)
    assert fan_in(s).tolist() == np.bincount(post.pre, minlength=s.shape[0]).tolist()
    assert fan_out(s).tolist() == np.diff(post.start).tolist()
    assert loud_fan_out(s).tolist() == np.count_nonzero(full, axis=0).tolist()
    assert strengths(s).tolist() == np.abs(full).sum(axis=1).tolist()
    assert count(s) == count(conv) == len(pre.pre)
    assert s.per_channel * s.image_out[0] == s.weight.size
    whole = with_weight(s, s.weight.astype(np.int16), Grid())
    assert (whole.grid, as_sparse(whole).weight.dtype) == (Grid(), np.int16)
    assert strengths(whole).dtype == np.int64
    by_channel = np.repeat(np.arange(1.0, 1 + s.image_out[0]), np.prod(s.image_out[1:]))
    scaled = scaled_rows(s, by_channel)
    assert isinstance(scaled, Deconv)
    assert np.array_equal(as_dense(scaled), full * by_channel[:, None])
    by_neuron = np.arange(1.0, 1 + s.shape[0])
    assert np.array_equal(as_dense(scaled_rows(s, by_neuron)), full * by_neuron[:, None])


@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 6))
def test_sparse_and_dense_say_the_same(seed: int, post: int, pre: int) -> None:
    random = np.random.default_rng(seed)
    matrix = np.where(random.random((post, pre)) < 0.5, random.normal(size=(post, pre)), 0.0)
    s = sparse_from(matrix)
    assert np.array_equal(as_dense(s), matrix)
    assert np.array_equal(as_dense(transposed(s)), matrix.T)
    assert fan_in(s).tolist() == (matrix != 0).sum(1).tolist()
    assert fan_out(s).tolist() == (matrix != 0).sum(0).tolist()
    assert np.allclose(strengths(s), np.abs(matrix).sum(1))
    full = Dense(matrix)
    assert loud_fan_out(s).tolist() == loud_fan_out(full).tolist() == (matrix != 0).sum(0).tolist()
    assert np.array_equal(as_dense(as_sparse(full)), matrix)
    assert (count(full), fan_in(full).tolist(), fan_out(full).tolist()) == (post * pre, [pre] * post, [post] * pre)


@pytest.mark.parametrize(("padding", "total"), [((0, 0), False), ((1, 1), False), ((0, 1), True)])
def test_pooling_is_torchs(padding: tuple[int, int], total: bool) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 7, 6)))
    wanted = torch.nn.functional.avg_pool2d(x, (2, 3), (2, 2), padding) * (6 if total else 1)
    s = average_pool((3, 7, 6), (2, 3), (2, 2), padding, total)
    assert np.allclose(x.reshape(1, -1).numpy() @ as_dense(s).T, wanted.reshape(1, -1).numpy(), atol=1e-15)


def test_one_to_one() -> None:
    assert np.array_equal(as_dense(one_to_one(np.array([2.0, 0.0, -1.0]))), np.diag([2.0, 0.0, -1.0]))


KERNEL = np.ones((2, 1, 3, 3))
BAD: dict[str, tuple[Any, str]] = {
    "no kernel": (lambda: Conv(np.ones((2, 3)), (1, 4, 4)), r"kernel of shape \(2, 3\), needed is \(out, in / groups"),
    "stride": (
        lambda: Conv(KERNEL, (1, 4, 4), stride=(0, 1)),
        r"stride is \(0, 1\), needed are two whole numbers",
    ),
    "padding": (lambda: Conv(KERNEL, (1, 4, 4), padding=(0, -1)), r"padding is \(0, -1\)"),
    "groups": (lambda: Conv(KERNEL, (3, 4, 4), groups=3), r"3 groups, 3 channels in and 2 out do not fit a kernel"),
    "channels": (lambda: Conv(KERNEL, (2, 4, 4)), r"1 groups, 2 channels in and 2 out do not fit"),
    "too small": (lambda: Conv(KERNEL, (1, 2, 4)), r"kernel of \(3, 3\) .* does not fit images of \(2, 4\)"),
    "rows": (
        lambda: Sparse(np.ones(2), np.array([0, 1], np.int32), np.array([0, 1]), 2),
        r"rows do not add up to 2 weights and 2 senders",
    ),
    "falling rows": (
        lambda: Sparse(np.ones(2), np.array([0, 1], np.int32), np.array([0, 3, 2]), 2),
        r"rows do not add up",
    ),
    "sender": (
        lambda: Sparse(np.ones(2), np.array([0, 2], np.int32), np.array([0, 2]), 2),
        r"senders 0\.\.2, allowed is 0\.\.1",
    ),
    "twice": (
        lambda: Sparse(np.ones(2), np.array([1, 1], np.int32), np.array([0, 2]), 2),
        r"senders of a row have to grow",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_synapses_that_do_not_fit_are_refused(case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
