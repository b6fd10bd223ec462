"""The run folder: its lock and status, provenance, metrics.jsonl, TensorBoard events, result.json.

Nothing here trains or evaluates; it only reads and writes files.
"""
