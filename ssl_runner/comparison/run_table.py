"""Runs as a table for pandas or polars."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ssl_runner.comparison.reading import read
from ssl_runner.comparison.report import Run


class RunTable(list[dict[str, Any]]):
    """Runs as rows of a table: a list of dicts with the same keys in each, and values of one type in each column.

    ``pandas.DataFrame(table)`` and ``polars.DataFrame(table)`` take it as it is.

    Attributes:
        left_out: Folders without a result, and why.
    """

    def __init__(self, rows: Iterable[dict[str, Any]], left_out: Sequence[tuple[Path, str]] = ()) -> None:
        rows = list(rows)
        keys = list(dict.fromkeys(key for row in rows for key in row))
        columns = {key: _of_one_type([row.get(key) for row in rows]) for key in keys}
        super().__init__({key: columns[key][number] for key in keys} for number in range(len(rows)))
        self.left_out = list(left_out)

    def to_dict(self) -> dict[str, list[Any]]:
        """The columns by name."""
        return {key: [row[key] for row in self] for key in (self[0] if self else ())}


def _of_one_type(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and float in kinds:
        return [None if value is None else float(value) for value in values]
    if len(kinds) == 1 and kinds <= {bool, int, float, str}:
        return values
    return [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]


def read_runs(paths: str | Path | Sequence[str | Path] = "outputs", validation: bool = False) -> RunTable:
    """The finished runs below the paths as a table for pandas or polars, one row a run.

    Columns: ``folder``, ``name``, ``seed``, ``config_hash``, ``dataset``, ``fingerprint``, ``seconds``, ``commit``,
    ``command``, the figures of result.json (``knn/top1``), and the config (``config.loss.temperature``).

    Args:
        paths: Run folders, or folders above them.
        validation: Whether to read the last figures on validation images too, as ``validation/knn/top1``.

    Raises:
        ConfigError: A path is missing or is no folder.
    """
    several = [paths] if isinstance(paths, str | Path) else paths
    found = read([Path(path).expanduser() for path in several], validation)
    return RunTable((_row(run) for run in found.runs), found.left_out)


def _row(run: Run) -> dict[str, Any]:
    about = {name: getattr(run, name) for name in ("name", "seed", "config_hash")}
    data = {"dataset": run.dataset.get("name"), "fingerprint": run.dataset.get("fingerprint")}
    made = {name: getattr(run, name) for name in ("seconds", "commit", "command")}
    config = {f"config.{key}": value for key, value in run.config.items()}
    return {"folder": str(run.folder), **about, **data, **made, **run.metrics, **config}
