"""Sweeps on SLURM: the launcher, what is recorded of its submissions, and the queue as SLURM shows it."""
