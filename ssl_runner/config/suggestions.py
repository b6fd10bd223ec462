"""Finds the nearest valid spelling of a mistyped word."""

import difflib
from collections.abc import Iterable


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option most similar to the word, or None if none is similar.

    A word that is the last part of options with dots or slashes matches the one with the fewest parts, if that is one
    only: ``lr`` matches ``optimizer.lr``.
    """
    options = sorted(set(options))
    parts = {option: option.replace("/", ".").split(".") for option in options}
    endings = [option for option in options if parts[option][-1] == word]
    least = min((len(parts[option]) for option in endings), default=0)
    shortest = [option for option in endings if len(parts[option]) == least]
    if len(shortest) == 1:
        return shortest[0]
    found = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or an empty string."""
    option = nearest(word, options)
    return f"; did you mean '{option}'?" if option is not None else ""
