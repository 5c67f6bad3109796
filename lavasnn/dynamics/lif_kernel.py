"""The integer step of `lavasnn.dynamics.lif`, compiled together with one or two dense projections in front of it.

`run_layer` and `count_layer` take a whole window at once. Their work follows the number of active inputs: each adds one row
of weights, and nothing is computed for silent ones.

Source: lava-nc 0.10.0, lava/proc/lif/models.py, PyLifModelBitAcc; lava/proc/dense/models.py, PyDenseModelBitAcc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lavasnn.dynamics.fixedpoint import (
    ALIGN_BITS,
    DECAY_BITS,
    DECAY_ONE,
    STATE_MAX,
    STATE_WRAP,
)
from lavasnn.dynamics.lif import LifInt
from lavasnn.errors import InputError, RangeError

INT32_MAX = 2**31 - 1
GROUP = 8
"""Weight rows added at a time: one load and one store of the accumulator for each eight rows."""
LANES = 32
"""Rows are padded to whole 512-bit vectors of int16."""
TILE_BYTES = 1 << 20
"""A tile of weights should stay in a core's second-level cache; narrower than 256 lanes it costs more than it saves."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Weights laid out for `run_layer`; build it with `pack_rows`, once for many calls.

    Args:
        tiles: Rows of the smallest integer type, divided by 2**shift, shape (tile, pre + 1, lane); the last is zero.
        post: Number of neurons that the lanes of all tiles stand for.
        shift: Power of two common to all weights.
        chunk: Rows that the accumulator (int16, or int32 for int32 rows) can add without overflow.
    """

    tiles: NDArray[np.signedinteger[Any]]
    post: int
    shift: int
    chunk: int

    @property
    def pre(self) -> int:
        """Number of inputs."""
        return self.tiles.shape[1] - 1


def pack_rows(weights_t: NDArray[np.integer[Any]], widest: int = 0) -> Rows:
    """Lay weights out as `run_layer` reads them.

    Args:
        weights_t: Integer weights, shape (pre, post), after whatever rounding Lava's Dense does to them.
        widest: Most lanes of a tile, a multiple of `LANES`; 0 means as many as suit the cache.

    Raises:
        InputError: Not a two-dimensional integer array with at least one neuron on each side.
        RangeError: Weights so large that a sum of them could leave 32 bits.
    """
    if weights_t.ndim != 2 or weights_t.dtype.kind not in "iu" or 0 in weights_t.shape:
        raise InputError(
            f"pack_rows: weights have shape {weights_t.shape} and dtype {weights_t.dtype}; allowed are integers (pre, post)"
        )
    low, high = int(weights_t.min()), int(weights_t.max())
    wide = weights_t.astype(np.int64)
    worst = max(-low, high) if max(-low, high) > INT32_MAX else int(np.abs(wide).sum(axis=0).max())
    if worst > INT32_MAX:
        raise RangeError(f"pack_rows: weights of one neuron add up to {worst} in magnitude; allowed is {INT32_MAX}")
    bits = int(np.bitwise_or.reduce(wide, axis=None))
    shift = (bits & -bits).bit_length() - 1 if bits else 0
    wide >>= shift
    low, high = low >> shift, high >> shift
    size = max(-low, high, 1)
    kind = np.int8 if -128 <= low and high <= 127 else np.int16 if size * GROUP <= 32767 else np.int32
    chunk = INT32_MAX if kind is np.int32 else 32767 // size // GROUP * GROUP
    pre, post = wide.shape
    room = max(256, TILE_BYTES // ((pre + 1) * np.dtype(kind).itemsize) // LANES * LANES)
    lanes = min(widest or room, -(-post // LANES) * LANES)
    n_tiles = -(-post // lanes)
    padded = np.zeros((pre + 1, n_tiles * lanes), kind)
    padded[:pre, :post] = wide
    tiles = np.ascontiguousarray(padded.reshape(pre + 1, n_tiles, lanes).swapaxes(0, 1))
    return Rows(tiles, post, shift, chunk)


# What the bytes of a message row hold.
BINARY, PACKED, PLUS, MINUS = 0, 1, 2, 3


@njit(nogil=True, cache=True, error_model="numpy")
def _list_active(row: Any, kind: int, pre: int, active: Any, n: Any) -> Any:
    """Append the active inputs of `row` to active[n:], padded to whole groups with the zero row; return the new n.

    Every input is written, and only an active one moves the end of the list, so that no branch depends on the data. A
    bool byte above 1 (an array viewed as bool) counts as one spike; as it is, it would run past the end of the list.
    """
    start, n = np.uint64(n), np.uint64(n)
    if kind == BINARY:
        seen = np.uint8(0)
        for i in range(pre):
            seen |= row[i]
        for i in range(pre):
            active[n] = np.uint32(i)
            n += np.uint64(row[i]) if seen <= 1 else np.uint64(row[i] != 0)
    elif kind == PACKED:
        for i in range(row.shape[0]):
            byte = np.uint64(row[i])
            if byte:
                for k in range(8):
                    active[n] = np.uint32(8 * i + k)
                    n += (byte >> np.uint64(k)) & np.uint64(1)
    else:
        wanted = np.uint8(1 if kind == PLUS else 255)
        for i in range(pre):
            active[n] = np.uint32(i)
            n += np.uint64(row[i] == wanted)
    while (n - start) % np.uint64(GROUP):
        active[n] = np.uint32(pre)
        n += np.uint64(1)
    return np.int64(n)


@njit(nogil=True, cache=True, error_model="numpy")
def _add_rows(rows: Any, active: Any, begin: int, end: int, acc: Any) -> None:
    """acc = sum of the listed rows; begin and end are whole groups apart, at most one chunk."""
    for j in range(acc.shape[0]):
        acc[j] = 0
    for g in range(begin, end, GROUP):
        r0, r1, r2, r3 = rows[active[g]], rows[active[g + 1]], rows[active[g + 2]], rows[active[g + 3]]
        r4, r5, r6, r7 = rows[active[g + 4]], rows[active[g + 5]], rows[active[g + 6]], rows[active[g + 7]]
        for j in range(acc.shape[0]):
            acc[j] += ((r0[j] + r1[j]) + (r2[j] + r3[j])) + ((r4[j] + r5[j]) + (r6[j] + r7[j]))


@njit(nogil=True, cache=True, error_model="numpy")
def _decay(x: Any, keep: Any) -> Any:
    """`fixedpoint.decay` for one int32; every part is cut to int32 so that the loop around it vectorises 16 wide."""
    size = np.int32(-x) if x < 0 else x
    high = np.int32(np.int32(size >> DECAY_BITS) * keep)
    low = np.int32(np.int32(np.int32(size & (DECAY_ONE - 1)) * keep) >> DECAY_BITS)
    size = np.int32(high + low)
    return np.int32(-size) if x < 0 else size


@njit(nogil=True, cache=True, error_model="numpy")
def step_lanes(u: Any, v: Any, sums: Any, bias: Any, scale: Any, right: Any, keep_u: Any, keep_v: Any, vth: Any, s: Any) -> Any:
    """The integer step on int32 lanes: u and v in place, spikes into s; returns how many there were.

    sums are those of the stored weights: ·scale and >> right make them the synaptic input. keep_u = 4095 − du,
    keep_v = 4096 − dv; bias and vth are shifted already. All but s (uint8) are int32.
    """
    total = 0
    for j in range(u.shape[0]):
        x = np.int32(sums[j] * scale)
        if right:
            x = np.int32(x >> right)
        x = np.int32(x << ALIGN_BITS)
        if keep_u:
            x = np.int32(_decay(u[j], keep_u) + x)
        x = np.int32(x - 2 * STATE_WRAP) if x > STATE_WRAP else np.int32(x + 2 * STATE_WRAP) if x <= -STATE_WRAP else x
        u[j] = x
        y = np.int32(np.int32(_decay(v[j], keep_v) + x) + bias[j])
        y = min(max(y, np.int32(-STATE_MAX)), np.int32(STATE_MAX))
        fired = y > vth
        v[j] = np.int32(0) if fired else y
        s[j] = fired
        total += np.int32(fired)
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _run(
    tiles: Any, acc: Any, chunk: int, bias: Any, registers: Any, messages: Any, kind: int, pre: int, arrive: int,
    raster: Any, totals: Any, counts: Any,
) -> None:  # fmt: skip
    """All samples one after the other: list the active inputs of every step, then add and update tile by tile."""
    scale, right, keep_u, keep_v, vth = registers[0], registers[1], registers[2], registers[3], registers[4]
    batch, steps, _ = messages.shape
    n_tiles, _, lanes = tiles.shape
    signs = 2 if kind == PLUS else 1
    active = np.empty(steps * (pre + 2 * GROUP) + 2 * GROUP, np.uint32)
    first = np.zeros(steps * signs + 1, np.int64)
    u, v, sums = np.empty(lanes, np.int32), np.empty(lanes, np.int32), np.empty(lanes, np.int32)
    s = np.empty(lanes, np.uint8)
    for b in range(batch):
        n = 0
        for t in range(steps):
            for sign in range(signs):
                if t >= arrive:
                    n = _list_active(messages[b, t - arrive], kind + sign, pre, active, n)
                first[t * signs + sign + 1] = n
        for tile in range(n_tiles):
            begin = tile * lanes
            u[:] = 0
            v[:] = 0
            for t in range(steps):
                sums[:] = 0
                for sign in range(signs):
                    end = first[t * signs + sign + 1]
                    for g in range(first[t * signs + sign], end, chunk):
                        _add_rows(tiles[tile], active, g, min(end, g + chunk), acc)
                        for j in range(lanes):
                            sums[j] += -acc[j] if sign else acc[j]
                part = bias[begin : begin + lanes]
                totals[b, t] += step_lanes(u, v, sums, part, scale, right, keep_u, keep_v, vth, s)
                if raster.shape[0]:
                    out = raster[b, t, begin : begin + lanes]
                    for j in range(out.shape[0]):
                        out[j] = s[j]
                if counts.shape[0]:
                    sent = counts[b, begin : begin + lanes]
                    for j in range(sent.shape[0]):
                        sent[j] += s[j]


@njit(nogil=True, cache=True, error_model="numpy")
def _run_two(
    tiles: Any, acc: Any, chunk: int, messages: Any, tiles2: Any, acc2: Any, chunk2: int, messages2: Any,
    arrive: int, bias: Any, registers: Any, raster: Any, totals: Any,
) -> None:  # fmt: skip
    """`_run` for two projections of binary spikes; within one kernel a plain layer would pay a sixth for the second one."""
    scale, right, keep_u, keep_v, vth = registers[0], registers[1], registers[2], registers[3], registers[4]
    scale2, right2 = registers[5], registers[6]
    batch, steps, _ = messages.shape
    n_tiles, rows, lanes = tiles.shape
    pre, pre2 = rows - 1, tiles2.shape[1] - 1
    active = np.empty(steps * (pre + pre2 + 4 * GROUP) + 2 * GROUP, np.uint32)
    first, first2 = np.zeros(steps + 1, np.int64), np.zeros(steps + 1, np.int64)
    u, v, s = np.empty(lanes, np.int32), np.empty(lanes, np.int32), np.empty(lanes, np.uint8)
    sums, sums2, none, one = np.empty(lanes, np.int32), np.empty(lanes, np.int32), np.int32(0), np.int32(1)
    for b in range(batch):
        n = 0
        for t in range(steps):
            n = _list_active(messages[b, t - arrive], BINARY, pre, active, n) if t >= arrive else n
            first[t + 1] = n
        first2[0] = n
        for t in range(steps):
            n = _list_active(messages2[b, t - arrive], BINARY, pre2, active, n) if t >= arrive else n
            first2[t + 1] = n
        for tile in range(n_tiles):
            begin = tile * lanes
            u[:] = 0
            v[:] = 0
            for t in range(steps):
                sums[:] = 0
                sums2[:] = 0
                for g in range(first[t], first[t + 1], chunk):
                    _add_rows(tiles[tile], active, g, min(first[t + 1], g + chunk), acc)
                    for j in range(lanes):
                        sums[j] += acc[j]
                for g in range(first2[t], first2[t + 1], chunk2):
                    _add_rows(tiles2[tile], active, g, min(first2[t + 1], g + chunk2), acc2)
                    for j in range(lanes):
                        sums2[j] += acc2[j]
                for j in range(lanes):  # each is shifted for itself, and so loses its own last bits
                    own = np.int32(np.int32(sums[j] * scale) >> right)
                    sums[j] = np.int32(own + np.int32(np.int32(sums2[j] * scale2) >> right2))
                part = bias[begin : begin + lanes]
                totals[b, t] += step_lanes(u, v, sums, part, one, none, keep_u, keep_v, vth, s)
                out = raster[b, t, begin : begin + lanes]
                for j in range(out.shape[0]):
                    out[j] = s[j]


Second = tuple[Rows, NDArray[np.bool_], int]
"""A second projection: weights with as many lanes as the first's, spikes (batch, steps, pre), and weight exponent."""


def _launch(
    params: LifInt, weights: NDArray[Any] | Rows, spikes: NDArray[Any], exponent: int, arrive: int, packed: bool,
    raster: NDArray[Any], totals: NDArray[Any], counts: NDArray[Any], second: Second | None = None,
) -> None:  # fmt: skip
    """Check ranges, bring everything into the kernel's form, run it. Outputs nobody wants have length 0."""
    rows = weights if isinstance(weights, Rows) else pack_rows(weights)
    for e in (exponent, 0 if second is None else second[2]):
        if not -8 <= e <= 7:
            raise RangeError(f"LIF layer: weight exponent {e}; allowed is -8..7")
    if arrive < 0:
        raise RangeError(f"LIF layer: spikes arrive {arrive} steps after they were sent; allowed is 0 or more")
    bias = np.zeros(rows.tiles.shape[0] * rows.tiles.shape[2], np.int32)
    try:
        bias[: rows.post] = params.bias
    except ValueError:
        raise InputError(f"LIF layer: bias of shape {np.shape(params.bias)} for {rows.post} neurons") from None
    keeps = (DECAY_ONE - 1 - params.du, DECAY_ONE - params.dv)
    registers = [*_shifts(rows, exponent), *keeps, params.vth << ALIGN_BITS]
    kind, messages = _as_bytes(spikes, rows.pre, packed)
    acc = _accumulator(rows)
    if second is None:
        held = np.array(registers, np.int64).astype(np.int32)
        _run(rows.tiles, acc, rows.chunk, bias, held, messages, kind, rows.pre, arrive, raster, totals, counts)
        return
    rows2, spikes2, exponent2 = second
    fits = rows2.tiles.shape[::2] == rows.tiles.shape[::2] and spikes2.shape == (*spikes.shape[:2], rows2.pre)
    if not fits or spikes2.dtype != bool or kind != BINARY or counts.shape[0]:
        raise InputError(
            f"LIF layer: a second projection with tiles {rows2.tiles.shape} and {spikes2.dtype} {spikes2.shape} beside tiles "
            f"{rows.tiles.shape} and {spikes.dtype} {spikes.shape}; allowed are binary spikes to the same neurons"
        )
    held = np.array([*registers, *_shifts(rows2, exponent2)], np.int64).astype(np.int32)
    one, two = (rows.tiles, acc, rows.chunk, messages), (rows2.tiles, _accumulator(rows2), rows2.chunk)
    _run_two(*one, *two, np.ascontiguousarray(spikes2).view(np.uint8), arrive, bias, held, raster, totals)


def _shifts(rows: Rows, exponent: int) -> tuple[int, int]:
    """What the sums of stored weights are multiplied by, and shifted right by."""
    return 1 << (rows.shift + max(exponent, 0)), max(-exponent, 0)


def _accumulator(rows: Rows) -> NDArray[np.signedinteger[Any]]:
    return np.empty(rows.tiles.shape[2], np.int32 if rows.tiles.dtype == np.int32 else np.int16)


def _as_bytes(spikes: NDArray[Any], pre: int, packed: bool) -> tuple[int, NDArray[np.uint8]]:
    """The spikes' own memory as bytes (copied only if not contiguous) and what they mean, after checking both."""
    width = -(-pre // 8) if packed else pre
    if spikes.ndim != 3 or spikes.shape[2] != width or spikes.dtype.name not in ("bool", "int8", "uint8"):
        raise InputError(
            f"LIF layer: spikes of shape {spikes.shape} and dtype {spikes.dtype}; "
            f"allowed are bool, int8 or uint8 (batch, steps, {width})" + (", packed" if packed else "")
        )
    messages = np.ascontiguousarray(spikes).view(np.uint8)
    if packed:
        if pre % 8 and (messages[:, :, -1] >> (pre % 8)).any():
            raise InputError(f"LIF layer: packed spikes set bits beyond input {pre - 1}; allowed are zeros there")
        return PACKED, messages
    if spikes.dtype == bool or not spikes.size:
        return BINARY, messages
    low, high = int(spikes.min()), int(spikes.max())
    if low < -1 or high > 1:
        raise RangeError(f"LIF layer: spikes hold {low if low < -1 else high}; allowed is -1..1")
    return (PLUS if low < 0 else BINARY), messages


def run_layer(
    params: LifInt,
    weights_t: NDArray[np.integer[Any]] | Rows,
    spikes: NDArray[np.bool_] | NDArray[np.int8] | NDArray[np.uint8],
    exponent: int = 0,
    arrive: int = 1,
    *,
    packed: bool = False,
    totals: NDArray[np.int32] | None = None,
    second: Second | None = None,
) -> NDArray[np.bool_]:
    """Run a dense layer of LIF neurons over whole windows, each sample from rest: `step` in a loop, compiled.

    Work and time follow the number of active inputs: each adds one row of weights. One thread; the GIL is released.

    Args:
        params: Registers of the population; an array of biases has shape (post,).
        weights_t: Integer weights (pre, post), or what `pack_rows` made of them.
        spikes: What the inputs send, shape (batch, steps, pre): bool (fastest), or int8 or uint8 in −1..1, where −1
            subtracts the row.
        exponent: Weight exponent, −8..7, applied to the sum of a step as Lava's Dense does: shift left, or
            arithmetically right when negative.
        arrive: Steps from sending to arrival, 1 for a synapse without delay. Until then the input is 0; the bias acts
            from step 0 on. Spikes that would arrive after the last step are lost.
        packed: `spikes` is uint8 (batch, steps, ceil(pre / 8)) from `np.packbits(..., bitorder="little")`.
        totals: int32 array (batch, steps), to which the number of spikes of each step is added.
        second: Another projection to the same neurons, whose spikes arrive after as many steps.

    Returns:
        Spikes of the layer, shape (batch, steps, post).

    Raises:
        InputError: Shapes or dtypes that do not fit together.
        RangeError: Messages, weights, exponent or `arrive` out of range.
    """
    post = weights_t.post if isinstance(weights_t, Rows) else weights_t.shape[-1]
    raster = np.empty((*spikes.shape[:2], post), np.bool_)
    sums = np.zeros(raster.shape[:2], np.int32) if totals is None else totals
    if sums.shape != raster.shape[:2] or sums.dtype != np.int32:
        raise InputError(f"LIF layer: totals of shape {sums.shape} and dtype {sums.dtype} for int32 {raster.shape[:2]}")
    none = np.empty((0, 0), np.int32)
    _launch(params, weights_t, spikes, exponent, arrive, packed, raster.view(np.uint8), sums, none, second)
    return raster


def count_layer(
    params: LifInt,
    weights_t: NDArray[np.integer[Any]] | Rows,
    spikes: NDArray[np.bool_] | NDArray[np.int8] | NDArray[np.uint8],
    exponent: int = 0,
    arrive: int = 1,
    *,
    packed: bool = False,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """As `run_layer`, without writing the raster.

    Returns:
        Spikes of each neuron over the window, shape (batch, post), and of each step over the layer, (batch, steps).
    """
    post = weights_t.post if isinstance(weights_t, Rows) else weights_t.shape[-1]
    totals, counts = np.zeros(spikes.shape[:2], np.int32), np.zeros((spikes.shape[0], post), np.int32)
    _launch(params, weights_t, spikes, exponent, arrive, packed, np.empty((0, 0, 0), np.uint8), totals, counts)
    return counts, totals


@njit(nogil=True, cache=True)
def count_spikes(spikes: Any) -> Any:
    """Number of spikes of each step, int32 (batch, steps), from spikes as uint8 or bool (batch, steps, neuron)."""
    counts = np.zeros(spikes.shape[:2], np.int32)
    for b in range(spikes.shape[0]):
        for t in range(spikes.shape[1]):
            total = np.int32(0)
            for s in spikes[b, t]:
                total += np.int32(s)
            counts[b, t] = total
    return counts
