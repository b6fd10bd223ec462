"""From image files to pixels: which files are images, how they are decoded and what is wrong with them.

The only other package it uses is `ssl_runner.errors`. Datasets, labels and splits belong in `ssl_runner.data`.
"""
