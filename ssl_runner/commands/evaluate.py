"""``ssl-eval`` and ``ssl_runner.evaluate``: trained encoders, asked the same and told apart."""

import contextlib
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from ssl_runner.cli import home_folder
from ssl_runner.commands import eval_command, eval_config, eval_words
from ssl_runner.commands.eval_config import Row
from ssl_runner.commands.eval_words import Words
from ssl_runner.errors import ConfigError

if TYPE_CHECKING:
    from ssl_runner.evaluation.compared import Evaluations
    from ssl_runner.wiring.loaded_run import LoadedRun

Encoder = Union[str, Path, "LoadedRun"]
_Activity = Callable[[str], contextlib.AbstractContextManager[Any]]


def main() -> None:
    """The command ``ssl-eval``."""
    from ssl_runner.runtime import launch_environment

    launch_environment.in_utf8()
    sys.exit(eval_command.main(_work))


def evaluate(
    encoders: Encoder | Sequence[Encoder],
    overrides: str | Sequence[str] = (),
    again: bool = False,
    config_dir: str | Path | None = None,
) -> "Evaluations":
    """Evaluate trained encoders in this process, as ``ssl-eval`` does.

    For example, ``evaluate(run).metrics``, ``evaluate(RUN, "dataset=mnist eval=[knn]")``, or
    ``evaluate([RUN, "timm:resnet18"], "suite=transfer").differences``.

    Args:
        encoders: One or several: runs, run folders, ``timm:NAME``, ``timm:NAME@FILE``, ``torchvision:NAME``, files of
            ours (.safetensors), ``raw_pixels``.
        overrides: Words of a command line: a list, or one string that is split as in a shell.
        again: Whether to compute what is kept beside an encoder already.
        config_dir: A folder with further options and suites, like ``--config-dir``.

    Raises:
        ConfigError: With every problem at once, in its attribute ``problems``.
        DataError: Data is missing or damaged.
    """
    eval_command.refuse_several_processes()
    home_folder.settle_environment()
    words = shlex.split(overrides) if isinstance(overrides, str) else list(overrides)
    strangers, words, suite = eval_words.sorted_out(words)
    if strangers:
        raise ConfigError([f"{word}: not an override; write key=value, and give encoders first" for word in strangers])
    single = isinstance(encoders, str | os.PathLike) or hasattr(encoders, "folder")
    several: list[Any] = [encoders] if single else list(encoders)  # pyright: ignore[reportArgumentType]
    names = list(dict.fromkeys(str(getattr(one, "folder", one)) for one in several))
    extra = None if config_dir is None else Path(config_dir)
    rows = eval_config.rows(names, words, suite, extra)
    return _evaluated(names, rows, again, lambda _: contextlib.nullcontext(), warnings.warn)


def _evaluated(
    names: Sequence[str], rows: Sequence[Row], again: bool, activity: _Activity, tell: Callable[[str], Any]
) -> "Evaluations":
    from ssl_runner.wiring.evaluating import evaluated  # torch takes seconds to import

    asked = [(row.name, row.config, row.trainers, row.fetch) for row in rows]
    return evaluated(names, asked, again, activity, tell)


def _work(words: Words, rows: Sequence[Row]) -> None:
    from ssl_runner.runtime.console import Console

    errors = Console(stderr=True)  # so that standard output is only the result

    def activity(text: str) -> contextlib.AbstractContextManager[Any]:
        if words.suite is not None and not errors.is_terminal:  # a log must show how far a long suite is
            errors.print(text, soft_wrap=True)
        return errors.working(text)

    found = _evaluated(words.encoders, rows, words.again, activity, lambda _: None)
    if words.json:
        import json

        print(json.dumps(found.as_json(), indent=2))
        return
    from ssl_runner.report import evaluations

    evaluations.show(found, Console())
