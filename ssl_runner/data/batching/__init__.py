"""Batches of augmented views, as functions of seed and step.

Episodes have their own package. Augmentation is used here, but not defined.
"""
