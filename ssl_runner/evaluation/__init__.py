"""What is measured, by which protocol: kNN, probes, fine-tuning, few-shot episodes, verdicts, diagnostics.

Uses `eval_encoder` and `classify` of an algorithm alone, and never changes a weight.
"""
