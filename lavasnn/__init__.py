"""Spiking networks with local rules: trained in PyTorch, compiled for Loihi 2, proved on Lava."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lavasnn.export import to_graph

__version__ = "0.1.0"
__all__ = ["__version__", "to_graph"]


def __getattr__(name: str) -> Any:
    """Load `to_graph` when it is asked for: it needs torch, which importing this package does not."""
    if name == "to_graph":
        from lavasnn.export import to_graph

        return to_graph
    raise AttributeError(f"module 'lavasnn' has no attribute {name!r}")
