"""Validation figures of a run, read from its metrics.jsonl while it is written. No other figures are read here."""

import json
from collections.abc import Iterator
from pathlib import Path

from ssl_runner.runs import tracking

PREFIX = "eval/validation/"  # of the tags that training/loop.py gives them


class Figures:
    """Reads what is new.

    Args:
        folder: The run folder.
        metric: The figure that is asked for.
        select: The figure that selects the checkpoint of the run.
    """

    def __init__(self, folder: Path, metric: str, select: str) -> None:
        self.path, self.metric, self.select = folder / tracking.FILE, metric, select
        self._place, self._file = 0, -1
        self.known: dict[int, tuple[float, float]] = {}  # metric and select, by step

    def fresh(self) -> Iterator[tuple[int, float]]:
        """Steps and figures that were not there before; each step once, also after a run was resumed."""
        try:
            found = self.path.stat()
            if found.st_ino == self._file and found.st_size == self._place:
                return
            if found.st_ino != self._file or found.st_size < self._place:  # cut back by a resumed run
                self._place, self._file = 0, found.st_ino
            with self.path.open("rb") as file:
                file.seek(self._place)
                content = file.read()
        except OSError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._place += len(whole)
        for line in whole.splitlines():
            try:
                row = json.loads(line)
                step, value = int(row["step"]), float(row[PREFIX + self.metric])
                chosen = float(row[PREFIX + self.select])
            except (ValueError, KeyError, TypeError):  # a row without validation
                continue
            if step not in self.known:
                self.known[step] = value, chosen
                yield step, value

    @property
    def final(self) -> float | None:
        """The figure of the checkpoint that the run keeps: of the step with the greatest ``select``, the first of
        equal ones. None without validation."""
        if not self.known:
            return None
        step = min(self.known, key=lambda one: (-self.known[one][1], one))
        return self.known[step][0]
