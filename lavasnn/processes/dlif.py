"""DLIF as one Lava Process: bilinear dendrites made of stock processes alone.

    s_in ─▶ Sparse (two 2s a row) ─▶ LIF (memoryless, spikes above 3: pairs) ─▶ Dense K ──┐
    s_in ─▶ DelayDense W (one step later, as pairs take a step) ──────────────────────────┴▶ LIF or LIFReset ─▶ s_out

So with q_p = s_i s_j the current of a neuron is W s + K q + b, its latency two steps where plain LIF has one. Inputs are
spikes of 0 or 1. A bias comes from a neuron that is always on.

Source: Beyond Linear Processing: Dendritic Bilinear Integration in Spiking Neural Networks (ICLR 2026).
"""

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements
from lava.magma.core.model.sub.model import AbstractSubProcessModel
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.dense.process import DelayDense, Dense
from lava.proc.lif.process import LIF, LIFReset
from lava.proc.sparse.process import Sparse
from lava.utils.weightutils import SignMode
from scipy.sparse import csr_matrix

from lavasnn.errors import InputError
from lavasnn.synapses import sign_mode


class DLIF(AbstractProcess):
    """Neurons that hear single spikes and pairs of spikes.

    Ports: `s_in` receives spikes, shape (input,); `s_out` sends them, shape (neuron,).

    Args:
        weights: W, shape (neuron, input): integers on Lava's 8-bit grid for "fixed_pt", real numbers for "floating_pt".
        pairs: Inputs i < j that each pair joins, shape (pair, 2).
        k: K, what pairs add, shape (neuron, pair), as `weights`. A K with coefficients K_ij and K_ji has k = K_ij + K_ji.
        dv: Decay of the voltage: 0..4095 for "fixed_pt", 0..1 for "floating_pt".
        vth: Threshold in weight units.
        bias: Added to the current in every step, shape (neuron,), as `weights`; None for none.
        weight_exp: Left shifts of the sums of W, K and the bias ("fixed_pt"), in this order.
        reset_interval: Steps after which the neurons start from rest; None never resets them.
        reset_offset: Lava's step (from 1) of the first reset; the input of step t arrives at t + 2.
        name: Shown in errors.

    Raises:
        InputError: Arrays that do not fit together, or pairs of inputs that do not exist.
    """

    def __init__(
        self,
        *,
        weights: np.ndarray,
        pairs: np.ndarray,
        k: np.ndarray,
        dv: float,
        vth: float,
        bias: np.ndarray | None = None,
        weight_exp: tuple[int, int, int] = (0, 0, 0),
        reset_interval: int | None = None,
        reset_offset: int = 0,
        name: str | None = None,
    ) -> None:
        who = f"DLIF {name or ''}".rstrip()
        if weights.ndim != 2 or k.shape != (len(weights), len(pairs)):
            raise InputError(f"{who}: weights of shape {weights.shape}, k of {k.shape} and {len(pairs)} pairs do not fit")
        if pairs.shape != (len(pairs), 2) or pairs.min(initial=0) < 0 or pairs.max(initial=0) >= weights.shape[1]:
            raise InputError(f"{who}: pairs of shape {pairs.shape}, needed are two of the {weights.shape[1]} inputs each")
        if (pairs[:, 0] == pairs[:, 1]).any():
            raise InputError(f"{who}: a pair joins an input with itself")
        if bias is not None and bias.shape != (len(weights),):
            raise InputError(f"{who}: bias of shape {bias.shape}, needed is ({len(weights)},)")
        super().__init__(
            weights=weights,
            pairs=pairs,
            k=k,
            dv=dv,
            vth=vth,
            bias=bias,
            weight_exp=weight_exp,
            reset_interval=reset_interval,
            reset_offset=reset_offset,
            name=name,
        )
        self.s_in = InPort(shape=(weights.shape[1],))
        self.s_out = OutPort(shape=(len(weights),))


@implements(proc=DLIF, protocol=LoihiProtocol)
class SubDLIF(AbstractSubProcessModel):
    """Its parts; integers get the registers of "fixed_pt", real numbers those of "floating_pt"."""

    def __init__(self, proc: AbstractProcess) -> None:
        get: Any = proc.proc_params.get
        weights, pairs, k = get("weights"), np.sort(get("pairs"), axis=1), get("k")
        whole = np.issubdtype(weights.dtype, np.integer)
        once: dict[str, Any] = {"du": 4095, "dv": 4095} if whole else {"du": 1.0, "dv": 1.0}  # no memory
        current: dict[str, Any] = {"du": once["du"], "dv": get("dv"), "vth": get("vth")}
        shape, reset = (len(weights),), get("reset_interval")
        rows: Any = csr_matrix(
            (np.full(pairs.size, 2), pairs.reshape(-1), np.arange(len(pairs) + 1) * 2), (len(pairs), weights.shape[1])
        )
        exponents = get("weight_exp")

        def options(weight: np.ndarray, exponent: int) -> dict[str, Any]:
            if not whole:
                return {}
            return {"sign_mode": SignMode[sign_mode(weight).upper()], "weight_exp": exponent}

        self.select = Sparse(weights=rows.astype(np.int32 if whole else float), **options(np.array([2]), 0))
        self.pairs = LIF(shape=(len(pairs),), vth=3, **once)
        self.bilinear = Dense(weights=k, **options(k, exponents[1]))
        late = np.ones(weights.shape, int)
        self.linear = DelayDense(weights=weights, delays=late, **options(weights, exponents[0]))
        if reset is None:
            self.neuron = LIF(shape=shape, **current)
        else:
            self.neuron = LIFReset(shape=shape, reset_interval=reset, reset_offset=get("reset_offset"), **current)
        proc.in_ports.s_in.connect([self.select.in_ports.s_in, self.linear.in_ports.s_in])
        self.select.out_ports.a_out.connect(self.pairs.in_ports.a_in)
        self.pairs.out_ports.s_out.connect(self.bilinear.in_ports.s_in)
        self.linear.out_ports.a_out.connect(self.neuron.in_ports.a_in)
        self.bilinear.out_ports.a_out.connect(self.neuron.in_ports.a_in)
        if (bias := get("bias")) is not None:
            self.on = LIF(shape=(1,), vth=0, bias_mant=1, **once)
            self.constant = Dense(weights=bias.reshape(-1, 1), **options(bias, exponents[2]))
            self.on.out_ports.s_out.connect(self.constant.in_ports.s_in)
            self.constant.out_ports.a_out.connect(self.neuron.in_ports.a_in)
        self.neuron.out_ports.s_out.connect(proc.out_ports.s_out)
