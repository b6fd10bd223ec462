"""Finds the nearest valid spelling of a mistyped word."""

import difflib
from collections.abc import Iterable


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option most similar to the word, or None if none is similar.

    A word that is the last part of exactly one option with dots or slashes matches it: ``lr`` matches ``optimizer.lr``.
    """
    options = sorted(set(options))
    endings = [option for option in options if option.replace("/", ".").rpartition(".")[2] == word]
    if len(endings) == 1:
        return endings[0]
    found = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or an empty string."""
    option = nearest(word, options)
    return f"; did you mean '{option}'?" if option is not None else ""
