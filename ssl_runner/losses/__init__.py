"""Losses, one per file: embeddings in, a scalar and metrics out.

A loss knows nothing of encoders, devices or processes. It declares what it needs, and the wiring checks that.
"""
