"""Both pathways of BSD wired by hand in Lava: three layers, two samples, perception and recall at once.

Run it with `python docs/examples/bsd_in_lava.py`; Lava needs Python 3.10. For each population it prints what its dendrites
added up in the window of each sample, and how often its neurons spiked.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np

from compile.backends.guard import Job, run_guarded
from lavasnn.dynamics.pyramidal import PyramidalInt

SIZES, STEPS = (4, 3, 2), 4
W = [np.array([[40, -20, 30, 10], [-30, 50, 20, 40], [20, 20, -40, 30]]), np.array([[50, -40, 20], [-30, 40, 40]])]
THETA = [np.array([[30, 20, -10], [-20, 40, 30], [10, -30, 40], [40, 10, 20]]), np.array([[40, -20], [-20, 50], [30, 20]])]
STIMULI = np.array([[120, 30, 0, 80], [0, 90, 110, 10]])  # sample, neuron: a current in every step
CONCEPTS = np.array([[100, 0], [0, 100]])  # the label's neuron alone
TYPE_1, TYPE_2 = PyramidalInt(vth=60), PyramidalInt(vth=30)


def task(job: Path) -> None:
    """Build, wire and run the network; called in a child process, where alone Lava is loaded."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.dense.process import Dense

    from lavasnn.processes.pyramidal import Pyramidal

    layers = len(SIZES)
    common = {"steps": STEPS, "period": STEPS, "samples": len(STIMULI)}
    up: list[Pyramidal] = []
    down: list[Pyramidal] = []
    for i, size in enumerate(SIZES):
        below, above = i, layers - 1 - i  # synapses from the stimulus, and from the concept
        for kind, params, at, found in (("type1", TYPE_1, (below, above), up), ("type2", TYPE_2, (above, below), down)):
            end = (kind == "type1" and i == 0) or (kind == "type2" and i == layers - 1)
            current = None if not end else STIMULI if kind == "type1" else CONCEPTS
            record, phases = str(job / f"{kind}-{i}.npz"), {"basal_at": at[0], "apical_at": at[1]}
            found.append(
                Pyramidal(shape=(size,), params=params, current=current, record=record, name=f"{kind}-{i}", **phases, **common)
            )
    for i, (low, high) in enumerate(pairwise(range(layers))):
        for weights, sender, basal, apical in (
            (W[i], up[low], up[high], down[high]),
            (THETA[i], down[high], down[low], up[low]),
        ):
            dense = Dense(weights=weights)
            sender.s_out.connect(dense.s_in)
            dense.a_out.connect([basal.basal_in, apical.apical_in])
    total = len(STIMULI) * STEPS + layers - 1
    up[0].run(condition=RunSteps(num_steps=total), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))


if __name__ == "__main__":
    with Job() as folder:  # the limit kills all of Lava's processes, whatever state they are in
        run_guarded("bsd_in_lava:task", folder, timeout_s=60, python_path=[Path(__file__).parent])
        for path in sorted(folder.glob("*.npz")):
            found = np.load(path)
            for k in range(len(STIMULI)):
                print(
                    f"{path.stem} sample {k}: basal {found['acc_b'][k, -1]}, apical {found['acc_a'][k, -1]}, "
                    f"spikes {found['cnt'][k, -1]}"
                )
