"""What a person looks at: TensorBoard pages and pictures, the lines before a run and the tables after it.

Computes no score: evaluators do.
"""
