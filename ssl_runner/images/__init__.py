"""From image files to pixels: which files are images, how they are decoded, what is wrong with them.

Uses nothing of the package but `ssl_runner.errors`. Datasets, labels and splits belong in `ssl_runner.data`.
"""
