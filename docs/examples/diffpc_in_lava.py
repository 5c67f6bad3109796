"""Three DiffPC populations wired by hand in Lava: one sample, both phases, every spike printed.

Run it with `python docs/examples/diffpc_in_lava.py`; Lava needs Python 3.10. It prints "+", "-" or "." for each step of
each neuron that sent something, and then the class that was recognised before the label was shown.
"""

from pathlib import Path

import numpy as np

from compile.backends.guard import Job, run_guarded
from lavasnn.dynamics.diffpc import DiffPCInt, Role
from lavasnn.dynamics.timing import Timing

TIMING = Timing(m=1, n=5, init_cycles=2, settle_cycles=3)  # thresholds 2, 1, 1/2, 1/4, 1/8
POINT = 10  # fractional bits of all states: a threshold of 2 is the integer 2048
FRACTION = 7  # fractional bits of the weights; mixed-sign weights of 8 bits are even, -256..254
W1 = np.array([[96, -32, 64, 0], [-64, 128, 0, 96], [32, 64, -96, 48]])  # hidden neuron, input neuron
W2 = np.array([[128, -96, 32], [-64, 112, 80]])  # output neuron, hidden neuron
X, LABEL = np.array([[1536, 256, 1024, 0]]), np.array([[0, 1024]])  # 1.5, 0.25, 1, 0, and class 1: in units of 2**-POINT

# Populations expect sums in units of 2**-POINT times their smallest threshold, and shift them on by themselves.
SHIFT = POINT + TIMING.lowest("activity") - FRACTION


def task(job: Path) -> None:
    """Build, wire and run the network; called in a child process, where alone Lava is loaded."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.dense.process import Dense

    from lavasnn.processes.diffpc import DiffPC

    steps = TIMING.window(settle=True)

    def population(name: str, size: int, role: Role, depth: int, targets: np.ndarray | None = None) -> DiffPC:
        params, record = DiffPCInt(role, depth, TIMING, point=POINT), str(job / f"{name}.npz")
        return DiffPC(shape=(size,), params=params, targets=targets, steps=steps, record=record, name=name)

    below = population("input", 4, "input", 0, X)
    middle = population("hidden", 3, "hidden", 1)
    above = population("output", 2, "output", 2, LABEL)
    ternary = {"weight_exp": SHIFT, "num_message_bits": 2}  # a sign needs 2 bits
    up, on, down = (Dense(weights=weights, **ternary) for weights in (W1, W2, W2.T))
    for sent, dense, received in ((below.s_A, up, middle.a_x), (middle.s_A, on, above.a_x), (above.s_e, down, middle.a_e)):
        sent.connect(dense.s_in)
        dense.a_out.connect(received)
    below.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))


if __name__ == "__main__":
    with Job() as folder:  # the limit kills all of Lava's processes, whatever state they are in
        run_guarded("diffpc_in_lava:task", folder, timeout_s=60, python_path=[Path(__file__).parent])
        runs = {name: dict(np.load(folder / f"{name}.npz")) for name in ("input", "hidden", "output")}
    trains = [(f"{a:6} {k} {i} ", s) for a in runs for k in ("s_A", "s_e") for i, s in enumerate(runs[a][k].T)]
    for name, spikes in trains:
        if spikes.any():
            print(name, "".join(".+-"[s] for s in spikes))
    print("class", int(runs["output"]["x_F"][TIMING.init_steps].argmax()))
