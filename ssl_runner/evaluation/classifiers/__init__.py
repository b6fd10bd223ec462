"""Few-shot classifiers that work on the frozen features, or the weights, of any encoder: one file each.

They get the support with its labels and the queries without any. Only transductive ones look at several at once.
"""
