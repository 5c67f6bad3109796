"""Pictures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lavasnn.files import replacing
from lavasnn.results import RunResult

BLUE, ORANGE, GREY = "#2f6db5", "#d9730d", "#8a8a8a"


def overview(
    path: Path,
    title: str,
    accuracy: Sequence[tuple[str, Sequence[float]]],
    run: RunResult,
    errors: dict[str, NDArray[Any]],
) -> None:
    """One picture of training, messages and quantisation, as PNG (or whatever the suffix says).

    Args:
        path: Where.
        title: Above all panels.
        accuracy: Curves over epochs, fractions of 1, with their names.
        run: A run with both phases; its message counts are drawn per population and step.
        errors: Weight after minus before quantisation, by projection, in weight units.
    """
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1.7, 1])
    for (name, values), colour in zip(accuracy, (BLUE, ORANGE, GREY), strict=False):
        left.plot(range(1, len(values) + 1), [100 * v for v in values], label=name, color=colour, marker=".")
    left.set(title="accuracy over epochs", xlabel="epoch", ylabel="%")
    left.legend(loc="lower right")
    left.grid(alpha=0.3)
    _messages(figure, middle, run)
    for (name, values), colour in zip(errors.items(), (BLUE, ORANGE, GREY, "#3a915a"), strict=False):
        right.hist(values.ravel(), bins=60, histtype="step", label=name, color=colour, density=True)
    right.set(title="weight error of 8 bits", xlabel="weight units (the grid is 2 apart)", yticks=[])
    right.legend(loc="upper right")
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _messages(figure: Figure, axes: Any, run: RunResult) -> None:
    keys = [k for k in run.messages if run.messages[k].any()]
    grid = np.stack([run.messages[k].mean(axis=0) / run.sizes[k.rsplit(".", 1)[0]] for k in keys])
    image = axes.imshow(np.where(grid > 0, grid, np.nan), aspect="auto", cmap="viridis", interpolation="nearest")
    axes.set_yticks(range(len(keys)), [k.replace(".", "  ") + ("  *" if k in run.unheard else "") for k in keys])
    for phase in run.phases[1:]:
        axes.axvline(phase.start - 0.5, color=ORANGE, linewidth=1)
    axes.set(title="messages per neuron and step (* no one receives them)", xlabel="step")
    figure.colorbar(image, ax=axes, shrink=0.85)
