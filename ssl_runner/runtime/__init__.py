"""Shared basics: random draws, the step context, device and allocator, processes, signals, streams, files.

All packages may use these modules. They import only `ssl_runner.errors` from ssl_runner and know nothing about configs,
datasets or networks.
"""
