"""One file for each loss: embeddings in, a scalar and metrics out.

A loss knows of no encoder, device or process; what it needs it declares, and the wiring checks.
"""
