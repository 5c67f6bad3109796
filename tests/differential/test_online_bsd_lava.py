"""BSD that learns on Lava: weights, tags, sums, spikes and traces of LearningDense's own rule against the integers of `learning`."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from compile.backends.guard import Job, run_guarded
from lavasnn.learning.online_bsd import OnlineBSDInt, OnlineSettings

pytestmark = pytest.mark.lava
TASK = """
import pickle
import numpy as np


def task(job) -> None:
    from lavasnn.processes.online_graph import learn

    learn(**pickle.loads((job / "told.pickle").read_bytes()), job=job)
"""
