"""Output for people: TensorBoard pages and pictures, the summary before a run and the tables after it.

Scores are computed by the evaluators, not here.
"""
