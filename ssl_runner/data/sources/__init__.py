"""Datasets, one per file, and what they share: download, decoding in threads and the cache.

They return a `Source` or `Splits`. How images are split belongs in `data.splits`.
"""
