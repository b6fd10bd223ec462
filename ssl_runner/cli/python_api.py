"""``ssl_runner.compose`` and ``ssl_runner.train``: the functions of the command line, in Python."""

import os
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ssl_runner.cli import home_folder, initial
from ssl_runner.cli.app import App, Config, run_in, unique
from ssl_runner.cli.resume import named_folder, resumed_config
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.config.renamed import current_words
from ssl_runner.config.schema import check
from ssl_runner.config.stored import as_written
from ssl_runner.errors import ConfigError
from ssl_runner.runtime import launch_environment

Overrides = str | Sequence[str]


class CallableModule(ModuleType):
    """A module that can be called like its function of the same name, since ``ssl_runner.train`` is both."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*arguments, **named)


def compose(overrides: Overrides = (), config_dir: str | Path | None = None) -> Config:
    """The config that ``ssl-train`` would run with these overrides: plain dicts and lists, checked, paths absolute.

    For example, ``compose("experiment=maml_omniglot algorithm.inner_lr=0.1")``. You may change values before `train`,
    which checks them again. A value that the experiment sets for a deselected option is dropped, with a warning.

    Args:
        overrides: Words of a command line: a list, or one string that is split as in a shell. No flags, no sweep.
        config_dir: A folder with further options, like ``--config-dir``.

    Raises:
        ConfigError: With every problem at once, in its attribute ``problems``.
    """
    from ssl_runner.cli.compose import Composer  # Hydra takes a second to import
    from ssl_runner.cli.validate import checked_config

    words, messages = current_words(home_folder.with_homes(initial.with_weights(_words(overrides))))
    extra = None if config_dir is None else Path(config_dir).expanduser().absolute()
    if extra is not None and not extra.is_dir():
        raise ConfigError([f"config_dir: {extra} is not a folder; give one that holds files like experiment/NAME.yaml"])
    config, dropped = checked_config(Composer(conf_folder(), extra), words)
    for message in [*messages, *dropped]:
        warnings.warn(message, stacklevel=2)
    return config


def train(app: App, config: Mapping[str, Any] | Overrides, folder: str | Path | None) -> Path:
    """Run in this process. Returns the run folder; see `ssl_runner.train.train`."""
    if launch_environment.size() > 1:
        raise ConfigError(["ssl_runner.train: it runs in one process; for several, use torchrun -m ssl_runner.train"])
    home_folder.settle_environment()
    if isinstance(config, Mapping):
        checked, stopped = initial.settled(check(as_written(config))), None
    elif (stopped := named_folder(_words(config), "resume")) is not None:
        checked = resumed_config(stopped, _words(config), "resume", multirun=False)
    else:
        checked = compose(config)
    new = Path(os.environ.get("SSL_RUNNER_OUTPUTS", "outputs")) / checked["name"] / unique()
    where = Path(stopped or folder or new).expanduser().absolute()
    prepared = app.prepare(checked)
    where.mkdir(parents=True, exist_ok=True)
    run_in(where, app, checked, prepared)
    return where


def _words(overrides: Overrides) -> list[str]:
    return shlex.split(overrides) if isinstance(overrides, str) else list(overrides)
