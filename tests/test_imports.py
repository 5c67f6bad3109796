"""What importing the packages loads, in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "lava", "matplotlib", "sklearn")


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import lavasnn",
        "from compile import rules",
        "from compile.pipeline import compile_graph",
        "from compile.backends import exact, guard, lava",
        "from compile import verify",
        "from lavasnn import data, ir, results",
        "from lavasnn.measure import traffic",
        "import lavasnn.cli",
    ],
)
def test_light(statement: str) -> None:
    assert loaded_by(statement) == set()


def test_to_graph_is_there_when_asked_for() -> None:
    assert loaded_by("import lavasnn; lavasnn.to_graph") == {"torch"}


@pytest.mark.parametrize("statement", ["from lavasnn.nn import DiffPCNet, LIF", "from lavasnn.learning.trainer import Trainer"])
def test_training_side_needs_torch_alone(statement: str) -> None:
    assert loaded_by(statement) == {"torch"}
