"""Spiking networks with local rules: trained in PyTorch, compiled for Loihi 2, proved on Lava."""

__version__ = "0.1.0"
