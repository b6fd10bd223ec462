"""Optimizers and learning rate schedules that torch lacks.

No loop: the trainer calls them.
"""
