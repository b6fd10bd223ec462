"""Few-shot tasks, with labels or without, and their batches.

Which classes there are is decided by the splits.
"""
