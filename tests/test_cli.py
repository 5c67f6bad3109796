"""Every command from end to end: what it prints where, its exit status, the files it leaves."""

import contextlib
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compile.backends import exact
from compile.program import Program
from lavasnn import data
from lavasnn.cli import COMMANDS, main
from lavasnn.config import load as load_config
from lavasnn.errors import LavaMissing
from lavasnn.files import read_tensors
from lavasnn.learning.trainer import Trainer
from lavasnn.results import RunResult

CONFIG = """name = "tiny"
[data]
name = "digits"
validation = 100
[network]
hidden = [12]
[training]
epochs = {epochs}
batch = {batch}
learning_rate = 5e-3
[timing]
m = 3
n = 6
"""
LIF = 'neuron = "lif"\nsteps = 9\nsizes = [64, 12, 10]\n[lif]\ndv = 0.25\nvth = 0.3\n[input]\nlevels = 16\n'


@dataclass
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on stdout."""
        assert self.out.count("\n") == 1
        return json.loads(self.out)


def lavasnn(*arguments: object) -> Outcome:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return Outcome(int(stop.value.code or 0), out.getvalue(), err.getvalue())


def done(*arguments: object) -> Outcome:
    """Run a command that has to succeed."""
    outcome = lavasnn(*arguments)
    assert outcome.status == 0, outcome.err
    return outcome


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model m, its program p, an untrained LIF graph lg and its program lp."""
    path = tmp_path_factory.mktemp("cli")
    (path / "c.toml").write_text(CONFIG.format(epochs=2, batch=64))
    (path / "lif.toml").write_text(LIF)
    done("train", path / "c.toml", "-o", path / "m", "-q")
    done("compile", path / "m", "-o", path / "p")
    done("export", "--init", 3, "--network", path / "lif.toml", "-o", path / "lg")
    done("compile", path / "lg", "-o", path / "lp", "--data", "digits")
    return path


# Help


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_help_has_an_example(command: str) -> None:
    outcome = done(command, "--help")
    assert f"Example: lavasnn {command}" in outcome.out
    assert outcome.err == ""
    assert "--json" in outcome.out
    assert "--quiet" in outcome.out


def test_the_commands() -> None:
    assert set(COMMANDS) >= {"demo", "train", "export", "compile", "run", "verify", "bits", "doctor"}
    outcome = done("--help")
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", outcome.out, re.MULTILINE)
    assert "lavasnn demo" in outcome.out
    assert done("-h").out == outcome.out
    assert re.fullmatch(r"lavasnn, version \d+\.\d+\.\d+\n", done("--version").out)
    nothing = lavasnn()
    assert (nothing.status, nothing.out) == (2, "")
    assert "Usage: lavasnn" in nothing.err


def test_help_loads_neither_torch_nor_lava() -> None:
    code = "import sys\nfrom lavasnn.cli import main\ntry: main(['--version'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'lava', 'numba') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


# Train


def test_train_reports_and_leaves_a_model_alone(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG.format(epochs=2, batch=64))
    outcome = done("train", tmp_path / "c.toml", "-o", tmp_path / "new" / "m.safetensors", "--json")
    values = outcome.json
    assert 0.1 < values["accuracy"]["test"] <= 1
    assert 0.1 < values["accuracy"]["validation"] <= 1
    assert values["seconds"] > 0
    assert values["bits_per_neuron"]["error_phase"] > 0
    assert values["files"] == {"model": str(tmp_path / "new" / "m.safetensors")}
    assert (values["epochs"], values["seed"], values["method"]) == (2, 0, "diffpc")
    lines = outcome.err.splitlines()
    assert len(lines) == 2
    assert all(re.match(rf"epoch {i}: train [\d.]+ %, validation [\d.]+ %", line) for i, line in enumerate(lines, start=1))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["m.safetensors"]
    again = done("train", tmp_path / "c.toml", "-o", tmp_path / "m2", "-q")
    assert again.err == ""
    assert f"{100 * values['accuracy']['test']:.2f} % of 360 test images" in again.out
    assert _weights(tmp_path / "m2") == _weights(tmp_path / "new" / "m.safetensors")


def test_options_of_train_go_before_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG.format(epochs=9, batch=64))
    options = ("--epochs", 1, "--method", "backprop", "--seed", 7, "--device", "cpu", "--json", "-q")
    outcome = done("train", tmp_path / "c.toml", "-o", tmp_path / "m", *options)
    assert (outcome.json["epochs"], outcome.json["seed"], outcome.json["method"]) == (1, 7, "backprop")
    assert outcome.json["bits_per_neuron"] == {"error_phase": None, "last_epoch": None, "error_phase_heard": None}
    assert outcome.err == ""


def test_a_summary_holds_all_seeds_and_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = 'seeds = [0, 1]\nbaselines = ["backprop"]\n' + CONFIG.format(epochs=1, batch=128)
    (tmp_path / "c.toml").write_text(text)
    outcome = done("train", "c.toml", "--summary", "out/s.json", "--json", "-q")
    assert outcome.err == ""
    assert outcome.json == json.loads((tmp_path / "out" / "s.json").read_text())
    results = outcome.json["results"]
    assert set(results) == {"diffpc", "backprop"}
    seeds = results["diffpc"]["seeds"]
    assert [r["seed"] for r in seeds] == [0, 1]
    accuracies = [r["test_int8"] for r in seeds]
    assert results["diffpc"]["mean"]["test_int8"] == pytest.approx(sum(accuracies) / 2, abs=1e-6)
    spread = abs(accuracies[0] - accuracies[1]) / 2**0.5
    assert results["diffpc"]["deviation"]["test_int8"] == pytest.approx(spread, abs=1e-6)


CHOICE = """[choose]
held_out = 50
candidates = [{ epochs = 1 }, { epochs = 3 }, { epochs = 3, learning_rate = 1e-9 }]
"""


def test_choosing_compares_candidates_on_held_out_images_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text(CONFIG.format(epochs=3, batch=32) + CHOICE)
    asked: list[str] = []
    load = data.load
    monkeypatch.setattr(data, "load", lambda spec, *a, **k: asked.append(spec) or load(spec, *a, **k))
    outcome = done("train", "c.toml", "--choose", "out/c.json", "--json", "-q")
    assert asked == ["digits:train"]
    assert outcome.json == json.loads((tmp_path / "out" / "c.json").read_text())
    assert outcome.json["held_out"] == 50
    rows = outcome.json["candidates"]
    assert [len(r["by_epoch"]) for r in rows] == [1, 3, 3]
    assert outcome.json["best"] == max(rows, key=lambda r: r["validation"])["changes"] == {"epochs": 3}
    train, held = data.validation_split(load("digits:train"), 50, seed=0)
    trainer = Trainer(load_config(tmp_path / "c.toml"), train, held)
    trainer.run()
    assert rows[1]["validation"] == trainer.evaluate(held)
    assert done("train", "c.toml", "--choose", "again.json", "--json", "-q").json["candidates"] == rows  # taken over


def _weights(path: Path) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in read_tensors(path)[2].items()}


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(CONFIG.format(epochs=30, batch=32))
    command = [sys.executable, "-c", "from lavasnn.cli import main; main()", "train", str(config), "-o", str(tmp_path / "m")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stderr is not None
        seen = [child.stderr.readline(), child.stderr.readline()]
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert [line[:8] for line in seen] == ["epoch 1:", "epoch 2:"]
    assert (child.returncode, out) == (130, "")
    rest = [line for line in err.splitlines() if not line.startswith("epoch ")]
    assert len(rest) == 1
    checkpoint = tmp_path / "m.checkpoint.safetensors"
    assert re.fullmatch(rf"error: interrupted after \d+ s; --resume goes on from {re.escape(str(checkpoint))}", rest[0])
    assert {p.name for p in tmp_path.iterdir()} == {"c.toml", checkpoint.name}
    resumed = done("train", config, "-o", tmp_path / "m", "--resume")
    assert re.match(rf"resumed {re.escape(str(checkpoint))} in epoch \d+\n", resumed.err)
    assert not checkpoint.exists()
    done("train", config, "-o", tmp_path / "whole", "-q")
    assert _weights(tmp_path / "m") == _weights(tmp_path / "whole")


def test_an_unfinished_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(CONFIG.format(epochs=1, batch=128))
    checkpoint = tmp_path / "m.checkpoint.safetensors"
    images, aside = data.validation_split(data.load("digits:train"), 100, 0)
    Trainer(load_config(config), images, aside).save_checkpoint(checkpoint)
    before = checkpoint.read_bytes()
    outcome = lavasnn("train", config, "-o", tmp_path / "m", "-q")
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert str(checkpoint) in outcome.err
    assert "--resume" in outcome.err
    assert "--restart" in outcome.err
    assert checkpoint.read_bytes() == before
    done("train", config, "-o", tmp_path / "m", "--restart", "-q")
    assert not checkpoint.exists()
    assert "finished already" in done("train", config, "-o", tmp_path / "m", "--resume").err


@pytest.mark.parametrize("flags", [(), ("--resume",)])
def test_what_another_run_made_is_not_trained_over_unasked(tmp_path: Path, flags: tuple[str, ...]) -> None:
    config, model = tmp_path / "c.toml", tmp_path / "m"
    config.write_text(CONFIG.format(epochs=2, batch=128))
    command = ("train", config, "-o", model, "-q")
    done(*command)
    before = _weights(model)
    for changes, differs in ((("--epochs", 1), "config"), (("--seed", 5), "seed")):
        outcome = lavasnn(*command, *changes, *flags)
        assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert f"{model} is the model of another run, its {differs} differs" in outcome.err
        assert "--restart" in outcome.err
        assert _weights(model) == before
    done(*command, *flags)  # its own it makes again, or takes as it is
    assert _weights(model) == before
    done(*command, "--epochs", 1, "--restart")
    assert _weights(model) != before
    model.write_text("what I wrote down")
    outcome = lavasnn(*command, *flags)
    assert (outcome.status, model.read_text()) == (2, "what I wrote down")
    assert "no readable safetensors file" in outcome.err


def test_resuming_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG.format(epochs=1, batch=128))
    assert "resumed" not in done("train", tmp_path / "c.toml", "-o", tmp_path / "m", "--resume").err


# Export and compile


def test_export_writes_what_it_says(folder: Path, tmp_path: Path) -> None:
    outcome = done("export", folder / "m", "-o", tmp_path / "g", "--json")
    assert outcome.json == {
        "output": str(tmp_path / "g"),
        "populations": {"input": 64, "hidden1": 12, "output": 10},
        "weights": 64 * 12 + 12 * 10,
    }
    assert done("export", folder / "m", "-o", tmp_path / "g").out == f"{tmp_path / 'g'}: 64-12-10, 888 weights\n"


def test_compile_reports_fit_and_weights(folder: Path, tmp_path: Path) -> None:
    outcome = done("compile", folder / "m", "-o", tmp_path / "p", "--json")
    values = outcome.json
    assert set(values["fit"]) == {"cores", "neurons", "synapses", "memory_bytes", "rows", "violations"}
    assert values["fit"]["violations"] == []
    neurons = {r["scope"]: r for r in values["fit"]["rows"] if r["resource"] == "neurons"}
    assert [(neurons[k]["used"], neurons[k]["limit"]) for k in ("whole", "chip", "core")] == [
        (86, 1_000_000),
        (86, 1_000_000),
        (86, 8192),
    ]
    assert values["placement"] == {"hops": 0.0, "hops_row_major": 0.0}  # all on one core
    assert values["fit"]["neurons"] == 86
    assert (values["target"], values["output"]) == ("loihi2", str(tmp_path / "p"))
    assert set(values["report"]["quantize"]["projections"]) == {"w1", "w2"}
    assert values["report"]["origin"]["trained_on"] == "digits"
    text = done("compile", folder / "m", "-o", tmp_path / "p").out
    assert f"{values['fit']['cores']} core of loihi2, 86 neurons, input included" in text
    assert re.search(r"w1 +│ +mixed", text)
    assert re.search(r"all chips +│ +cores +│ +1 of 120 +│ +0.8%", text)
    assert re.search(
        r"core 0 \(input, hidden1, output; chip 0, column \d, row \d+\) +│ +[a-z ]+│ +[\d,]+ of [\d,]+ +│ +\d", text
    )
    assert "messages travel 0 hops per sample; placed row by row 0\n" in text


def test_compile_for_a_target_of_ones_own_and_draw_it(folder: Path, tmp_path: Path) -> None:
    """Cores of 20 neurons on a mesh of 3 x 3 that is all there is."""
    limits = {"cores": 9, "mesh_width": 3, "mesh_height": 3, "neurons_per_core": 20}
    text = "\n".join(f'[limits.{name}]\nvalue = {value}\nsource = "a board of ours"' for name, value in limits.items())
    (tmp_path / "tiny.toml").write_text(text)
    arguments = ("compile", folder / "m", "-o", tmp_path / "p", "--target", tmp_path / "tiny.toml")
    values = done(*arguments, "--figure", tmp_path / "map.png", "--json").json
    assert (values["target"], values["figure"]) == ("tiny", str(tmp_path / "map.png"))
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    program = Program.load(tmp_path / "p")
    assert (program.target, program.cores) == ("tiny", 6)  # 64 inputs on 4, 12 hidden, 10 outputs
    assert all(chip == 0 and x < 3 and y < 3 for chip, x, y in program.places)
    found = values["placement"]
    assert 0 < found["hops"] <= found["hops_row_major"]
    assert found["hops"] == pytest.approx(sum(r.hops * r.messages for r in program.routes))
    assert "messages travel" in done(*arguments).out


def test_integers_that_were_exported_compile_unchanged(folder: Path, tmp_path: Path) -> None:
    done("export", folder / "p", "-o", tmp_path / "g")
    assert "0 of 768" in done("compile", tmp_path / "g", "-o", tmp_path / "p", "--data", "digits").out
    one, other = Program.load(folder / "p"), Program.load(tmp_path / "p")
    assert one.slices == other.slices
    for p in one.graph.projections:
        assert np.array_equal(one.graph.weight(p), other.graph.weight(p))


def test_warnings_of_the_compiler_go_to_stderr(folder: Path, tmp_path: Path) -> None:
    """Large fan-in: 64 inputs of an exponent that all together pass 24 bits."""
    (tmp_path / "n.toml").write_text('neuron = "diffpc"\nsizes = [64, 30, 10]\n[timing]\nm = 9\nn = 14\ngamma = 0.5\n')
    done("export", "--init", 1, "--network", tmp_path / "n.toml", "-o", tmp_path / "g")
    loud = done("compile", tmp_path / "g", "-o", tmp_path / "p", "--data", "digits", "--json")
    assert loud.json["report"]["warnings"]
    assert loud.err.splitlines() == [f"warning: {w}" for w in loud.json["report"]["warnings"]]
    assert any("in the worst case" in w and "bits of headroom" in w for w in loud.json["report"]["warnings"])
    assert done("compile", tmp_path / "g", "-o", tmp_path / "p", "--data", "digits", "--json", "-q").err == ""


# Run and bits


def test_run_counts_the_right_answers(folder: Path, tmp_path: Path) -> None:
    outcome = done("run", folder / "p", "--samples", 50, "--batch", 7, "--json", "-o", tmp_path / "r")
    values = outcome.json
    assert outcome.err == ""
    assert (values["samples"], values["backend"], values["precision"]) == (50, "exact", "fixed")
    assert (values["data"], values["steps"]) == ("digits:test", 13)
    result = RunResult.load(tmp_path / "r")
    right = sum(int(np.argmax(o)) == label for o, label in zip(result.outputs, data.load("digits").labels, strict=False))
    assert values["accuracy"] == right / 50
    sent = {k: sum(int(c) for c in counts.ravel()) / 50 for k, counts in result.messages.items() if not k.endswith(".s_e")}
    assert values["messages_per_sample"] == pytest.approx(sent)
    assert result.traces == {}
    text = done("run", folder / "p", "--samples", 50).out
    assert f"{100 * right / 50:.2f} % of 50 right, 13 steps a sample" in text


def test_a_model_runs_as_it_was_trained(folder: Path, tmp_path: Path) -> None:
    trained = done("train", folder / "c.toml", "-o", tmp_path / "m", "--json", "-q").json["accuracy"]["test"]
    values = done("run", tmp_path / "m", "--json").json
    assert (values["precision"], values["accuracy"]) == ("float", trained)


def test_program_in_real_numbers_gives_the_same_answers(folder: Path) -> None:
    whole, real = (done("run", folder / "p", "--precision", p, "--json").json for p in ("fixed", "float"))
    assert (whole["precision"], real["precision"]) == ("fixed", "float")
    assert whole["accuracy"] == real["accuracy"]
    assert whole["messages_per_sample"] == real["messages_per_sample"]


def test_traces_and_both_phases_go_into_the_file(folder: Path, tmp_path: Path) -> None:
    done("run", folder / "p", "--samples", 3, "--traces", "--phases", "both", "-o", tmp_path / "r", "-q")
    result = RunResult.load(tmp_path / "r")
    assert result.traces["hidden1.x_F"].shape == (3, 25, 12)
    assert result.meta["data"] == "digits:test"
    assert result.meta["target"] == "loihi2"


def test_data_and_seed_are_taken_from_the_command_line(folder: Path) -> None:
    train = done("run", folder / "p", "--data", "digits:train", "--json").json
    assert (train["data"], train["samples"]) == ("digits:train", 1437)
    sent = [
        done("run", folder / "lp", "--data", "digits", "--seed", s, "--json").json["messages_per_sample"] for s in (0, 1, 1)
    ]
    assert sent[0] != sent[1] == sent[2]
    assert sent[0] == done("run", folder / "lp", "--data", "digits", "--json").json["messages_per_sample"]


def test_bits_are_two_for_each_error_spike(folder: Path, tmp_path: Path) -> None:
    values = done("bits", folder / "p", "--samples", 20, "--json").json
    assert set(values) >= {"error_phase", "total", "training", "rows"}
    done("run", folder / "p", "--samples", 20, "--phases", "both", "-o", tmp_path / "r", "-q")
    messages = RunResult.load(tmp_path / "r").messages
    spikes = sum(int(messages[f"{name}.s_e"].sum()) for name in ("hidden1", "output"))
    assert spikes > 0
    assert values["error_phase"] == pytest.approx(2 * spikes / (20 * 22))
    everything = sum(int(m.sum()) for m in messages.values())
    assert values["total"] == pytest.approx(2 * everything / (20 * 86))
    assert values["training"]["error_phase"] > 0
    assert "error phase, these samples with labels clamped" in done("bits", folder / "p", "--samples", 20).out


def test_bits_of_stock_lif_have_no_error_phase(folder: Path) -> None:
    values = done("bits", folder / "lp", "--data", "digits", "--samples", 5, "--json").json
    assert values["error_phase"] is None
    assert values["total"] > 0
    assert "everything" in done("bits", folder / "lp", "--data", "digits", "--samples", 5).out


# Verify, with Lava stood in for where Lava itself is not the point


@dataclass
class StandIn:
    """The exact executor in Lava's place: its runs, and what a test does to each (with its number)."""

    runs: list[RunResult]
    spoil: Callable[[RunResult, int], RunResult] = lambda result, number: result

    def run(self, graph: Any, pixels: Any, labels: Any = None, **options: Any) -> RunResult:
        result = replace(exact.run(graph, pixels, labels, **options), backend="lava")
        self.runs.append(self.spoil(result, len(self.runs)))
        return self.runs[-1]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    lava = StandIn([])
    monkeypatch.setattr("compile.backends.lava.run", lava.run)
    return lava


def test_verify_says_how_much_agreed(folder: Path, stand_in: StandIn) -> None:
    outcome = done("verify", folder / "p", "--samples", 5, "--batch", 2, "--json")
    values = outcome.json
    steps, neurons = 25, 86
    assert (values["samples"], values["steps"], values["populations"], values["mismatches"]) == (5, steps, 3, 0)
    assert values["compared"] == 2 * (5 * 5 * steps * neurons + 5 * 10)
    assert [p["backends"] for p in values["pairs"]] == [["exact", "torch"], ["exact", "lava"]]
    assert outcome.err.splitlines() == [f"verify: {n} of 5 samples compared" for n in (2, 4, 5)]
    assert [r.samples for r in stand_in.runs] == [2, 2, 1]
    quiet = done("verify", folder / "p", "--samples", 5, "-q")
    assert quiet.err == ""
    assert quiet.out.count("0 mismatches") == 2


def test_batches_of_verify_run_the_samples_of_the_whole_set(folder: Path, stand_in: StandIn) -> None:
    """Random input spikes depend on a sample's place in its data set, not on its batch."""
    done("verify", folder / "lp", "--data", "digits", "--samples", 6, "--batch", 2, "-q")
    images = data.load("digits").take(6)
    whole = exact.run(Program.load(folder / "lp").graph, images.pixels, record=True)
    found = np.concatenate([r.traces["input.s"] for r in stand_in.runs])
    assert np.array_equal(found, whole.traces["input.s"])


def test_a_difference_ends_with_status_1_and_its_place(folder: Path, stand_in: StandIn) -> None:
    def spoil(result: RunResult, number: int) -> RunResult:
        if number != 1:
            return result
        values = result.traces["hidden1.x_F"].copy()
        values[1, 4, 2] += 1
        return replace(result, traces={**result.traces, "hidden1.x_F": values})

    stand_in.spoil = spoil
    outcome = lavasnn("verify", folder / "p", "--samples", 6, "--batch", 3, "--json", "-q")
    assert outcome.status == 1
    assert outcome.json["mismatches"] == 1
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith(
        "error: exact and lava differ in 1 values, first: population 'hidden1', x_F of neuron 2, sample 4, step 4: exact "
    )


class Closed(io.StringIO):
    """A stdout whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_difference_counts_even_if_no_one_reads_of_it(
    folder: Path, stand_in: StandIn, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in.spoil = lambda result, number: replace(result, outputs=result.outputs + 1)
    with contextlib.redirect_stdout(Closed()), pytest.raises(SystemExit) as stop:
        main(["verify", str(folder / "p"), "--samples", "2", "-q", *options])
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: exact and lava differ in 20 values, first: outputs\n"


def test_doctor_without_lava_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(*_: object, **__: object) -> RunResult:
        raise LavaMissing("Lava is not installed for Python 3.12")

    monkeypatch.setattr("compile.backends.lava.run", missing)
    if importlib.util.find_spec("lava"):
        outcome = lavasnn("doctor", "--json", "--data-dir", tmp_path)
        assert (outcome.status, outcome.json["ok"]) == (1, False)
        assert outcome.err == "error: Lava is installed and does not work: Lava is not installed for Python 3.12\n"
        monkeypatch.setattr("lavasnn.cli.doctor.version", lambda package: None)
    values = done("doctor", "--json", "--data-dir", tmp_path).json
    assert values["checks"]["lava"] == {"ok": False, "text": "Lava is not installed for Python 3.12"}
    assert values["checks"]["data digits"]["ok"] is True
    assert values["checks"]["data mnist"]["ok"] is False
    assert values["ok"] is False
    assert values["machine"]["versions"]["numpy"] == np.__version__
    assert "no  lava: Lava is not installed" in done("doctor", "--data-dir", tmp_path).out


def test_doctor_shows_a_target_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text('base = "loihi2"\n[limits.cores]\nvalue = 60\nsource = "half a chip"\n')
    limits = done("doctor", tmp_path / "board.toml", "--targets", "--json").json["board"]
    assert (limits["cores"]["value"], limits["cores"]["source"]) == (60, "half a chip")
    outcome = lavasnn("doctor", tmp_path / "board.toml")
    assert (outcome.status, outcome.err) == (
        2,
        f"error: doctor: {tmp_path / 'board.toml'} is given without --targets; nothing else takes a file\n",
    )


def test_doctor_lists_every_limit_with_its_source() -> None:
    targets = done("doctor", "--targets", "--json").json
    assert {name: limits["chips"]["value"] for name, limits in targets.items()} == {
        "loihi2": 1,
        "oheo-gulch": 1,
        "kapoho-point": 8,
        "hala-point": 1152,
    }
    limits = targets["loihi2"]
    assert limits["neurons_per_core"]["value"] == 8192
    assert all(entry["source"] and entry["confidence"] for entry in limits.values())
    assert "weight exponent low" in done("doctor", "--targets").out


# Exit status and streams


def test_what_does_not_fit_ends_with_status_1(tmp_path: Path) -> None:
    (tmp_path / "n.toml").write_text('neuron = "lif"\nsteps = 2\nsizes = [64, 4200, 10]\n[input]\nlevels = 16\n')
    done("export", "--init", 1, "--network", tmp_path / "n.toml", "-o", tmp_path / "g")
    outcome = lavasnn("compile", tmp_path / "g", "-o", tmp_path / "p", "--data", "digits", "--calibrate", 2, "--json")
    assert outcome.err == ("error: population 'output': needs 4,200 input axons, the target has 4,096; give it fewer inputs\n")
    told = {"who": "population 'output'", "resource": "input axons", "needed": 4200, "limit": 4096}
    assert outcome.status == 1
    assert outcome.json == {
        "output": None,
        "target": "loihi2",
        "fit": {"violations": [told | {"hint": "give it fewer inputs"}]},
    }
    (tmp_path / "t.toml").write_text(
        '[limits.cores]\nvalue = 1\nsource = "x"\n[limits.fan_in_per_core]\nvalue = 63\nsource = "x"\n'
    )
    arguments = ("--data", "digits", "--calibrate", 2, "--target", tmp_path / "t.toml", "--figure", tmp_path / "f.png")
    outcome = lavasnn("compile", tmp_path / "g", "-o", tmp_path / "p", *arguments)
    assert outcome.status == 1
    assert outcome.err.startswith("error: does not fit for 3 reasons: population 'hidden1': needs 64 input axons")
    for row in (
        r"'hidden1' +│ +input axons +│ +64 +│ +63",
        r"'output' +│ +input axons +│ +4,200 +│ +63",
        r"cores +│ +\d+ +│ +1 ",
    ):
        assert re.search(row, outcome.out)
    assert not (tmp_path / "p").exists() and not (tmp_path / "f.png").exists()


def test_an_unexpected_error_is_one_line_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> RunResult:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr("compile.backends.exact.run", broken)
    outcome = lavasnn("run", folder / "p")
    assert (outcome.status, outcome.out) == (2, "")
    assert re.fullmatch(r"error: unexpected ZeroDivisionError at test_cli.py:\d+: a b; LAVASNN_DEBUG=1 .*\n", outcome.err)
    monkeypatch.setenv("LAVASNN_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["run", str(folder / "p")])


@pytest.mark.parametrize(
    "error, status, words",
    [
        (MemoryError(), 2, "out of memory; a smaller network or --batch"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 2, "out of memory; "),
        (PermissionError(13, "Permission denied", "/some/file"), 2, "/some/file: Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["memory", "torch's memory", "files", "Ctrl-C"],
)
def test_other_endings_are_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, words: str
) -> None:
    def broken(*_: object, **__: object) -> RunResult:
        raise error

    monkeypatch.setattr("compile.backends.exact.run", broken)
    outcome = lavasnn("run", folder / "p")
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (status, "", 1)
    assert outcome.err.startswith(f"error: {words}")


def shell(command: str) -> Outcome:
    """A command line with `lavasnn` for the program."""
    program = f"'{sys.executable}' -c 'from lavasnn.cli import main; main()'"
    found = subprocess.run(
        ["bash", "-c", command.replace("lavasnn", program)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    return Outcome(found.returncode, found.stdout, found.stderr)


def test_closed_and_full_outputs_leave_no_traceback() -> None:
    """A reader that stops early, a stdout that was closed, a full disk."""
    outcome = shell("set -o pipefail; { lavasnn doctor --targets; echo status $? >&2; } | head -n 1; true")
    assert outcome.err == "status 0\n"
    for command in ("doctor --targets", "doctor --targets --json", "--help"):
        outcome = shell(f"{{ sleep 0.1; lavasnn {command}; echo status $? >&2; }} | true")
        assert outcome.err == "status 0\n"
    outcome = shell("lavasnn doctor --targets >&-")
    assert (outcome.status, outcome.err) == (0, "")
    outcome = shell("lavasnn doctor --targets --json >/dev/full")
    assert (outcome.status, outcome.err) == (2, "error: cannot write the output: No space left on device\n")


# Lava itself


@pytest.mark.lava
def test_lava_runs_what_the_exact_executor_runs(folder: Path, tmp_path: Path) -> None:
    for backend in ("exact", "lava"):
        arguments = ("--samples", 4, "--phases", "both", "--traces", "--backend", backend, "--json")
        values = done("run", folder / "p", *arguments, "-o", tmp_path / backend).json
        assert values["backend"] == backend
    one, other = RunResult.load(tmp_path / "exact"), RunResult.load(tmp_path / "lava")
    assert np.array_equal(one.outputs, other.outputs)
    assert set(one.traces) == set(other.traces)
    assert all(np.array_equal(one.traces[key], other.traces[key]) for key in one.traces)


@pytest.mark.lava
def test_verify_runs_stock_lif_on_lava(folder: Path) -> None:
    values = done("verify", folder / "lp", "--data", "digits", "--samples", 3, "--json").json
    assert (values["mismatches"], values["samples"], values["steps"]) == (0, 3, 9)


@pytest.mark.lava
@pytest.mark.parametrize("method", ["diffpc", "bsd", "dlif"])
def test_the_demo(tmp_path: Path, method: str) -> None:
    outcome = done("demo", "--method", method, "--json", "--out", tmp_path / "demo")
    values = outcome.json
    assert set(values["accuracy"]) == set(values["accuracy_n"]) == {"float", "exact", "lava_fixed"}
    assert set(values["accuracy_n"].values()) == {360}
    assert values["accuracy"]["exact"] >= {"diffpc": 0.96, "bsd": 0.94, "dlif": 0.96}[method]
    assert values["accuracy"]["lava_fixed"] == values["accuracy"]["exact"]
    proof = values["verify"]
    assert (proof["mismatches"], proof["populations"]) == (
        0,
        {"diffpc": 3, "bsd": 8, "dlif": 5}[method],
    )  # pairs, too
    assert proof["samples"] >= 50
    assert proof["compared"] >= proof["samples"] * proof["steps"] * values["fit"]["neurons"]
    assert (values["bits_per_neuron"]["error_phase"] is None) == (method != "diffpc")
    assert values["bits_per_neuron"]["total"] > (values["bits_per_neuron"]["error_phase"] or 0)
    assert set(values["fit"]) == {"cores", "neurons", "synapses", "memory_bytes"}
    assert set(values["files"]) == {"model", "program", "figure"} | ({"recall"} if method == "bsd" else set())
    for name in values["files"].values():
        assert Path(name).stat().st_size > 0
    assert Path(values["files"]["figure"]).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [line[:3] for line in outcome.err.splitlines()] == [f"{i}/5" for i in range(1, 6)]
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == sorted(Path(n).name for n in values["files"].values())
