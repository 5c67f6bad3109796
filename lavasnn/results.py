"""RunResult: what a run gave, the same for every executor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.errors import FileFormatError
from lavasnn.files import pack, read_tensors, unpack, write_tensors
from lavasnn.ir import Graph, Phase


@dataclass(frozen=True)
class RunResult:
    """Outputs, messages and, if asked for, traces of a run.

    Args:
        backend: "exact", "lava" or "torch".
        precision: "fixed" or "float".
        phases: Phases of each sample's window, in steps.
        sizes: Neurons of each population, in order from input to output.
        outputs: What the answer is read from, shape (sample, class): x_F at the end of the first phase,
            messages summed over the window, or the last voltage.
        labels: Correct classes, shape (sample,); empty if unknown.
        messages: For "population.kind" the number of messages (non-zero spikes), shape (sample, step).
        unheard: Those "population.kind" that no projection carries on.
        payloads: Bits that one message of a "population.kind" carries; where it says nothing, 2 of s_A and s_e and 1 of s.
        by_neuron: For "population.kind" each neuron's messages, all samples and steps together, shape (neuron,); empty
            unless asked for.
        traces: For "population.variable" its values, shape (sample, step, neuron); empty unless asked for.
        meta: Versions, seed, target, program and seconds.
    """

    backend: str
    precision: str
    phases: tuple[Phase, ...]
    sizes: Mapping[str, int]
    outputs: NDArray[Any]
    labels: NDArray[np.int64]
    messages: Mapping[str, NDArray[Any]]
    unheard: tuple[str, ...] = ()
    payloads: Mapping[str, int] = field(default_factory=dict)
    by_neuron: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    traces: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(
        graph: Graph,
        backend: str,
        settle: bool,
        outputs: NDArray[Any],
        labels: NDArray[np.int64] | None,
        messages: Mapping[str, NDArray[Any]],
        **more: Mapping[str, NDArray[Any]],
    ) -> RunResult:
        """A run of a graph, which says the rest; `more` are `by_neuron` and `traces`."""
        return RunResult(
            backend,
            "fixed" if graph.integer else "float",
            graph.phases(settle),
            {p.name: p.size for p in graph.populations},
            outputs,
            np.zeros(0, np.int64) if labels is None else labels,
            messages,
            graph.unheard,
            graph.payloads,
            **more,
        )

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.outputs)

    @property
    def steps(self) -> int:
        """Steps of a window."""
        return self.phases[-1].stop

    @property
    def predictions(self) -> NDArray[np.int64]:
        """Class with the largest output, the first of equals, shape (sample,)."""
        return np.argmax(self.outputs, axis=1)

    @property
    def accuracy(self) -> float:
        """Fraction of samples whose prediction is their label; NaN without labels."""
        return float(np.mean(self.predictions == self.labels)) if len(self.labels) else float("nan")

    def save(self, path: Path) -> None:
        """Write to a file of kind "run"."""
        tensors: dict[str, NDArray[Any]] = {}
        write_tensors(path, "run", pack(self, tensors), tensors)

    @staticmethod
    def load(path: Path) -> RunResult:
        """Read a file that `save` wrote."""
        _, header, tensors = read_tensors(path, "run")
        result = unpack(header, tensors, {"RunResult": RunResult, "Phase": Phase}, str(path))
        if not isinstance(result, RunResult):
            raise FileFormatError(f"{path}: holds no run")
        return result


def joined(parts: list[RunResult]) -> RunResult:
    """Runs of the same program over consecutive samples as one."""
    first = parts[0]
    if len(parts) == 1:
        return first

    def stack(maps: list[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        return {key: np.concatenate([m[key] for m in maps]) for key in maps[0]}

    return replace(
        first,
        outputs=np.concatenate([p.outputs for p in parts]),
        labels=np.concatenate([p.labels for p in parts]),
        messages=stack([p.messages for p in parts]),
        by_neuron={key: np.sum([p.by_neuron[key] for p in parts], axis=0) for key in first.by_neuron},
        traces=stack([p.traces for p in parts]),
    )
