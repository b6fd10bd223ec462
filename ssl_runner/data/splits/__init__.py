"""Train, validation and test, by image or by class; duplicates across them.

Never reads files, never draws batches.
"""
