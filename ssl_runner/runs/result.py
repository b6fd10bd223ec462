"""result.json: the number of a run and all that explains it."""

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
    """The result of a run as it comes to be; written whenever something is added, so a crash leaves what was known.

    Args:
        folder: The run folder.
        description: What is known of the run before its first step (`Run.description`); has a ``config_hash``.
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
        """Whether this folder holds the whole result of the same config; if so, it becomes the content."""
        try:
            before = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        same = before.get("config_hash") == self.content["config_hash"] and before.get("status") == run_folder.FINISHED
        if same:
            self.content = before
        return same

    def take_up(self, resumed: dict[str, Any], steps: int) -> None:
        """Go on from a checkpoint; where the run was given another end since, the result names it.

        Args:
            resumed: What `checkpoint.load` gave.
            steps: Of the whole run, as it is to be now.

        Raises:
            ResumeError: More steps than that are done.
        """
        self.reach(resumed["step"])
        if resumed["step"] > steps:
            raise ResumeError(
                f"{self.path.parent} has done {resumed['step']} steps already, and is to end after {steps}; give more"
            )
        if resumed["ends"]:
            self.content["given_another_end_after_steps"] = resumed["ends"]

    def reach(self, step: int) -> None:
        """Note that so many steps are done; written where the run ends before its last word."""
        self.step = step

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """Inside, the run goes on; however it ends, the file says so, unless the process is killed.

        An interrupted run has the status ``interrupted`` and a ``step``, one that fails ``failed``, ``step`` and
        ``reason``.
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
        with contextlib.suppress(OSError):  # a full disk, or a folder that is gone, must not hide what happened
            self.write()

    def add(self, prefix: str, metrics: dict[str, float]) -> None:
        """Put metrics under a prefix, or under none; what a clock says, ``time/...``, apart: runs differ in it."""
        for name, value in metrics.items():
            clock = name.startswith("time/")
            part, name = (self.times, name.removeprefix("time/")) if clock else (self.metrics, name)
            part[f"{prefix}/{name}" if prefix else name] = value
        self.write()

    def finish(self, **fields: Any) -> dict[str, Any]:
        """Set the status to ``finished``, and the fields given."""
        self.content.update(status=run_folder.FINISHED, **fields)
        self.write()
        return self.content

    def write(self) -> None:
        text = json.dumps(self.content, indent=2) + "\n"
        write_atomically(self.path, lambda path: path.write_text(text, encoding="utf-8"))


def _reason(error: BaseException) -> str:
    """In one line; what is not addressed to the user with the name of its class."""
    said = " ".join(str(error).split())
    if isinstance(error, UserError | RunEvent):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
