"""Configs of jobs that differ in plain values only: composed once, since Hydra takes a tenth of a second each time."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_runner.cli.compose import Composer, compose_config
from ssl_runner.cli.compose_errors import COMPOSITION_ERRORS
from ssl_runner.cli.hydra_private import Override
from ssl_runner.cli.initial import settled
from ssl_runner.config.schema import Config, check_again


class Base(NamedTuple):
    """The first job of its kind.

    Attributes:
        plain: Its config, resolved but not checked.
        dropped: Lines for values that were dropped, which depends on the selected options alone.
    """

    plain: Config
    dropped: list[str]


class Similar:
    """Makes configs of the jobs of a sweep from that of an earlier job, where only plain values differ.

    That gives the config that Hydra would compose: it sets values last of all, after the files. Jobs whose values are
    lists or nodes, or that other values refer to (``${...}``), are left to Hydra.
    """

    def __init__(self, composer: Composer) -> None:
        self.composer = composer
        self.bases: dict[tuple[str, ...], Base | None] = {}
        self.parsed: dict[str, Override] = {}

    def __call__(self, job: Sequence[str]) -> tuple[Config, list[str]] | None:
        """The config, and lines for values that were dropped; None if Hydra has to compose this job.

        Raises:
            ConfigError: A value is wrong.
        """
        try:
            words = [self._parse(word) for word in job]
        except COMPOSITION_ERRORS:
            return None
        values = {one.key_or_group: one.value() for one in words if self._is_value(one)}
        if any(isinstance(value, dict | list) or "${" in str(value) for value in values.values()):
            return None
        shape = tuple(one.key_or_group if self._is_value(one) else str(one.input_line) for one in words)
        if shape not in self.bases:
            self.bases[shape] = self._base(job, list(values))
        base = self.bases[shape]
        if base is None:
            return None
        config = base.plain
        for key, value in values.items():
            config = _with(config, key.split("."), value)
        return settled(check_again(config)), base.dropped

    def _parse(self, word: str) -> Override:
        if word not in self.parsed:
            self.parsed[word] = self.composer.parse([word])[0]
        return self.parsed[word]

    def _is_value(self, override: Override) -> bool:
        key = override.key_or_group
        plain = not (override.is_add() or override.is_delete() or override.is_force_add() or override.package)
        return plain and not key.startswith("hydra.") and "/" not in key and not self.composer.is_group(key)

    def _base(self, job: Sequence[str], keys: Sequence[str]) -> Base | None:
        """The config of a job, or None if other jobs cannot be made from it by setting these keys."""
        try:
            config, dropped = compose_config(self.composer, job)
            own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            referring = [text for text in _texts(OmegaConf.to_container(own)) if "${" in text]
            plain: Any = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
        except (*COMPOSITION_ERRORS, OmegaConfBaseException):
            return None
        relative = any("${." in text or "${hydra" in text for text in referring)
        if relative or any(key.split(".")[-1] in text for key in keys for text in referring):
            return None
        if any(OmegaConf.is_config(OmegaConf.select(own, key)) for key in keys):  # a list or a node
            return None
        return Base(plain, dropped)


def _texts(value: Any) -> list[str]:
    """All strings of a plain config."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def _with(node: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of a node with one value set; the rest is shared."""
    first, *rest = path
    return {**node, first: _with(node[first], rest, value) if rest else value}
