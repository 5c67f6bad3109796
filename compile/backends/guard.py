"""Run a function that drives Lava so that it can neither hang its caller nor leave anything behind.

Lava 0.10.0 forks one operating-system process for each of its processes and joins them over shared
memory. A model that raises before it sends leaves all the others waiting for ever, `stop()` hangs
after other errors, and so do Ctrl-C and a forgotten `stop()`. Only killing the whole tree helps:

    caller (this module)  --stdin-->  supervisor (child.py)  --fork-->  worker: task(job)  --fork-->  models

The supervisor kills all below it as soon as the task is done, a model fails or dies, time is up or
the caller is gone (end of file on stdin, which even SIGKILL gives); it then says here how it ended.
The caller checks that nothing of the job is left and cleans up itself, should the supervisor have died.

Imports neither Lava nor torch: only the child does.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lavasnn.errors import InputError, LavaMissing, LavaRunError, LavaTimeout

TOKEN_VARIABLE = "LAVASNN_JOB"
"""Environment variable by which each process of a job is known: a word that no other job has."""

RESULT_FILE = "result.json"
"""Written by the supervisor into the private folder once all processes of the job are dead."""

OUTPUT_FILE = "output"
"""What the supervisor, the task and the models printed, in the private folder."""

FAREWELL = b"q"
"""Sent to the supervisor by a caller that lives on; end of file without it means that the caller died."""

_SINGLE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
_POLL_S = 0.01
_SUPERVISOR_GRACE_S = 5.0  # for the supervisor to kill and report; it needs some 0.05 s
_LONGEST_TEMP_FOLDER = 40  # characters; a Unix socket path holds 107, and multiprocessing adds some 65 to ours
_open_jobs: set[Path] = set()


class Job:
    """A private folder for the inputs and outputs of one task, removed at the end of the `with` block.

    It is removed as well if this process is killed while `run_guarded` works in it.
    """

    def __init__(self) -> None:
        self._path: Path | None = None

    def __enter__(self) -> Path:
        self._path = Path(tempfile.mkdtemp(prefix="lavasnn-job-")).resolve()
        _open_jobs.add(self._path)
        return self._path

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            _open_jobs.discard(self._path)
            shutil.rmtree(self._path, ignore_errors=True)


def run_guarded(task: str, job: Path, timeout_s: float, *, python_path: Sequence[Path] = ()) -> None:
    """Call `task(job)` in a child process that may use Lava, and wait for its end.

    The task is over when the function returns: whatever it started is then killed, so it needs no
    `stop()`, but all its outputs must lie in `job` by then. It runs in a scratch folder with one
    thread for each numeric library; what it prints is kept only to explain a failure.

    Args:
        task: "package.module:function", importable in the child; called with the job folder.
        job: Existing folder that holds the inputs and receives the outputs.
        timeout_s: Time limit in seconds, start-up included.
        python_path: Folders to put before the child's import path.

    Raises:
        InputError: `task`, `job` or `timeout_s` cannot be used as it is.
        LavaMissing: This Python cannot import Lava.
        LavaTimeout: The limit passed; `details` says where each process of the job was.
        LavaRunError: The task or a model raised or died; `details` holds its traceback.
    """
    if os.name != "posix":
        raise LavaMissing(f"Lava runs need Linux or macOS, this is {sys.platform}")
    if not re.fullmatch(r"[\w.]+:\w+", task):
        raise InputError(f"task {task!r}: must read 'package.module:function'")
    if not (timeout_s > 0 and math.isfinite(timeout_s)):
        raise InputError(f"time limit {timeout_s} s: must be a finite number of seconds above 0")
    job = job.resolve()
    if not job.is_dir():
        raise InputError(f"job folder {job}: no such folder")

    started = time.monotonic()
    token = secrets.token_hex(6)
    supervisor: subprocess.Popen[bytes] | None = None
    private = Path(tempfile.mkdtemp(prefix=f"lavasnn-{token}-", dir=_short_temp_folder()))
    with _sigterm_as_exit():
        try:
            supervisor = _start_supervisor(task, job, timeout_s, token, private, python_path)
            result = _await_result(supervisor, private, started + timeout_s + _SUPERVISOR_GRACE_S)
        finally:
            _clean_up(supervisor, token, private)
    _raise_unless_done(result, time.monotonic() - started, timeout_s)


def _short_temp_folder() -> str:
    """The temp folder, or /tmp where its path is too long for the Unix sockets that Lava opens in it."""
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= _LONGEST_TEMP_FOLDER else "/tmp"


def _start_supervisor(
    task: str, job: Path, timeout_s: float, token: str, private: Path, python_path: Sequence[Path]
) -> subprocess.Popen[bytes]:
    """Start child.py in a session of its own, with the token in its environment."""
    scratch = private / "tmp"
    scratch.mkdir()
    paths = [str(path.resolve()) for path in python_path]
    home = Path(__file__).resolve().parents[2]
    if home.name not in ("site-packages", "dist-packages"):  # not installed: the child has to find us, too
        paths.append(str(home))
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    environment = os.environ | dict.fromkeys(_SINGLE_THREAD, "1")
    environment |= {TOKEN_VARIABLE: token, "TMPDIR": str(scratch), "PYTHONPATH": os.pathsep.join(paths)}
    ours = "1" if job in _open_jobs else "0"
    arguments = [task, str(job), str(private), token, str(timeout_s), ours, str(os.getpid())]
    with open(private / OUTPUT_FILE, "wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "compile.backends.child", *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=scratch,
            env=environment,
            start_new_session=True,
        )


def _await_result(supervisor: subprocess.Popen[bytes], private: Path, deadline: float) -> dict[str, Any]:
    """Wait for the supervisor's word; a supervisor that dies or falls silent is a failure as well."""
    result = private / RESULT_FILE
    while True:
        gone = _exited(supervisor)  # asked first: a result written just before the end still counts
        if result.exists():
            return json.loads(result.read_text("utf-8"))
        if gone:
            return {
                "kind": "failed",
                "what": "the supervising process died",
                "details": read_tail(private / OUTPUT_FILE),
            }
        if time.monotonic() > deadline:
            return {"kind": "timeout", "what": "the supervising process gave no answer", "details": ""}
        time.sleep(_POLL_S)


def _raise_unless_done(result: dict[str, Any], seconds: float, timeout_s: float) -> None:
    match result["kind"]:
        case "done":
            return
        case "missing":
            raise LavaMissing(result["what"])
        case "timeout":
            raise LavaTimeout(f"Lava run stopped at its time limit of {timeout_s:g} s: {result['what']}", result["details"])
        case _:
            raise LavaRunError(f"Lava run failed after {seconds:.1f} s: {result['what']}", result["details"])


def read_tail(path: Path, n_bytes: int = 4000) -> str:
    """The end of a text file, or nothing where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - n_bytes))
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""


@contextlib.contextmanager
def _sigterm_as_exit() -> Generator[None, None, None]:
    """Let SIGTERM unwind the stack, so that `finally` blocks run; a handler of the caller's is called after them."""
    previous = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or previous in (signal.SIG_IGN, None):
        yield
        return
    caught = False

    def leave(signum: int, _: FrameType | None) -> None:
        nonlocal caught
        if not caught:  # a second one must not cut the cleaning up short
            caught = True
            raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        if caught and callable(previous):
            signal.raise_signal(signal.SIGTERM)


def _exited(process: subprocess.Popen[bytes]) -> bool:
    """Whether a child has ended; where possible it stays a zombie, so that its number is not given away yet."""
    if process.returncode is not None:
        return True
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # this program ignores SIGCHLD or waits for all its children
        return True


def _clean_up(supervisor: subprocess.Popen[bytes] | None, token: str, private: Path) -> None:
    """Leave no process, shared memory or temp folder of the job, whatever state it is in."""
    if supervisor is not None:
        assert supervisor.stdin is not None
        with contextlib.suppress(OSError):  # it may be dead already
            supervisor.stdin.write(FAREWELL)
            supervisor.stdin.flush()
        with contextlib.suppress(OSError):
            supervisor.stdin.close()
        deadline = time.monotonic() + _SUPERVISOR_GRACE_S
        while not _exited(supervisor) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(supervisor.pid, signal.SIGKILL)
        while (rest := processes_of(token)) and time.monotonic() < deadline:
            for pid in rest:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL_S)
        supervisor.wait()
    remove_shared_memory(token)
    shutil.rmtree(private, ignore_errors=True)


def processes_of(token: str) -> list[int]:
    """Numbers of the living processes that carry a job's token in their environment (Linux; else none)."""
    mark = f"{TOKEN_VARIABLE}={token}".encode()
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            if mark in (entry / "environ").read_bytes().split(b"\0"):  # a zombie's is empty
                found.append(int(entry.name))
    return found


def shared_memory_prefix(token: str) -> str:
    """What the names of all shared memory of a job begin with, without the leading slash."""
    return f"lavasnn-{token}-"


def remove_shared_memory(token: str) -> None:
    """Remove the shared memory and semaphores that a killed job left (Linux; elsewhere they cannot be listed)."""
    prefix = shared_memory_prefix(token)
    for pattern in (f"{prefix}*", f"sem.{prefix}*"):
        for path in Path("/dev/shm").glob(pattern):
            path.unlink(missing_ok=True)
