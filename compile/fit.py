"""How a program fits its target: what each core, each chip and the whole use, and of how much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compile.program import Program
from compile.target import Target
from lavasnn.errors import Violation
from lavasnn.synapses import count

CORE = {
    "neurons": "neurons_per_core",
    "memory bytes": "memory_per_core",
    "stored weights": "synapses_per_core",
    "axons in": "fan_in_per_core",
    "axons out": "fan_out_per_core",
}
"""Resources of a core and their limits."""
CHIP = {"cores": "cores", "neurons": "neurons_per_chip", "stored weights": "synapses_per_chip"}
"""Resources of a chip and their limits; the whole has as many times as much as it has chips."""
HINTS = {
    "chips": "compile anew for this target",
    "cores": "a target of more chips or a smaller network would do",
    "neurons": "compile anew for this target",
    "memory bytes": "compile anew for this target",
    "stored weights": "compile anew for this target",
    "axons in": "give its populations fewer inputs",
    "axons out": "let its populations lead to fewer or smaller ones",
}


@dataclass(frozen=True)
class Row:
    """What one part of the target uses of one resource.

    Args:
        scope: "core", "chip" or "whole".
        index: Which core or chip; 0 for the whole.
        resource: What of.
        used: How much is used; memory is an estimate.
        limit: How much there is.
    """

    scope: Literal["core", "chip", "whole"]
    index: int
    resource: str
    used: int
    limit: int

    @property
    def share(self) -> float:
        """Used of what there is."""
        return self.used / self.limit


@dataclass(frozen=True)
class Report:
    """A program on a target.

    Args:
        rows: First the whole, then chips, then cores; only chips and cores in use.
        violations: Rows beyond their limit.
    """

    rows: tuple[Row, ...]
    violations: tuple[Violation, ...]

    def of(self, scope: str) -> tuple[Row, ...]:
        """Rows of "core", "chip" or "whole"."""
        return tuple(r for r in self.rows if r.scope == scope)

    @property
    def loads(self) -> NDArray[np.float64]:
        """Largest share of any resource, by core, shape (core,)."""
        rows = self.of("core")
        return np.array([r.share for r in rows]).reshape(-1, len(CORE)).max(axis=1) if rows else np.zeros(0)

    def to_json(self) -> dict[str, Any]:
        """Rows and violations as JSON values."""
        return {"rows": [asdict(r) for r in self.rows], "violations": [asdict(v) for v in self.violations]}


def fit(program: Program, target: Target) -> Report:
    """Compare what a program uses with what a target has.

    Args:
        program: Compiled, for this target or another.
        target: The system it should run on.
    """
    rows = tuple(_rows(program, target))
    tenants = populations_by_core(program)

    def who(row: Row) -> str:
        if row.scope == "core":
            return f"core {row.index} ({', '.join(tenants[row.index])})"
        return f"chip {row.index} of {target.name}" if row.scope == "chip" else f"the network on {target.name}"

    over = (r for r in rows if r.used > r.limit)
    return Report(rows, tuple(Violation(who(r), r.resource, r.used, r.limit, HINTS[r.resource]) for r in over))


def populations_by_core(program: Program) -> list[list[str]]:
    """Names of the populations on each core."""
    found: list[list[str]] = [[] for _ in range(program.cores)]
    for s in program.slices:
        if s.population not in found[s.core]:
            found[s.core].append(s.population)
    return found


def traffic_by_core(program: Program) -> NDArray[np.float64]:
    """Messages per sample that each core exchanges with other cores, sent and received, shape (core,)."""
    total = np.zeros(program.cores)
    for r in program.routes:
        a, b = program.slices[r.source].core, program.slices[r.target].core
        if a != b:
            total[[a, b]] += r.messages
    return total


@dataclass(frozen=True)
class PairCost:
    """What pairs of spikes cost beyond the network without them.

    Args:
        population: The coincidence neurons of one layer's pairs.
        neurons: How many they are.
        synapses: Stored for them and for what they tell.
        syn_ops: Synaptic operations a sample into and out of them, on the calibration samples.
        share: The same over the operations of everything but pairs.
    """

    population: str
    neurons: int
    synapses: int
    syn_ops: float
    share: float


def pair_costs(program: Program) -> tuple[PairCost, ...]:
    """Each layer's pairs, measured when the program was compiled; empty without pairs."""
    names: list[str] = program.report.get("lower", {}).get("pairs", [])
    each: dict[str, float] = program.report.get("calibrate", {}).get("syn_ops_per_sample", {})
    graph = program.graph
    own = {n: [p for p in graph.projections if n in (p.source, p.target) and p.name in each] for n in names}
    rest = sum(each.values()) - sum(each[p.name] for mine in own.values() for p in mine)
    found: list[PairCost] = []
    for name, mine in own.items():
        syn_ops = sum(each[p.name] for p in mine)
        synapses = sum(count(graph.synapses(p)) for p in mine)
        found.append(PairCost(name, graph.population(name).size, synapses, syn_ops, syn_ops / rest if rest else 0.0))
    return tuple(found)


def _rows(program: Program, target: Target) -> Iterator[Row]:
    cores = program.cores
    used = {name: np.zeros(cores, np.int64) for name in CORE}
    for s in program.slices:
        used["neurons"][s.core] += s.stop - s.start
        used["memory bytes"][s.core] += s.memory_bytes
        used["stored weights"][s.core] += s.weights
        used["axons in"][s.core] += s.axons_in
    for r in program.routes:
        used["axons out"][program.slices[r.source].core] += r.axons
    used["cores"] = np.ones(cores, np.int64)
    chip = np.array([place[0] for place in program.places] or np.arange(cores) // target.cores.value, np.int64)
    limits = target.limits
    yield Row("whole", 0, "chips", len(np.unique(chip)), target.chips.value)
    for name, limit in CHIP.items():
        yield Row("whole", 0, name, int(used[name].sum()), limits[limit].value * target.chips.value)
    for c in np.unique(chip):
        for name, limit in CHIP.items():
            yield Row("chip", int(c), name, int(used[name][chip == c].sum()), limits[limit].value)
    for c in range(cores):
        for name, limit in CORE.items():
            yield Row("core", c, name, int(used[name][c]), limits[limit].value)
