"""From files to batches: sources, splits, batching, episodes, augmentation.

A dataset is images and labels; `Views` and `Episodes` are all that leaves this package. No algorithm and no loss.
"""
