"""Stores of encoded images that are read in any order: packed files, and tar shards with an index.

They know no split, no label and no step. Nothing here holds more than the index and the images of a few batches.
"""
