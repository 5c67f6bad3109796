"""Lava Processes. Nothing but Process files may live here: Lava executes each of them when it looks for models."""
