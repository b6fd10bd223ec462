"""Batches of augmented views: a function of seed and step.

Episodes have a package of their own; augmentation is called, not defined, here.
"""
