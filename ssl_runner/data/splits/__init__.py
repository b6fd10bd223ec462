"""Train, validation and test, by image or by class, and duplicates across them.

This package never reads files and never draws batches.
"""
