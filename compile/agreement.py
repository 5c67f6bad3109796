"""How far a network in integers follows the real one: layer by layer, where they part, and by how much.

Integers are not expected to equal real numbers. This says how often they do, so that a layer that lost its meaning in 8 bits is
seen before its accuracy is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.errors import InputError
from lavasnn.results import RunResult


@dataclass(frozen=True)
class Layer:
    """Messages of one population and kind, real against integer.

    Args:
        population: Whose.
        kind: "s", "s_A" or "s_e".
        compared: Values compared.
        equal: Share of them that have the same sign (silence counts as 0).
        real: Mean number of messages a sample in the real network.
        integer: The same in integers.
        apart: Mean, over samples and neurons, of the difference of the numbers of messages in a window.
        first: (sample, step, neuron) of the first value that differs, the earliest step over all samples; None if none does.
    """

    population: str
    kind: str
    compared: int
    equal: float
    real: float
    integer: float
    apart: float
    first: tuple[int, int, int] | None


@dataclass(frozen=True)
class Agreement:
    """A real run against one in integers, of the same samples.

    Args:
        reference: Which real network the integers are compared with.
        layers: In order of populations.
        predictions: Share of samples with the same answer.
    """

    reference: str
    layers: tuple[Layer, ...]
    predictions: float

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"reference": self.reference, "predictions": self.predictions, "layers": [asdict(v) for v in self.layers]}


def agreement(real: RunResult, whole: RunResult, reference: str = "real network") -> Agreement:
    """Compare the messages of a real run with those of a run in integers.

    Args:
        real: Run with traces; precision "float".
        whole: Run of the same samples with traces; precision "fixed".
        reference: Name of the real network.

    Raises:
        InputError: The runs are not of one network and its integers, or not of the same samples.
    """
    if (real.precision, whole.precision) != ("float", "fixed"):
        raise InputError(f"agreement: a float and a fixed run are needed, given are {real.precision} and {whole.precision}")
    keys = [key for key in real.traces if key.rsplit(".", 1)[1].startswith("s") and key in whole.traces]
    if not keys or any(real.traces[k].shape != whole.traces[k].shape for k in keys):
        raise InputError("agreement: the runs did not record the same samples and populations")
    layers: list[Layer] = []
    for key in sorted(keys, key=lambda k: (list(real.sizes).index(k.rsplit(".", 1)[0]), k)):
        a, b = (np.sign(r.traces[key]).astype(np.int8) for r in (real, whole))
        name, kind = key.rsplit(".", 1)
        differs = a != b
        counts = [np.count_nonzero(v, axis=1) for v in (a, b)]
        layers.append(
            Layer(
                name,
                kind,
                a.size,
                1.0 - float(np.mean(differs)),
                float(counts[0].sum() / len(a)),
                float(counts[1].sum() / len(b)),
                float(np.abs(counts[0] - counts[1]).mean()),
                _first(differs),
            )
        )
    return Agreement(reference, tuple(layers), float(np.mean(real.predictions == whole.predictions)))


def _first(differs: NDArray[np.bool_]) -> tuple[int, int, int] | None:
    """Sample, step and neuron of the earliest difference."""
    places = np.argwhere(differs.transpose(1, 0, 2))
    if not len(places):
        return None
    step, sample, neuron = (int(v) for v in places[0])
    return sample, step, neuron
