"""Sweeps: the manifest of their jobs, what has become of each, and the launchers that run them.

Nothing here composes configs (`ssl_runner.cli` does) or trains: a job is a process of its own.
"""
