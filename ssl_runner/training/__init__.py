"""The training loop, checkpoints, health checks, the memory estimate, and the session of a run.

Nothing here depends on the method: what differs between methods belongs in an algorithm or a loss.
"""
