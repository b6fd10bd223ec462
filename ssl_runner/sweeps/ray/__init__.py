"""Sweeps on a Ray cluster: the launcher, the connection, and what runs on a node."""
