"""What the commands share: options, files, data, and how results are shown."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from compile.passes.fold import folded
from compile.passes.lower import lowered
from compile.passes.quantize import real
from compile.program import Program
from lavasnn import data
from lavasnn.cli import discard_output
from lavasnn.data import NAMES, Images
from lavasnn.errors import InputError, LavaMissing
from lavasnn.files import read_tensors
from lavasnn.ir import Graph
from lavasnn.recordings import Recording, load_input

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path, dir_okay=False)


class _OutputFile(click.Path):
    """A file to be written, as a whole and by renaming, which devices and pipes would not survive."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.name:
            self.fail("a file name is needed", param, ctx)
        if path.exists() and not path.is_file():
            self.fail(f"{str(path)!r} is a device or pipe, a plain file is needed", param, ctx)
        return path


OUTPUT_FILE = _OutputFile(path_type=Path, dir_okay=False)
SEEDS = click.IntRange(min=0, max=2**63 - 1)


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several click options as one decorator."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


OUTPUT = options(
    click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else there."),
    click.option("-q", "--quiet", is_flag=True, help="No progress on stderr."),
)
DATA = options(
    click.option(
        "--data",
        "spec",
        help=f"{', '.join(NAMES)}; with :train or :test, else test samples, for compile training samples.",
    ),
    click.option("--data-dir", type=click.Path(path_type=Path), help="Where image files are; else LAVASNN_DATA, else cache."),
    click.option("--download", is_flag=True, help="Fetch missing image files (with checksum)."),
)
INPUT = click.option(
    "--input",
    "given",
    help="Instead of --data: messages or pixels in a .npy, .npz (x, labels) or .nir file, or random[:RATE].",
)
SAMPLES = click.option("--samples", type=click.IntRange(min=1), help="Use only the first N samples.")
BATCH = click.option("--batch", type=click.IntRange(min=1), default=256, show_default=True, help="Samples at a time.")
BACKEND = click.option(
    "--backend", type=click.Choice(["exact", "lava"]), default="exact", show_default=True, help="Who runs it."
)
PRECISION = click.option(
    "--precision",
    type=click.Choice(["fixed", "float"]),
    help="Integers, or float64 (of a program: its own weights as real numbers). Default: what the file holds; verify compiles.",
)


def show(as_json: bool, values: dict[str, Any], lines: Callable[[], None]) -> None:
    """Print values as JSON, or call `lines` to print for a person."""
    try:
        if as_json:
            click.echo(json.dumps(values, default=_plain, allow_nan=False))
        else:
            lines()
    except BrokenPipeError:  # the reader has seen enough; what follows still decides the exit status
        discard_output()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(type(value).__name__)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table; the first column to the left, numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=title, title_justify="left", title_style="bold")
    for i, name in enumerate(columns):
        grid.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    console = Console(width=None if sys.stdout and sys.stdout.isatty() else 120)
    with console.capture() as text:
        console.print(grid)
    click.echo(text.get(), nl=False)


def counted(n: int, thing: str) -> str:
    """A number with its noun, in the plural where it is not 1."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def note(quiet: bool, text: str) -> None:
    """A line of progress on stderr."""
    if not quiet:
        click.echo(("\r\x1b[K" if sys.stderr.isatty() else "") + text, err=True)  # a ticker may stand in this line


def ticker(quiet: bool, what: str) -> Callable[[int, int], None] | None:
    """Progress of `done` out of `total` on stderr, one line that rewrites itself on a terminal."""
    if quiet or not sys.stderr or not sys.stderr.isatty():
        return None

    def tick(done: int, total: int) -> None:
        click.echo(f"\r\x1b[K{what}: {done}/{total}" + ("\n" if done >= total else ""), err=True, nl=False)

    return tick


@dataclass(frozen=True)
class Loaded:
    """A file of ours that holds a network.

    Args:
        kind: "model", "graph" or "program".
        graph: The network; integers if it is a program.
        program: The program, if it is one.
        trained_on: Name of the data set a model was trained on, or None.
        training: Error-phase bits per neuron while it was trained, or None.
        iterations: Of the float predictive coding it is compared with.
    """

    kind: str
    graph: Graph
    program: Program | None = None
    trained_on: str | None = None
    training: dict[str, float] | None = None
    iterations: int = 15

    def as_precision(self, precision: str | None) -> Graph:
        """The network in integers ("fixed") or float64 ("float"), as executors run it.

        Raises:
            InputError: Integers are asked of a network that is not compiled.
        """
        wanted = precision or ("fixed" if self.graph.integer else "float")
        if wanted == "fixed" and not self.graph.integer:
            raise InputError(f"a {self.kind} has no integers yet; run `lavasnn compile` on it, or use --precision float")
        return real(self.graph) if wanted == "float" and self.graph.integer else lowered(folded(self.graph))


def open_network(path: Path) -> Loaded:
    """Read a model, graph or program.

    Raises:
        InputError: No such file, or not one of these.
    """
    if path.suffix in (".nir", ".net"):
        raise InputError(f"{path} is a file of another tool; run `lavasnn import` on it first")
    kind, _, _ = read_tensors(path, "model", "graph", "program")
    if kind == "program":
        program = Program.load(path)
        origin = program.report.get("origin", {})
        training, iterations = origin.get("training"), origin.get("iterations", 15)
        return Loaded(kind, program.graph, program, origin.get("trained_on"), training, iterations)
    if kind == "graph":
        return Loaded(kind, Graph.load(path))
    from lavasnn.export import to_graph
    from lavasnn.export_bsd import bsd_graph
    from lavasnn.learning.backprop import deployed
    from lavasnn.learning.model import load_model
    from lavasnn.learning.spiking import SpikingNet
    from lavasnn.measure.traffic import training_summary
    from lavasnn.nn.bsd import BSDNet

    model = load_model(path)
    if isinstance(model.net, SpikingNet):
        net = deployed(model.net, model.encoding)
        graph = to_graph(net, model.encoding, model.config.spiking.steps, model.net.image)
        return Loaded(kind, graph, None, model.config.data.name)
    if isinstance(model.net, BSDNet):
        return Loaded(kind, bsd_graph(model.net, model.encoding, model.config.bsd.readout), None, model.config.data.name)
    training = training_summary([e.error_spikes for e in model.history], sum(model.net.sizes[1:]))
    graph = to_graph(model.net, model.encoding)
    return Loaded(kind, graph, None, model.config.data.name, training, model.config.training.iterations)


def open_data(
    spec: str | None,
    trained_on: str | None,
    data_dir: Path | None,
    download: bool,
    samples: int | None,
    split: str = "test",
    steps: int = 0,
) -> Images:
    """Samples named on the command line, or the split of the set that the network was trained on; events in `steps` steps.

    Raises:
        InputError: No set named, or more samples than it has.
    """
    if spec is None and trained_on is None:
        raise InputError("no data named: use --data digits, mnist or another set, or --input FILE")
    named = spec or str(trained_on)
    images = data.load(named if ":" in named else f"{named}:{split}", data_dir, download=download, steps=steps)
    if samples is not None and samples > len(images):
        raise InputError(f"--samples {samples:,}: {images.label} has {len(images):,}")
    return images if samples is None else images.take(samples)


def check_fit(images: Images, inputs: int, classes: int | None = None) -> None:
    """Refuse images of other sizes, or other classes if it tells classes apart, than a network's.

    Raises:
        InputError: They are.
    """
    theirs, mine = [f"{images.features:,} pixels"], [f"{inputs:,}"]
    if classes is not None:
        theirs, mine = [*theirs, f"{images.classes} classes"], [*mine, str(classes)]
    if images.features != inputs or classes not in (None, images.classes):
        raise InputError(f"{images.label} has {' and '.join(theirs)}, the network {' and '.join(mine)}")


def open_samples(
    network: Loaded,
    spec: str | None,
    given: str | None,
    data_dir: Path | None,
    download: bool,
    samples: int | None,
    seed: int | None = None,
    split: str = "test",
) -> Images | Recording:
    """Samples for a network: those of --input, else images as in `open_data`.

    Raises:
        InputError: Both are named, or see `open_data`.
        DataError: See `lavasnn.recordings.load_input`.
    """
    graph = network.graph
    steps = graph.phases(False)[-1].stop
    if given is None:
        return open_data(spec, network.trained_on, data_dir, download, samples, split, steps)
    if spec is not None:
        raise InputError("--data and --input are both given; a run takes its samples from one of them")
    found = load_input(given, graph.encoding, graph.source.size, steps, samples, seed or 0)
    if samples is not None and samples > len(found):
        raise InputError(f"--samples {samples:,}: {found.name} has {len(found):,}")
    return found if samples is None else found.take(samples)


def machine() -> dict[str, Any]:
    """Processor, cores, threads, Python and package versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("lavasnn", "numpy", "torch", "numba", "lava-nc", "lava-dl")},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def require_lava() -> None:
    """Say early that Lava is needed.

    Raises:
        LavaMissing: It is not installed.
    """
    if version("lava-nc") is None:
        raise LavaMissing(
            f"Lava is not installed in this Python {platform.python_version()}; it needs 3.10: make demo sets that up, "
            "training, compiling and --backend exact work without"
        )


def version(package: str) -> str | None:
    """Installed version of a package, None without it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
