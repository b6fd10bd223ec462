"""What a person sees of a sweep at work: a live table on a terminal, else plain lines."""

import contextlib
import time
from collections.abc import Iterator, Sequence

from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from ssl_runner.runs import run_folder
from ssl_runner.runtime.console import Console
from ssl_runner.sweeps.state import Progress, progress
from ssl_runner.sweeps.sweep import Sweep

EVERY = 1.0  # seconds between two pictures


class Table:
    """Reports on a sweep.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None
        self.pictured = 0.0
        self.began: dict[int, tuple[float, int]] = {}
        self.took: list[float] = []

    @contextlib.contextmanager
    def shown(self, sweep: Sweep) -> Iterator[None]:
        """Inside, the table is on the screen, if there is one."""
        done = sum(one.finished for one in sweep.states)
        jobs = len(sweep.jobs) + sweep.to_come
        left = jobs - done
        self.console.tell("sweep", f"{jobs} jobs in {sweep.folder}: {done} done, {left} to run")
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, auto_refresh=False, transient=True) as self.live:
            yield
        self.live = None

    def warn(self, message: str) -> None:
        """Print a warning."""
        self.console.warn(message)

    def stopping(self, working: int) -> None:
        """A signal has asked the sweep to end."""
        self.console.tell("stopping", f"{working} jobs save and end; Ctrl-C once more ends them at once")

    def started(self, sweep: Sweep, number: int) -> None:
        """A job has started."""
        self.began[number] = (time.monotonic(), progress(sweep.folder_of(number)).step)
        if self.live is None:
            before = sweep.states[number].status
            what = "resumed" if before in ("interrupted", "killed", "failed") else "started"
            self.console.tell(what, sweep.jobs[number].name)

    def ended(self, sweep: Sweep, number: int) -> None:
        """A job has ended."""
        state, (began, _) = sweep.states[number], self.began.pop(number)
        seconds = time.monotonic() - began
        if state.finished:
            self.took.append(seconds)
        reason = f": {state.reason}" if state.reason else ""
        word = "done" if state.finished else state.status
        self.console.tell(word, f"{sweep.jobs[number].name} ({_span(seconds)}){reason}")

    def refresh(self, sweep: Sweep, working: Sequence[int]) -> None:
        """Draw the table anew, once a second at most."""
        now = time.monotonic()
        if self.live is None or now - self.pictured < EVERY:
            return
        self.pictured = now
        self.live.update(self._picture(sweep, working), refresh=True)

    def _picture(self, sweep: Sweep, working: Sequence[int]) -> RichTable:
        table = RichTable(title_justify="left", expand=False)
        for name in ("job", "step", "loss", "left"):
            table.add_column(name, justify="left" if name == "job" else "right", no_wrap=True)
        lefts = []
        for number in working:
            found = progress(sweep.folder_of(number))
            lefts.append(self._left(number, found))
            steps = "?" if found.steps is None else f"{found.steps:,}"
            loss = "" if found.loss is None else f"{found.loss:.4f}"
            table.add_row(Text(sweep.jobs[number].name), f"{found.step:,} of {steps}", loss, _span(lefts[-1]))
        waiting = (
            sum(not one.finished and one.status != "pruned" for one in sweep.states) + sweep.to_come - len(working)
        )
        counts = sweep.counts
        done = counts.get(run_folder.FINISHED, 0)
        whole = self._left_of_all(waiting, lefts)
        table.caption = (
            f"{done} of {len(sweep.jobs) + sweep.to_come} done, {len(working)} at work, {waiting} waiting"
            + (f", {counts['failed']} failed" if "failed" in counts else "")
        )
        table.caption += "" if whole is None else f"; about {_span(whole)} left"
        return table

    def _left(self, number: int, found: Progress) -> float | None:
        """Seconds that a job will still take; None before its first steps."""
        if number not in self.began or found.steps is None:
            return None
        began, first = self.began[number]
        done = found.step - first
        return None if done <= 0 else (time.monotonic() - began) / done * (found.steps - found.step)

    def _left_of_all(self, waiting: int, lefts: Sequence[float | None]) -> float | None:
        known = [left for left in lefts if left is not None]
        if not lefts or len(known) < len(lefts) or (waiting and not self.took):
            return None
        mean = sum(self.took) / len(self.took) if self.took else 0.0
        return max(known) + waiting * mean / len(lefts)


def _span(seconds: float | None) -> str:
    """``42 s``, ``3 min``, ``2 h 5 min``."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
