"""The weights that run once lava-dl's netx has scaled the ones of a file and Lava has clipped and truncated them.

netx shifts a dense layer's weights left as far as 8 bits allow and their sums right again; Lava clips what it gets and drops
the lowest bits. Most matrices come out as they went in. Those that do not are mostly ones without positive weights.
Kernels of convolutions stay as they are.

Source: lava-dl 0.6.0, lava/lib/dl/netx/utils.py, optimize_weight_bits, and blocks/process.py, Dense (which hands no sign
mode on); lava-nc 0.10.0, lava/utils/weightutils.py, determine_sign_mode, clip_weights and truncate_weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.errors import InputError
from lavasnn.synapses import GRID, Grid, sign_mode

WeightArray = NDArray[Any]

BITS = 8
"""Of a weight; a mixed sign takes one of them."""


def run_by_netx(*matrices: WeightArray) -> list[tuple[WeightArray, Grid]]:
    """Weights of a dense layer as they run.

    Args:
        matrices: Integers; several (feed-forward and recurrent) share one scale in netx.

    Returns:
        For each matrix its weights on the chip's grid, and the grid.

    Raises:
        InputError: Weights that netx or Lava would destroy, or that lie on no grid.
    """
    every = np.concatenate([m.reshape(-1) for m in matrices]).astype(np.int64)
    if not every.any():
        return [(m.astype(np.int16), Grid(0, sign_mode(m))) for m in matrices]
    if (every.max() > 254 and every.min() < 0) or (every.min() < -256 and every.max() > 0):
        every = np.clip(every, -256, 254)
        matrices = tuple(np.clip(m, -256, 254) for m in matrices)
    shift, bits = _scale(every)
    if shift < 0:
        raise InputError(f"has weights {every.min()}..{every.max()}, which netx turns into zeros; allowed are 8 bits")
    return [_held(m.astype(np.int64) << shift, shift, bits) for m in matrices]


def on_grid(weight: WeightArray) -> tuple[WeightArray, Grid]:
    """Integers as weights of a synapse: as they are, or times a power of two that its exponent takes away again.

    Raises:
        InputError: There is no such power.
    """
    mode = sign_mode(weight)
    low, high, spacing = GRID[mode]
    for exponent in (0, -1, *range(1, BITS)):
        if exponent > 0 and (weight % (1 << exponent)).any():
            break
        held = weight >> exponent if exponent > 0 else weight << -exponent
        if held.min() >= low and held.max() <= high and not (held % spacing).any():
            return held.astype(np.int16), Grid(exponent, mode)
    raise InputError(
        f"has weights {weight.min()}..{weight.max()} that no synapse holds: {mode} ones are {low}..{high} in steps of "
        f"{spacing}, all times a power of two"
    )


def _scale(every: NDArray[np.int64]) -> tuple[int, int]:
    """The left shift of weights and the bits that netx says they then need."""
    least, most = int(every.min()), int(every.max())
    signed = least < 0 <= most
    if signed:
        scale = min(127 / most if most else np.inf, -128 / least)
    else:
        scale = -256 / least if most < 0 else 255 / most
    shift = int(np.floor(np.log2(scale))) + signed
    even = next((k for k in range(BITS, 0, -1) if not (every % (1 << k)).any()), 0)
    return shift, BITS - shift - (even - signed)


def _held(scaled: NDArray[np.int64], shift: int, bits: int) -> tuple[WeightArray, Grid]:
    """What Lava's Dense makes of scaled weights, and then the shift taken back where it leaves no fractions."""
    mode = sign_mode(scaled)
    dropped = BITS - bits + (mode == "mixed")
    if dropped < 0:
        raise InputError(
            f"has odd weights {scaled.min()}..{scaled.max()}, which Lava would turn into zeros; allowed are even ones"
        )
    if mode == "inhibitory":
        held = -(np.clip(-scaled, 0, 255) >> dropped << dropped)
    else:
        held = np.clip(scaled, -256 if mode == "mixed" else 0, 255) >> dropped << dropped
    if (held % (1 << shift)).any():
        return held.astype(np.int16), Grid(-shift, mode)
    return on_grid(held >> shift)
