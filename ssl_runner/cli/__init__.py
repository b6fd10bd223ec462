"""What a person types: help, flags, composition, checks before anything is written, messages. All of Hydra.

Starts without torch; nothing else in the package may import Hydra.
"""
