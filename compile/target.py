"""What a Loihi 2 holds: the one place with chip limits, each with its source and how sure it is.

Published figures disagree and Intel publishes no full list, so every limit says where it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lavasnn.errors import InputError

Confidence = Literal["primary", "secondary", "derived", "simulator"]


@dataclass(frozen=True)
class Limit:
    """A number with its origin.

    Args:
        value: The limit.
        unit: What it counts.
        source: Where it is from.
        confidence: "primary" (the maker's own text), "secondary" (quoted), "derived" (a quotient or a ceiling of such),
            "simulator" (read in lava-nc 0.10.0).
    """

    value: int
    unit: str
    source: str
    confidence: Confidence


@dataclass(frozen=True)
class Target:
    """A chip: cores, what each holds, and the widths of its registers."""

    name: str
    cores: Limit
    neurons_per_core: Limit
    memory_per_core: Limit
    fan_in_per_core: Limit
    weight_bits: Limit
    state_bits: Limit
    threshold_bits: Limit
    bias_bits: Limit
    dendrite_input: Limit
    weight_exponent_low: Limit
    weight_exponent_high: Limit


LOIHI2 = Target(
    name="loihi2",
    cores=Limit(120, "neurocores", "lava-nc 0.10.0, compiler/subcompilers/constants.py (Intel's brief says 128)", "simulator"),
    neurons_per_core=Limit(8192, "neurons", "Intel Loihi 2 brief: up to 1 M neurons over 128 cores", "derived"),
    memory_per_core=Limit(192 * 1024, "bytes", "Loihi 2 reviews: 192 KB of SRAM a core, flexibly partitioned", "secondary"),
    fan_in_per_core=Limit(
        4096, "input axons", "Loihi 1, SANA-FE arch/loihi.yaml; nothing is published for Loihi 2", "secondary"
    ),
    weight_bits=Limit(8, "bits", "Intel N-DNS challenge, arXiv 2303.09503", "primary"),
    state_bits=Limit(24, "bits", "lava-nc 0.10.0, proc/lif/models.py, uv_bitwidth", "simulator"),
    threshold_bits=Limit(17, "bits", "lava-nc 0.10.0, proc/lif/models.py, PyLifModelBitAcc.vth", "simulator"),
    bias_bits=Limit(13, "bits", "lava-nc 0.10.0, proc/lif/models.py, bias_mant", "simulator"),
    dendrite_input=Limit(32767, "weight units", "lava-nc 0.10.0, proc/lif/models.py, a_in: int16", "simulator"),
    weight_exponent_low=Limit(-8, "", "Loihi 1 weight exponent, 4 signed bits", "secondary"),
    weight_exponent_high=Limit(7, "", "Loihi 1 weight exponent, 4 signed bits", "secondary"),
)

TARGETS = {LOIHI2.name: LOIHI2}


def named(name: str) -> Target:
    """The target of that name.

    Raises:
        InputError: Unknown name.
    """
    if name not in TARGETS:
        raise InputError(f"target {name!r} is unknown; known are {', '.join(TARGETS)}")
    return TARGETS[name]
