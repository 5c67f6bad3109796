"""What Loihi 2 systems hold: the one place with chip limits, each with its unit, its source and how sure it is.

Published figures disagree and Intel publishes no full list. A target can be described anew in a TOML file:

    base = "loihi2"
    [limits.cores]
    value = 128
    source = "measured on our board"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from lavasnn.errors import ConfigError, InputError

Confidence = Literal["primary", "secondary", "derived", "simulator", "assumed"]


@dataclass(frozen=True)
class Limit:
    """A number with its origin.

    Args:
        value: The limit.
        unit: What it counts.
        source: Where it is from.
        confidence: "primary" (the maker's own text), "secondary" (quoted), "derived" (a quotient or a ceiling of such),
            "simulator" (read in lava-nc 0.10.0), "assumed" (nobody published it).
    """

    value: int
    unit: str
    source: str
    confidence: Confidence


@dataclass(frozen=True)
class Target:
    """A system of chips: how many there are, what each core holds, and the widths of its registers.

    Cores lie on the mesh of their chip row by row, chips row by row on their board.

    Raises:
        InputError: More cores than the mesh has places.
    """

    name: str
    chips: Limit
    cores: Limit
    mesh_width: Limit
    mesh_height: Limit
    board_width: Limit
    chip_crossing: Limit
    neurons_per_chip: Limit
    synapses_per_chip: Limit
    neurons_per_core: Limit
    synapses_per_core: Limit
    memory_per_core: Limit
    fan_in_per_core: Limit
    fan_out_per_core: Limit
    weight_bits: Limit
    state_bits: Limit
    threshold_bits: Limit
    bias_bits: Limit
    dendrite_input: Limit
    weight_exponent_low: Limit
    weight_exponent_high: Limit
    delay: Limit

    def __post_init__(self) -> None:
        room = self.mesh_width.value * self.mesh_height.value
        if self.cores.value > room:
            raise InputError(
                f"target {self.name!r}: {self.cores.value:,} cores on a mesh of {self.mesh_width.value} x "
                f"{self.mesh_height.value}, which has {room:,} places; mesh_width and mesh_height have to grow along"
            )

    @property
    def limits(self) -> dict[str, Limit]:
        """All limits by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}


LOIHI2 = Target(
    name="loihi2",
    chips=Limit(1, "chips", "one chip", "derived"),
    cores=Limit(
        120, "neurocores a chip", "lava-nc 0.10.0, compiler/subcompilers/constants.py (Intel's brief says 128)", "simulator"
    ),
    mesh_width=Limit(8, "columns", "not published for 120 cores; fbhtechinfo.com (2021) tells of 128 as 8 x 16", "assumed"),
    mesh_height=Limit(15, "rows", "not published; 120 cores in 8 columns", "assumed"),
    board_width=Limit(1, "chips in a row", "one chip", "derived"),
    chip_crossing=Limit(8, "hops", "not published; from one chip to the next as dear as across a chip", "assumed"),
    neurons_per_chip=Limit(1_000_000, "neurons", "Loihi 2 reviews: up to 1 M neurons a chip", "secondary"),
    synapses_per_chip=Limit(120_000_000, "stored weights", "Loihi 2 reviews: at most 120 M synapses a chip", "secondary"),
    neurons_per_core=Limit(8192, "neurons", "Intel Loihi 2 brief: up to 1 M neurons over 128 cores", "derived"),
    synapses_per_core=Limit(937_500, "stored weights", "120 M synapses a chip over 128 cores", "derived"),
    memory_per_core=Limit(192 * 1024, "bytes", "Loihi 2 reviews: 192 KB of SRAM a core, flexibly partitioned", "secondary"),
    fan_in_per_core=Limit(
        4096, "input axons", "Loihi 1, SANA-FE arch/loihi.yaml; nothing is published for Loihi 2", "secondary"
    ),
    fan_out_per_core=Limit(
        4096, "output axons", "Loihi 1, SANA-FE arch/loihi.yaml; nothing is published for Loihi 2", "secondary"
    ),
    weight_bits=Limit(8, "bits", "Intel N-DNS challenge, arXiv 2303.09503", "primary"),
    state_bits=Limit(24, "bits", "lava-nc 0.10.0, proc/lif/models.py, uv_bitwidth", "simulator"),
    threshold_bits=Limit(17, "bits", "lava-nc 0.10.0, proc/lif/models.py, PyLifModelBitAcc.vth", "simulator"),
    bias_bits=Limit(13, "bits", "lava-nc 0.10.0, proc/lif/models.py, bias_mant", "simulator"),
    dendrite_input=Limit(32767, "weight units", "lava-nc 0.10.0, proc/lif/models.py, a_in: int16", "simulator"),
    weight_exponent_low=Limit(-8, "", "Loihi 1 weight exponent, 4 signed bits", "secondary"),
    weight_exponent_high=Limit(7, "", "Loihi 1 weight exponent, 4 signed bits", "secondary"),
    delay=Limit(62, "steps", "lava-dl 0.6.0, netx/hdf5.py clamps to 62; lava-nc's DelayDense takes 63", "simulator"),
)


def _board(name: str, chips: int, across: int, source: str) -> Target:
    return replace(
        LOIHI2,
        name=name,
        chips=Limit(chips, "chips", source, "secondary"),
        board_width=Limit(across, "chips in a row", f"not published; {chips} chips as {across} x {chips // across}", "assumed"),
    )


TARGETS = {
    t.name: t
    for t in (
        LOIHI2,
        replace(LOIHI2, name="oheo-gulch", chips=Limit(1, "chips", "Loihi 2 reviews: Oheo Gulch has 1 chip", "secondary")),
        _board("kapoho-point", 8, 4, "Loihi 2 reviews: Kapoho Point has 8 chips"),
        _board("hala-point", 1152, 36, "Loihi 2 reviews: Hala Point has 1152 chips"),
    )
}
_ANY_SIGN = ("weight_exponent_low", "weight_exponent_high")
_FROM_ZERO = ("chip_crossing", "delay")
_LARGEST = 2**31 - 1


def named(name: str) -> Target:
    """The target of that name, or the one that a TOML file describes.

    Raises:
        InputError: Unknown name, or no such file.
        ConfigError: A file with unknown or mistyped entries.
    """
    if name in TARGETS:
        return TARGETS[name]
    if name.endswith(".toml"):
        return load(Path(name))
    raise InputError(f"target {name!r} is unknown; known are {', '.join(TARGETS)}, or the name of a .toml file")


def load(path: Path) -> Target:
    """Read a target from a TOML file: a base, and limits that replace its own.

    Raises:
        InputError: No such file, or limits that contradict each other.
        ConfigError: Unknown or mistyped entries; all are named.
    """
    from lavasnn.config import read_toml

    entries = read_toml(path)
    given = entries.get("limits", {})
    problems = [f"unknown entry {k}; allowed are base, name, limits" for k in entries if k not in ("base", "name", "limits")]
    base, name = entries.get("base", LOIHI2.name), entries.get("name", Path(path).stem)
    if not isinstance(base, str) or base not in TARGETS:
        problems.append(f"base is {base!r}, allowed are {', '.join(TARGETS)}")
    if not isinstance(name, str) or not name:
        problems.append(f"name is {name!r}, needed is a text")
    known = LOIHI2.limits
    if not isinstance(given, dict):
        problems.append(f"limits is {given!r}, needed is a table")
        given = {}
    for key, limit in given.items():
        if key not in known:
            problems.append(f"unknown entry limits.{key}; allowed are {', '.join(known)}")
        else:
            problems += _complaints(key, limit)
    if problems:
        raise ConfigError(f"{path}: " + "; ".join(problems))
    start = TARGETS[str(base)]
    changed = {key: replace(start.limits[key], **{"confidence": "assumed", **limit}) for key, limit in given.items()}
    return replace(start, name=str(name), **changed)


def _complaints(key: str, limit: Any) -> list[str]:
    """What is wrong with one limit of a file."""
    where = f"limits.{key}"
    if not isinstance(limit, Mapping):
        return [f"{where} is {limit!r}, needed is a table with value and source"]
    found = [f"unknown entry {where}.{k}; allowed are value, unit, source, confidence" for k in limit if k not in _ENTRIES]
    value, low = limit.get("value"), -_LARGEST if key in _ANY_SIGN else 0 if key in _FROM_ZERO else 1
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= _LARGEST:
        found.append(f"{where}.value is {value!r}, needed is a whole number {low}..{_LARGEST}")
    if not isinstance(source := limit.get("source"), str) or not source.strip():
        found.append(f"{where}.source is {source!r}, needed is a text that says where the number is from")
    if not isinstance(unit := limit.get("unit", ""), str):
        found.append(f"{where}.unit is {unit!r}, needed is a text")
    if (confidence := limit.get("confidence", "assumed")) not in get_args(Confidence):
        found.append(f"{where}.confidence is {confidence!r}, allowed are {', '.join(get_args(Confidence))}")
    return found


_ENTRIES = tuple(f.name for f in fields(Limit))
