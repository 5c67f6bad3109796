"""The integer helpers against Python's own unbounded integers."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lavasnn.dynamics.fixedpoint import decay, saturate24, wrap24

EDGES = sorted(
    {sign * (base + d) for sign in (1, -1) for base in (0, 2**12, 2**23, 3 * 2**23, 2**24) for d in (-2, -1, 0, 1, 2)}
    | {-(2**31), -(2**31) + 1, 2**31 - 1}
)
int32s = st.integers(-(2**31), 2**31 - 1) | st.sampled_from(EDGES)


def decay_by_hand(v: int, keep: int) -> int:
    size = abs(v) * keep // 4096
    return size if v > 0 else -size


def wrap_by_hand(x: int) -> int:
    if x > 2**23:
        return x - 2**24
    return x + 2**24 if x <= -(2**23) else x


def check(result: Any, expected: list[int], dtype: object) -> None:
    assert result.dtype == dtype
    assert result.tolist() == expected


@given(
    v=st.lists(st.integers(-(2**31) + 1, 2**31 - 1) | st.sampled_from(EDGES[1:]), max_size=20),
    keep=st.integers(0, 4096),
)
@example(v=EDGES[1:], keep=4096)
@example(v=EDGES[1:], keep=4095)
@example(v=EDGES[1:], keep=1)
@example(v=EDGES[1:], keep=0)
def test_decay(v: list[int], keep: int) -> None:
    expected = [decay_by_hand(x, keep) for x in v]
    check(decay(np.array(v, np.int32), keep), expected, np.dtype(np.int32))
    check(decay(np.array(v, np.int64), keep), expected, np.dtype(np.int64))
    check(decay(torch.tensor(v, dtype=torch.int32), keep), expected, torch.int32)
    check(decay(torch.tensor(v, dtype=torch.int64), keep), expected, torch.int64)


@given(st.lists(int32s, max_size=20))
@example(EDGES)
def test_wrap24(x: list[int]) -> None:
    expected = [wrap_by_hand(value) for value in x]
    check(wrap24(np.array(x, np.int32)), expected, np.dtype(np.int32))
    check(wrap24(np.array(x, np.int64)), expected, np.dtype(np.int64))
    check(wrap24(torch.tensor(x, dtype=torch.int32)), expected, torch.int32)


def test_wrap24_keeps_the_upper_end_and_turns_the_lower_one() -> None:
    ends: NDArray[np.int32] = np.array([2**23, 2**23 + 1, -(2**23), -(2**23) + 1, 3 * 2**23 + 1], np.int32)
    assert wrap24(ends).tolist() == [2**23, -(2**23) + 1, 2**23, -(2**23) + 1, 2**23 + 1]


@given(st.lists(int32s, max_size=20))
@example(EDGES)
def test_saturate24(x: list[int]) -> None:
    expected = [max(-(2**23) + 1, min(2**23 - 1, value)) for value in x]
    check(saturate24(np.array(x, np.int32)), expected, np.dtype(np.int32))
    check(saturate24(torch.tensor(x, dtype=torch.int32)), expected, torch.int32)


@pytest.mark.parametrize("function", [wrap24, saturate24, lambda x: decay(x, 7)])
def test_inputs_stay_as_they_were(function: Any) -> None:
    x = np.array(EDGES[1:], np.int32)
    function(x)
    assert x.tolist() == EDGES[1:]
