"""Passes: frozen dataclasses whose `apply` takes a state and returns a new, valid one."""
