"""One file for each algorithm: what a training step and a few-shot classification are.

No file here reads data, evaluates or writes; adding one changes nothing else.
"""
