"""The console commands besides ``ssl-train``: each joins what ``cli`` reads, ``wiring`` does and ``report`` shows.

Nothing is decided here. A command starts without torch, so that help and mistakes take no seconds.
"""
