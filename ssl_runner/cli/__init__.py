"""The command line: help, flags, composition, checks before anything is written, messages. All use of Hydra.

It starts without torch. No other package of ssl_runner may import Hydra.
"""
