"""Builds the objects of a run from a checked config, refuses parts that do not fit, and loads algorithms from runs.

Nothing is trained or written here, or downloaded twice.
"""
