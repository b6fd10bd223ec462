"""Trained encoders for other programs: files in their formats, compared with the original, and embeddings of folders.

Nothing here trains or scores. Weights are read from safetensors only, so no file of a stranger runs code.
"""
