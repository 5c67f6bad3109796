"""Leaky integrate-and-fire neurons, as Lava's stock LIF process has them.

Real-valued (`Lif`), with a the synaptic input of the step and s the spikes sent in it:

    u ← u·(1 − du) + a;    v ← v·(1 − dv) + u + bias;    s = v > vth;    v[s] ← 0

On the chip's integers (`LifInt`), where trunc(x >> 12) = sign(x)·(|x| >> 12):

    u ← wrap24(trunc(u·(4096 − (du + 1)) >> 12) + (a << 6))
    v ← saturate24(trunc(v·(4096 − dv) >> 12) + u + (bias_mant << bias_exp))
    s = v > vth << 6;    v[s] ← 0

`step` is the definition of both. `run_layer` and `count_layer` are a compiled form of the integer step together with
the dense synapse in front of it, for a whole window at once.

Source: lava-nc 0.10.0, lava/proc/lif/models.py, PyLifModelFloat and PyLifModelBitAcc; lava/proc/dense/models.py.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from math import isnan
from numbers import Integral, Real
from sys import float_info
from typing import Any, ClassVar

import array_api_compat
import numpy as np
from numba import njit
from numpy.typing import NDArray

from lavasnn.dynamics.fixedpoint import (
    ALIGN_BITS,
    DECAY_BITS,
    DECAY_ONE,
    STATE_MAX,
    STATE_WRAP,
    Array,
    decay,
    saturate24,
    wrap24,
)
from lavasnn.errors import InputError, RangeError


@dataclass(frozen=True, eq=False)
class Lif:
    """Real-valued LIF neurons, one set of decays and one threshold for a whole population.

    Args:
        du: Share of the current that leaks away in a step, 0..1; 1 makes the neuron memoryless in u.
        dv: Share of the voltage that leaks away in a step, 0..1.
        vth: Threshold, finite and not negative; a neuron spikes where v is strictly above it.
        bias: Added to v in every step: one number, or an array of the neurons' shape.

    Raises:
        InputError: Something that is not a number (NaN is none).
        RangeError: A number outside the range above.
    """

    MESSAGES: ClassVar[tuple[str, ...]] = ("s",)
    INPUTS: ClassVar[tuple[str, ...]] = ("a",)

    du: float
    dv: float
    vth: float
    bias: float | NDArray[np.floating[Any]] = 0.0

    def __post_init__(self) -> None:
        for name, high in (("du", 1.0), ("dv", 1.0), ("vth", float_info.max)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or isnan(value):
                raise InputError(f"Lif: {name} is {value!r}; allowed is one real number")
            if not 0 <= float(value) <= high:
                raise RangeError(f"Lif: {name} = {value}; allowed is " + ("0..1" if high == 1 else "a finite number from 0"))
            object.__setattr__(self, name, float(value))
        bias = np.asarray(self.bias)
        if bias.dtype.kind not in "fiu" or not np.isfinite(bias).all():
            raise InputError(f"Lif: bias holds {_first_bad(bias)}; allowed are finite real numbers")
        object.__setattr__(self, "bias", _frozen(bias.astype(np.float64)))

    def __eq__(self, other: object) -> bool:
        return _same(self, other)


@dataclass(frozen=True, eq=False)
class LifInt:
    """LIF neurons as the registers of the stock fixed-point model hold them.

    Lava checks none of these ranges. Its simulator would also take dv = 4096 (a voltage without memory), which the
    chip's 12-bit register cannot hold: 4095 is the largest, and keeps |v| >> 12.

    Args:
        du: Current decay, −1..4095. Lava adds one, so the current loses (du + 1)/4096 in a step; −1 means no leak,
            4095 no memory.
        dv: Voltage decay in 1/4096, 0..4095.
        vth: Threshold mantissa, 0..131071 (17 bits); v is compared with vth << 6.
        bias_mant: Bias mantissa, −4096..4095 (13 bits): one number, or an array of the neurons' shape.
        bias_exp: Left shift of the bias mantissa, 0..7 (3 bits).

    Raises:
        InputError: A register that is not an integer.
        RangeError: A number that the register cannot hold.
    """

    MESSAGES: ClassVar[tuple[str, ...]] = ("s",)
    INPUTS: ClassVar[tuple[str, ...]] = ("a",)
    RANGES: ClassVar[dict[str, tuple[int, int]]] = {
        "du": (-1, 4095),
        "dv": (0, 4095),
        "vth": (0, 131071),
        "bias_mant": (-4096, 4095),
        "bias_exp": (0, 7),
    }

    du: int
    dv: int
    vth: int
    bias_mant: int | NDArray[np.signedinteger[Any]] = 0
    bias_exp: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in self.RANGES.items():
            value: Any = getattr(self, name)
            if name == "bias_mant" and isinstance(value, np.ndarray):
                if value.dtype.kind not in "iu":
                    raise InputError(f"LifInt: bias_mant has dtype {value.dtype}; allowed are integers")
            elif isinstance(value, bool) or not isinstance(value, Integral):
                raise InputError(f"LifInt: {name} is {value!r}; allowed is an integer")
            values = np.asarray(value)
            outside = values[(values < low) | (values > high)]
            if outside.size:
                raise RangeError(f"LifInt: {name} = {outside.flat[0]}; allowed is {low}..{high}")
            object.__setattr__(self, name, _frozen(values.astype(np.int32)))

    def __eq__(self, other: object) -> bool:
        return _same(self, other)

    @property
    def bias(self) -> int | NDArray[np.int32]:
        """What is added to v in every step: bias_mant << bias_exp."""
        return self.bias_mant << self.bias_exp  # type: ignore[return-value]


@dataclass(frozen=True)
class LifState:
    """State of a population between two steps.

    Args:
        u: Current, shape (..., neuron); int32 (24-bit range) or floating point.
        v: Voltage, same shape and dtype as `u`.
    """

    u: Array
    v: Array


def _frozen(value: NDArray[Any]) -> Any:
    """A Python number for a zero-dimensional array, else the array made read-only (it has to be a copy)."""
    if value.ndim == 0:
        return value.item()
    value.setflags(write=False)
    return value


def _first_bad(values: NDArray[Any]) -> object:
    return values[~np.isfinite(values)].flat[0] if values.dtype.kind == "f" else f"dtype {values.dtype}"


def _same(one: Lif | LifInt, other: object) -> bool:
    return type(one) is type(other) and all(np.array_equal(value, getattr(other, k)) for k, value in vars(one).items())


def initial(params: Lif | LifInt, shape: tuple[int, ...], like: Array | None = None) -> LifState:
    """State at rest: u = v = 0.

    Args:
        params: Which model; `LifInt` gives int32 states, `Lif` floating ones.
        shape: Shape of the state, (..., neuron).
        like: Array whose namespace, device and (for `Lif`, if it is floating) dtype to take; default numpy, float64.
    """
    model: Array = np.zeros(()) if like is None else like
    xp = array_api_compat.array_namespace(model)
    dtype = model.dtype if xp.isdtype(model.dtype, "real floating") else xp.float64
    dtype = xp.int32 if isinstance(params, LifInt) else dtype
    zeros = xp.zeros(shape, dtype=dtype, device=array_api_compat.device(model))
    return LifState(zeros, zeros)


def step(
    params: Lif | LifInt, state: LifState, a: Array, spike: Callable[[Array, Any], Array] = operator.gt
) -> tuple[Array, LifState]:
    """One time step: integrate `a`, spike, reset.

    Args:
        params: `LifInt` for the chip's integers, equal to Lava's fixed_pt model bit for bit; `Lif` for its float model.
        state: u, v of shape (..., neuron), numpy or torch. For integers u is any int32 whose magnitude a step can leave
            (below 2³¹ − 2²⁴), v lies within ±(2²³ − 1).
        a: Synaptic input that arrives in this step, same shape. For integers any integer dtype; it counts modulo 2²⁶,
            which is where Lava's int32 current loses its upper bits.
        spike: (v, threshold) -> spikes; the default is v > threshold. Training puts a function with a surrogate
            gradient here; v is reset wherever its result is not zero, and no gradient passes through that choice.

    Returns:
        Spikes of shape (..., neuron), bool with the default `spike`, and the next state. Inputs stay unchanged.

    Raises:
        InputError: An integer model was given input that is not integer.
    """
    xp = array_api_compat.array_namespace(state.u, state.v, a)
    bias = params.bias
    if isinstance(bias, np.ndarray):
        bias = xp.asarray(bias, dtype=state.v.dtype, device=array_api_compat.device(state.v))
    if isinstance(params, LifInt):
        if not xp.isdtype(a.dtype, "integral"):
            raise InputError(f"LifInt step: input a has dtype {a.dtype}; allowed are integers")
        current = decay(state.u, DECAY_ONE - 1 - params.du) + (xp.astype(a, xp.int64) << ALIGN_BITS)
        u = wrap24(xp.astype(current, xp.int32))
        v = saturate24(decay(state.v, DECAY_ONE - params.dv) + u + bias)
        spikes = spike(v, params.vth << ALIGN_BITS)
    else:
        u = state.u * (1 - params.du) + a
        v = state.v * (1 - params.dv) + u + bias
        spikes = spike(v, params.vth)
    fired = spikes if xp.isdtype(spikes.dtype, "bool") else spikes != 0
    return spikes, LifState(u, xp.where(fired, xp.zeros_like(v), v))


# ---- The same integer step compiled, with the dense synapse in front of it ------------------------------------------

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


def pack_rows(weights_t: NDArray[np.integer[Any]]) -> Rows:
    """Lay weights out as `run_layer` reads them.

    Args:
        weights_t: Integer weights, shape (pre, post), after whatever rounding Lava's Dense does to them.

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
    lanes = min(room, -(-post // LANES) * LANES)
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
            x = np.int32(-(-x >> right))
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


def _launch(
    params: LifInt, weights: NDArray[Any] | Rows, spikes: NDArray[Any], exponent: int, arrive: int, packed: bool,
    raster: NDArray[Any], totals: NDArray[Any], counts: NDArray[Any],
) -> None:  # fmt: skip
    """Check ranges, bring everything into the kernel's form, run it. Outputs nobody wants have length 0."""
    rows = weights if isinstance(weights, Rows) else pack_rows(weights)
    if not -8 <= exponent <= 7:
        raise RangeError(f"LIF layer: weight exponent {exponent}; allowed is -8..7")
    if arrive < 0:
        raise RangeError(f"LIF layer: spikes arrive {arrive} steps after they were sent; allowed is 0 or more")
    bias = np.zeros(rows.tiles.shape[0] * rows.tiles.shape[2], np.int32)
    try:
        bias[: rows.post] = params.bias
    except ValueError:
        raise InputError(f"LIF layer: bias of shape {np.shape(params.bias)} for {rows.post} neurons") from None
    scale = 1 << (rows.shift + max(exponent, 0))
    keeps = (DECAY_ONE - 1 - params.du, DECAY_ONE - params.dv)
    registers = np.array([scale, max(-exponent, 0), *keeps, params.vth << ALIGN_BITS], np.int64).astype(np.int32)
    kind, messages = _as_bytes(spikes, rows.pre, packed)
    acc = np.empty(rows.tiles.shape[2], np.int32 if rows.tiles.dtype == np.int32 else np.int16)
    _run(rows.tiles, acc, rows.chunk, bias, registers, messages, kind, rows.pre, arrive, raster, totals, counts)


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
    _launch(params, weights_t, spikes, exponent, arrive, packed, raster.view(np.uint8), sums, none)
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
