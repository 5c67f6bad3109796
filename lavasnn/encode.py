"""How pixels become the inputs of a network, bit for bit the same in every executor.

Five codes:

    value       x[i, f]    = pixel[i, f] · 2^scale_exponent                a target activity, exact in float64
    bernoulli   s[i, t, f] = 1 with probability pixel[i, f] / levels       one independent draw for each step
    latency     s[i, t, f] = [t = ⌊(levels − pixel[i, f]) · T / levels⌋]   one spike in T steps, the brighter the earlier
    direct      s[i, t, f] = pixel[i, f]                                   a graded payload, the same in every step
    given       s[i, t, f] = sample[i, t, f]                               recorded messages, shown as they are

The latency code is in integers: the pixel `levels` spikes at step 0, the pixel 0 would at step T, so it never does.
The draws come from a counter-based generator: a draw is a hash of (seed, sample index, step, feature) and of nothing
else, so it does not matter which samples share a batch, how many steps follow or which process asks.

Source: SplitMix64 of Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, with
Stafford's variant 13 of the finaliser. Output n of a generator with the state `key` is mix(key + (n + 1)·gamma).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lavasnn.errors import InputError

MAX_SCALE_EXPONENT = 32  # either way; 8-bit pixels stay exact in float32 as well
MAX_LEVELS = 255  # pixels are unsigned bytes
MAX_PAYLOAD = 2**23 - 1  # of given messages: what a signed 24-bit state holds
MAX_SEED = 2**63 - 1  # the largest integer of TOML
MAX_STEPS = 2**31 - 1  # the step is the upper half of the counter, the feature the lower one

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio, odd

UInt64Array = NDArray[np.uint64]


@njit(inline="always")
def _output(key: Any, n: Any) -> Any:
    """Return output `n` of the SplitMix64 generator with the state `key`, both uint64."""
    z = key + (n + np.uint64(1)) * _GAMMA
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(nogil=True, cache=True)
def _draw(seed: Any, samples: Any, goals: Any, levels: Any, out: Any) -> None:
    """Fill `out` (sample, step, feature), uint8, from pixels shifted left by 32, (sample, feature), uint64."""
    key = _output(seed, np.uint64(0))
    for i in range(out.shape[0]):
        own = _output(key, samples[i])
        for t in range(out.shape[1]):
            step = np.uint64(t) << np.uint64(32)
            row, goal = out[i, t], goals[i]
            for f in range(row.shape[0]):
                row[f] = (_output(own, step | np.uint64(f)) >> np.uint64(32)) * levels < goal[f]


@dataclass(frozen=True)
class Encoding:
    """The rule that turns pixels into inputs.

    Args:
        kind: "value" (activities), "bernoulli" (random spikes), "latency" (one spike), "direct" (payloads) or "given" (the
            samples are messages already).
        scale_exponent: For "value": activity = pixel · 2^scale_exponent, -32..32. Has to be 0 for the others.
        levels: Largest pixel value, 1..255; for "bernoulli" the one that spikes in every step, for "latency" in the first.
            For "given" the largest magnitude of a payload, 1..2^23 - 1; 1 means spikes.
        seed: For "bernoulli": chooses the random numbers, 0..2^63-1.

    Raises:
        InputError: A field has the wrong type or lies outside its range.
    """

    kind: Literal["value", "bernoulli", "latency", "direct", "given"]
    scale_exponent: int = 0
    levels: int = 255
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("value", "bernoulli", "latency", "direct", "given"):
            allowed = "'value', 'bernoulli', 'latency', 'direct' and 'given'"
            raise InputError(f"encoding: kind is {self.kind!r}, allowed are {allowed}")
        _check_int("scale_exponent", self.scale_exponent, -MAX_SCALE_EXPONENT, MAX_SCALE_EXPONENT)
        _check_int("levels", self.levels, 1, MAX_PAYLOAD if self.kind == "given" else MAX_LEVELS)
        _check_int("seed", self.seed, 0, MAX_SEED)
        if self.kind != "value" and self.scale_exponent != 0:
            raise InputError(
                f"encoding {self.kind!r}: scale_exponent is {self.scale_exponent}, allowed is 0, for a spike has no scale"
            )

    @property
    def graded(self) -> bool:
        """Whether inputs carry payloads beyond -1..1."""
        return self.kind in ("direct", "given") and self.levels > 1

    def messages(
        self, samples: NDArray[np.integer[Any]], sample_indices: Sequence[int] | NDArray[np.integer[Any]], steps: int
    ) -> NDArray[Any]:
        """Messages of a network's input: drawn ("bernoulli", see `spikes`), timed or repeated, or as they are given.

        Args:
            samples: Pixels (sample, feature), or given messages (sample, step, feature): integers up to `levels`.
            sample_indices: See `spikes`.
            steps: Number of steps, which "latency" spreads its spikes over; given samples that are shorter go on in silence,
                longer ones are refused.

        Returns:
            Shape (sample, step, feature): bool, int8 if given spikes have signs, int32 if they carry payloads.

        Raises:
            InputError: The encoding is of the kind "value", or the samples are not as said.
        """
        if self.kind in ("latency", "direct"):
            _check_int("steps", steps, 1, MAX_STEPS)
            pixels = self._checked(samples).astype(np.int32)[:, None, :]
            if self.kind == "direct":
                shape = (len(pixels), steps, pixels.shape[2])
                return np.broadcast_to(pixels, shape).astype(np.int32 if self.graded else np.bool_)
            due = (self.levels - pixels).astype(np.int64) * steps // self.levels
            return due == np.arange(steps)[:, None]
        if self.kind != "given":
            return self.spikes(samples, sample_indices, steps)
        given = np.asarray(samples)
        if given.dtype.kind not in "iub" or given.ndim != 3 or given.shape[1] > steps:
            raise InputError(
                f"given messages: {given.dtype} of shape {given.shape}, allowed are integers of shape (sample, step, feature) "
                f"with up to {steps} steps"
            )
        most = max(int(given.max(initial=0)), -int(given.min(initial=0)))
        if most > self.levels:
            raise InputError(f"given messages: magnitudes run up to {most}, the network takes up to {self.levels}")
        kind = np.int32 if self.graded else np.int8 if given.dtype.kind == "i" and given.min(initial=0) < 0 else np.bool_
        shown = np.zeros((len(given), steps, given.shape[2]), kind)
        shown[:, : given.shape[1]] = given
        return shown

    def values(self, pixels: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Return the target activities pixel · 2^scale_exponent, without any rounding.

        Args:
            pixels: Shape (sample, feature), integers, 0..levels.

        Returns:
            Shape (sample, feature), float64.

        Raises:
            InputError: The encoding is not of the kind "value", or `pixels` is not as said.
        """
        self._require("value", "values")
        return np.ldexp(self._checked(pixels).astype(np.float64), self.scale_exponent)

    def spikes(
        self, pixels: NDArray[np.integer[Any]], sample_indices: Sequence[int] | NDArray[np.integer[Any]], steps: int
    ) -> NDArray[np.bool_]:
        """Draw spikes with the probability pixel / levels in each step.

        With r the upper 32 bits of the hash, a spike is r · levels < pixel · 2^32, in integers: the probability is
        exact within 2^-32, the pixel 0 never spikes and the pixel `levels` always does.

        Args:
            pixels: Shape (sample, feature), integers, 0..levels.
            sample_indices: Shape (sample,): the index of each row in its data set, 0 or more. It alone, with the
                seed, decides a sample's random numbers; the row's place in `pixels` does not.
            steps: Number of steps, 1..2^31-1. Step t is the same however many steps follow.

        Returns:
            Shape (sample, step, feature), bool.

        Raises:
            InputError: The encoding is not of the kind "bernoulli", or an argument is not as said.
        """
        self._require("bernoulli", "spikes")
        checked = self._checked(pixels)
        _check_int("steps", steps, 1, MAX_STEPS)
        n_samples, n_features = checked.shape
        samples = _sample_counters(sample_indices, n_samples)
        goals = checked.astype(np.uint64) << np.uint64(32)
        out = np.empty((n_samples, steps, n_features), np.bool_)
        _draw(np.uint64(self.seed), samples, goals, np.uint64(self.levels), out.view(np.uint8))
        return out

    def to_json(self) -> dict[str, str | int]:
        """Return the fields as a dict of JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, entries: Mapping[str, object]) -> "Encoding":
        """Rebuild an encoding from what `to_json` returned.

        Raises:
            InputError: An entry is missing, unknown or outside its range.
        """
        allowed = [field.name for field in fields(cls)]
        if not isinstance(entries, Mapping) or set(entries) != set(allowed):  # pyright: ignore[reportUnnecessaryIsInstance]
            found = sorted(map(str, entries)) if isinstance(entries, Mapping) else type(entries).__name__  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"encoding: found {found}, needed are exactly the entries {allowed}")
        return cls(**cast("dict[str, Any]", dict(entries)))

    def _require(self, kind: str, method: str) -> None:
        if self.kind != kind:
            raise InputError(f"encoding {self.kind!r}: has no {method}, allowed is the kind {kind!r}")

    def _checked(self, pixels: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
        array = np.asarray(pixels)
        if array.dtype.kind not in "iu" or array.ndim != 2:
            raise InputError(f"pixels: {array.dtype} of shape {array.shape}, allowed are integers of shape (sample, feature)")
        if array.size and (int(array.min()) < 0 or int(array.max()) > self.levels):
            raise InputError(f"pixels: values run from {int(array.min())} to {int(array.max())}, allowed is 0..{self.levels}")
        return array


def _check_int(who: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"encoding: {who} is {value!r}, allowed are integers {low}..{high}")


def _sample_counters(sample_indices: Sequence[int] | NDArray[np.integer[Any]], n_samples: int) -> UInt64Array:
    indices = np.asarray(sample_indices)
    if indices.shape != (n_samples,):
        raise InputError(f"sample indices: shape {indices.shape}, allowed is ({n_samples},), one for each row of pixels")
    if n_samples == 0:
        return np.zeros(0, np.uint64)
    if indices.dtype.kind not in "iu" or int(indices.min()) < 0:
        raise InputError(f"sample indices: {indices.dtype} from {indices.min()}, allowed are integers of 0 or more")
    return indices.astype(np.uint64)
