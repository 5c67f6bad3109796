"""A hand-written Lava script with `lavasnn.processes.dlif.DLIF`: one neuron that answers XOR, which no single LIF can.

Run it with `python docs/examples/dlif_in_lava.py`; Lava needs Python 3.10. It shows the neuron all four inputs, one in each
step, and prints what it sends two steps later.
"""

from pathlib import Path

import numpy as np

from compile.backends.guard import Job, run_guarded

SHOWN = np.array([[0, 0, 1, 1], [0, 1, 0, 1]])  # input neuron, step
W = np.array([[66, 62]])  # each input alone is above the threshold of 50
LATENCY = 2  # steps from an input to the answer: one for the pair, one for the synapse behind it
K = np.array([[-128]])  # both together lose 2 * K_12 = -128 of 66 + 62


def task(job: Path) -> None:
    """Build, wire and run the network; called in a child process, where alone Lava is loaded."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Source

    from lavasnn.processes.dlif import DLIF

    steps = SHOWN.shape[1] + LATENCY
    shown = np.pad(SHOWN, ((0, 0), (0, steps - SHOWN.shape[1])))
    neuron = DLIF(weights=W, pairs=np.array([[0, 1]]), k=K, dv=4095, vth=50)  # dv 4095: nothing is kept for the next step
    source, sink = Source(data=shown), Sink(shape=(1,), buffer=steps)
    source.s_out.connect(neuron.s_in)
    neuron.s_out.connect(sink.a_in)
    neuron.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    np.save(job / "sent.npy", sink.data.get())


if __name__ == "__main__":
    with Job() as folder:  # the limit kills all of Lava's processes, whatever state they are in
        run_guarded("dlif_in_lava:task", folder, timeout_s=60, python_path=[Path(__file__).parent])
        sent = np.load(folder / "sent.npy")[0]
    for t, (a, b) in enumerate(SHOWN.T):
        print(f"{a} XOR {b} = {int(sent[t + LATENCY])}")
