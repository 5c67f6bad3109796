"""When each population's window opens.

Feed-forward LIF layers open one step later per synapse on the way, so a window never meets what is still in flight.
DiffPC populations open together; in the first step they discard what arrives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from compile.passes.state import State


@dataclass(frozen=True)
class Schedule:
    """Set the offset of every population, in steps after the input's."""

    def apply(self, state: State) -> State:
        """See the module's text."""
        graph = state.graph
        offsets = {graph.source.name: 0}
        for p in graph.populations[1:]:
            before = [offsets[q.source] for q in graph.arriving(p.name) if q.source in offsets]
            offsets[p.name] = 0 if graph.timing is not None else max(before) + 1
        return replace(state, offsets=offsets)
