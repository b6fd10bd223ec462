"""One file for each dataset, and what they share: download, decoding in threads, the cache.

Returns a `Source` or `Splits`. How images are split belongs in `data.splits`.
"""
