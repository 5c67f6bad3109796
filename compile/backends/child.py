"""The child side of `compile.backends.guard`: a supervisor, and below it the worker that runs the task.

The supervisor never imports Lava and does nothing but watch, so no busy model, hung runtime or crash
can keep it from its work. The worker names its shared memory after the job's token, makes Lava's models
tell of every exception, calls the task and ends. They talk through files in the job's private folder:

    notes/error.json    the first exception in the task or a model; later ones are mostly its echo
    notes/done          the task returned
    notes/<pid>         a process at work: its name, and on request where it stands; gone once it ends well
    result.json         for the caller: how the job ended, written when all its processes are dead
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import functools
import importlib
import json
import multiprocessing
import os
import platform
import re
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any, NoReturn

from compile.backends.guard import (
    FAREWELL,
    OUTPUT_FILE,
    RESULT_FILE,
    read_tail,
    remove_shared_memory,
    shared_memory_prefix,
)
from lavasnn.errors import LavaMissing

_POLL_S = 0.025
_STACK_WAIT_S = 0.1  # for the processes to write down where they stand
_STACK_DEPTH = 8  # innermost calls shown of each; further out they are all alike
_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_HAS_PROC = Path("/proc/self").exists()
_MESSAGE_LENGTH = 300  # characters of an exception's first line that fit into one of ours

Outcome = dict[str, str]
"""How a job ended: kind ("done", "failed", "missing", "timeout"), what (one line), details."""


@dataclass(frozen=True)
class Order:
    """What the caller wants done, as given on the command line."""

    task: str
    job: Path
    private: Path
    token: str
    timeout_s: float
    remove_job: bool
    parent: int

    @classmethod
    def parse(cls, task: str, job: str, private: str, token: str, timeout_s: str, ours: str, parent: str) -> Order:
        return cls(task, Path(job), Path(private), token, float(timeout_s), ours == "1", int(parent))

    @property
    def notes(self) -> Path:
        return self.private / "notes"


def main(arguments: list[str]) -> None:
    """Supervise one job from its start until nothing of it is left but its outputs."""
    order = Order.parse(*arguments)
    deadline = time.monotonic() + order.timeout_s
    order.notes.mkdir()
    faulthandler.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a caller may ignore it, and we would never see our children end
    _adopt_orphans()
    worker = os.fork()
    if worker == 0:
        _work(order)
    outcome = _watch(order, worker, deadline)
    _kill_descendants()
    remove_shared_memory(order.token)
    with contextlib.suppress(FileNotFoundError):  # a caller that was interrupted has removed the folder
        _write_once(order.private / RESULT_FILE, json.dumps(outcome))
    caller_lives = _await_farewell(order)
    shutil.rmtree(order.private, ignore_errors=True)
    if not caller_lives and order.remove_job:
        shutil.rmtree(order.job, ignore_errors=True)
    if not _HAS_PROC:  # no way to find the models one by one: take the group, ourselves included
        os.killpg(0, signal.SIGKILL)


# ---------------------------------------------------------------- supervisor


def _adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own, so that none escapes or stays a zombie (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _watch(order: Order, worker: int, deadline: float) -> Outcome:
    """Wait for the job's end, good or bad."""
    while True:
        for end in (_told_end, functools.partial(_silent_end, worker=worker)):
            if outcome := end(order):
                return outcome
        if time.monotonic() > deadline:
            return _timed_out(order)
        if select.select([0], [], [], _POLL_S)[0] or os.getppid() != order.parent:
            return {"kind": "failed", "what": "the caller left", "details": ""}


def _told_end(order: Order) -> Outcome | None:
    """The end that the task or a model wrote down itself."""
    if (order.notes / "done").exists():
        return {"kind": "done", "what": "", "details": ""}
    with contextlib.suppress(FileNotFoundError):
        return json.loads((order.notes / "error.json").read_text("utf-8"))
    return None


def _silent_end(order: Order, worker: int) -> Outcome | None:
    """The end of a worker or model that died without a word."""
    for pid in {worker, *(int(note.name) for note in order.notes.glob("[0-9]*"))}:
        note = order.notes / str(pid)
        status = _wait_status(pid)
        if status is None:
            continue
        if pid != worker and not note.exists():  # it has ended well since we listed it
            continue
        if told := _told_end(order):  # it has spoken since we looked
            return told
        who = _note_name(note)
        return {
            "kind": "failed",
            "what": f"{who} died without a word ({_describe(status)})",
            "details": read_tail(order.private / OUTPUT_FILE),
        }
    return None


def _wait_status(pid: int) -> int | None:
    """A dead process's status as `wait` gives it, -1 if it is gone altogether, None if it lives."""
    with contextlib.suppress(ChildProcessError):  # a model, not our child
        ended, status = os.waitpid(pid, os.WNOHANG)
        return status if ended else None
    try:
        fields = _proc_fields(pid)
    except (FileNotFoundError, ProcessLookupError):
        return -1 if _HAS_PROC else None
    return int(fields[49]) if fields[0] in b"ZX" else None  # state; exit_code


def _proc_fields(pid: int) -> list[bytes]:
    """The fields of /proc/<pid>/stat behind the program's name, proc(5): state, parent, ... exit_code."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()


def _describe(status: int) -> str:
    if status == -1:
        return "exit status unknown"
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def _timed_out(order: Order) -> Outcome:
    """Ask each process where it stands and name those that do not just wait for another."""
    notes = sorted(order.notes.glob("[0-9]*"))
    for note in notes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(note.name), signal.SIGUSR1)
    time.sleep(_STACK_WAIT_S)
    stacks = {note: read_tail(note, 100_000) for note in notes}
    busy = [_note_name(note) for note, text in stacks.items() if not _waits(text)]
    return {
        "kind": "timeout",
        "what": f"{', '.join(busy)} still at work" if busy else "all processes wait for each other",
        "details": "\n\n".join("\n".join(text.splitlines()[: 2 + _STACK_DEPTH]) for text in stacks.values()),
    }


def _waits(stack: str) -> bool:
    """Whether the innermost call is one of Python's locks, where Lava's ports wait for data."""
    innermost = re.search(r'File "([^"]*)"', stack)
    return innermost is not None and Path(innermost[1]).name == "threading.py"


def _note_name(note: Path) -> str:
    try:
        return note.read_text("utf-8", "replace").split("\n", 1)[0] or "a process"
    except FileNotFoundError:
        return "a process"


def _kill_descendants() -> None:
    """Kill everything below us and wait until it is gone; orphans come to us, so none can slip away.

    Where there is no /proc (macOS) the caller kills the whole process group instead, when it has the result.
    """
    while _HAS_PROC:
        for pid in _descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def _descendants(ancestor: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            pid = int(entry.name)
            children.setdefault(int(_proc_fields(pid)[1]), []).append(pid)
    found: list[int] = []
    todo = [ancestor]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _await_farewell(order: Order) -> bool:
    """Wait until the caller has read the result; False if it died."""
    while True:
        if select.select([0], [], [], _POLL_S)[0]:
            return os.read(0, 1) == FAREWELL
        if os.getppid() != order.parent:
            return False


def _write_once(path: Path, text: str) -> None:
    """Create a file with all its content at once, unless it is there already."""
    draft = path.with_name(f"draft.{os.getpid()}")
    draft.write_text(text, "utf-8")
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


# -------------------------------------------------------------------- worker


def _work(order: Order) -> NoReturn:
    """Call the task; ends without Python's shutdown, which would wait for Lava's processes for ever."""
    witness = Witness(order.notes)
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        stdout: Any = sys.stdout
        stdout.reconfigure(line_buffering=True)  # else a killed model's last words are lost
        module, function = order.task.split(":")
        witness.take_over(f"task '{order.task}'")
        _name_shared_memory(shared_memory_prefix(order.token))
        _instrument_lava(witness)
        getattr(importlib.import_module(module), function)(order.job)
        sys.stdout.flush()
        sys.stderr.flush()
        (order.notes / "done").touch()
    except BaseException as error:
        witness.report(error)
    os._exit(0)


class Witness:
    """Tells the supervisor what happens in this process: the worker or, after a fork, one model."""

    def __init__(self, notes: Path) -> None:
        self._notes = notes
        self._name = ""
        self._stack: Any = None

    def take_over(self, name: str) -> None:
        """Say that this process is at work under a name, and let SIGUSR1 add to that note where it stands."""
        self._name = name
        self._stack = open(self._notes / str(os.getpid()), "w", encoding="utf-8")  # noqa: SIM115  stays open for SIGUSR1
        self._stack.write(f"{name}\n")
        self._stack.flush()
        faulthandler.register(signal.SIGUSR1, file=self._stack, all_threads=False)

    def end_well(self) -> None:
        (self._notes / str(os.getpid())).unlink()

    def report(self, error: BaseException, step: int | None = None) -> None:
        """Write down an exception, unless another of this job is there already."""
        text = (str(error).strip().splitlines() or [""])[0][:_MESSAGE_LENGTH]
        said = f"{type(error).__name__}: {text}" if text else type(error).__name__
        at = "" if step is None else f" at step {step}"
        outcome = {
            "kind": "missing" if isinstance(error, LavaMissing) else "failed",
            "what": text if isinstance(error, LavaMissing) else f"{self._name} raised {said}{at}",
            "details": "".join(traceback.format_exception(type(error), error, error.__traceback__)).strip(),
        }
        _write_once(self._notes / "error.json", json.dumps(outcome))

    def watching(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, but an exception is reported, with the model's step if it has one, before it goes on."""

        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                time_step = getattr(args[0], "time_step", 0) if args else 0  # Lava counts from 1, 0 is before the run
                self.report(error, time_step - 1 if time_step > 0 else None)
                raise

        return watched


def _name_shared_memory(prefix: str) -> None:
    """Let the names of all shared memory and semaphores made from here on begin with `prefix`.

    Lava makes its segments with multiprocessing's SharedMemoryManager, thus with
    multiprocessing.shared_memory._make_filename, and its semaphores with multiprocessing.Semaphore
    (synchronize.SemLock._make_name), which are unlinked as soon as they are made. One gap stays: glibc's
    sem_open works for some microseconds on a file of 32 bytes with a random name, `sem.XXXXXX`.
    """
    memory: Any = shared_memory
    process: Any = multiprocessing.current_process()
    memory._SHM_NAME_PREFIX = f"/{prefix}"
    memory._SHM_SAFE_NAME_LENGTH = len(prefix) + 1 + 8  # 4 random bytes in hex, as by default
    process._config["semprefix"] = f"/{prefix}"


def _instrument_lava(witness: Witness) -> None:
    """Make Lava's models and services report every exception before Lava's own handling, which may hang.

    Raises:
        LavaMissing: Lava cannot be imported.

    Source: lava-nc 0.10.0, magma/core/model/py/model.py (run and the command handlers),
    magma/runtime/runtime.py target_fn, magma/runtime/message_infrastructure/multiprocessing.py SystemProcess.
    """
    try:
        models = importlib.import_module("lava.magma.core.model.py.model")
        runtime = importlib.import_module("lava.magma.runtime.runtime")
        infrastructure = importlib.import_module("lava.magma.runtime.message_infrastructure.multiprocessing")
    except Exception as error:  # on Python 3.11 and later it is a ValueError
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise LavaMissing(
            f"Lava cannot be imported by Python {platform.python_version()} ({reason}); lava-nc 0.10.0 needs "
            "Python 3.10: install lavasnn there, for example with `uv venv --python 3.10`"
        ) from error

    handlers = {
        models.AbstractPyProcessModel: ("_get_var", "_set_var", "_handle_var_port", "start"),
        models.PyLoihiProcessModel: ("_spike", "_pre_mgmt", "_lrn", "_post_mgmt", "_host"),
        models.PyAsyncProcessModel: ("_run_async",),
        runtime.PyProcessBuilder: ("build",),
        runtime.RuntimeServiceBuilder: ("build",),
    }
    for owner, names in handlers.items():
        for name in names:
            setattr(owner, name, witness.watching(getattr(owner, name)))

    names_of_builders: dict[int, str] = {}
    build_processes = runtime.Runtime._build_processes
    run_process = infrastructure.SystemProcess.run

    def build_named_processes(self: Any) -> None:
        for process, builder in self._executable.proc_builders.items():
            names_of_builders[id(builder)] = f"model {builder.proc_model.__name__} of process '{process.name}'"
        build_processes(self)

    def run_watched_process(self: Any) -> None:
        builder, target = self._kwargs["builder"], witness.watching(self._target)
        service = getattr(builder, "rs_class", type(builder)).__name__

        def target_with_note(*args: Any, **kwargs: Any) -> None:
            target(*args, **kwargs)
            witness.end_well()

        witness.take_over(names_of_builders.get(id(builder), f"Lava's {service}"))
        self._target = target_with_note
        run_process(self)

    runtime.Runtime._build_processes = build_named_processes
    infrastructure.SystemProcess.run = run_watched_process


if __name__ == "__main__":
    main(sys.argv[1:])
