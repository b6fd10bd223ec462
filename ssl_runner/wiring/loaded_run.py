"""Loads a run from its folder: config, result, curves, and the trained weights."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.config.stored import read_config, run_around
from ssl_runner.errors import InvalidValue
from ssl_runner.models.network import Encoder
from ssl_runner.models.saving import load_encoder
from ssl_runner.runs import logged, run_folder
from ssl_runner.wiring.loading import load_algorithm


class Curve(NamedTuple):
    """A metric during the run.

    Attributes:
        steps: int64 (N,), ascending.
        values: float64 (N,).
    """

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class LoadedRun:
    """A run, finished or not.

    Attributes:
        folder: The run folder.
        config: Plain values, as they were written.
        result: The content of result.json: ``metrics`` as fractions, protocols, versions; empty if the run stopped
            before it could write one.
        metrics: The curves of metrics.jsonl by tag: ``run.metrics["train/loss"].values``.
    """

    folder: Path
    config: dict[str, Any]
    result: dict[str, Any]
    metrics: dict[str, Curve]

    @property
    def status(self) -> str:
        """``running``, ``interrupted``, ``failed``, ``finished`` or ``killed``, at this moment."""
        return run_folder.status(self.folder) if (self.folder / run_folder.RESULT).is_file() else "killed"

    @cached_property
    def encoder(self) -> Encoder:
        """The trained encoder on the CPU, in evaluation mode (`ssl_runner.load_encoder`)."""
        return load_encoder(self.folder)

    @cached_property
    def algorithm(self) -> Algorithm:
        """The complete trained algorithm on the CPU, in evaluation mode (`ssl_runner.load_algorithm`)."""
        return load_algorithm(self.folder)


def load_run(path: str | Path) -> LoadedRun:
    """The run in a folder. It reads only text; weights are read on the first use of ``encoder`` or ``algorithm``.

    Args:
        path: A run folder, outputs/NAME/RUN.

    Raises:
        FileNotFoundError: There is no such folder, or it holds no run.
        ValueError: One of its files is damaged.
    """
    folder = Path(path).expanduser().absolute()
    if (around := run_around(folder)) is not None:
        raise InvalidValue(f"{folder} is inside a run; give the run's folder, {around}")
    if not (folder / "config.yaml").is_file():
        lack = "has no config.yaml, so it is not a run folder" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(f"{folder} {lack}; give outputs/NAME/RUN")
    config: Any = OmegaConf.to_container(read_config(folder / "config.yaml", str(folder)), resolve=True)
    return LoadedRun(folder, config, _result(folder / run_folder.RESULT), _curves(folder / run_folder.METRICS))


def _result(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(content, dict)
        return content
    except (ValueError, AssertionError) as error:
        raise InvalidValue(f"{path} is damaged ({error!r}); restore an intact copy") from None


def _curves(path: Path) -> dict[str, Curve]:
    """The curves by tag, without a line cut short by a crash."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in logged.rows(path):
        for tag in row.keys() - {"step"}:
            found.setdefault(tag, []).append((row["step"], row[tag]))
    return {
        tag: Curve(np.array([step for step, _ in points]), np.array([value for _, value in points], dtype=np.float64))
        for tag, points in sorted(found.items())
    }
