"""Real weights onto Lava's 8-bit grid: sign modes, rounding, powers of two.

Loihi's mixed-sign weights have 8 bits at even values -256..254, one-sign ones the values 0..255 (lava-nc 0.10.0,
utils/weightutils.py, truncate_weights: the mixed flag costs the lowest bit).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.synapses import GRID, Grid, SignMode

LARGEST_SHIFT = 20


def on_grid(weight: NDArray[Any], unit: float, mode: SignMode) -> NDArray[np.int16]:
    """Nearest weights of the grid, in units of `unit`; beyond its ends they saturate."""
    low, high, step = GRID[mode]
    return np.clip(step * np.round(weight / (unit * step)), low, high).astype(np.int16)


def weight_report(weight: NDArray[Any], integers: NDArray[np.int16], unit: float, grid: Grid) -> dict[str, Any]:
    """What rounding did to real weights; `unit` is what one integer is worth, shift included."""
    low, high, _ = GRID[grid.sign_mode]
    error = np.abs(weight - integers * unit)
    return {
        "weights": int(weight.size),
        "changed": int((error > 0).sum()),
        "largest_error": float(error.max(initial=0.0)),
        "mean_error": float(error.mean()) if error.size else 0.0,
        "saturated": int(((weight < low * unit) | (weight > high * unit)).sum()),
        "unit": unit,
        "exponent": grid.exponent,
        "sign_mode": grid.sign_mode,
    }


def power_of_two_unit(weight: NDArray[Any], mode: SignMode) -> int:
    """Fraction bits f of the unit 2**-f with the smallest squared error; a few outliers may saturate."""
    low, high, step = GRID[mode]
    most = float(np.abs(weight).max())
    if most == 0.0:
        return 0
    fits = int(np.floor(np.log2(max(-low, high) / most)))
    best, least = fits, np.inf
    for bits in (fits - 1, fits, fits + 1, fits + 2):
        if bits > LARGEST_SHIFT:
            continue
        error = float(np.square(weight - on_grid(weight, 2.0**-bits, mode) * 2.0**-bits).sum())
        if error < least:
            best, least = bits, error
    best = min(best, LARGEST_SHIFT)
    # A coarser unit that holds the very same weights costs nothing and keeps the states smaller.
    chosen = on_grid(weight, 2.0**-best, mode)
    spare = trailing_zeros(chosen) - (step - 1)
    return max(best - max(spare, 0), min(best, 0))


def trailing_zeros(values: NDArray[Any]) -> int:
    """Factors of two that all values share; `LARGEST_SHIFT` if all are 0."""
    bits = int(np.bitwise_or.reduce(values.astype(np.int64), axis=None))
    return (bits & -bits).bit_length() - 1 if bits else LARGEST_SHIFT
