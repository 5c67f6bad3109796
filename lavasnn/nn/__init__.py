"""Torch modules whose neurons are those of the chip: train with them, then export.

`LIF` and `DLIF` learn through a surrogate gradient, `DiffPC` and `DiffPCNet` by local rules.
"""

from lavasnn.nn.diffpc import DiffPC, DiffPCNet
from lavasnn.nn.dlif import DLIF, ConvDLIF, LowRankPairs, PairConv2d, PairPool, PrivatePairs
from lavasnn.nn.lif import LIF
from lavasnn.nn.replace import replace_lif
from lavasnn.nn.surrogate import ATan, Sigmoid, Triangle

__all__ = [
    "DLIF",
    "LIF",
    "ATan",
    "ConvDLIF",
    "DiffPC",
    "DiffPCNet",
    "LowRankPairs",
    "PairConv2d",
    "PairPool",
    "PrivatePairs",
    "Sigmoid",
    "Triangle",
    "replace_lif",
]
