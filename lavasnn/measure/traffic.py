"""Spike communication: how many messages, and how many bits, a network's neurons exchange.

Counted on the real message stream of a run. A ternary spike takes 2 bits (sign and presence), a binary one 1 bit, a graded
one 24; an address names the sender within its population. The error phase of DiffPC is what its paper counts: error spikes
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lavasnn.results import RunResult

FLOAT_BITS = 32
BACKPROP_BITS = FLOAT_BITS
"""Backpropagation sends one float32 error to each neuron."""


def predictive_coding_bits(iterations: int) -> int:
    """Float predictive coding: a prediction and an error, 32 bits each, for every neuron and iteration."""
    return 2 * iterations * FLOAT_BITS


def bits_of(kind: str) -> int:
    """Payload bits of one message, unless a run says otherwise: 2 for the ternary s_A and s_e, 1 for spikes."""
    return 1 if kind == "s" else 2


@dataclass(frozen=True)
class Row:
    """Messages of one kind, from one population, in one phase.

    Args:
        phase: Phase of the window.
        population: Who sent them.
        kind: "s", "s_A" or "s_e".
        neurons: Size of the population.
        spikes: Mean number a sample.
        heard: False if no projection carries them on.
        payload: Bits that one of them carries.
    """

    phase: str
    population: str
    kind: str
    neurons: int
    spikes: float
    heard: bool
    payload: int

    @property
    def spikes_per_neuron(self) -> float:
        """Mean number a sample and neuron of the population."""
        return self.spikes / self.neurons

    @property
    def bits(self) -> float:
        """Payload bits a sample."""
        return self.spikes * self.payload

    @property
    def address_bits(self) -> float:
        """Address bits a sample: each message names its sender among the population."""
        return self.spikes * (self.neurons - 1).bit_length()


def rows(result: RunResult) -> list[Row]:
    """Messages of a run by phase, population and kind; phases in which nothing can be sent are left out."""
    found: list[Row] = []
    for phase in result.phases:
        if phase.name == "drain":
            continue
        for key, counts in result.messages.items():
            population, kind = key.rsplit(".", 1)
            if kind == "s_e" and phase.name == "init":
                continue
            spikes = float(counts[:, phase.start : phase.stop].sum(axis=1, dtype="int64").mean())
            heard = key not in result.unheard
            payload = result.payloads.get(key, bits_of(kind))
            found.append(Row(phase.name, population, kind, result.sizes[population], spikes, heard, payload))
    return found


def error_phase_bits(spikes: Sequence[float], neurons: int) -> float:
    """Bits per neuron of the error phase: 2 sum |s_e| / (samples * non-input neurons).

    Args:
        spikes: Mean number of error spikes a sample, by layer.
        neurons: Neurons of all layers but the input.

    Source: DiffPC paper, table on communication (0.04 spikes = 0.08 bits).
    """
    return bits_of("s_e") * sum(spikes) / neurons


def summary(result: RunResult, iterations: int = 15) -> dict[str, Any]:
    """Everything about a run's messages, as JSON values.

    Args:
        result: A run; with the second phase for error figures.
        iterations: Of the float predictive coding it is compared with.
    """
    found = rows(result)
    source = next(iter(result.sizes))
    total = sum(result.sizes.values())
    behind = total - result.sizes[source]
    errors = [r for r in found if r.kind == "s_e" and r.population != source]
    phases = dict.fromkeys(r.phase for r in found)
    return {
        "samples": result.samples,
        "backend": result.backend,
        "precision": result.precision,
        "neurons": {"all": total, "non_input": behind},
        "error_phase": error_phase_bits([r.spikes for r in errors], behind) if errors else None,
        "error_phase_heard": error_phase_bits([r.spikes for r in errors if r.heard], behind) if errors else None,
        "error_spikes_per_neuron": sum(r.spikes for r in errors) / behind if errors else None,
        "total": sum(r.bits for r in found) / total,
        "total_heard": sum(r.bits for r in found if r.heard) / total,
        "total_with_address": sum(r.bits + r.address_bits for r in found) / total,
        "by_phase": {phase: sum(r.bits for r in found if r.phase == phase) / total for phase in phases},
        "rows": [
            {
                "phase": r.phase,
                "population": r.population,
                "kind": r.kind,
                "spikes_per_sample": r.spikes,
                "spikes_per_neuron": r.spikes_per_neuron,
                "bits_per_neuron": r.bits / r.neurons,
                "heard": r.heard,
            }
            for r in found
        ],
        "compared_with": {
            "backpropagation": BACKPROP_BITS,
            "float_predictive_coding": predictive_coding_bits(iterations),
            "iterations": iterations,
        },
    }


def training_summary(error_spikes: Sequence[Sequence[float]], neurons: int) -> dict[str, float] | None:
    """Error-phase bits per neuron of a training run.

    Args:
        error_spikes: For every epoch the mean number of error spikes a sample, by layer; empty lists for baselines.
        neurons: Neurons of all layers but the input.

    Returns:
        The mean over all epochs (the figure beside the paper's), the last epoch's, and the mean without the first hidden
        layer, whose error spikes no one receives; None for methods that send none.
    """
    if not error_spikes or not error_spikes[0]:
        return None
    every = [error_phase_bits(epoch, neurons) for epoch in error_spikes]
    heard = [error_phase_bits(epoch[1:], neurons) for epoch in error_spikes]
    return {
        "error_phase": sum(every) / len(every),
        "last_epoch": every[-1],
        "error_phase_heard": sum(heard) / len(heard),
    }
