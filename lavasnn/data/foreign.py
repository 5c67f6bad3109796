"""What readers of other packages need around them: no surprise on stdout, no endless wait, errors that name the data set."""

import contextlib
import socket
import sys
import zipfile
import zlib
from collections.abc import Generator
from pathlib import Path

from lavasnn.errors import DataError

TIMEOUT_S = 30.0
"""Longest wait for a server that sends nothing."""


DAMAGE = (
    RuntimeError,  # what packages raise of their own, NotImplementedError included
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What readers raise upon files that are not what their names say."""


@contextlib.contextmanager
def reading(name: str, place: Path, hint: str = "") -> Generator[None]:
    """Run a reader, of another package perhaps.

    Args:
        name: Data set and split.
        place: File or folder, for errors.
        hint: What helps, for errors.

    Raises:
        DataError: It finds no files, damaged ones or no network.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except DAMAGE as error:
        if isinstance(error, DataError):
            raise
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DataError(f"{name}: cannot be read from {place} ({reason}){hint}") from error
    finally:
        socket.setdefaulttimeout(before)


def fetching(download: bool) -> str:
    """The hint that `--download` helps, where it was not asked for."""
    return "" if download else "; --download fetches it with checksum"


def missing(name: str, package: str, extra: str, error: ImportError) -> DataError:
    """That a package is not installed."""
    return DataError(f"{name}: is read by {package}, which is not installed ({error}); pip install {extra}")
