"""All problems of a command line: a misspelled word does not hide a wrong value, nor a wrong value a misfit."""

from collections.abc import Callable, Sequence

from ssl_runner.errors import ConfigError, Misspelled


def every_problem(
    first: ConfigError, overrides: Sequence[str], check: Callable[[list[str]], object], fit: Callable[[list[str]], None]
) -> list[str]:
    """The problems of a command line, and those that appear once the words at fault are removed.

    Problems that may only be a consequence of the removal are left out: those of the same node, and, if an option was
    misspelled, parts that do not fit together.

    Args:
        first: The error that `check` raised for the whole line.
        check: Raises ConfigError for misspelled words and values of the wrong type.
        fit: Raises ConfigError for parts that cannot be built or do not fit together.
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
    """The problems that `fit` found, and those that appear once the words that they name are removed.

    A constructor reports only its first wrong value. Problems that name a removed value are left out.

    Args:
        first: The error that `fit` raised for the whole line.
        fit: Raises ConfigError for parts that cannot be built or do not fit together.
    """
    problems, rest, found = list(first.problems), list(overrides), first
    removed: list[str] = []
    while found is not None:
        words = [word for word in rest if "." in _key(word) and any(_names(word, one) for one in found.problems)]
        rest, removed = [word for word in rest if word not in words], [*removed, *words]
        if not words or not any(_is_value(word) for word in rest):
            break
        found = _raised(fit, rest)
        later = [] if found is None else found.problems
        problems += [one for one in later if one not in problems and not any(_names(word, one) for word in removed)]
    return problems


def _names(word: str, problem: str) -> bool:
    return f"{_key(word).rpartition('.')[2]}=" in problem


def _raised(call: Callable[[list[str]], object], overrides: list[str]) -> ConfigError | None:
    try:
        call(overrides)
    except ConfigError as error:
        return error
    except Exception:  # the first problems must be reported, whatever the rest of the line does
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
    """Whether a word sets a value rather than selects an option: options need no check, which would take seconds."""
    return "." in _key(word) or _key(word) in ("seed", "name", "baselines", "dry_run")
