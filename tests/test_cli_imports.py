"""From a file of another tool to a verified program on the command line, and what goes wrong on the way."""

from __future__ import annotations

import contextlib
import io
import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import nir
import numpy as np
import pytest

from compile.program import Program
from lavasnn.cli import main
from lavasnn.interop.nir import read_recording
from lavasnn.ir import Graph
from lavasnn.recordings import load_input
from lavasnn.results import RunResult

DT = "1e-3"


def lavasnn(*arguments: object) -> SimpleNamespace:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return SimpleNamespace(status=end.value.code, out=out.getvalue(), err=err.getvalue())


def done(*arguments: object) -> Any:
    outcome = lavasnn(*arguments, "--json", "-q")
    assert outcome.status == 0, outcome.err
    return json.loads(outcome.out)


def refused(words: str, *arguments: object) -> None:
    """Exit 2 with one line, and nothing written."""
    before = set(Path.cwd().rglob("*"))
    outcome = lavasnn(*arguments)
    assert (outcome.status, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ") and words in line, line
    assert set(Path.cwd().rglob("*")) == before


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chain(**changes: Any) -> Any:
    """Two layers of LIF neurons behind a convolution and a pool, as another tool would write them."""
    random = np.random.default_rng(0)
    nodes: dict[str, Any] = {
        "input": nir.Input(np.array([1, 6, 6])),
        "conv": nir.Conv2d((6, 6), random.normal(0, 0.8, (2, 1, 3, 3)), 1, 0, 1, 1, np.zeros(2)),
        "lif1": nir.LIF(*(np.full((2, 4, 4), v) for v in (4e-3, 4.0, 0.0, 0.6)), v_reset=np.zeros((2, 4, 4))),
        "pool": nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flat": nir.Flatten({"input": np.array([2, 2, 2])}, 0, -1),
        "fc": nir.Affine(random.normal(0, 1.5, (5, 8)), random.normal(0, 0.2, 5)),
        "lif2": nir.LIF(*(np.full(5, v) for v in (2e-3, 2.0, 0.0, 0.5)), v_reset=np.zeros(5)),
        "output": nir.Output(np.array([5])),
    }
    nodes |= changes
    names = list(nodes)
    return nir.NIRGraph(nodes, list(pairwise(names)), type_check=False)


@pytest.mark.lava
def test_a_nir_file_is_imported_compiled_run_verified_and_written_back(here: Path) -> None:
    nir.write("x.nir", chain())
    found = done("import", "x.nir", "--dt", DT, "--steps", 12, "-o", "g")
    assert found["populations"]["lif2"] == 5 and found["integer"] is False and found["seamless"] is True
    shown = (np.random.default_rng(1).random((4, 12, 36)) < 0.4).astype(np.int8)
    np.save("in.npy", shown)
    compiled = done("compile", "g", "--input", "in.npy", "-o", "p")
    assert compiled["fit"]["violations"] == [] and Program.load(Path("p")).graph.integer
    ran = done("run", "p", "--input", "in.npy", "--traces", "-o", "r")
    assert (ran["samples"], ran["accuracy"], ran["data"]) == (4, None, "in.npy")
    assert 0 < ran["messages_per_sample"]["lif2.s"] < 12 * 5
    text = lavasnn("run", "p", "--input", "in.npy").out
    assert "exact fixed, in.npy: 4 samples, 12 steps a sample" in text
    proof = done("verify", "p", "--input", "in.npy", "--reference", "g")
    assert (proof["mismatches"], proof["samples"], proof["precision"]) == (0, 4, "fixed")
    layers = {v["population"]: v for v in proof["agreement"]["layers"]}
    assert layers["input"]["equal"] == 1.0 and layers["lif2"]["equal"] > 0.8
    assert "How far the integers follow its own integers as real numbers" in lavasnn("verify", "p", "--input", "in.npy").out
    straight = done("verify", "g", "--input", "in.npy", "--samples", 2)  # compiled on the way
    assert (straight["mismatches"], straight["samples"], straight["precision"]) == (0, 2, "fixed")
    real = done("verify", "g", "--input", "in.npy", "--precision", "float", "--samples", 2)
    assert (real["mismatches"], real["precision"], real["agreement"]) == (0, "float", None)
    assert done("cost", "p", "--input", "in.npy")["counts"]["samples"] == 4
    assert done("bits", "p", "--input", "random:0.2", "--samples", 3)["samples"] == 3
    done("export", "p", "--dt", DT, "-o", "again.nir")
    again = done("import", "again.nir", "--dt", DT, "--steps", 12, "-o", "g2")
    assert sum(again["populations"].values()) == sum(p.size for p in Program.load(Path("p")).graph.populations)
    result = RunResult.load(Path("r"))
    nir.write_data(
        "rec.nir", nir.NIRGraphData({"input": nir.NIRNodeData({"spikes": nir.TimeGriddedData(shown.astype(float), 1e-3)})})
    )
    assert np.array_equal(read_recording(Path("rec.nir")), shown)
    rerun = done("run", "p", "--input", "rec.nir")
    assert rerun["messages_per_sample"] == ran["messages_per_sample"]
    assert result.traces["input.s"].sum() == shown.sum()


def net_file(path: Path, kind: str = "dense", weight: Any = None, neuron: str = "CUBA") -> None:
    with h5py.File(path, "w") as file:
        file["layer/0/type"] = np.array([b"input"], "S10")
        file["layer/0/shape"] = np.array([4])
        layer = file.create_group("layer/1")
        layer["type"] = np.array([kind.encode()], "S10")
        layer["shape"] = np.array([3])
        layer["weight"] = np.array([[10, -4, 6, 2]] * 3, np.float32) if weight is None else weight
        layer["neuron/type"] = neuron
        for name, value in {"iDecay": 4096, "vDecay": 512, "vThMant": 12, "refDelay": 1, "gradedSpike": 0}.items():
            layer[f"neuron/{name}"] = value


@pytest.mark.lava
def test_a_net_file_too(here: Path) -> None:
    net_file(Path("x.net"))
    found = done("import", "x.net", "--steps", 9)
    assert (found["output"], found["integer"]) == ("x.safetensors", True)
    done("compile", "x.safetensors", "--input", "random:0.5", "-o", "p")
    assert done("verify", "p", "--input", "random:0.5", "--samples", 3)["mismatches"] == 0
    done("export", "p", "-o", "again.net")
    assert done("import", "again.net", "--steps", 9, "-o", "g")["populations"] == found["populations"]
    assert Graph.load(Path("g")).integer


def test_weights_of_zero_work_and_silence_is_told(here: Path) -> None:
    nir.write("x.nir", chain(fc=nir.Affine(np.zeros((5, 8)), np.zeros(5))))
    done("import", "x.nir", "--dt", DT, "--steps", 6, "-o", "g")
    outcome = lavasnn("compile", "g", "--input", "random:0.5", "-o", "p")
    assert outcome.status == 0
    assert (
        "warning: calibrate: population 'lif2' never sends anything in 16 samples of 6 steps: inputs from 0 to 0" in outcome.err
    )
    outcome = lavasnn("run", "p", "--input", "random:0.5", "--json")
    (warning,) = json.loads(outcome.out)["warnings"]
    assert warning.startswith("population 'lif2' never sends anything") and "the threshold is" in warning
    assert f"warning: {warning}" in outcome.err


def test_bad_files_and_options_are_refused_in_one_line(here: Path) -> None:
    nir.write("x.nir", chain())
    nan = np.random.default_rng(0).normal(size=(5, 8))
    nan[0, 0] = np.nan
    nir.write("nan.nir", chain(fc=nir.Linear(nan)))
    nir.write("shape.nir", chain(fc=nir.Linear(np.ones((5, 9)))))
    nir.write("odd.nir", chain(lif2=nir.Threshold(np.ones(5))))
    loose = chain()
    loose.edges = [e for e in loose.edges if e != ("lif2", "output")]
    nir.write("loose.nir", loose)
    twice = {"a": nir.Scale(np.ones(5)), "b": nir.Scale(np.ones(5)), "lif2": chain().nodes["lif2"]}
    ends = {"input": nir.Input(np.array([5])), "output": nir.Output(np.array([5]))}
    hops = [("input", "a"), ("a", "b"), ("b", "a"), ("b", "lif2"), ("lif2", "output")]
    ring = nir.NIRGraph(ends | twice, hops, type_check=False)
    nir.write("ring.nir", ring)
    with h5py.File("x.nir") as whole, h5py.File("less.nir", "w") as less:
        whole.copy("node", less)
        del less["node/nodes/lif1/tau"]
    with h5py.File("other.nir", "w") as file:
        file["something"] = 1
    with h5py.File("links.nir", "w") as file:
        file["node"] = h5py.ExternalLink("x.nir", "node")
    with h5py.File("huge.nir", "w") as file:
        file.create_dataset("node/weight", (1 << 20, 1 << 20), "f4", chunks=(64, 64))
    Path("text.nir").write_text("hello")
    net_file(Path("x.net"))
    net_file(Path("pool.net"), kind="pool")
    net_file(Path("resonate.net"), neuron="RF")
    net_file(Path("nan.net"), weight=np.full((3, 4), np.nan))
    to = ("--dt", DT, "--steps", 5, "-o", "out")
    for words, *arguments in (
        ("fc", "import", "nan.nir", *to),
        ("not finite", "import", "nan.nir", *to),
        ("fc", "import", "shape.nir", *to),
        ("node 'lif2' is a Threshold, which is not supported", "import", "odd.nir", *to),
        ("lif2", "import", "loose.nir", *to),
        ("loop", "import", "ring.nir", *to),
        ("tau", "import", "less.nir", *to),
        ("other.nir", "import", "other.nir", *to),
        ("links.nir", "import", "links.nir", *to),
        ("huge.nir", "import", "huge.nir", *to),
        ("text.nir", "import", "text.nir", *to),
        ("none.nir", "import", "none.nir", *to),
        ("'pool'", "import", "pool.net", "--steps", 5, "-o", "out"),
        ("'RF'", "import", "resonate.net", "--steps", 5, "-o", "out"),
        ("finite", "import", "nan.net", "--steps", 5, "-o", "out"),
        ("x.txt is neither .nir nor .net", "import", "x.txt", "--steps", 5),
        ("NIR times are in seconds; --dt says", "import", "x.nir", "--steps", 5),
        ("--dt and --scale are for NIR", "import", "x.net", "--dt", DT, "--steps", 5),
        ("--input-layer, --layers and --image are for netx", "import", "x.nir", "--dt", DT, "--steps", 5, "--layers", 1),
        ("--image is '3,x,2', needed are channels, rows and", "import", "x.net", "--steps", 5, "--image", "3,x,2"),
        ("Missing option '--steps'", "import", "x.nir"),
        ("'--dt': -1.0 is not in the range", "import", "x.nir", "--dt", -1, "--steps", 5),
    ):
        refused(words, *arguments)


def test_input_has_to_fit(here: Path) -> None:
    nir.write("x.nir", chain())
    done("import", "x.nir", "--dt", DT, "--steps", 6, "-o", "g")
    np.save("wide.npy", np.zeros((2, 6, 37), int))
    np.save("long.npy", np.zeros((2, 7, 36), int))
    np.save("loud.npy", np.full((2, 6, 36), 3))
    np.save("half.npy", np.full((2, 6, 36), 0.5))
    np.save("fine.npy", np.zeros((2, 6, 36), int))
    for words, name in (
        ("messages come from 37 neurons, the network's input 'input' has 36", "wide.npy"),
        ("with up to 6 steps", "long.npy"),
        ("magnitudes run up to 3, the network takes up to 1", "loud.npy"),
        ("half.npy: holds float64", "half.npy"),
        ("no input file none.npy", "none.npy"),
        ("the rate is '2', allowed is 0..1", "random:2"),
    ):
        refused(words, "run", "g", "--input", name)
    refused("--data and --input are both given", "run", "g", "--input", "fine.npy", "--data", "digits")
    refused("--samples 3: fine.npy has 2", "run", "g", "--input", "fine.npy", "--samples", 3)
    refused("--reference is for integers", "verify", "g", "--input", "fine.npy", "--precision", "float", "--reference", "g")
    refused("NIR times are in seconds", "export", "g", "-o", "y.nir")
    refused("a program is needed", "cost", "g", "--input", "fine.npy")


@pytest.mark.lava
def test_hardware_says_what_is_missing(here: Path) -> None:
    nir.write("x.nir", chain())
    done("import", "x.nir", "--dt", DT, "--steps", 6, "-o", "g")
    outcome = lavasnn("compile", "g", "--input", "random:0.3", "-o", "p", "--hardware")
    assert outcome.status == 2
    assert "On the chip" in outcome.out and "LIFReset" in outcome.out
    assert outcome.err.splitlines()[-1].startswith("error: hardware: Lava is here, Intel's Loihi extension is not; missing ")
    assert Path("p").is_file()


@pytest.mark.data("nets/nir/lif")
@pytest.mark.lava
def test_the_chip_s_own_recording_from_the_command_line(here: Path, stored: Path) -> None:
    """A file nobody here wrote, and what a Loihi 2 made of it: 1000 of 1000 steps."""
    chip = np.loadtxt(stored / "lif_lava_loihi_fixed.csv", delimiter=",")
    np.save("in.npy", chip[:, :1].astype(int))
    done("import", stored / "lif_norse.nir", "--dt", "1e-4", "--steps", 1000, "-o", "g")
    done("compile", "g", "--input", "in.npy", "-o", "p")
    assert done("verify", "p", "--input", "in.npy", "--reference", "g")["mismatches"] == 0
    done("run", "p", "--input", "in.npy", "--backend", "lava", "--traces", "-o", "r")
    ours = RunResult.load(Path("r")).traces["1.s"][0, :, 0]
    assert np.array_equal(ours[:-1], chip[1:, 2]) and ours[-1] == 0  # the chip's columns count the synapse's step


def test_a_program_of_integers_runs_as_integers(here: Path) -> None:
    net_file(Path("x.net"))
    done("import", "x.net", "--steps", 9, "-o", "g")
    assert done("run", "g", "--input", "random:0.5")["precision"] == "fixed"
    assert done("run", "g", "--input", "random:0.5", "--precision", "float")["precision"] == "float"


def test_images_go_into_an_imported_network_as_random_spikes(here: Path) -> None:
    random = np.random.default_rng(0)
    nodes = {
        "input": nir.Input(np.array([64])),
        "fc": nir.Linear(random.normal(0, 0.3, (10, 64))),
        "lif": nir.LIF(*(np.full(10, v) for v in (2e-3, 2.0, 0.0, 1.0)), v_reset=np.zeros(10)),
        "output": nir.Output(np.array([10])),
    }
    nir.write("d.nir", nir.NIRGraph(nodes, list(pairwise(nodes))))
    done("import", "d.nir", "--dt", DT, "--steps", 8, "--code", "bernoulli", "--levels", 16, "-o", "g")
    done("compile", "g", "--data", "digits", "--calibrate", 20, "-o", "p")
    ran = done("run", "p", "--data", "digits", "--samples", 30)
    assert ran["messages_per_sample"]["lif.s"] > 0


def test_events_of_a_recording_need_the_length_of_a_step(here: Path) -> None:
    nir.write("x.nir", chain())
    done("import", "x.nir", "--dt", DT, "--steps", 6, "-o", "g")
    events = nir.EventData(np.array([[0, 5, 7]]), np.array([[0.0, 1e-3, 4e-3]]), 36, 6e-3)
    nir.write_data("ev.nir", nir.NIRGraphData({"input": nir.NIRNodeData({"spikes": events})}))
    refused("dt", "run", "g", "--input", "ev.nir")
    assert done("run", "g", "--input", f"ev.nir@{DT}")["messages_per_sample"]["input.s"] == 3


def test_files_of_other_tools_are_imported_first(here: Path) -> None:
    nir.write("x.nir", chain())
    for command in ("run", "verify", "bits", "cost"):
        refused("x.nir is a file of another tool; run `lavasnn import` on it first", command, "x.nir", "--input", "random")


def test_random_calibration_is_not_what_is_run_by_default(here: Path) -> None:
    nir.write("x.nir", chain())
    done("import", "x.nir", "--dt", DT, "--steps", 6, "-o", "g")
    compiled = done("compile", "g", "--input", "random:0.3", "-o", "p")
    traffic = compiled["report"]["calibrate"]["samples"]
    ran = done("run", "p", "--input", "random:0.3", "--traces", "-o", "r")
    drawn = load_input("random:0.3", Graph.load(Path("g")).encoding, 36, 6, seed=1)
    assert traffic == ran["samples"] == len(drawn)
    assert not np.array_equal(RunResult.load(Path("r")).traces["input.s"], drawn.pixels)
