"""What everything may use: random draws, the step context, device and allocator, processes, signals, streams, files.

Uses nothing of the package but `ssl_runner.errors`. Nothing here knows of configs, datasets or networks.
"""
