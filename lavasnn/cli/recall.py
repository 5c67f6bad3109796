"""`recall`: what the Type 2 pathway of a BSD network makes of each concept, or an autoencoder of images, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from lavasnn.cli.common import (
    BACKEND,
    DATA,
    FILE,
    OUTPUT,
    OUTPUT_FILE,
    PRECISION,
    SAMPLES,
    Loaded,
    check_fit,
    open_data,
    open_network,
    show,
    table,
)
from lavasnn.cli.execute import execute
from lavasnn.data import Images
from lavasnn.errors import InputError
from lavasnn.files import read_tensors
from lavasnn.ir import Graph


@click.command("recall")
@click.argument("file", type=FILE)
@click.option("-o", "--output", type=OUTPUT_FILE, default=Path("runs/recall.png"), show_default=True, help="Picture.")
@DATA
@SAMPLES
@BACKEND
@PRECISION
@OUTPUT
def recall_command(
    file: Path,
    output: Path,
    spec: str | None,
    data_dir: Path | None,
    download: bool,
    samples: int | None,
    backend: str,
    precision: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show each concept to a BSD network, and what arrives at the stimulus from it, beside the mean of the class's images.

    Told with it is the cosine of the recalled voltages with every image of the class, and with those of all other classes.
    Of an autoencoder: images, what Type 1 reconstructs of each, what Type 2 recalls of it, and how far both are from it.

    Example: lavasnn recall program.safetensors --data mnist -o recall.png
    """
    if is_autoencoder(file):
        if backend != "exact" or precision is not None:
            raise InputError(f"{file} is an autoencoder, which torch runs; it has neither --backend nor --precision")
        show_autoencoder(file, output, spec, data_dir, download, 10 if samples is None else samples, as_json)
        return
    network = open_network(file)
    images = open_data(spec, network.trained_on, data_dir, download, samples)
    found = recalled(network, images, backend, precision, quiet)
    rows = alike(found, images)
    draw(output, found, images)
    values = {"file": file, "data": images.label, "backend": backend, "output": output, "concepts": rows}

    def lines() -> None:
        cells = [[str(r["concept"]), *(_number(r[k]) for k in ("cosine", "cosine_others", "cosine_mean"))] for r in rows]
        table("Cosine of what is recalled", ["concept", "with its images", "with all others", "with their mean"], cells)
        click.echo(f"picture  {output}")

    show(as_json, values, lines)


def is_autoencoder(file: Path) -> bool:
    """Whether a file is the model of one."""
    if file.suffix in (".nir", ".net"):
        return False
    kind, header, _ = read_tensors(file, "model", "graph", "program")
    return kind == "model" and header.get("task") == "reconstruction"


def show_autoencoder(
    file: Path, output: Path, spec: str | None, data_dir: Path | None, download: bool, samples: int, as_json: bool
) -> None:
    """Draw the first images of a set, and under each what both pathways make of it."""
    from lavasnn.learning.reconstruction import as_floats, brought_back, load_autoencoder
    from lavasnn.measure.pictures import mse
    from lavasnn.report.figures import pictures

    net, config = load_autoencoder(file)
    images = open_data(spec, config.data.name, data_dir, download, samples)
    check_fit(images, net.sizes[0])
    found, truth = brought_back(net, images), as_floats(images)
    rows = {"image": truth, "Type 1": found.x} | ({} if config.label == "bptt" else {"Type 2": found.u})
    pictures(output, f"{file.name}: {images.label}", rows, images.shape, (0, 1))
    errors = {name: mse(x, truth) for name, x in rows.items() if x is not truth}
    values = {"file": file, "data": images.label, "output": output, "samples": len(images)}
    values |= {"mse": errors["Type 1"], "mse_recall": errors.get("Type 2")}

    def lines() -> None:
        for name, error in errors.items():
            click.echo(f"{name}: mean squared error {error:.4f} of {len(images):,} images")
        click.echo(f"picture  {output}")

    show(as_json, values, lines)


def recalled(network: Loaded, images: Images, backend: str, precision: str | None, quiet: bool) -> NDArray[np.float64]:
    """Voltages that each concept brings to the stimulus layer, shape (class, neuron), summed over a window.

    Raises:
        InputError: The network has no Type 2 pathway, or the images do not fit it.
    """
    graph = network.as_precision(precision)
    end = stimulus_end(graph)
    check_fit(images, graph.source.size, graph.population(graph.output).size)
    concepts = np.arange(images.classes)
    nothing = np.zeros((images.classes, images.features), np.uint8)
    blank = Images("blank", "test", nothing, concepts, images.shape, images.levels, images.classes)
    run = execute(backend, graph, blank, False, len(concepts), True, quiet)
    return run.traces[f"{end}.acc_b"][:, -1].astype(np.float64)


def stimulus_end(graph: Graph) -> str:
    """The population where recall ends.

    Raises:
        InputError: The network has no Type 2 pathway.
    """
    reached = graph.heard_of("concept") if graph.pyramidal else ()
    if not reached:
        raise InputError("recall: the network has no pathway from concept to stimulus; `train` a BSD network")
    return reached[-1]


def alike(found: NDArray[np.float64], images: Images) -> list[dict[str, Any]]:
    """For each class the mean cosine of what was recalled with its images, with all others, and with its images' mean.

    None where a class has no image or nothing was recalled.
    """
    pixels = images.pixels.astype(np.float64)
    unit = pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-12)
    rows: list[dict[str, Any]] = []
    for c, picture in enumerate(found):
        length, own = float(np.linalg.norm(picture)), images.labels == c
        row: dict[str, Any] = {"concept": c, "cosine": None, "cosine_others": None, "cosine_mean": None}
        if length and own.any() and not own.all():
            cosines, mean = unit @ picture / length, pixels[own].mean(0)
            row |= {"cosine": float(cosines[own].mean()), "cosine_others": float(cosines[~own].mean())}
            row["cosine_mean"] = float(mean @ picture / length / max(float(np.linalg.norm(mean)), 1e-12))
        rows.append(row)
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def draw(path: Path, found: NDArray[np.float64], images: Images) -> None:
    """What was recalled above the mean image of each class."""
    from lavasnn.report.figures import pictures

    means = np.stack(
        [images.pixels[images.labels == c].mean(0) if (images.labels == c).any() else 0 * found[c] for c in range(len(found))]
    )
    pictures(path, "What each concept recalls", {"recalled": found, "mean image": means}, images.shape)


COMMANDS = {"recall": recall_command}
