"""Hydra's errors for a command line, one sentence each, with the nearest valid spelling."""

import contextlib
from collections.abc import Sequence

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_runner.cli import hydra_private
from ssl_runner.cli.compose import EXPERIMENT, Composer, compose_config
from ssl_runner.cli.hydra_private import Override
from ssl_runner.cli.option_files import all_complaints
from ssl_runner.config.hashing import flatten
from ssl_runner.config.suggestions import did_you_mean, nearest
from ssl_runner.errors import Misspelled

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)


def explain(composer: Composer, overrides: Sequence[str], error: Exception) -> Misspelled:
    """An error that names every invalid word among these overrides; Hydra reports only the first.

    Overrides at fault are removed one by one until the rest composes. That rest shows which keys and groups exist.
    """
    unexplained = not isinstance(error, OverrideParseException) and culprit(composer, error, overrides) is None
    if unexplained and (files := all_complaints(composer)):
        return Misspelled(files, overrides)
    rest, found = list(overrides), []
    while True:
        word = culprit(composer, error, rest)
        found.append((error, word))
        if word is None:
            break
        rest.remove(word)
        try:
            composer.compose(rest, RunMode.MULTIRUN)
            break
        except COMPOSITION_ERRORS as another:
            error = another
    keys, groups = _what_there_is(composer, rest)
    if any((word or "").lstrip("+~").startswith("hydra.") for _, word in found):
        keys += _hydras_keys(composer, rest)
    sentences = [_sentence(composer, error, word, keys, groups) for error, word in found]
    return Misspelled(list(dict.fromkeys(sentences)), rest)


def culprit(composer: Composer, error: Exception, overrides: Sequence[str]) -> str | None:
    """The override that caused the error, or None if it was not an override."""
    if isinstance(error, OverrideParseException):
        return error.override if error.override in overrides else None
    parsed, text = composer.parse(overrides), str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        fits = [entry for entry in parsed if entry.key_or_group == group and option in _options(entry)]
    elif (found := hydra_private.SELECTED_TWICE.search(text)) and (group := hydra_private.group_in(found)):
        fits = [entry for entry in parsed if entry.is_add() and entry.get_key_element().lstrip("+") == group]
    elif (found := hydra_private.NOTHING_TO_DELETE.search(text)) and (group := hydra_private.group_in(found)):
        fits = [entry for entry in parsed if entry.is_delete() and entry.key_or_group == group]
    elif hydra_private.NO_OPTION.search(text):
        fits = [entry for entry in parsed if composer.is_group(entry.key_or_group) and _options(entry) == []]
    else:
        names = set() if hydra_private.IN_A_FILE.search(text) else hydra_private.names_in(text)
        fits = [entry for entry in parsed if names & {entry.key_or_group, entry.input_line, entry.get_key_element()}]
    return fits[0].input_line if fits else None


def _options(override: Override) -> list[str]:
    """The options that an override names; empty if it selects none."""
    value = override.value()
    if override.is_sweep_override():
        return [str(choice) for choice in override.sweep_string_iterator()]
    return [value] if isinstance(value, str) else value if isinstance(value, list) else []


def _what_there_is(composer: Composer, overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The dotted keys and the groups that exist."""
    for attempt in (overrides, []):
        try:
            groups = sorted(composer.selection(attempt).known)
            leaves = list(flatten(OmegaConf.to_container(_config(composer, attempt))))
        except COMPOSITION_ERRORS:
            continue
        nodes = {leaf.rsplit(".", depth)[0] for leaf in leaves for depth in range(1, leaf.count(".") + 1)}
        return [*leaves, *nodes], groups
    return [], []


def _hydras_keys(composer: Composer, overrides: Sequence[str]) -> list[str]:
    chosen = [word for word in overrides if word.startswith("hydra/")]  # a sweeper or launcher, with keys of its own
    leaves = list(flatten(OmegaConf.to_container(composer.compose(chosen).hydra), "hydra"))
    return [*leaves, *{leaf.rpartition(".")[0] for leaf in leaves}]


def _config(composer: Composer, overrides: Sequence[str]) -> DictConfig:
    try:
        return compose_config(composer, overrides)[0]
    except COMPOSITION_ERRORS:  # a sweep, or an option that has yet to be chosen
        config = composer.compose(overrides, RunMode.MULTIRUN)
        return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _sentence(composer: Composer, error: Exception, culprit: str | None, keys: list[str], groups: list[str]) -> str:
    text = str(error) or str(error.__cause__)
    if isinstance(error, MissingConfigException):
        return _missing_option(composer, error, culprit)
    if isinstance(error, OverrideParseException):
        return _unreadable(composer, error.override or "")
    if hydra_private.LEFT_OPEN.search(text):
        return " ".join(text.split())
    if found := hydra_private.INNER_GROUP_IN_A_FILE.search(text):
        file, outer, inner = found.groups()
        return (
            f"{file} selects an option of {outer}/{inner}, which the chosen {outer} does not have; keep its {outer}, "
            "or choose another experiment"
        )
    if culprit is None:
        return text.strip()
    key, _, value = culprit.lstrip("+~").partition("=")
    if hydra_private.SEVERAL_VALUES.search(text):
        return f"{culprit}: got several values; add -m to run once for each, or write {key}=[...] for a list"
    if hydra_private.NO_SUCH_KEY.search(text):
        return f"{key}: {_no_such_key(composer, key, value, keys, groups)}"
    if hydra_private.SELECTED_TWICE.search(text):
        return f"{culprit}: an option of {key} is selected already; write {key}={value}, without the +"
    if hydra_private.NO_OPTION.search(text):
        options = ", ".join(composer.options(key))
        none = f"{key}=[]" if key in composer.selection([]).several else f"~{key}"
        choice = f"one of {options}, or {none} for none" if options else "a group inside it"
        return f"{culprit}: {key} is a group; choose {choice}"
    if hydra_private.NOTHING_TO_DELETE.search(text) and key in composer.selection([]).several:
        return f"{culprit}: {key} is a list of options; write {key}=[] for none, or {key}=[...] with those to keep"
    if hydra_private.NOTHING_TO_DELETE.search(text):
        return f"{culprit}: there is nothing to remove{did_you_mean(key, [*keys, *groups])}"
    if hydra_private.ALREADY_THERE.search(text):
        return f"{culprit}: {key} exists already; leave out the +"
    cause = str(error.__cause__).splitlines()[0] if error.__cause__ is not None else ""
    return f"{culprit}: {' '.join(text.split())}{f' ({cause})' if cause and cause not in text else ''}"


def _unreadable(composer: Composer, word: str) -> str:
    """A sentence for a word that Hydra cannot parse, with the way to write it."""
    key, equals, value = word.partition("=")
    if not equals:
        return f"{word}: cannot be read; write key=value"
    quote = '"' if "'" in value else "'"
    if not set(value) & {quote} and value:
        outer = "'" if quote == '"' else '"'
        quoted = f"{key}={quote}{value}{quote}"
        with contextlib.suppress(HydraException):
            composer.parse([quoted])
            return f"{word}: cannot be read; the value has special characters, so quote it: {outer}{quoted}{outer}"
    return f"{word}: cannot be read; write key=value, and quote values with special characters"


def _missing_option(composer: Composer, error: MissingConfigException, culprit: str | None) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = error.options or composer.options(group)
    if not options:
        return hydra_private.without_search_path(str(error))
    named = hydra_private.IN_A_FILE.search(str(error)) if culprit is None else None
    where = "" if named is None else f"{named[0]}: "
    hint = _on_another_dataset(composer, option, options) if group == EXPERIMENT else ""
    hint = hint or did_you_mean(option, options) or ";"
    return f"{where}no option '{option}' in group {group}{hint} options: {', '.join(options)}"


def _on_another_dataset(composer: Composer, experiment: str, recipes: Sequence[str]) -> str:
    """How to run a method on a dataset for which it has no recipe; empty if the name is not of such a pair."""
    for dataset in composer.options("dataset"):
        method = experiment.removesuffix(f"_{dataset}")
        own = [recipe for recipe in recipes if recipe.startswith(f"{method}_") and "_to_" not in recipe]
        if method != experiment and own:
            return f"; write {EXPERIMENT}={nearest(experiment, own) or own[0]} dataset={dataset};"
    return ""


def _no_such_key(composer: Composer, key: str, value: str, keys: list[str], groups: list[str]) -> str:
    """The reason, and a suggestion: first a group that has this option, then the nearest group or key."""
    having = [group for group in groups if "." not in key and value in composer.options(group)]
    close = nearest(key, having)
    if close is None and having and ("/" not in key):
        close = next((group for group in having if key in group.split("/")), None)
    if close is not None:
        return f"there is no such group; did you mean '{close}={value}'?"
    node, _, name = key.rpartition(".")
    if node in keys:
        inside = [other.removeprefix(f"{node}.") for other in keys if other.startswith(f"{node}.")]
        inside = sorted(other for other in inside if "." not in other and other[0] != "_")
        close = nearest(name, inside)
        hint = f"; did you mean '{node}.{close}'?" if close else f"; {node} has {', '.join(inside) or 'no keys to set'}"
        return f"there is no such key{hint}"
    meant = nearest(key, [*keys, *groups])
    own = [group for group in groups if "@" not in group]  # not those inside others, which their own help lists
    hint = f"did you mean '{meant}'?" if meant else f"groups: {', '.join(own)}"
    return f"there is no such group or key; {hint}"
