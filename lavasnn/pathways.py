"""What goes into the two pathways of a BSD network and what is read from it, the same for every executor."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.dynamics import pyramidal
from lavasnn.dynamics.pyramidal import Pyramidal, PyramidalInt
from lavasnn.ir import Graph

Array = NDArray[Any]


def driven(graph: Graph, pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> dict[str, Array]:
    """Basal currents of the driven populations, shape (sample, neuron); without labels no concept is shown."""
    found: dict[str, Array] = {}
    for p in graph.populations:
        d = p.dynamics
        assert isinstance(d, Pyramidal | PyramidalInt)
        if d.drive == "stimulus":
            found[p.name] = pyramidal.currents(d, pixels, graph.encoding.levels)
        elif d.drive == "concept":
            shown = np.zeros((len(pixels), p.size), np.uint8)
            if labels is not None:
                shown[np.arange(len(labels)), labels] = 1
            found[p.name] = pyramidal.currents(d, shown, 1)
    return found


MOST_VOLTAGE = 2**25
"""More than twice what a 24-bit sum of voltages reaches."""


def voltage_or_spikes(graph: Graph, spikes: Array, basal: Array) -> Array:
    """What a BSD network answers, shape (sample, class): the sum of each voltage, or spikes with ties broken by that."""
    last = basal[:, -1].astype(np.int64 if graph.integer else np.float64)
    return last if graph.read == "voltage" else spikes.sum(axis=1) * MOST_VOLTAGE + last
