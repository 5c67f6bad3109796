"""Pictures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
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
        errors: Stored weights before minus after quantisation, by projection, in weight units.
    """
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1.7, 1])
    for (name, values), colour in zip(accuracy, (BLUE, ORANGE, GREY), strict=False):
        left.plot(range(1, len(values) + 1), [100 * v for v in values], label=name, color=colour, marker=".")
    left.set(title="accuracy over epochs", xlabel="epoch", ylabel="%")
    left.legend(loc="lower right")
    left.grid(alpha=0.3)
    _messages(figure, middle, run)
    for name, values in errors.items():
        right.hist(values.ravel(), bins=12, histtype="step", label=name, density=True)
    right.set(title="weight error of 8 bits", xlabel="weight units (the grid is 2 apart)", yticks=[], ylim=(0, None))
    right.legend(loc="lower right")
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def pictures(
    path: Path,
    title: str,
    rows: Mapping[str, NDArray[Any]],
    shape: Sequence[int],
    limits: tuple[float, float] | None = None,
) -> None:
    """Rows of small images.

    Args:
        path: Where.
        title: Above all.
        rows: By name, shape (picture, feature).
        shape: Of the features: rows and columns, or channels (1 or 3), rows and columns.
        limits: What is black and what is white; None scales each image to its own range.
    """
    columns = max(len(values) for values in rows.values())
    figure = Figure(figsize=(1.0 * columns + 0.6, 1.1 * len(rows) + 0.5), layout="constrained")
    for line, (name, values) in zip(figure.subplots(len(rows), columns, squeeze=False), rows.items(), strict=True):
        for axes, value in zip(line, values, strict=False):
            image = np.asarray(value, np.float64).reshape(shape)
            low, high = limits or (image.min(), image.max())
            image = ((image - low) / max(float(high - low), 1e-12)).clip(0, 1)
            image = image[0] if image.shape[0] == 1 else image
            image = image.transpose(1, 2, 0) if image.ndim == 3 else image
            axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        for axes in line:
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name)
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def over_depth(path: Path, results: Mapping[str, Sequence[Mapping[str, Sequence[float]]]]) -> None:
    """How far differences between two inputs reach: means over seeds behind each layer, and what sampling alone gives.

    Args:
        path: Where.
        results: For each kind of network the fields of `lavasnn.measure.correlation.Depth`, one entry a seed.
    """
    with rc_context({"svg.hashsalt": "lavasnn"}):
        figure = Figure(figsize=(9.5, 3.6), layout="constrained")
        panels = (("covariance", "of covariances, relative"), ("rate", "of mean rates, norm"))
        for axes, (key, title) in zip(figure.subplots(1, 2), panels, strict=True):
            for (name, rows), colour in zip(results.items(), (GREY, BLUE, ORANGE), strict=True):
                values = np.array([row[key] for row in rows])
                mean, spread = values.mean(0), values.std(0)
                depth = np.arange(len(mean))
                axes.plot(depth, mean, label=name, color=colour, marker=".")
                axes.fill_between(depth, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
                axes.plot(depth, np.mean([row[f"{key}_floor"] for row in rows], axis=0), color=colour, linestyle=":")
            axes.set(title=f"difference {title}", xlabel="layers passed", ylim=(0, None))
            axes.grid(alpha=0.3)
        figure.axes[0].legend(loc="upper right")
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


def over_training(
    path: Path,
    title: str,
    epochs: Sequence[Sequence[Mapping[str, float]]],
    maps: Sequence[NDArray[Any]],
    labels: NDArray[np.int64],
) -> None:
    """How two pathways come to resemble each other, and a map of every layer's samples, coloured by class.

    Args:
        path: Where.
        title: Above all.
        epochs: For each epoch and layer the fields of `EpochReport.layers`; without any, only the maps are drawn.
        maps: Of the layers from the second on, places of the samples, shape (sample, 2).
        labels: Their classes, shape (sample,).
    """
    kinds = ("hamming", "rate", "rate_recall", "alignment")
    titles = ("both send the same", "rate of Type 1", "rate of Type 2", "cosine of W and Theta")
    columns = max(len(kinds), len(maps))
    figure = Figure(figsize=(2.9 * columns, 6.2 if epochs else 3.1), layout="constrained")
    panels = figure.subplots(2 if epochs else 1, columns, squeeze=False)
    for kind, name, axes in zip(kinds, titles, panels[0] if epochs else (), strict=False):
        for layer in range(len(epochs[0])):
            values = [epoch[layer][kind] for epoch in epochs if kind in epoch[layer]]
            if values:
                axes.plot(range(1, len(values) + 1), values, label=f"layer {layer + 1}", marker=".", markersize=3)
        axes.set(title=name, xlabel="epoch")
        axes.grid(alpha=0.3)
    if epochs:
        panels[0][0].legend(fontsize="x-small")
    for layer, (axes, places) in enumerate(zip(panels[-1], maps, strict=False), start=2):
        axes.scatter(*places.T, c=labels, cmap="tab10", s=4)
        axes.set(title=f"layer {layer}, Type 1 (t-SNE)", xticks=[], yticks=[])
    for axes in [*(panels[0][len(kinds) :] if epochs else ()), *panels[-1][len(maps) :]]:
        axes.set_axis_off()
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
