"""Wrong, damaged and hostile input: one line that says what is wrong, exit 2, nothing half done left behind."""

import contextlib
import importlib
import io
import json
import os
import re
import resource
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from compile.pipeline import compile_graph
from lavasnn.cli import main
from lavasnn.config import parse
from lavasnn.data import load
from lavasnn.dynamics.diffpc import DiffPCInt
from lavasnn.dynamics.timing import Timing
from lavasnn.encode import Encoding
from lavasnn.files import write_tensors
from lavasnn.ir import Graph, Population, Projection
from lavasnn.learning.model import save_model
from lavasnn.learning.trainer import Trainer
from lavasnn.synapses import Dense, Grid, Transposed

CONFIG = 'name = "tiny"\n[data]\nname = "digits"\n[network]\nhidden = [8]\n[training]\nepochs = 1\n[timing]\nm = 3\nn = 6\n'
LIF = 'neuron = "lif"\nsteps = 4\nsizes = [64, 8, 10]\n[input]\nlevels = 16\n'
FOREIGN = 'neuron = "{neuron}"\n[[layer]]\nweight = "a"\nbias = "b"\n[[layer]]\nweight = "c"\n[input]\nlevels = 16\n'


@dataclass
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str


def lavasnn(*arguments: object) -> Outcome:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return Outcome(int(stop.value.code or 0), out.getvalue(), err.getvalue())


def files(*folders: Path) -> dict[Path, bytes | None]:
    """All there is below some folders."""
    found = [path for folder in folders for path in sorted(folder.rglob("*"))]
    return {path: path.read_bytes() if path.is_file() else None for path in found}


def refused(words: str, *arguments: object, within: Path, status: int = 2) -> str:
    """Run a command that has to be refused with a line matching `words`, and to change nothing below `within`."""
    before = files(within)
    outcome = lavasnn(*arguments)
    assert outcome.status == status, outcome
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1, outcome.err
    assert re.match("error: (?!unexpected)", outcome.err), outcome.err
    assert re.search(words, outcome.err), outcome.err
    assert "Traceback" not in outcome.err
    assert files(within) == before
    return outcome.err


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model m, its program p and graph g; an untrained LIF graph lg and its program lp; a run r."""
    path = tmp_path_factory.mktemp("bad")
    (path / "c.toml").write_text(CONFIG)
    (path / "lif.toml").write_text(LIF)
    for arguments in (
        ("train", path / "c.toml", "-o", path / "m"),
        ("compile", path / "m", "-o", path / "p"),
        ("export", path / "m", "-o", path / "g"),
        ("export", "--init", 3, "--network", path / "lif.toml", "-o", path / "lg"),
        ("compile", path / "lg", "-o", path / "lp", "--data", "digits"),
        ("run", path / "p", "--samples", 2, "-o", path / "r"),
    ):
        outcome = lavasnn(*arguments)
        assert outcome.status == 0, outcome.err
    return path


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No image files but those a test makes."""
    importlib.import_module("matplotlib.font_manager")  # writes its own cache when it is first loaded
    monkeypatch.delenv("LAVASNN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-cache"))


# Files that are not what they should be


def damaged(folder: Path, tmp_path: Path) -> dict[str, Path]:
    whole = (folder / "p").read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    contents = {
        "empty": b"",
        "random": np.random.default_rng(0).bytes(1000),
        "text": b"hello\nworld\n",
        "zeros": bytes(4096),
        "cut in the middle": whole[: len(whole) // 2],
        "cut by a byte": whole[:-1],
        "cut in the header": whole[: 8 + length // 2],
        "header length": b"\xff" * 8 + whole[8:],
        "one bit": whole[:-5] + bytes([whole[-5] ^ 4]) + whole[-4:],
        "one bit of the header": whole.replace(b'\\"loihi2\\"', b'\\"loihi3\\"'),
        "newer schema": whole.replace(b'\\"schema\\": 1', b'\\"schema\\": 7'),
        "no schema": whole.replace(b'\\"schema\\": 1', b'\\"schema\\": {'),
        "longer": whole + b"more",
    }
    paths: dict[str, Path] = {}
    for name, content in contents.items():
        assert content != whole, name
        paths[name] = tmp_path / name.replace(" ", "-")
        paths[name].write_bytes(content)
    paths["missing"] = tmp_path / "missing"
    paths["folder"] = tmp_path / "folder"
    paths["folder"].mkdir()
    paths["below a file"] = folder / "c.toml" / "p"
    return paths


def test_damaged_files_are_refused_by_every_command(folder: Path, tmp_path: Path) -> None:
    known = {
        "missing": "no file",
        "folder": "is a directory",
        "below a file": "no file",
        "newer schema": "schema 7, this lavasnn reads up to 1; upgrade lavasnn",
        "one bit": "damaged, its content does not match its checksum",
        "one bit of the header": "damaged, its content does not match its checksum",
    }
    for kind, path in damaged(folder, tmp_path).items():
        words = known.get(kind, "no readable safetensors file")
        for command in ("run", "verify", "bits"):
            assert str(path) in refused(words, command, path, "--samples", 1, within=tmp_path)
        for command in ("compile", "export"):
            refused(words, command, path, "-o", tmp_path / "out", within=tmp_path)


def test_files_of_the_wrong_kind(folder: Path, tmp_path: Path) -> None:
    refused("p is compiled already", "compile", folder / "p", "-o", tmp_path / "out", within=tmp_path)
    for name, kind in (("m", "model"), ("g", "graph")):
        words = f"a {kind} has no integers yet; run `lavasnn compile` on it, or use --precision float"
        for command in ("run", "bits"):
            refused(words, command, folder / name, "--data", "digits", "--precision", "fixed", within=tmp_path)
    for command in (("run",), ("bits",), ("compile", "-o", tmp_path / "out")):
        refused("holds a run, needed is a model or graph or program", *command, folder / "r", within=tmp_path)
        refused("c.toml: no readable safetensors file", *command, folder / "c.toml", within=tmp_path)
    write_tensors(tmp_path / "checkpoint", "checkpoint", {}, {})
    refused("holds a checkpoint, needed is", "run", tmp_path / "checkpoint", within=tmp_path)
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pt")
    refused("w.pt is a state dict; --network FILE", "export", tmp_path / "w.pt", "-o", tmp_path / "out", within=tmp_path)
    refused("not TOML", "train", folder / "p", "-o", tmp_path / "out", within=tmp_path)


def test_a_safetensors_file_of_others_is_told_apart(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "s.safetensors")
    refused("a safetensors file, but not one that lavasnn wrote", "run", tmp_path / "s.safetensors", within=tmp_path)


# Weights that are no numbers, sizes of zero


def state_dict(tmp_path: Path, a: torch.Tensor, b: torch.Tensor | None = None, c: torch.Tensor | None = None) -> Path:
    path = tmp_path / "w.pt"
    torch.save({"a": a, "b": torch.zeros(len(a)) if b is None else b, "c": torch.ones(10, len(a)) if c is None else c}, path)
    return path


@pytest.mark.parametrize("neuron", ["lif", "diffpc"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(tmp_path: Path, neuron: str, value: float) -> None:
    text = FOREIGN.format(neuron=neuron)
    (tmp_path / "n.toml").write_text(text if neuron == "diffpc" else "steps = 4\n" + text)
    weight = torch.zeros(5, 64)
    weight[2, 3] = value
    arguments = ("--network", tmp_path / "n.toml", "-o", tmp_path / "out")
    words = "projection 'w1' has 1 weights that are not finite, out of 320"
    refused(words, "export", state_dict(tmp_path, weight), *arguments, within=tmp_path)
    bias = torch.zeros(5)
    bias[1] = value
    refused("bias", "export", state_dict(tmp_path, torch.zeros(5, 64), bias), *arguments, within=tmp_path)


def test_a_model_with_weights_that_are_not_finite(tmp_path: Path) -> None:
    trainer = Trainer(parse({"network": {"hidden": [4]}}, "here"), load("digits:train").take(20))
    with torch.no_grad():
        trainer.net.linears[1].weight[0, :2] = float("nan")
    save_model(tmp_path / "m", trainer.net, trainer.config, trainer.encoding, [], 0)
    for arguments in (("compile", tmp_path / "m", "-o", tmp_path / "out"), ("run", tmp_path / "m"), ("bits", tmp_path / "m")):
        refused("not finite", *arguments, within=tmp_path)


def test_layers_of_no_neurons(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[network]\nhidden = [8, 0]\n")
    words = r"c\.toml: network\.hidden\[1\] is 0; a layer needs at least 1 neuron"
    refused(words, "train", tmp_path / "c.toml", "-o", tmp_path / "out", within=tmp_path)
    (tmp_path / "n.toml").write_text(LIF.replace("[64, 8, 10]", "[64, 0, 10]"))
    refused(r"\[64, 0, 10\]", "export", "--init", 0, "--network", tmp_path / "n.toml", "-o", tmp_path / "out", within=tmp_path)
    (tmp_path / "n.toml").write_text(FOREIGN.format(neuron="diffpc"))
    weights = state_dict(tmp_path, torch.zeros(0, 64))
    refused("0", "export", weights, "--network", tmp_path / "n.toml", "-o", tmp_path / "out", within=tmp_path)


# Options


@pytest.mark.parametrize(
    "options, words",
    [
        ("--samples 0", "'--samples': 0 is not in the range"),
        ("--samples -3", "'--samples': -3 is not in the range"),
        ("--samples x", "'--samples': 'x' is not a valid"),
        ("--samples 361", "--samples 361: digits:test has 360"),
        ("--samples 10000000000000000000000", "--samples 10,000,000,000,000,000,000,000: digits:test has 360"),
        ("--batch 0", "'--batch': 0 is not in the range"),
        ("--batch -1", "'--batch': -1 is not in the range"),
        ("--precision half", "'--precision': 'half' is not one of 'fixed', 'float'"),
        ("--seed -1", "'--seed': -1 is not in the range"),
        ("--seed 9223372036854775808", "'--seed': 9223372036854775808 is not in the range"),
        ("--data cifar", "data set 'cifar(:test)?' is unknown, allowed are digits, mnist, fashion_mnist"),
        ("--data digits:", "data set 'digits:' is unknown"),
        ("--data digits:validation", "data set 'digits:validation' is unknown"),
        ("--data mnist", "mnist:test: 2 of 2 files missing in .*MNIST/raw .*--data-dir or LAVASNN_DATA"),
        ("--data fashion_mnist:train --data-dir nowhere", "2 of 2 files missing in nowhere/FashionMNIST/raw"),
        ("--frobnicate", "No such option"),
        ("extra", "unexpected extra argument"),
    ],
)
@pytest.mark.parametrize("command", ["run", "verify", "bits"])
def test_wrong_options(folder: Path, tmp_path: Path, command: str, options: str, words: str) -> None:
    refused(words, command, folder / "p", *options.split(), within=tmp_path)


def test_other_wrong_options(folder: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out")
    for words, *arguments in (
        ("'--backend': 'gpu' is not one of 'exact', 'lava'", "run", folder / "p", "--backend", "gpu"),
        ("'--phases': 'three' is not one of", "run", folder / "p", "--phases", "three"),
        ("No such command 'fly'", "fly"),
        ("Missing argument 'FILE'", "run"),
        ("Missing option '-o'", "compile", folder / "m"),
        ("target 'loihi3' is unknown; known are loihi2", "compile", folder / "m", "--target", "loihi3", *out),
        ("cannot read .*none.toml: No such file", "compile", folder / "m", "--target", tmp_path / "none.toml", *out),
        ("c.toml: unknown entry data; allowed are base", "compile", folder / "m", "--target", folder / "c.toml", *out),
        ("cannot draw .*map: the name ends with '', allowed", "compile", folder / "m", "--figure", tmp_path / "map", *out),
        ("'--calibrate': 0 is not in the range", "compile", folder / "m", "--calibrate", 0, *out),
        ("'--epochs': 0 is not in the range", "train", folder / "c.toml", "--epochs", 0, *out),
        ("'--method': 'magic' is not one of", "train", folder / "c.toml", "--method", "magic", *out),
        ("'--seed': 18446744073709551616 is not in the", "train", folder / "c.toml", "--seed", 2**64, *out),
        ("--device is 'gpu', allowed are cpu, cuda, cuda:N and mps", "train", folder / "c.toml", "--device", "gpu", *out),
        ("--device is 'meta', allowed are", "train", folder / "c.toml", "--device", "meta", *out),
        ("--device is '', allowed are", "train", folder / "c.toml", "--device", "", *out),
        ("--traces needs --output FILE", "run", folder / "p", "--traces"),
        ("--summary and --choose train several", "train", folder / "c.toml", "--summary", tmp_path / "s", "--seed", 3),
        ("--summary and --choose train several", "train", folder / "c.toml", "--choose", tmp_path / "s", "--resume"),
        ("choose.candidates has 0 entries, none with", "train", folder / "c.toml", "--choose", tmp_path / "s"),
        ("no data named: use --data digits, mnist or", "run", folder / "lp"),
        ("no data named: use --data digits, mnist or", "compile", folder / "lg", *out),
        ("give either WEIGHTS or --init SEED", "export", *out),
        ("give either WEIGHTS or --init SEED", "export", folder / "m", "--init", 1, *out),
        ("--init needs --network FILE", "export", "--init", 1, *out),
        ("'--init': 18446744073709551616 is not in", "export", "--init", 2**64, "--network", folder / "lif.toml", *out),
        ("'--seed': -1 is not in the range", "demo", "--seed", -1, "--out", tmp_path / "demo"),
        ("cannot read .*none.toml: No such file", "train", tmp_path / "none.toml", *out),
    ):
        refused(words, *arguments, within=tmp_path)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_where_there_is_none(folder: Path, tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = f"--device is '{device}', torch finds 0 CUDA devices here; cpu always works"
    refused(words, "train", folder / "c.toml", "--device", device, "-o", tmp_path / "out", within=tmp_path)


@pytest.mark.parametrize(
    "text, words",
    [
        ("[training]\nepocs = 3", "unknown entry training.epocs; allowed are epochs, batch"),
        ("[training]\nepochs = 0\nbatch = -1", r"training\.epochs is 0: .*; training\.batch is -1"),
        ("[training]\nlearning_rate = nan", r"training\.learning_rate is nan"),
        ("[data]\nvalidation = 5000", r"data\.validation is 5,000, the training set has 1,437 images"),
        ("[network]\nhidden = [8, 8, 8]", "init_cycles is 2, a network of 4 weight layers needs at least 4"),
        (
            "[network]\nhidden = [1000000000000]",
            "layer 1 has 64,000,000,000,000 weights and .* neurons, allowed are up to 134,217,728 of each",
        ),
        ("[timing]\nfinal = 'x'", r"timing\.final is 'x'"),
        ("[data]\nname = 'mnist'", "mnist:train: 2 of 2 files missing"),
        ("[[", "not TOML"),
    ],
)
def test_wrong_configurations(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    refused(words, "train", tmp_path / "c.toml", "-o", tmp_path / "out", "-q", within=tmp_path)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "neuron: field required"),
        (LIF.replace("lif", "foo"), "neuron: input should be 'lif' or 'diffpc'"),
        (LIF.replace("steps = 4", "stepps = 4"), "stepps: extra inputs are not permitted"),
        (LIF.replace("steps = 4", "steps = 0"), "steps.*0 given, at least 1 is needed"),
        (LIF + "[lif]\nvth = nan\n", "vth"),
        (LIF + "[lif]\nvth = -1.0\n", "lif.vth: input should be greater than 0"),
        (LIF + "[timing]\nm = 3\n", "timing means nothing to neuron 'lif'"),
        ("neuron = 'diffpc'\nsizes = [64, 10]\n[timing]\nm = 1.5\n", "timing: m is 1.5"),
        ("neuron = 'diffpc'\nsizes = [64, 10]\n[timing]\nq = 1\n", "unknown entry timing.q"),
        ("neuron = 'diffpc'\nsizes = [64, 10]\n[input]\nlevels = 0\n", "input.levels: input should be greater than or equal"),
    ],
)
def test_wrong_network_files(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "n.toml").write_text(text)
    refused(words, "export", "--init", 0, "--network", tmp_path / "n.toml", "-o", tmp_path / "out", within=tmp_path)


def test_checkpoints_of_another_run_or_damaged(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG)
    trainer = Trainer(parse({"network": {"hidden": [8]}}, "here"), load("digits:train"))
    trainer.save_checkpoint(tmp_path / "m.checkpoint.safetensors")
    arguments = ("train", tmp_path / "c.toml", "-o", tmp_path / "m", "--resume", "-q")
    refused("a checkpoint of another run, its config differs", *arguments, within=tmp_path)
    whole = (tmp_path / "m.checkpoint.safetensors").read_bytes()
    (tmp_path / "m.checkpoint.safetensors").write_bytes(whole[:-9])
    refused("no readable safetensors file", *arguments, within=tmp_path)


# Data of the wrong size


def mnist(tmp_path: Path) -> Path:
    """Three black images of 28x28 as mnist:train and mnist:test."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 3, 28, 28) + bytes(3 * 784))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 3) + bytes(3))
    return tmp_path / "data"


def test_images_of_another_size_than_the_networks(folder: Path, tmp_path: Path) -> None:
    options = ("--data", "mnist", "--data-dir", mnist(tmp_path))
    for command in ("run", "bits"):
        for name in ("m", "p", "lp"):
            refused("784.* has 64", command, folder / name, *options, within=tmp_path)
    refused("784.* has 64", "verify", folder / "p", "--samples", 2, *options, within=tmp_path)
    refused("784.* has 64", "run", folder / "p", "--backend", "lava", *options, within=tmp_path)
    for name in ("m", "lg"):
        refused("784.* has 64", "compile", folder / name, "-o", tmp_path / "out", *options, within=tmp_path)


def test_a_broken_data_file(folder: Path, tmp_path: Path) -> None:
    path = mnist(tmp_path) / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    words = "declares 2,352 bytes for 3 samples and holds only 2,351"
    refused(words, "run", folder / "p", "--data", "mnist", "--data-dir", tmp_path / "data", within=tmp_path)


# Places that cannot be written


def writers(folder: Path) -> list[tuple[object, ...]]:
    return [
        ("train", folder / "c.toml", "-q", "-o"),
        ("compile", folder / "m", "-o"),
        ("export", folder / "m", "-o"),
        ("run", folder / "p", "--samples", 2, "-o"),
    ]


def test_outputs_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    try:
        for place, words in (
            (tmp_path / "file" / "x", "cannot write .*file/x.*(File exists|Not a directory)"),
            (tmp_path / "file" / "deeper" / "x", "cannot write .*Not a directory"),
            (tmp_path / "folder", "is a directory"),
            (tmp_path / "pipe", "is a device or pipe, a plain file is needed"),
            ("/proc/lavasnn/x", "cannot write /proc"),
            (tmp_path / ("n" * 300), "File name too long"),
            ("", "a file name is needed"),
        ):
            for command in writers(folder):
                before = sorted(tmp_path.iterdir())
                outcome = lavasnn(*command, place)
                assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1), outcome
                assert re.search(words, outcome.err), outcome.err
                assert "unexpected" not in outcome.err
                assert sorted(tmp_path.iterdir()) == before
        assert (tmp_path / "file").read_text() == "mine"
    finally:
        (tmp_path / "pipe").unlink()


@pytest.mark.lava
def test_demo_fails_before_it_works(folder: Path, tmp_path: Path) -> None:
    refused("cannot write .*Not a directory", "demo", "-q", "--out", folder / "c.toml" / "x", within=tmp_path)


def test_summary_fails_before_it_works(folder: Path, tmp_path: Path) -> None:
    refused("'--out': Directory .* is a file", "demo", "--out", folder / "c.toml", within=tmp_path)
    words = "cannot write .*c.toml/s.json: (File exists|Not a directory)"
    refused(words, "train", folder / "c.toml", "--summary", folder / "c.toml" / "s.json", within=tmp_path)


@contextlib.contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_leaves_the_old_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    for command in writers(folder):
        place = tmp_path / "new" if command[0] == "train" else tmp_path / "out"
        with largest_file(1000):
            refused("cannot write .*File too large", *command, place, within=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "old"


# Numbers that no register holds


def test_lif_thresholds_beyond_17_bits(tmp_path: Path) -> None:
    (tmp_path / "n.toml").write_text(LIF + "[lif]\nvth = 1000.0\n")
    assert lavasnn("export", "--init", 0, "--network", tmp_path / "n.toml", "-o", tmp_path / "g").status == 0
    words = r"population 'hidden1' needs vth [\d.e+]+ in weight units of [\d.e-]+, the register holds up to 131,071 \(17 bits\)"
    refused(words, "compile", tmp_path / "g", "-o", tmp_path / "out", "--data", "digits", within=tmp_path)


def test_diffpc_states_beyond_24_bits(tmp_path: Path) -> None:
    (tmp_path / "n.toml").write_text(FOREIGN.format(neuron="diffpc"))
    weights = state_dict(tmp_path, torch.full((5, 64), 1e6))
    assert lavasnn("export", weights, "--network", tmp_path / "n.toml", "-o", tmp_path / "g").status == 0
    words = r"reaches [\d.e+]+ on the calibration samples; .*signed 24 bits hold"
    refused(words, "compile", tmp_path / "g", "-o", tmp_path / "out", "--data", "digits", within=tmp_path)
    weights = state_dict(tmp_path, torch.full((5, 64), 1e300, dtype=torch.float64))
    assert lavasnn("export", weights, "--network", tmp_path / "n.toml", "-o", tmp_path / "g").status == 0
    words = "projection 'w1' holds a weight of magnitude 1e.300; .* hold up to 8,388,607"
    refused(words, "compile", tmp_path / "g", "-o", tmp_path / "out", "--data", "digits", within=tmp_path)


def test_lif_inputs_beyond_16_bits(tmp_path: Path) -> None:
    """784 inputs of 255 that spike in every step are 199,920."""
    (tmp_path / "n.toml").write_text("steps = 4\n" + FOREIGN.format(neuron="lif").replace("16", "255"))
    weights = state_dict(tmp_path, torch.full((5, 784), 255.0))
    assert lavasnn("export", weights, "--network", tmp_path / "n.toml", "-o", tmp_path / "g").status == 0
    data = mnist(tmp_path)
    raw = data / "MNIST" / "raw" / "train-images-idx3-ubyte"
    raw.write_bytes(raw.read_bytes()[:16] + b"\xff" * (3 * 784))
    arguments = ("compile", tmp_path / "g", "-o", tmp_path / "out", "--data-dir", data, "--data")
    words = r"population 'hidden1' receives sums up to 199,920, its input holds \+-32,767 \(16 bits\)"
    refused(words, *arguments, "mnist:train", within=tmp_path)
    outcome = lavasnn(*arguments, "mnist:test", "--json")  # black images
    assert outcome.status == 0
    warnings = json.loads(outcome.out)["report"]["warnings"]
    assert "if all its inputs spike at once, population 'hidden1' receives 199,920; 16 bits hold +-32,767" in warnings[0]
    assert "population 'input' never sends anything in 3 samples of 4 steps" in warnings[1]
    assert outcome.err == "".join(f"warning: {w}\n" for w in warnings)


def wide(folder: Path) -> Path:
    """A program that stays within 24 bits on dim images, and does not on bright ones."""
    timing = Timing(m=2, n=4, init_cycles=2, settle_cycles=2)
    populations = (
        Population("input", 64, DiffPCInt("input", 0, timing, point=10)),
        Population("hidden", 3, DiffPCInt("hidden", 1, timing, point=10)),
        Population("output", 10, DiffPCInt("output", 2, timing, point=10)),
    )
    w1 = np.full((3, 64), 254, np.int16)
    w1[0] = 2
    projections = (
        Projection("w1", "input", "hidden", Dense(w1, Grid(7, "excitatory")), "s_A", "a_x"),
        Projection("w2", "hidden", "output", Dense(np.full((10, 3), 2, np.int16), Grid(-8, "excitatory")), "s_A", "a_x"),
        Projection("w2t", "output", "hidden", Transposed("w2", -8), "s_e", "a_e"),
    )
    graph = Graph(populations, projections, Encoding("value", 0, 16), "output")
    pixels = load("digits").pixels // 8
    path = folder / "wide"
    compile_graph(graph, pixels, load("digits").labels).save(path)
    return path


@pytest.mark.parametrize("backend", ["exact", pytest.param("lava", marks=pytest.mark.lava)])
def test_a_run_that_leaves_24_bits_stops_and_says_where(tmp_path: Path, backend: str) -> None:
    """x_F of neurons 1 and 2 grows by 254 << 7 for each half of an announced activity, 2**2 ... 2**-1 a step."""
    path = wide(tmp_path)
    announced, total = np.zeros(64, int), 0
    first = load("digits").pixels[0].astype(int)
    step = 0
    while total <= 2**23 - 1:
        theta = 2 ** (3 - step % 4)  # in halves
        sent = (2 * first - announced >= theta).astype(int) - (2 * first - announced <= -theta)
        sent *= announced + theta * sent >= 0
        announced = announced + theta * sent
        total = 254 * 128 * int(announced.sum())
        step += 1
    words = rf"population 'hidden': x_F of neuron 1 (of row 0 )?is {total:,} at step {step}, .* \+-8,388,607"
    refused(words, "run", path, "--data", "digits", "--samples", 1, "--backend", backend, within=tmp_path)
