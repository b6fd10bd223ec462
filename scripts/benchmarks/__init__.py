"""The parts of `scripts/benchmark.py`: a module a topic, whose `rows(settings)` measures and yields rows.

Modules import only the standard library at their top, because their functions run in processes of their own, some of
them in the interpreter of a peer, which has no ssl_runner.
"""
