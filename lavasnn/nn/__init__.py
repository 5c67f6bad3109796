"""Torch modules whose neurons are those of the chip: train with them, then export.

`LIF` learns through a surrogate gradient, `DiffPC` and `DiffPCNet` by local rules.
"""

from lavasnn.nn.diffpc import DiffPC, DiffPCNet
from lavasnn.nn.lif import LIF
from lavasnn.nn.surrogate import ATan, Sigmoid, Triangle

__all__ = ["LIF", "ATan", "DiffPC", "DiffPCNet", "Sigmoid", "Triangle"]
