"""Optimizers and schedules that torch lacks, and the rates of parameter groups.

They contain no loop: the trainer calls them.
"""
