"""From a BSD network in torch to a Graph of both its pathways."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from lavasnn.encode import Encoding
from lavasnn.export import array
from lavasnn.ir import Graph, Population, Projection
from lavasnn.nn.bsd import BSDNet
from lavasnn.synapses import Dense, Shared


def bsd_graph(net: BSDNet, encoding: Encoding, readout: Literal["voltage", "spikes"] = "voltage") -> Graph:
    """Graph of a network: "type1-1" to "type1-L" perceive, "type2-L" down to "type2-1" recall.

    W[i] leads to the basal dendrites of Type 1 and the apical ones of Type 2 in the layer above, Theta[i] the other way round.

    Args:
        net: Trained or not.
        encoding: Of kind "direct": a pixel is a constant current.
        readout: By voltage, or by spikes with ties broken by voltage.
    """
    last = len(net.sizes)
    up, down = ([f"type{kind}-{i}" for i in range(1, last + 1)] for kind in (1, 2))
    populations = [Population(name, size, net.type1) for name, size in zip(up, net.sizes, strict=True)]
    populations[0] = replace(populations[0], dynamics=replace(net.type1, drive="stimulus"))
    recalling = [Population(name, size, net.type2) for name, size in zip(down, net.sizes, strict=True)]
    recalling[-1] = replace(recalling[-1], dynamics=replace(net.type2, drive="concept"))
    projections: list[Projection] = []
    for i, (w, theta) in enumerate(zip(net.W, net.Theta, strict=True)):
        for name, weight, source, basal, apical in (
            (f"w{i + 1}", w, up[i], up[i + 1], down[i + 1]),
            (f"theta{i + 1}", theta, down[i + 1], down[i], up[i]),
        ):
            projections.append(Projection(name, source, basal, Dense(array(weight)), "s", "basal"))
            projections.append(Projection(f"{name}-apical", source, apical, Shared(name), "s", "apical"))
    read: Literal["voltage", "messages"] = "voltage" if readout == "voltage" else "messages"
    return Graph((*populations, *recalling[::-1]), tuple(projections), encoding, up[-1], net.steps, read)
