"""result.json: the scores of a run and everything that explains them."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssl_runner.errors import ResumeError, RunEvent, UserError
from ssl_runner.runs import provenance, run_folder
from ssl_runner.runtime import versions
from ssl_runner.runtime.atomic_write import write_atomically

FILE = run_folder.RESULT


class Result:
    """The result of a run so far; it is written whenever something is added, so that a crash loses nothing.

    Args:
        folder: The run folder.
        description: Facts known before the first step (`Run.description`); includes ``config_hash``.
    """

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.path = folder / FILE
        self.step = 0
        self.metrics: dict[str, float] = {}
        self.times: dict[str, float] = {}
        self.content: dict[str, Any] = {
            "status": run_folder.RUNNING,
            "metrics": self.metrics,
            "times": self.times,
            "command": provenance.command(),
            **description,
            "git": provenance.git(),
            "versions": versions.versions(),
            "seconds": None,
            "images_per_second": None,
        }

    def is_finished(self) -> bool:
        """Whether this folder holds the complete result of the same config; if so, it becomes the content."""
        before = self._before()
        same = before.get("config_hash") == self.content["config_hash"] and before.get("status") == run_folder.FINISHED
        if same:
            self.content = before
        return same

    def _before(self) -> dict[str, Any]:
        """The content of the file in the folder, which an earlier process wrote; empty if it is damaged."""
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def take_up(self, resumed: dict[str, Any], steps: int) -> None:
        """Continue from a checkpoint; if the end of the run was changed, the result says so.

        Args:
            resumed: The state that `checkpoint.load` returned.
            steps: The run's total number of steps now.

        Raises:
            ResumeError: More steps than that are already done.
        """
        self.reach(resumed["step"])
        before = self._before()
        self.content["resumed_at_steps"] = [*before.get("resumed_at_steps", []), resumed["step"]]
        if "init" in before:  # in full, even if the weights are no longer there
            self.content["init"] = before["init"]
        if resumed["step"] > steps:
            raise ResumeError(
                f"{self.path.parent} has already done {resumed['step']} steps, but would end after {steps}; give more"
            )
        if resumed["ends"]:
            self.content["given_another_end_after_steps"] = resumed["ends"]

    def reach(self, step: int) -> None:
        """Record the number of steps done; it is written if the run ends early."""
        self.step = step

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """Inside, the run continues; the file records how it ends, unless the process is killed.

        An interrupted run has the status ``interrupted`` and a ``step``; a failed one has the status ``failed``, a
        ``step`` and a ``reason``.
        """
        self.write()
        try:
            yield
        except KeyboardInterrupt:
            self._end("interrupted")
            raise
        except BaseException as error:
            self._end("failed", reason=_reason(error))
            raise

    def _end(self, status: str, **fields: Any) -> None:
        self.content.update(status=status, step=self.step, **fields)
        with contextlib.suppress(OSError):  # a full disk or a missing folder must not hide the error itself
            self.write()

    def add(self, prefix: str, metrics: dict[str, float]) -> None:
        """Add metrics, with a prefix unless it is empty; durations ``time/...`` are kept apart, since they vary."""
        for name, value in metrics.items():
            clock = name.startswith("time/")
            part, name = (self.times, name.removeprefix("time/")) if clock else (self.metrics, name)
            part[f"{prefix}/{name}" if prefix else name] = value
        self.write()

    def finish(self, **fields: Any) -> dict[str, Any]:
        """Set the status to ``finished``, and the given fields."""
        self.content.update(status=run_folder.FINISHED, **fields)
        self.write()
        return self.content

    def write(self) -> None:
        text = json.dumps(self.content, indent=2) + "\n"
        write_atomically(self.path, lambda path: path.write_text(text, encoding="utf-8"))


def _reason(error: BaseException) -> str:
    """The error in one line; errors that are not written for the user begin with their class name."""
    message = " ".join(str(error).split())
    if isinstance(error, UserError | RunEvent):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
