"""Picture of a placement: where the cores lie on their chips, how full they are and what they exchange."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lavasnn.errors import InputError
from lavasnn.files import replacing

LINES = 400
"""Heaviest links that are drawn."""


def check_format(path: Path) -> None:
    """Refuse a name that ends with no format of pictures.

    Raises:
        InputError: Names what is allowed.
    """
    known = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise InputError(f"cannot draw {path}: the name ends with {path.suffix!r}, allowed are .{', .'.join(sorted(known))}")


def core_map(
    path: Path,
    title: str,
    chip: tuple[int, int],
    places: NDArray[np.int64],
    load: NDArray[np.float64],
    traffic: NDArray[np.float64],
    links: Sequence[tuple[int, int, float]] = (),
    names: Sequence[str] = (),
) -> None:
    """Draw two maps of the mesh side by side: load of the cores, and their traffic with the heaviest links.

    Args:
        path: Where; the suffix says the format.
        title: Above both.
        chip: Columns and rows of a chip; borders between chips are drawn.
        places: Column and row of each core, counted over all chips, shape (core, 2).
        load: Largest share of any resource that a core uses, 1 is full, shape (core,).
        traffic: Messages per sample that a core sends to and receives from others, shape (core,).
        links: Pairs of cores and the messages between them.
        names: What each core holds; written on it while there is room.

    Raises:
        InputError: A suffix that is no format of pictures, or a place that cannot be written.
    """
    check_format(path)
    figure = Figure(layout="constrained")
    wide, high = (-(-(int(places[:, axis].max()) + 1) // chip[axis]) * chip[axis] for axis in (0, 1))
    figure.set_size_inches(min(24.0, 4 + 0.85 * wide), min(16.0, 1.5 + 0.42 * high))
    left, right = figure.subplots(1, 2)
    for axes, values, label, most in (
        (left, 100 * load, "load: fullest resource, %", 100.0),
        (right, traffic, "messages per sample, sent and received", max(float(traffic.max(initial=0.0)), 1e-9)),
    ):
        grid = np.full((high, wide), np.nan)
        grid[places[:, 1], places[:, 0]] = values
        image = axes.imshow(grid, cmap="viridis", vmin=0, vmax=most, interpolation="nearest")
        figure.colorbar(image, ax=axes, shrink=0.8, label=label)
        _mesh(axes, wide, high, chip)
    if wide * high <= 150:
        for (x, y), name in zip(places.tolist(), names, strict=False):
            left.text(x, y, name[:7], ha="center", va="center", fontsize=6, color="white" if _dark(left, x, y) else "black")
    heaviest = sorted((m for m in links if m[2] > 0 and m[0] != m[1]), key=lambda link: -link[2])[:LINES]
    if heaviest:
        ends = [(places[a], places[b]) for a, b, _ in heaviest]
        widths = [0.2 + 1.8 * m / heaviest[0][2] for _, _, m in heaviest]
        right.add_collection(LineCollection(ends, linewidths=widths, colors="#d9730d", alpha=0.6))
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _mesh(axes: Any, wide: int, high: int, chip: tuple[int, int]) -> None:
    axes.set(xlabel="column of the mesh", ylabel="row", facecolor="#e8e8e8")
    for x in range(chip[0], wide, chip[0]):
        axes.axvline(x - 0.5, color="black", linewidth=1.5)
    for y in range(chip[1], high, chip[1]):
        axes.axhline(y - 0.5, color="black", linewidth=1.5)


def _dark(axes: Any, x: int, y: int) -> bool:
    value = axes.images[0].get_array()[y, x]
    return not np.ma.is_masked(value) and float(value) < 60
