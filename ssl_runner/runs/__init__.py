"""A run folder: its lock and status, where a number comes from, metrics.jsonl, events, result.json.

Nothing that trains or evaluates: only what is written and read.
"""
