"""From exact counts of a run to estimates of time and energy, each with its range and its source.

No energy of a Loihi 2 operation is published. What is printed is therefore, in this order: exact counts, Intel's relative
proxy, joules at the constants of Loihi 1 (a lower bound), and static power times wall time on a line of its own, because it
dominates small networks. No ratio is formed of dynamic energies: without the static line it would mislead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class LayerCounts:
    """What one population did, all samples of a run together. Names as in the activity probe of Intel's profiler.

    Args:
        population: Its name.
        neurons: Its size; those on cores, so 0 for inputs that come from outside.
        syn_ops: Synaptic operations: messages times the synapses stored for them, a zero weight included.
        syn_ops_nonzero: The same without weights of zero.
        dendrite_updates: Updates of its neurons; each is updated in every step.
        active_updates: Those of them in which a neuron surely sent something.
        spikes_in: Messages that reached its cores, once for each core.
        axon_out: Messages that it sent, once for each core that they go to.
        messages_by_hops: Those of `axon_out` between cores, by the links of the mesh that they cross.
    """

    population: str
    neurons: int
    syn_ops: int
    syn_ops_nonzero: int
    dendrite_updates: int
    active_updates: int
    spikes_in: int
    axon_out: int
    messages_by_hops: Mapping[int, int] = field(default_factory=dict)


COUNTED = tuple(f.name for f in fields(LayerCounts) if f.name not in ("population", "neurons", "messages_by_hops"))
"""The counts of a layer that add up over layers."""


@dataclass(frozen=True)
class Counts:
    """Exact counts of a run on a program, all its samples together.

    Args:
        samples: Number of samples.
        steps: Steps of a sample's window.
        latency_steps: Steps from a sample's first input to its last output.
        layers: From input to output.
        messages_by_hops: Messages between cores (`axon_out`) by the links of the mesh that they cross, those within chips;
            0 stays on its core. Empty if the program's cores were never placed.
        messages_across_chips: Those of them that leave their chip.
        messages_from_outside: Messages that enter from the host; where they enter is not known, so they have no hops.
        cores: Cores in use.
        chips: Chips in use.
        memory_bytes: The compiler's estimate for all cores.
    """

    samples: int
    steps: int
    latency_steps: int
    layers: tuple[LayerCounts, ...]
    messages_by_hops: Mapping[int, int]
    messages_across_chips: int
    messages_from_outside: int
    cores: int
    chips: int
    memory_bytes: int

    def total(self, name: str) -> int:
        """Sum of one of the `COUNTED` over all layers."""
        return sum(getattr(layer, name) for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Totals as whole numbers, and means per sample, as JSON values."""
        layers = [
            {
                **asdict(layer),
                "messages_by_hops": {str(hops): n for hops, n in layer.messages_by_hops.items()},
                "per_sample": {name: getattr(layer, name) / self.samples for name in COUNTED},
            }
            for layer in self.layers
        ]
        return {
            "samples": self.samples,
            "steps": self.steps,
            "latency_steps": self.latency_steps,
            "cores": self.cores,
            "chips": self.chips,
            "memory_bytes": self.memory_bytes,
            "layers": layers,
            "total": {name: self.total(name) for name in COUNTED},
            "per_sample": {name: self.total(name) / self.samples for name in COUNTED},
            "messages_by_hops": {str(hops): n for hops, n in sorted(self.messages_by_hops.items())},
            "messages_across_chips": self.messages_across_chips,
            "messages_from_outside": self.messages_from_outside,
        }


@dataclass(frozen=True)
class Constant:
    """A number that estimates rest on: its range, unit and origin."""

    low: float
    high: float
    unit: str
    source: str


_LOIHI_1 = "Davies et al., IEEE Micro 38(1), 2018, table 2: Loihi 1, SPICE before silicon, 0.75 V, 14 nm"
SYN_OP = Constant(23.6e-12, 23.6e-12, "J", f"{_LOIHI_1}; named a minimum")
UPDATE_INACTIVE = Constant(52e-12, 52e-12, "J", _LOIHI_1)
UPDATE_ACTIVE = Constant(81e-12, 81e-12, "J", _LOIHI_1)
SPIKE = Constant(1.7e-12, 1.7e-12, "J", f"{_LOIHI_1}; a spike within its tile")
HOP = Constant(3.0e-12, 4.0e-12, "J", f"{_LOIHI_1}; 3.0 east-west, 4.0 north-south")
TIME_STEP = Constant(
    1e-6, 10e-6, "s", 'Intel N-DNS challenge, arXiv 2303.09503: "typically within microseconds", read as 1 to 10'
)
STATIC_POWER = Constant(1.78, 1.78, "W", "arXiv 2609.32317, table II: one Oheo Gulch board with one Loihi 2 (quoted)")
NEURON_WEIGHT = 10
"""Synaptic operations that one neuron update counts for in Intel's proxy (N-DNS challenge, arXiv 2303.09503, equation 6)."""


@dataclass(frozen=True)
class Estimate:
    """A quantity that nobody measured, per sample.

    Args:
        name: What it is.
        low: Smallest value that the constants allow.
        high: Largest one.
        unit: Of both.
        label: How it has to be called wherever it is shown.
        source: Where its constants are from.
    """

    name: str
    low: float
    high: float
    unit: str
    label: str
    source: str

    def to_json(self) -> dict[str, Any]:
        """As JSON values, marked as an estimate."""
        return {"estimate": True, **asdict(self)}


def proxy(counts: Counts) -> float:
    """Intel's relative measure of a sample's work: SynOPS + 10 NeuronOPS, with stored synapses; it has no unit.

    Source: N-DNS challenge, arXiv 2303.09503, equation 6, which takes both per second; here they are per sample.
    """
    return (counts.total("syn_ops") + NEURON_WEIGHT * counts.total("dendrite_updates")) / counts.samples


def estimates(counts: Counts) -> tuple[Estimate, ...]:
    """Latency, dynamic energy and static energy of a sample.

    The dynamic energy's lower end takes synapses with weights other than zero, 81 pJ for updates in which a neuron surely
    sent something and 52 pJ for all others, and hops east-west; its upper end takes all stored synapses, 81 pJ for every
    update, and hops north-south. Messages from the host count without hops; for borders between chips there is no figure.
    """
    active, updates = counts.total("active_updates"), counts.total("dendrite_updates")
    hops = sum(hops * n for hops, n in counts.messages_by_hops.items())
    spikes = counts.total("axon_out")
    low = (
        counts.total("syn_ops_nonzero") * SYN_OP.low
        + active * UPDATE_ACTIVE.low
        + (updates - active) * UPDATE_INACTIVE.low
        + spikes * SPIKE.low
        + hops * HOP.low
    )
    high = counts.total("syn_ops") * SYN_OP.high + updates * UPDATE_ACTIVE.high + spikes * SPIKE.high + hops * HOP.high
    watts = STATIC_POWER.low * counts.chips
    return (
        Estimate(
            "latency",
            counts.latency_steps * TIME_STEP.low,
            counts.latency_steps * TIME_STEP.high,
            "s",
            "estimate: steps times an assumed time step",
            TIME_STEP.source,
        ),
        Estimate(
            "dynamic energy",
            low / counts.samples,
            high / counts.samples,
            "J",
            "estimate: Loihi 1, pre-silicon, lower bound",
            _LOIHI_1,
        ),
        Estimate(
            "static energy",
            watts * counts.steps * TIME_STEP.low,
            watts * counts.steps * TIME_STEP.high,
            "J",
            f"estimate: static power of {counts.chips} chip{'s' if counts.chips > 1 else ''}, {watts:.2f} W, times wall time",
            f"{STATIC_POWER.source}; {TIME_STEP.source}",
        ),
    )
