"""A program that runs a looping Lava job under guard until the test sends it a signal.

Usage: caller.py FOLDER_OF_THIS_FILE; prints the job folder first and "unwound" when its `with` block was left.
"""

import json
import signal
import sys
from pathlib import Path

from compile.backends.guard import Job, run_guarded

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background may ignore it
    try:
        with Job() as job:
            (job / "order.json").write_text(json.dumps({"fault": "loop", "at": 2, "n_steps": 5}))
            print(job, flush=True)
            run_guarded("tasks:run_pair", job, 60.0, python_path=[Path(sys.argv[1])])
    finally:
        print("unwound", flush=True)
