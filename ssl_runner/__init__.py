"""Contrastive learning, masked prediction and meta-learning in one runner; only the Hydra config differs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_runner.cli.python_api import compose
    from ssl_runner.commands.evaluate import evaluate
    from ssl_runner.comparison.run_table import RunTable, read_runs
    from ssl_runner.models.saving import load_encoder
    from ssl_runner.train import train
    from ssl_runner.wiring.loaded_run import LoadedRun, load_run
    from ssl_runner.wiring.loading import few_shot_classifier, load_algorithm

__all__ = [
    "LoadedRun",
    "RunTable",
    "compose",
    "evaluate",
    "few_shot_classifier",
    "load_algorithm",
    "load_encoder",
    "load_run",
    "read_runs",
    "train",
]
__version__ = "0.2.0.dev0"

_HOMES = {
    "LoadedRun": "wiring.loaded_run",
    "RunTable": "comparison.run_table",
    "compose": "cli.python_api",
    "evaluate": "commands.evaluate",
    "few_shot_classifier": "wiring.loading",
    "load_algorithm": "wiring.loading",
    "load_encoder": "models.saving",
    "load_run": "wiring.loaded_run",
    "read_runs": "comparison.run_table",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and the command line's help needs none of it
    if name == "train":  # a module that can be called
        return import_module("ssl_runner.train")
    if name in _HOMES:
        return getattr(import_module(f"ssl_runner.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ssl_runner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
