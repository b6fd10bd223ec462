"""What has become of a sweep's jobs: read from run folders, never from a launcher's memory."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_runner.runs import run_folder
from ssl_runner.sweeps.manifest import Job

MISSING = "missing"  # not begun
_TAIL = 8192  # bytes of metrics.jsonl, the last lines


@dataclass(frozen=True)
class State:
    """How a job stands.

    Attributes:
        status: As `run_folder.status`, or ``missing``.
        folder: Where it is, or is to be; another sweep's or a single run's where its content is finished there.
        reason: Of a job that failed, one line.
        commit: Of the code that a finished one was made with.
    """

    status: str
    folder: Path
    reason: str = ""
    commit: str | None = None

    @property
    def finished(self) -> bool:
        return self.status == run_folder.FINISHED


def finished_runs(outputs: Path) -> dict[str, list[Path]]:
    """Folders of finished runs below a folder, by the hash of their config; the newest last."""
    found: dict[str, list[tuple[float, Path]]] = {}
    for path in _results(outputs):
        content = _content(path)
        if content.get("status") == run_folder.FINISHED and "config_hash" in content:
            found.setdefault(content["config_hash"], []).append((path.stat().st_mtime, path.parent))
    return {key: [folder for _, folder in sorted(runs)] for key, runs in found.items()}


def _results(folder: Path) -> Iterator[Path]:
    """Every result.json; a run folder holds no other run."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    if any(entry.name == run_folder.RESULT for entry in entries):
        yield folder / run_folder.RESULT
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from _results(Path(entry.path))


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def state(job: Job, folder: Path, elsewhere: dict[str, list[Path]]) -> State:
    """How a job stands.

    Args:
        folder: Its own.
        elsewhere: `finished_runs`, which count too; empty where they do not.
    """
    content = _content(folder / run_folder.RESULT)
    if content.get("config_hash") == job.config_hash:
        status = run_folder.status(folder)
        if status == run_folder.FINISHED and _same_data(job, content):
            return State(status, folder, commit=_commit(content))
        if status != run_folder.FINISHED:
            return State(status, folder, reason=str(content.get("reason", "")))
    for other in reversed(elsewhere.get(job.config_hash, [])):
        content = _content(other / run_folder.RESULT)
        if other != folder and _same_data(job, content):
            return State(run_folder.FINISHED, other, commit=_commit(content))
    return State(MISSING, folder)


def _same_data(job: Job, content: dict[str, Any]) -> bool:
    return job.data is None or content.get("dataset", {}).get("fingerprint") == job.data


def _commit(content: dict[str, Any]) -> str | None:
    git = content.get("git") or {}
    return None if git.get("commit") is None else f"{git['commit'][:9]}{' and changes' if git.get('dirty') else ''}"


@dataclass(frozen=True)
class Progress:
    """How far a running job is.

    Attributes:
        step: Steps done.
        steps: Of the whole run; None before it is known.
        loss: At the last logged step.
    """

    step: int
    steps: int | None
    loss: float | None


def progress(folder: Path) -> Progress:
    """Read from the run folder: the last logged step, and where the run ends."""
    steps = _content(folder / run_folder.RESULT).get("planned_steps")
    path, step, loss = folder / run_folder.METRICS, 0, None
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return Progress(0, steps, None)
    for line in lines:
        try:
            row = json.loads(line)
            step, loss = int(row["step"]), row.get("train/loss", loss)
        except (ValueError, KeyError, TypeError):  # a line that is cut, or being written
            continue
    return Progress(step, steps, loss)
