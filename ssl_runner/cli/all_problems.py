"""All that is wrong with a command line: a misspelled word does not hide a wrong value, nor that what does not fit."""

from collections.abc import Callable, Sequence

from ssl_runner.errors import ConfigError, Misspelled


def every_problem(
    first: ConfigError, overrides: Sequence[str], check: Callable[[list[str]], object], fit: Callable[[list[str]], None]
) -> list[str]:
    """The problems of a command line, and those that show once the words at fault are taken away.

    Left untold is what may only follow from the taking away: problems of the same node, and, where an option was
    misspelled, whether the parts fit.

    Args:
        first: What `check` found in the whole line.
        check: Raises ConfigError for misspelled words and values of a wrong type.
        fit: Raises ConfigError for what cannot be built, or does not fit.
    """
    problems, at_fault, rest, sure = list(first.problems), [], list(overrides), True
    found: ConfigError | None = first
    while found is not None:
        words = [word for word in rest if _blames(found, word)]
        rest = [word for word in rest if word not in words]
        at_fault += [_key(word) for word in words]
        sure = sure and not (isinstance(found, Misspelled) and any("." not in _key(word) for word in words))
        if not words or not any(_is_value(word) for word in rest):
            return problems
        found = _raised(check, rest)
        problems += [] if found is None else _unrelated(found.problems, at_fault)
    if sure:
        found = _raised(fit, rest)
        problems += [] if found is None else _unrelated(found.problems, at_fault)
    return problems


def values_behind(first: ConfigError, overrides: Sequence[str], fit: Callable[[list[str]], None]) -> list[str]:
    """The problems of what does not fit, and those that show once the words that they name are taken away.

    A constructor tells its first wrong value only. Left untold is what names a value that was taken away.

    Args:
        first: What `fit` found in the whole line.
        fit: Raises ConfigError for what cannot be built, or does not fit.
    """
    problems, rest, found = list(first.problems), list(overrides), first
    taken: list[str] = []
    while found is not None:
        words = [word for word in rest if "." in _key(word) and any(_names(word, one) for one in found.problems)]
        rest, taken = [word for word in rest if word not in words], [*taken, *words]
        if not words or not any(_is_value(word) for word in rest):
            break
        found = _raised(fit, rest)
        later = [] if found is None else found.problems
        problems += [one for one in later if one not in problems and not any(_names(word, one) for word in taken)]
    return problems


def _names(word: str, problem: str) -> bool:
    return f"{_key(word).rpartition('.')[2]}=" in problem


def _raised(call: Callable[[list[str]], object], overrides: list[str]) -> ConfigError | None:
    try:
        call(overrides)
    except ConfigError as error:
        return error
    except Exception:  # what was found first is to be told, whatever the rest of the line does
        return None
    return None


def _blames(error: ConfigError, word: str) -> bool:
    if isinstance(error, Misspelled):
        return word not in error.rest
    keys = [problem.partition(":")[0].partition("[")[0] for problem in error.problems]
    return any(_key(word) == key or _key(word).startswith(f"{key}.") for key in keys)


def _unrelated(problems: Sequence[str], at_fault: Sequence[str]) -> list[str]:
    nodes = {key.rpartition(".")[0] or key for key in at_fault}
    return [problem for problem in problems if not any(problem.startswith((f"{n}:", f"{n}.", f"{n}=")) for n in nodes)]


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _is_value(word: str) -> bool:
    """Whether a word sets a value, as against selecting options: shipped options need no check, which takes seconds."""
    return "." in _key(word) or _key(word) in ("seed", "name", "baselines", "dry_run")
