"""Logging during a run: TensorBoard events, metrics.jsonl and a progress bar."""

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ssl_runner.runs import events, run_folder
from ssl_runner.runs.logged import rows
from ssl_runner.runs.notebook_bar import NotebookBar
from ssl_runner.runtime.atomic_write import write_atomically
from ssl_runner.runtime.console import Console

FILE = run_folder.METRICS


class Silence:
    """A tracker that logs nothing, for all processes but process 0."""

    def bar(self, step: int, max_steps: int, shown: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def advance(self, step: int) -> None: ...

    def warn(self, text: str) -> None: ...

    def tell(self, subject: str, text: str) -> None: ...

    def scalars(self, step: int, values: dict[str, float]) -> None: ...

    def flush(self) -> None: ...


class Tracker(Silence):
    """Logs scalars to TensorBoard and to metrics.jsonl, one line per logged step, and shows progress.

    Attributes:
        writer: TensorBoard's writer, for everything that is not a scalar.

    Args:
        folder: The run folder.
        start_step: Steps done before. Everything logged after that is removed, so that a resumed run logs no point
            twice.
        reached: Called after every step with the number of steps done, or None.
    """

    def __init__(self, folder: Path, start_step: int, reached: Callable[[int], None] | None = None) -> None:
        self.reached = reached
        self.path = folder / FILE
        # without our own log, any event files belong to another program
        self.writer = events.resumed_writer(folder, start_step) if self.path.exists() else events.new_writer(folder)
        cut_after(self.path, start_step)
        self.file = self.path.open("a", encoding="utf-8")
        self.linked = os.fstat(self.file.fileno()).st_nlink > 0  # some file systems do not count links
        self.console = Console(stderr=True)
        self.progress: Progress | NotebookBar | None = None

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.writer.close()

    @contextmanager
    def bar(self, step: int, max_steps: int, shown: bool) -> Iterator[None]:
        """Inside, the console or the notebook shows the progress and the remaining time."""
        with self._bar(shown) as self.progress:
            self.task = self.progress.add_task("training", total=max_steps, completed=step, figures="")
            yield
        self.progress = None

    def _bar(self, shown: bool) -> Progress | NotebookBar:
        if self.console.is_jupyter:
            return NotebookBar(disable=not shown)
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        figures = TextColumn("{task.fields[figures]}")
        return Progress(TextColumn("training"), *columns, figures, console=self.console, disable=not shown)

    def advance(self, step: int) -> None:
        """Move the bar to ``step`` steps done."""
        if self.reached is not None:
            self.reached(step)
        if self.progress is not None:
            self.progress.update(self.task, completed=step)  # type: ignore[arg-type] each bar's own kind of task

    def warn(self, text: str) -> None:
        """Print a warning above the bar."""
        self.console.warn(text)

    def tell(self, subject: str, text: str) -> None:
        """Print one line about a subject above the bar."""
        self.console.tell(subject, text)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Log one point of every tag after ``step`` steps.

        Raises:
            FileNotFoundError: The log was deleted or moved.
        """
        self._look_for_the_log()
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        if self.progress is not None and "train/loss" in values:
            self.progress.update(self.task, figures=_figures(values))  # type: ignore[arg-type]

    def flush(self) -> None:
        """Write everything to disk; needed before a checkpoint, so that the log is complete up to it."""
        self._look_for_the_log()
        self.writer.flush()

    def _look_for_the_log(self) -> None:
        """Raises FileNotFoundError if the log is gone: an open file can still be written to after it was deleted."""
        self.path.stat()
        if self.linked and os.fstat(self.file.fileno()).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))


class Meter:
    """Rates between two logged steps.

    Args:
        images_per_step: Number of images that a step sends through the network.
    """

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step
        self.began, self.steps, self.waited = time.perf_counter(), 0, 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, time does not count as training time."""
        began = time.perf_counter()
        yield
        self.began += time.perf_counter() - began

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, the loop waits for data."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    def lap(self, steps: int) -> dict[str, float]:
        """Rates since the last lap, given the number of steps done."""
        now = time.perf_counter()
        seconds = max(now - self.began, 1e-9)
        rate = (steps - self.steps) * self.images_per_step / seconds
        share = self.waited / seconds
        self.began, self.steps, self.waited = now, steps, 0.0
        return {"time/images_per_second": rate, "time/data_share": share}


def cut_after(path: Path, step: int) -> None:
    """Remove lines of later steps, and a line cut short by a crash."""
    if not path.exists():
        return
    # with step 0 the run starts again
    kept = [json.dumps(row) + "\n" for row in rows(path) if step and row["step"] <= step]
    write_atomically(path, lambda temporary: temporary.write_text("".join(kept), encoding="utf-8"))


def _figures(values: dict[str, float]) -> str:
    return f"loss {values['train/loss']:.4f}  {values['time/images_per_second']:,.0f} images/s"
