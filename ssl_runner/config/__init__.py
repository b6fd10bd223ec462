"""Plain configs: the constructors as their schema, trusted targets, building, hashing, differences, old names.

Uses nothing of the package but `ssl_runner.errors`. Nothing here knows of Hydra, or of what is being built.
"""
