"""Few-shot tasks, with or without labels, and their batches.

The splits decide which classes there are.
"""
