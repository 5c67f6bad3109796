"""Ways of messages through the mesh: for each pair of slices the links and chip borders between their cores.

A message goes along a row, then along a column; so the links between two cores are the difference of their columns and rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compile.passes.place import Mesh
from compile.passes.state import State
from compile.program import Route as Way


@dataclass(frozen=True)
class Route:
    """Turn links into routes; report fan-out, axons, distances and what goes from chip to chip."""

    def apply(self, state: State) -> State:
        """See the module's text."""
        count, links = len(state.places), state.links
        core = np.array([s.core for s in state.slices], np.int64)
        per_chip, width = state.target.cores.value, state.target.mesh_width.value
        mesh = Mesh.of(state.target, per_chip * (1 + max((chip for chip, _, _ in state.places), default=0)))
        at = np.array([chip * per_chip + row * width + column for chip, column, row in state.places], np.int64)
        a, b = core[links.source], core[links.target]
        hops, chips = mesh.distance(at[a], at[b])
        routes = tuple(
            Way(int(i), int(j), int(n), float(m), int(h), int(c))
            for i, j, n, m, h, c in zip(links.source, links.target, links.axons, links.messages, hops, chips, strict=True)
        )
        by_hops: dict[str, float] = {}
        for h in np.unique(hops):
            by_hops[str(int(h))] = float(links.messages[hops == h].sum())
        out, into = np.zeros(count), np.zeros(count)
        np.add.at(out, a, links.axons)
        np.add.at(into, core, [s.axons_in for s in state.slices])
        summary: dict[str, Any] = {
            "routes": len(routes),
            "fan_out": _fan_out(state),
            "largest_axons_out": int(out.max(initial=0)),
            "largest_axons_in": int(into.max(initial=0)),
            "messages_by_hops": by_hops,
            "messages_between_cores": float(links.messages[a != b].sum()),
            "messages_between_chips": float(links.messages[chips > 0].sum()),
        }
        return replace(state, routes=routes, report={**state.report, "route": summary})


def _fan_out(state: State) -> dict[str, dict[str, float]]:
    """Slices that a slice of each population tells, mean and most."""
    told = np.bincount(state.links.source, minlength=len(state.slices))
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(s.population for s in state.slices):
        mine = told[[i for i, s in enumerate(state.slices) if s.population == name]]
        found[name] = {"mean": float(mine.mean()), "most": int(mine.max())}
    return found
