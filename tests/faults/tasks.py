"""Tasks that tests/test_guard.py runs in a guarded child; each is called with the job folder.

Each writes the job's token into `job/token`, by which the test looks for what might be left of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import managers
from pathlib import Path


def _tell_token(job: Path) -> str:
    token = os.environ["LAVASNN_JOB"]
    (job / "token").write_text(token)
    return token


def nothing(job: Path) -> None:
    _tell_token(job)


def run_pair(job: Path) -> None:
    """Sender and receiver on Lava, as `job/order.json` says; no `stop()`, the guard does without."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from pair.model import Receiver, Sender

    token = _tell_token(job)
    order = json.loads((job / "order.json").read_text())
    sender = Sender(order["fault"], order["at"])
    receiver = Receiver(str(job / "received.txt"), order["n_steps"])
    sender.s_out.connect(receiver.a_in)
    run = RunSteps(num_steps=order["n_steps"], blocking=False)
    sender.run(condition=run, run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    (job / "segments.txt").write_text("\n".join(_segments()))
    (job / "starting").write_text(token)
    (job / "starting").rename(job / "started")  # the test must not read it half-written
    sender.wait()


def _segments() -> list[str]:
    """The names of all shared memory that this process maps and that would outlive it, as it has not been unlinked."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split("/dev/shm/")[1] for line in lines if "/dev/shm/" in line and "(deleted)" not in line})


def raise_early(job: Path) -> None:
    _tell_token(job)
    raise KeyError("planted in the task")


def leave(job: Path) -> None:
    _tell_token(job)
    os._exit(0)


def crash(job: Path) -> None:
    _tell_token(job)
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def print_a_lot(job: Path) -> None:
    _tell_token(job)
    for _ in range(200):
        print("x" * 100_000)
    os.write(2, b"y" * 5_000_000)
    (job / "printed").touch()


def detach(job: Path) -> None:
    """Start a process in another session, without our environment and without a living parent."""
    _tell_token(job)
    start = (
        "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True, env={}, stdout=-3, stderr=-3).pid)"
    )
    found = subprocess.run([sys.executable, "-c", start], env={}, capture_output=True, text=True, check=True)
    (job / "detached").write_text(found.stdout)


def kill_supervisor(job: Path) -> None:
    """Kill the process above and work on, with a segment of shared memory and a process in another session."""
    _tell_token(job)
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    manager = managers.SharedMemoryManager()
    manager.start()
    (job / "segments.txt").write_text(manager.SharedMemory(1000).name)
    os.kill(os.getppid(), signal.SIGKILL)
    while True:
        time.sleep(1)


def show_environment(job: Path) -> None:
    (job / "environment.json").write_text(json.dumps(dict(os.environ)))
