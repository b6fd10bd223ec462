"""A search as the command line describes it: settings, spaces in Hydra's words, and the overrides of each trial."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_runner.cli.compose import Composer, compose_config
from ssl_runner.cli.compose_errors import COMPOSITION_ERRORS
from ssl_runner.cli.hydra_private import Override, Swept, swept
from ssl_runner.config.building import build
from ssl_runner.config.signatures import check_arguments
from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.errors import ConfigError, InvalidValue
from ssl_runner.sweeps.search.settings import Search
from ssl_runner.sweeps.search.spaces import Choices, Numbers, Space, refuse

TARGET = "ssl_runner.sweeps.search.settings.Search"
TAGS = ("int", "log")


@dataclass(frozen=True)
class Plan:
    """What a search is to do.

    Attributes:
        search: Settings.
        spaces: By key, each key once.
        words: Overrides of every trial, in order; those that a space gives are keys of ``spaces``.
        added: Further overrides of every trial, without which it would not be validated.
        corners: Overrides of the trials at the ends of the spaces, for checks.
        figures: What is said of validation; empty if the command says it itself.
    """

    search: Search
    spaces: dict[str, Space]
    words: list[str]
    added: list[str]
    corners: list[list[str]]
    figures: str

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Of a trial with these values."""
        return [*_filled(self.words, self.spaces, values), *self.added]


def read_plan(composer: Composer, base: DictConfig, given: Mapping[str, Sequence[str]]) -> Plan:
    """What a command line asks for.

    Args:
        composer: Composes its trials.
        base: Composed from all overrides.
        given: The overrides, ``hydra`` and ``task``.

    Raises:
        ConfigError: A setting or a space is wrong.
    """
    search = _settings(base)
    params: Any = OmegaConf.to_container(base.hydra.sweeper, resolve=True)
    typed = composer.parse(given["task"])
    keys = {override.key_or_group for override in typed}
    own = [f"{key}={value}" for key, value in (params["params"] or {}).items() if key not in keys]
    spaces, words = _spaces([*composer.parse(own), *typed])
    try:
        refuse(list(spaces.values()), search.sampler)
    except InvalidValue as error:
        raise ConfigError([str(error)]) from None
    words = [*given["hydra"], *words]
    first = {key: _ends(space)[0] for key, space in spaces.items()}
    every = [first, *(first | {key: end} for key, space in spaces.items() for end in _ends(space)[1:])]
    corners = [_filled(words, spaces, values) for values in every]
    added, figures, trainer = _validation(composer, corners[0], search)
    checked = [[*corner, *added] for corner in corners]
    if trainer.get("select") not in (None, search.metric):  # that both exist is found by selecting with both
        checked.append([*checked[0], f"trainer.select={search.metric}"])
    return Plan(search, spaces, words, added, checked, figures)


def _settings(base: DictConfig) -> Search:
    node: Any = OmegaConf.to_container(base.hydra.sweeper, resolve=True)
    if problems := check_arguments(node, Search, "hydra.sweeper", set()):
        raise ConfigError(problems)
    try:
        return build(node, "hydra.sweeper")
    except ConfigError as error:  # the message has the whole key
        raise ConfigError([text.removeprefix("hydra.sweeper: ") for text in error.problems]) from None


def _spaces(parsed: Sequence[Override]) -> tuple[dict[str, Space], list[str]]:
    """Spaces by key, and the words of a trial, of which a key stands for its space's word."""
    spaces: dict[str, Space] = {}
    words, problems = [], []
    for override in parsed:
        found = swept(override)
        key = override.get_key_element().rstrip("=")
        if found is None:
            words.append(override.input_line or "")
            continue
        try:
            spaces[key] = _space(key, found, override.input_line or "")
            words = [word for word in words if word != key] + [key]
        except InvalidValue as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(problems)
    return spaces, words


def _space(key: str, found: Swept, word: str) -> Space:
    for tag in sorted(found.tags - set(TAGS)):
        hint = did_you_mean(tag, TAGS) or "; there are int and log"
        raise InvalidValue(f"{key}: {word} has the tag {tag!r}{hint}")
    if found.kind == "choice":
        if found.tags:
            tag = min(found.tags)
            raise InvalidValue(f"{key}: tag {tag} is for interval(...) or range(...), but {word} is a choice")
        return Choices(key, tuple(dict.fromkeys(found.values)))
    if not found.values:
        raise InvalidValue(f"{key}: {word} is empty; give an end beyond the start")
    low, high = found.values[0], found.values[-1]
    log, whole = "log" in found.tags, "int" in found.tags
    if found.kind == "interval":
        low, high = (math.ceil(low), math.floor(high)) if whole else (low, high)
        return Numbers(key, low, high, None, log, whole)
    integers = all(isinstance(value, int) for value in found.values)
    if whole and not integers:
        raise InvalidValue(f"{key}: tag int, but {word} has fractions; write interval(...), or integers")
    return Numbers(key, low, high, tuple(found.values), log, integers)


def _ends(space: Space) -> list[Any]:
    return space.ends if isinstance(space, Choices) else list(dict.fromkeys((space.low, space.high)))


def _filled(words: Sequence[str], spaces: Mapping[str, Space], values: Mapping[str, Any]) -> list[str]:
    return [f"{word}={spaces[word].text(values[word])}" if word in spaces else word for word in words]


def _validation(composer: Composer, corner: list[str], search: Search) -> tuple[list[str], str, Mapping[str, Any]]:
    """Overrides by which trials are validated, a line about them, and the node ``trainer``.

    Raises:
        ConfigError: The checkpoint that a run keeps would be the one with the greatest figure, but the least is asked.
    """
    try:
        config, _ = compose_config(composer, corner)
    except COMPOSITION_ERRORS:  # reported when the corners are checked
        return [], "", {}
    trainer: Any = OmegaConf.to_container(config.trainer, resolve=False)
    every, select = trainer.get("evaluate_every"), trainer.get("select")
    added, figures = [], ""
    if every is None:
        added.append("trainer.evaluate_every=last")
        figures = "trials are validated after their last step"
        if search.prune:
            figures += f", so none is stopped early; trainer.evaluate_every=N trainer.select={search.metric} allows it"
    if select is None:
        added.append(f"trainer.select={search.metric}")
    if search.direction == "minimize" and every not in (None, "last") and select in (None, search.metric):
        raise ConfigError(
            [
                f"hydra.sweeper.direction: minimize, but trainer.evaluate_every={every} keeps the checkpoint with the "
                f"greatest {search.metric}; leave out trainer.evaluate_every, and the last step counts"
            ]
        )
    return added, figures, trainer
