"""When each population's window opens.

The rule is `Graph.offsets`; this pass writes its result into the program, where a chip's host would look for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from compile.passes.state import State


@dataclass(frozen=True)
class Schedule:
    """Set the offset of every population, in steps after the input's."""

    def apply(self, state: State) -> State:
        """See the module's text."""
        return replace(state, offsets=state.graph.offsets)
