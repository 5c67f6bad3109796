"""Projections as Lava's stock processes: Dense, Sparse, their delayed forms and Conv, between the ports of two populations.

Called in the child alone (see `compile.backends.lava`), but for the names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt
from lavasnn.ir import GRADED_BITS, Graph, Projection, Source
from lavasnn.synapses import Conv, Dense, Owned, Shared, as_dense, as_sparse


def synapse_name(graph: Graph, p: Projection) -> str:
    """The Lava process that a projection becomes; Sparse stands in for a convolution that Lava's Conv cannot hold.

    It knows neither delays nor right shifts, and keeps stride, padding, dilation and groups as signed bytes.
    """
    s, late = graph.synapses(p), bool(np.any(p.delay))
    if isinstance(s, Conv) and not late and max(*s.stride, *s.padding, *s.dilation, s.groups) <= 127:
        return "Conv" if s.grid is None or s.grid.exponent >= 0 else "Sparse"
    return ("Delay" if late else "") + ("Dense" if isinstance(s, Dense) else "Sparse")


_PORTS = {"a": "a_in", "basal": "basal_in", "apical": "apical_in"}


def wire(graph: Graph, p: Projection, processes: Mapping[str, Any]) -> None:
    """Synapses between two populations; weights are on Lava's grid, so its own rounding changes none."""
    if isinstance(p.synapses, Shared):
        return  # its owner leads there too
    s, name = graph.synapses(p), synapse_name(graph, p)
    options: dict[str, Any] = {"num_message_bits": message_bits(graph, p.source), "name": p.name}
    plain = not isinstance(graph.population(p.source).dynamics, DiffPC | DiffPCInt)
    sends = processes[p.source].s_out if plain else getattr(processes[p.source], p.carries)
    sharing = [q for q in graph.projections if q is p or (isinstance(q.synapses, Shared) and q.synapses.of == p.name)]
    receives = [getattr(processes[q.target], _PORTS.get(q.into, q.into)) for q in sharing]
    if name == "Conv":
        assert isinstance(s, Conv)
        _wire_conv(s, options, sends, receives)
        return
    synapses = _matrix_process(name, s, p.delay, options)
    sends.connect(synapses.s_in)
    for port in receives:
        synapses.a_out.connect(port)


def message_bits(graph: Graph, population: str) -> int:
    """Lava's `num_message_bits` of a population: 0 if it sends spikes of +1 alone, 2 if they may be -1, 24 of payloads."""
    d = graph.population(population).dynamics
    if graph.graded(population):
        return GRADED_BITS
    ternary = isinstance(d, DiffPC | DiffPCInt) or getattr(d, "vth_lo", None) is not None
    return 2 if ternary or (isinstance(d, Source) and graph.encoding.kind == "given") else 0


def _matrix_process(name: str, s: Owned, delay: Any, options: dict[str, Any]) -> Any:
    """A Dense, Sparse, DelayDense or DelaySparse process."""
    from lava.proc.dense import process as dense
    from lava.proc.sparse import process as sparse
    from lava.utils.weightutils import SignMode
    from scipy.sparse import csr_matrix

    kind = np.float64
    if s.grid is not None:
        kind = np.int32
        options |= {"sign_mode": SignMode[s.grid.sign_mode.upper()], "weight_exp": s.grid.exponent}
    late = np.broadcast_to(np.asarray(delay, int), (s.shape[1],))
    if name.endswith("Dense"):
        if late.any():
            options["delays"] = np.tile(late, (s.shape[0], 1))
        return getattr(dense, name)(weights=as_dense(s).astype(kind), **options)
    rows = as_sparse(s)
    if late.any():
        options["delays"] = csr_matrix((late[rows.pre], rows.pre, rows.start), rows.shape)
    return getattr(sparse, name)(weights=csr_matrix((rows.weight.astype(kind), rows.pre, rows.start), rows.shape), **options)


def _wire_conv(s: Conv, options: dict[str, Any], sends: Any, receives: list[Any]) -> None:
    """Lava's Conv: (column, row, channel) instead of (channel, row, column), and a true convolution where torch correlates.

    Source: lava-nc 0.10.0, lava/proc/conv/utils.py, conv. It ignores weight exponents, so the kernel takes them on.
    """
    from lava.proc.conv.process import Conv as Process

    kernel = s.weight if s.grid is None else s.weight.astype(np.int32) << s.grid.exponent
    process = Process(
        weight=kernel.transpose(0, 3, 2, 1)[:, ::-1, ::-1],
        input_shape=(s.image[2], s.image[1], s.image[0]),
        stride=(s.stride[1], s.stride[0]),
        padding=(s.padding[1], s.padding[0]),
        dilation=(s.dilation[1], s.dilation[0]),
        groups=s.groups,
        **options,
    )
    sends.reshape(s.image).transpose((2, 1, 0)).connect(process.s_in)
    for port in receives:
        process.a_out.transpose((2, 1, 0)).reshape((s.shape[0],)).connect(port)
