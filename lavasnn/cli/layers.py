"""`layers`: how the two pathways of a BSD network resemble each other, layer by layer and over training, with a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from lavasnn.cli.common import DATA, FILE, OUTPUT, OUTPUT_FILE, check_fit, open_data, show, table
from lavasnn.errors import InputError

if TYPE_CHECKING:
    from lavasnn.nn.bsd import BSDNet

SHOWN = 500
"""Samples without `--samples`, at most."""
COLUMNS = {
    "hamming": "send the same",
    "by_chance": "by chance",
    "cosine": "cosine of voltages",
    "rate": "rate, Type 1",
    "rate_recall": "rate, Type 2",
    "alignment": "W and Theta",
}


@click.command("layers")
@click.argument("file", type=FILE)
@click.option("-o", "--output", type=OUTPUT_FILE, default=Path("runs/layers.png"), show_default=True, help="Picture.")
@DATA
@click.option(
    "--samples", type=click.IntRange(min=10), help="Use only the first N samples; without it 500, if there are as many."
)
@OUTPUT
def layers_command(
    file: Path,
    output: Path,
    spec: str | None,
    data_dir: Path | None,
    download: bool,
    samples: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare the two pathways of a trained BSD network in each layer: spikes, voltages, rates and weights.

    The picture has the same over training, and a t-SNE map of what Type 1 of each layer says of the samples.

    Example: lavasnn layers runs/m.safetensors --data mnist -o layers.png
    """
    import torch

    from lavasnn.learning.bsd import alignment, likeness
    from lavasnn.learning.model import load_model
    from lavasnn.learning.trainer import shown_values
    from lavasnn.nn.bsd import BSDNet
    from lavasnn.report.figures import over_training

    model = load_model(file)
    if not isinstance(model.net, BSDNet):
        raise InputError(f"{file}: a network of {model.config.network.neuron} neurons, needed is one of pyramidal ones")
    images = open_data(spec, model.config.data.name, data_dir, download, samples)
    images = images if samples is not None else images.take(min(SHOWN, len(images)))
    check_fit(images, model.net.sizes[0], model.net.sizes[-1])
    x = shown_values(torch.from_numpy(images.pixels), model.encoding)
    rows: list[dict[str, Any]] = [
        {**row, "by_chance": chance(row["rate"], row["rate_recall"])}
        for row in likeness(model.net, x, torch.from_numpy(images.labels))
    ]
    for row, value in zip(rows, alignment(model.net), strict=False):
        row["alignment"] = value
    maps = [embedded(v) for v in voltages(model.net, x)]
    over_training(output, model.config.name, [e.layers for e in model.history if e.layers], maps, images.labels)
    values = {"file": file, "data": images.label, "samples": len(images), "output": output, "layers": rows}

    def lines() -> None:
        cells = [[str(i), *(f"{row[k]:.3f}" if k in row else "-" for k in COLUMNS)] for i, row in enumerate(rows, start=1)]
        table("The two pathways, layer by layer", ["layer", *COLUMNS.values()], cells)
        click.echo(f"picture  {output}")

    show(as_json, values, lines)


def chance(a: float, b: float) -> float:
    """How often two neurons that fire independently at rates a and b send the same."""
    return a * b + (1 - a) * (1 - b)


def voltages(net: BSDNet, x: Any) -> list[NDArray[np.float64]]:
    """Mean basal voltages of Type 1, shape (sample, neuron), of each layer behind the stimulus."""
    parts = [net.perceive(some).v for some in x.split(net.rows())]
    return [np.concatenate([part[i].numpy() for part in parts]).astype(np.float64) for i in range(1, len(net.sizes))]


def embedded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """t-SNE of rows, shape (row, 2), by scikit-learn, from principal components, seed fixed; 0 where all rows are equal."""
    if not np.ptp(values, axis=0).any():  # a silent layer, on which scikit-learn dies
        return np.zeros((len(values), 2))
    values = np.pad(values, ((0, 0), (0, max(0, 2 - values.shape[1]))))
    from sklearn.manifold import TSNE  # pyright: ignore[reportMissingTypeStubs]

    method: Any = TSNE(perplexity=min(30.0, (len(values) - 1) / 3), init="pca", random_state=0)
    return np.asarray(method.fit_transform(values), np.float64)


COMMANDS = {"layers": layers_command}
