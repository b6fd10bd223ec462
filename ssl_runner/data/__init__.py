"""From files to batches: sources, splits, batching, episodes and augmentation.

A dataset is images and labels; only `Views` and `Episodes` leave this package. It knows no algorithm and no loss.
"""
