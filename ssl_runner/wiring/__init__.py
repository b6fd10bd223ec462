"""From a checked config to the objects of a run, in reading order, and what does not fit; from a run folder back.

Nothing is trained, downloaded twice or written here.
"""
