"""The loop, checkpoints, health checks, the memory estimate, and all that makes one run.

No method: what differs between methods belongs in an algorithm or a loss.
"""
