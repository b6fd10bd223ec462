"""Contrastive losses with a margin."""
