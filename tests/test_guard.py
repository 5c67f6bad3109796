"""The guard around Lava: every planted fault is named, nothing hangs and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compile.backends.guard import Job, run_guarded
from lavasnn.errors import InputError, LavaMissing, LavaRunError, LavaTimeout

FAULTS = Path(__file__).parent / "faults"
ROOT = Path(__file__).parents[1]
LIMIT_S = 20.0

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for leftovers in /proc and /dev/shm"),
]


def needs_lava(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.lava(pytest.mark.skipif(sys.version_info >= (3, 11), reason="Lava needs Python 3.10")(test))


@pytest.fixture(autouse=True)
def temp_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temp folder of the test's own, with a path short enough that the guard does not turn to /tmp."""
    with tempfile.TemporaryDirectory(prefix="guard-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def run(task: str, job: Path, timeout_s: float = LIMIT_S) -> None:
    run_guarded(f"tasks:{task}", job, timeout_s, python_path=[FAULTS])


def order_pair(job: Path, fault: str, at: int, n_steps: int = 5) -> None:
    (job / "order.json").write_text(json.dumps({"fault": fault, "at": at, "n_steps": n_steps}))


def run_good_pair(n_steps: int = 5) -> str:
    """Run the healthy pair, check each number it sent, return the job's token."""
    with Job() as job:
        order_pair(job, "none", -1, n_steps)
        run("run_pair", job)
        assert (job / "received.txt").read_text().split() == [str(3 * step + 1) for step in range(n_steps)]
        return (job / "token").read_text()


def leftovers(token: str, *folders: Path) -> list[str]:
    """Living processes, shared memory and temp files that carry the token; found without the guard's own code."""
    assert token
    found = [str(path) for folder in (Path("/dev/shm"), Path("/tmp"), *folders) for path in folder.glob(f"*{token}*")]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if token.encode() in text:
                found.append(f"process {entry.name}")
    return found


def await_true(condition: Callable[[], bool], seconds: float) -> float:
    """Wait for a condition, return how long it took, fail after `seconds`."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - started


# ------------------------------------------------------------- faults in models

MODEL_FAULTS = {
    "build": ("raised Unpicklable: planted while building", "__init__"),
    "raise_before": ("raised ValueError: planted before sending at step 2", "and a second line"),
    "raise_after": ("raised ValueError: planted after sending at step 2", "in run_spk"),
    "sys_exit": ("raised SystemExit: 3 at step 2", "sys.exit(3)"),
    "os_exit": (r"died without a word (exit status 0)", ""),
    "killed": (r"died without a word (killed by SIGKILL)", ""),
}


@needs_lava
@pytest.mark.parametrize("fault", MODEL_FAULTS)
def test_a_failing_model_is_named_and_nothing_is_left(fault: str, temp_folder: Path) -> None:
    said, detail = MODEL_FAULTS[fault]
    with Job() as job:
        order_pair(job, fault, at=2)
        started = time.monotonic()
        with pytest.raises(LavaRunError) as caught:
            run("run_pair", job)
        assert time.monotonic() - started < LIMIT_S / 2
        token = (job / "token").read_text()
    message = str(caught.value)
    assert type(caught.value) is LavaRunError
    assert f"model SenderModel of process 'sender' {said}" in message
    assert "\n" not in message
    assert detail in caught.value.details
    assert leftovers(token, temp_folder) == []
    assert list(temp_folder.iterdir()) == []
    run_good_pair()


@needs_lava
@pytest.mark.parametrize(
    ("fault", "said"),
    [("loop", "model SenderModel of process 'sender' still at work"), ("starve", "all processes wait for each other")],
)
def test_a_run_that_does_not_end_is_stopped_at_its_limit(fault: str, said: str, temp_folder: Path) -> None:
    with Job() as job:
        order_pair(job, fault, at=2)
        started = time.monotonic()
        with pytest.raises(LavaTimeout) as caught:
            run("run_pair", job, timeout_s=4.0)
        seconds = time.monotonic() - started
        token = (job / "started").read_text()
    assert 4.0 <= seconds < 6.0
    assert str(caught.value) == f"Lava run stopped at its time limit of 4 s: {said}"
    assert ("in run_spk" in caught.value.details) and ("ReceiverModel" in caught.value.details)
    assert leftovers(token, temp_folder) == []
    run_good_pair()


# -------------------------------------------------------------- faults of tasks


@needs_lava
def test_an_error_of_the_task_itself_arrives_with_its_traceback(temp_folder: Path) -> None:
    with Job() as job:
        with pytest.raises(LavaRunError, match=r"task 'tasks:raise_early' raised KeyError: 'planted in the task'") as caught:
            run("raise_early", job)
        token = (job / "token").read_text()
    assert 'raise KeyError("planted in the task")' in caught.value.details
    assert leftovers(token, temp_folder) == []


@needs_lava
def test_a_task_that_cannot_be_found_is_named() -> None:
    with Job() as job:
        with pytest.raises(LavaRunError, match=r"raised ModuleNotFoundError: No module named 'nowhere'"):
            run_guarded("nowhere:run", job, LIMIT_S)
        with pytest.raises(LavaRunError, match=r"raised AttributeError: module 'tasks' has no attribute 'absent'"):
            run("absent", job)


@needs_lava
def test_a_task_that_leaves_or_crashes_is_noticed(temp_folder: Path) -> None:
    with Job() as job:
        with pytest.raises(LavaRunError, match=r"task 'tasks:leave' died without a word \(exit status 0\)"):
            run("leave", job)
        with pytest.raises(LavaRunError, match=r"task 'tasks:crash' died without a word \(killed by SIGSEGV\)") as caught:
            run("crash", job)
    assert "last words" in caught.value.details
    assert "Fatal Python error: Segmentation fault" in caught.value.details
    assert list(temp_folder.iterdir()) == []


@needs_lava
def test_a_task_may_print_a_lot(temp_folder: Path) -> None:
    with Job() as job:
        run("print_a_lot", job)
        assert (job / "printed").exists()
    assert list(temp_folder.iterdir()) == []


@needs_lava
def test_a_process_that_hides_in_another_session_is_killed() -> None:
    with Job() as job:
        run("detach", job)
        pid = int((job / "detached").read_text())
    assert not Path(f"/proc/{pid}").exists()


@needs_lava
def test_a_killed_supervisor_is_noticed_and_replaced(temp_folder: Path) -> None:
    with Job() as job:
        with pytest.raises(LavaRunError, match="the supervising process died"):
            run("kill_supervisor", job)
        token = (job / "token").read_text()
        assert token in (job / "segments.txt").read_text()  # there was something to clean up
    assert leftovers(token, temp_folder) == []
    assert list(temp_folder.iterdir()) == []


# ------------------------------------------------------------------- the caller


@pytest.fixture
def caller(temp_folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path, str]]:
    """A program in the midst of a looping Lava run, with its job folder and token."""
    environment = os.environ | {"TMPDIR": str(temp_folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(FAULTS / "caller.py"), str(FAULTS)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as program:
        try:
            assert program.stdout is not None
            job = Path(program.stdout.readline().strip())
            await_true((job / "started").exists, 15)
            token = (job / "started").read_text()
            assert any("process" in found for found in leftovers(token)), "the test would see nothing"
            assert any("/dev/shm" in found for found in leftovers(token)), "the test would see nothing"
            yield program, job, token
        finally:
            program.kill()


@needs_lava
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, (1, 130, -signal.SIGINT)), (signal.SIGTERM, (128 + signal.SIGTERM,))]
)
def test_a_signal_to_the_caller_ends_the_run_first(
    caller: tuple[subprocess.Popen[str], Path, str], number: int, status: tuple[int, ...], temp_folder: Path
) -> None:
    program, _, token = caller
    started = time.monotonic()
    program.send_signal(number)
    out, _ = program.communicate(timeout=10)
    assert time.monotonic() - started < 2
    assert program.returncode in status
    assert out == "unwound\n"
    assert leftovers(token, temp_folder) == []
    assert list(temp_folder.iterdir()) == []


@needs_lava
def test_an_impatient_user_leaves_nothing_behind(caller: tuple[subprocess.Popen[str], Path, str], temp_folder: Path) -> None:
    program, _, token = caller
    for _ in range(4):  # the later ones strike while it cleans up
        program.send_signal(signal.SIGINT)
        time.sleep(0.015)
    program.wait(timeout=10)
    await_true(lambda: leftovers(token, temp_folder) == [], 2)


@needs_lava
def test_a_killed_caller_leaves_nothing_behind(caller: tuple[subprocess.Popen[str], Path, str], temp_folder: Path) -> None:
    program, job, token = caller
    program.kill()
    program.wait(timeout=10)
    await_true(lambda: not leftovers(token, temp_folder) and not job.exists(), 2)
    assert list(temp_folder.iterdir()) == []


@needs_lava
def test_signal_handlers_are_put_back_and_an_own_one_is_called() -> None:
    calls: list[int] = []

    def own(number: int, _: object) -> None:
        calls.append(number)

    before = signal.signal(signal.SIGTERM, own)
    try:
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        with Job() as job:
            order_pair(job, "starve", at=0)
            with pytest.raises(SystemExit):
                run("run_pair", job)
        timer.join()
        assert signal.getsignal(signal.SIGTERM) is own
        assert calls == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@needs_lava
def test_it_works_outside_the_main_thread() -> None:
    tokens: list[str] = []
    thread = threading.Thread(target=lambda: tokens.append(run_good_pair()))
    thread.start()
    thread.join(LIMIT_S)
    assert len(tokens) == 1


# ----------------------------------------------------------------- many good runs


def n_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def n_children() -> int:
    """Children of this process, zombies included."""
    return sum(len(path.read_text().split()) for path in Path("/proc/self/task").glob("*/children"))


@needs_lava
@pytest.mark.parametrize("n_runs", [5, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(180)])])
def test_runs_in_a_row_use_nothing_up(n_runs: int, temp_folder: Path) -> None:
    run_good_pair()
    n_files, n_processes, tokens = n_open_files(), n_children(), set[str]()
    for _ in range(n_runs):
        tokens.add(run_good_pair())
        assert n_open_files() == n_files
        assert n_children() == n_processes
        assert list(temp_folder.iterdir()) == []
    assert len(tokens) == n_runs
    assert [found for token in tokens for found in leftovers(token)] == []


@needs_lava
def test_all_shared_memory_of_a_run_carries_its_token() -> None:
    with Job() as job:
        order_pair(job, "none", -1)
        run("run_pair", job)
        token = (job / "token").read_text()
        segments = (job / "segments.txt").read_text().split()
    assert len(segments) >= 7  # one of data, two each from and to both models and the runtime: the pair's channels
    assert [name for name in segments if not name.startswith(f"lavasnn-{token}-")] == []


@needs_lava
def test_a_temp_folder_with_a_long_path_will_do(temp_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = temp_folder / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    token = run_good_pair()
    assert leftovers(token, deep) == []


# ----------------------------------------------------------------------- surface


@needs_lava
def test_the_child_gets_one_thread_and_a_scratch_folder(temp_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with Job() as job:
        run("show_environment", job)
        environment = json.loads((job / "environment.json").read_text())
    assert environment["OMP_NUM_THREADS"] == "1"
    assert Path(environment["TMPDIR"]).is_relative_to(temp_folder)
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_python_without_lava_is_told_what_it_needs(tmp_path: Path, temp_folder: Path) -> None:
    (tmp_path / "lava").mkdir()
    (tmp_path / "lava" / "__init__.py").write_text("raise ValueError('mutable default')\n")
    with Job() as job, pytest.raises(LavaMissing, match=r"cannot be imported .*mutable default.* needs Python 3\.10") as caught:
        run_guarded("tasks:nothing", job, LIMIT_S, python_path=[tmp_path, FAULTS])
    assert "\n" not in str(caught.value)
    assert list(temp_folder.iterdir()) == []


def test_unusable_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"task 'run': must read 'package.module:function'"):
        run_guarded("run", tmp_path, 1.0)
    with pytest.raises(InputError, match=r"time limit 0 s: must be a finite number"):
        run_guarded("tasks:nothing", tmp_path, 0)
    with pytest.raises(InputError, match=r"time limit inf s: must be a finite number"):
        run_guarded("tasks:nothing", tmp_path, float("inf"))
    with pytest.raises(InputError, match=r"job folder .*absent: no such folder"):
        run_guarded("tasks:nothing", tmp_path / "absent", 1.0)


def test_a_job_folder_lives_as_long_as_its_block(temp_folder: Path) -> None:
    folders: list[Path] = []

    def fail_within() -> None:
        with Job() as job:
            (job / "input").write_text("x")
            folders.append(job)
            raise KeyError

    with pytest.raises(KeyError):
        fail_within()
    assert [folder.parent for folder in folders] == [temp_folder.resolve()]
    assert not folders[0].exists()


def test_importing_the_guard_loads_nothing_heavy() -> None:
    code = (
        "import sys, compile.backends.guard;"
        "print([m for m in ('lava', 'torch', 'numpy', 'scipy', 'ctypes') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    assert shown.stdout.strip() == "[]"
