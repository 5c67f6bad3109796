"""BSD networks on Lava: pyramidal populations of both pathways, wired with stock synapses, samples one after the other.

Called in the child alone (see `compile.backends.lava`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.dynamics.pyramidal import Pyramidal, PyramidalInt
from lavasnn.ir import Graph
from lavasnn.pathways import driven

Array = NDArray[Any]


def emit(graph: Graph, pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None, files: dict[str, Path]) -> dict[str, Any]:
    """The Lava process of each population; `files` says where each records, if it does.

    A window takes the steps of a sample, and the next one follows at once: each population's opens as late as its messages
    come.
    """
    from lavasnn.processes.pyramidal import Pyramidal as Process

    shown, basal_at, apical_at = driven(graph, pixels, labels), graph.offsets, graph.apical_offsets
    found: dict[str, Any] = {}
    for p in graph.populations:
        assert isinstance(p.dynamics, Pyramidal | PyramidalInt)
        found[p.name] = Process(
            shape=(p.size,),
            params=p.dynamics,
            steps=graph.steps,
            period=graph.steps,
            basal_at=basal_at[p.name],
            apical_at=apical_at[p.name],
            current=shown.get(p.name),
            samples=len(pixels),
            record=str(files.get(p.name, "")),
            name=p.name,
        )
    return found


def steps_of(graph: Graph, samples: int) -> int:
    """Steps until the last window of all is over."""
    return samples * graph.steps + max(*graph.offsets.values(), *graph.apical_offsets.values())
