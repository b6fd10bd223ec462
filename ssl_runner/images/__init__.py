"""From image files to pixels: which files are images, how they are decoded and what is wrong with them.

Of this package, it only uses `ssl_runner.errors`. Datasets, labels and splits belong in `ssl_runner.data`.
"""
