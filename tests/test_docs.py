"""The documentation holds what it says: blocks run, commands parse, links lead somewhere, tables match the code."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch

from compile import rules
from compile.target import LOIHI2, TARGETS
from compile.target import load as load_target
from lavasnn import config, weights
from lavasnn.cli import COMMANDS, cli
from lavasnn.cli.tasks import load_task
from lavasnn.dynamics.timing import Timing

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [page for page in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))) if page.is_file()]
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SHELL_WORDS = {"|", "||", "&&", ";", ">", ">>", "<", "2>"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(page.read_text("utf-8")) if kind == language]


def needs_lava(code: str) -> bool:
    return re.search(r"\brun_guarded\b|backends\.lava|backends import [^\n]*\blava\b|processes", code) is not None


def scripts() -> list[object]:
    """Every example, and the Python blocks of every page as one script (unless they are an example word for word)."""
    found = {name_of(path): path.read_text("utf-8") for path in EXAMPLES}
    shown = {code.strip() for code in found.values()}
    for page in PAGES:
        if own := [code for code in blocks(page, "python") if code.strip() not in shown]:
            found[name_of(page)] = "\n".join(own)
    return [pytest.param(n, c, id=n, marks=[pytest.mark.lava] if needs_lava(c) else []) for n, c in found.items()]


def run(name: str, code: str, folder: Path) -> str:
    """Run a script as a reader would, in an empty folder; an example from its place, for it may look beside itself."""
    if name.endswith(".md"):
        script = folder / "block.py"
        script.write_text(code, "utf-8")
    else:
        script = ROOT / name
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{name}: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize(("name", "code"), scripts())
def test_python_runs(name: str, code: str, tmp_path: Path) -> None:
    if needs_lava(code):
        pytest.importorskip("lava")
    said = run(name, code, tmp_path)
    if name == "docs/examples/readme_example.py":
        accuracy = re.search(r"^(\d+) % of 100 digits", said)
        assert accuracy is not None
        assert int(accuracy[1]) > 85
        assert "\n0 mismatches" in said
    if name == "docs/examples/dlif_in_lava.py":
        assert said.splitlines() == [f"{a} XOR {b} = {a ^ b}" for a in (0, 1) for b in (0, 1)]


def commands(page: Path) -> list[list[str]]:
    """What is typed on the command lines of a page: lines of unmarked and shell blocks, and inline `lavasnn ...`."""
    found: list[list[str]] = []
    lines = [
        line
        for kind in ("", "bash", "sh", "console", "shell")
        for body in blocks(page, kind)
        for line in body.replace("\\\n", " ").splitlines()
    ]
    lines += re.findall(r"(?<!`)`(lavasnn [a-z][^`]*)`", FENCE.sub("", page.read_text("utf-8")))
    for line in lines:
        line = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
        if not re.match(r"(lavasnn|make) [a-z-]", line):
            continue
        words = shlex.split(line, comments=True)
        end = next((i for i, word in enumerate(words) if word in SHELL_WORDS), len(words))
        found.append(words[:end])
    return found


EVERY_COMMAND = [
    pytest.param(page, words, id=f"{name_of(page)}: {' '.join(words)}") for page in PAGES for words in commands(page)
]


def parse(words: list[str]) -> click.Context:
    command = cli.get_command(click.Context(cli), words[1])
    assert command is not None, f"there is no command {words[1]!r}"
    return command.make_context(words[1], list(words[2:]))


@pytest.mark.parametrize(("page", "words"), EVERY_COMMAND)
def test_commands_parse(page: Path, words: list[str]) -> None:
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
        return
    if len(words) == 2 and words[1] not in ("demo", "doctor"):  # a command named in passing, as in `lavasnn bits`
        assert words[1] in COMMANDS
        return
    context = parse(words)
    for value in context.params.values():  # a configuration named in the repository is there
        if isinstance(value, Path) and value.suffix == ".toml" and len(value.parts) > 1:
            assert (ROOT / value).is_file()


def test_commands_were_found() -> None:
    shown = {words[1] for page in PAGES for words in commands(page) if words[0] == "lavasnn" and len(words) > 2}
    assert shown >= set(COMMANDS)


def test_wrong_commands_do_not_parse() -> None:
    with pytest.raises(click.UsageError, match="--nonsense"):
        parse(["lavasnn", "compile", "model.safetensors", "--nonsense"])
    with pytest.raises(click.UsageError, match="output"):
        parse(["lavasnn", "compile", "model.safetensors"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented(command: str) -> None:
    page = (DOCS / "cli.md").read_text("utf-8")
    head, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    (section,) = [s for s in sections if s.split("\n", 1)[0] == command]
    known = cli.get_command(click.Context(cli), command)
    assert known is not None
    options = [p.opts for p in known.params if isinstance(p, click.Option)]
    missing = [o for o in options if not any(f"`{name}`" in section or f"`{name}`" in head for name in o)]
    named = {o[-1] if o[-1].startswith("--") else o[0] for o in missing}
    assert not named


def slug(heading: str) -> str:
    """A heading's anchor, as mkdocs and GitHub both make it for plain words."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    broken: list[str] = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), link
            continue
        path, _, anchor = link.partition("#")
        target = Path(os.path.normpath(page.parent / path)) if path else page  # a link within docs may lead out, as pictures do
        there = target.exists() and target.is_relative_to(ROOT)
        headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE) if there and anchor else [anchor]
        if not there or slug(anchor) not in map(slug, headings):
            broken.append(link)
        elif page.is_relative_to(DOCS) and not target.is_relative_to(DOCS):
            broken.append(f"{link} (leads out of the web site)")
    assert not broken


def test_every_page_is_in_the_site() -> None:
    shown = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8")))
    assert shown == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


TOMLS = [
    *(pytest.param(p.read_text("utf-8"), id=name_of(p)) for p in [*DOCS.rglob("*.toml"), *ROOT.glob("sim_runs/*.toml")]),
    *(pytest.param(b, id=f"{name_of(p)} {i}") for p in PAGES for i, b in enumerate(blocks(p, "toml"))),
]


@pytest.mark.parametrize("text", TOMLS)
def test_toml_is_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "shown.toml"
    path.write_text(text, "utf-8")
    entries = config.read_toml(path)
    if "limits" in entries:
        assert load_target(path).name == "shown"
        return
    if "task" in entries:
        load_task(entries["task"], path)
        return
    if "neuron" not in entries:
        config.load(path)
        return
    if "sizes" in entries:
        graph = weights.untrained(path, seed=0)
        assert [p.size for p in graph.populations] == entries["sizes"]
        return
    tensors: dict[str, torch.Tensor] = {}
    for i, layer in enumerate(entries["layer"]):
        tensors[layer["weight"]] = torch.ones(5 - i, 6 - i)
        if "bias" in layer:
            tensors[layer["bias"]] = torch.ones(5 - i)
    torch.save(tensors, tmp_path / "weights.pt")
    graph = weights.from_state_dict(tmp_path / "weights.pt", path)
    assert len(graph.populations) == len(entries["layer"]) + 1
    assert graph.steps == entries.get("steps", 0)


def test_lif_example_is_the_one_in_the_quickstart() -> None:
    def values(text: str) -> list[str]:
        bare = (re.sub(r"\s*#.*", "", line) for line in text.splitlines())
        return [line for line in bare if line]

    example = (DOCS / "examples" / "lif_state_dict.toml").read_text("utf-8")
    assert values(example) in [values(block) for block in blocks(DOCS / "quickstart.md", "toml")]


def table_of(page: str) -> dict[str, list[str]]:
    """Table rows of a page by their first cell."""
    text = (DOCS / page).read_text("utf-8")
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in cells}


def test_target_table_is_the_targets() -> None:
    table = table_of("target.md")
    for name, limit in LOIHI2.limits.items():
        value = f"{limit.value:,} {limit.unit}".strip()
        assert table[name.replace("_", " ")] == [value, limit.confidence, limit.source]
    for name, target in TARGETS.items():
        assert table[f"`{name}`"][0] == f"{target.chips.value:,}"


def test_rule_table_is_the_rules() -> None:
    table = table_of("compiler.md")
    for rule in rules.AFTER:
        assert table[f"`{rule.__name__}`"][0] == ("before, after" if rule in rules.BEFORE else "after")


def test_timing_table_is_the_timing() -> None:
    table = table_of("diffpc.md")
    for name, field in Timing.__dataclass_fields__.items():
        default = f'"{field.default}"' if isinstance(field.default, str) else str(field.default)
        assert table[f"`{name}`"][-1] == f"`{default}`"


def test_readme_example_is_short() -> None:
    assert len((DOCS / "examples" / "readme_example.py").read_text("utf-8").splitlines()) <= 15
