"""Configs of jobs that differ in plain values only: composed once, which takes Hydra tens of milliseconds each time."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_runner.cli.compose import Composer, compose_config
from ssl_runner.cli.compose_errors import COMPOSITION_ERRORS
from ssl_runner.cli.hydra_private import Override
from ssl_runner.config.schema import Config, check


class Similar:
    """Makes configs of the jobs of a sweep from that of an earlier job, where only plain values differ.

    The values are set on the composed config as Hydra sets them: after all files, and after the values of an experiment
    that do not fit were dropped, which depends on the selected options alone.
    """

    def __init__(self, composer: Composer) -> None:
        self.composer = composer
        self.bases: dict[tuple[str, ...], tuple[DictConfig, list[str]] | None] = {}
        self.parsed: dict[str, Override] = {}

    def __call__(self, job: Sequence[str]) -> tuple[Config, list[str]] | None:
        """Config, and lines for values that were dropped; None where the job has to be composed by itself.

        Raises:
            ConfigError: A value is wrong.
        """
        try:
            words = [self._parse(word) for word in job]
        except COMPOSITION_ERRORS:
            return None
        values = {one.key_or_group: one.value() for one in words if self._is_value(one)}
        shape = tuple(one.key_or_group if self._is_value(one) else str(one.input_line) for one in words)
        if shape not in self.bases:
            self.bases[shape] = self._base(job, values)
        found = self.bases[shape]
        if found is None:
            return None
        config = found[0].copy()
        for key, value in values.items():
            OmegaConf.update(config, key, value)
        return check(config), found[1]

    def _parse(self, word: str) -> Override:
        if word not in self.parsed:
            self.parsed[word] = self.composer.parse([word])[0]
        return self.parsed[word]

    def _is_value(self, override: Override) -> bool:
        key = override.key_or_group
        plain = not (override.is_add() or override.is_delete() or override.is_force_add() or override.package)
        return plain and not key.startswith("hydra.") and "/" not in key and not self.composer.is_group(key)

    def _base(self, job: Sequence[str], values: dict[str, Any]) -> tuple[DictConfig, list[str]] | None:
        """The first job of its kind, without the node ``hydra``; None where a value is more than a leaf."""
        try:
            config, dropped = compose_config(self.composer, job)
        except COMPOSITION_ERRORS:
            return None
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        if "${hydra" in OmegaConf.to_yaml(own) or any(isinstance(value, dict) for value in values.values()):
            return None
        if any(OmegaConf.is_config(OmegaConf.select(own, key)) for key in values):  # a list, or a node
            return None
        return own, dropped
