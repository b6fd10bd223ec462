"""Evaluators and their protocols: kNN, probes, fine-tuning, few-shot episodes, verdicts, diagnostics.

They use only an algorithm's `eval_encoder` and `classify`, and never change a weight.
"""
