"""Optimizers and learning-rate schedules that torch lacks.

They contain no loop: the trainer calls them.
"""
