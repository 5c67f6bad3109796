"""From a Graph to a Program for Loihi 2: passes, executors and the proof that they agree."""
