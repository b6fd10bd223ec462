"""Plain configs: checking against constructors, trusted targets, building, hashing, differences, old names.

This package imports only `ssl_runner.errors` from ssl_runner. It knows nothing about Hydra or the objects it builds.
"""
