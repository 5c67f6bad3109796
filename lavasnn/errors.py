"""What can go wrong, as a tree.

    LavasnnError              exit  what it means
    ├── InputError             2    a value, file, option or network that we cannot take
    │   ├── ConfigError        2    a mistyped or out-of-range configuration entry
    │   ├── FileFormatError    2    not a file of ours, damaged, or of a newer schema
    │   ├── DataError          2    a data set that is missing or not what its name says
    │   └── RangeError         2    a number that the chip's registers cannot hold
    ├── LavaMissing            2    Lava was asked for on a Python where it is not installed
    ├── LimitError             1    a network that does not fit its target
    ├── NotEqual               1    two executors disagree
    └── LavaRunError           1    a Lava run raised, died or was stopped
        └── LavaTimeout        1    a Lava run outlived its time limit

Every message says who, what, how much and what is allowed, in one line; a Lava run that failed
carries the child's traceback in `details`, which the command line prints below that line.
A LimitError lists everything that does not fit, in `violations`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class LavasnnError(Exception):
    """Anything this package raises on purpose."""

    exit_code = 2


class InputError(LavasnnError, ValueError):
    """A value, file, option or network that cannot be used as it is."""


class ConfigError(InputError):
    """A configuration entry with an unknown name or a value outside its range."""


class FileFormatError(InputError):
    """A file that is not ours, is damaged, or was written by a newer schema."""


class DataError(InputError):
    """A data set that is missing, damaged or of the wrong shape."""


class RangeError(InputError):
    """A number that does not fit the register that has to hold it."""


class LavaMissing(LavasnnError):
    """Lava is needed and not installed."""


@dataclass(frozen=True)
class Violation:
    """One resource that a network needs more of than its target has.

    Args:
        who: The population or core concerned.
        resource: What there is too little of.
        needed: How much the network asks for.
        limit: How much the target has.
        hint: What could be changed.
    """

    who: str
    resource: str
    needed: int
    limit: int
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.who}: needs {self.needed:,} {self.resource}, the target has {self.limit:,}" + (
            f"; {self.hint}" if self.hint else ""
        )


class LimitError(LavasnnError):
    """A network that does not fit its target.

    Args:
        violations: Everything it needs too much of, at least one.
    """

    exit_code = 1

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        several = f"does not fit for {len(self.violations)} reasons: " if len(self.violations) > 1 else ""
        super().__init__(several + ". ".join(str(v) for v in self.violations))


class NotEqual(LavasnnError):
    """Two runs that have to agree do not."""

    exit_code = 1


class LavaRunError(LavasnnError):
    """A Lava run that raised, died or was stopped.

    Args:
        message: One line: what happened, to which process, after how long.
        details: The child's traceback, or the tail of what it printed.
    """

    exit_code = 1

    def __init__(self, message: str, details: str = "") -> None:
        self.details = details
        super().__init__(message)


class LavaTimeout(LavaRunError):
    """A Lava run that outlived its time limit."""
