"""A progress bar in a notebook."""

import html
import time
from typing import Any

PAUSE = 0.2  # seconds between two updates


class NotebookBar:
    """HTML that replaces itself, with the methods of rich's `Progress` that the tracker calls.

    Rich's own bar needs ipywidgets in a notebook, and only warns where they are missing.

    Args:
        disable: Whether to show nothing.
    """

    def __init__(self, disable: bool = False) -> None:
        self.disable = disable
        self.total = self.completed = self.first = 0
        self.figures = ""
        self.began = self.shown = time.monotonic()
        self.handle: Any = None

    def __enter__(self) -> "NotebookBar":
        return self

    def __exit__(self, *_: object) -> None:
        if self.handle is not None:
            self.handle.update(self)

    def add_task(self, description: str, total: int, completed: int, figures: str) -> int:
        """Show the bar; returns 0, the number of its only task."""
        from IPython.display import display  # which every notebook has

        self.total, self.completed, self.first, self.figures = total, completed, completed, figures
        if not self.disable:
            self.handle = display(self, display_id=True)
        return 0

    def update(self, task: int, completed: int | None = None, figures: str | None = None) -> None:
        """Move to ``completed`` steps, and show other figures; what is None stays."""
        self.completed = self.completed if completed is None else completed
        self.figures = self.figures if figures is None else figures
        if self.handle is not None and time.monotonic() >= self.shown + PAUSE:
            self.shown = time.monotonic()
            self.handle.update(self)

    def __repr__(self) -> str:
        return f"{self.completed}/{self.total} steps, {self._time()}  {self.figures}".rstrip()

    def _repr_html_(self) -> str:
        bar = f'<progress value="{self.completed}" max="{self.total}" style="width: 20em"></progress>'
        return f"<div>{bar} <code>{html.escape(repr(self))}</code></div>"

    def _time(self) -> str:
        seconds = time.monotonic() - self.began
        done = self.completed - self.first
        if done > 0 and self.completed < self.total:
            return f"{_clock(seconds / done * (self.total - self.completed))} left"
        return _clock(seconds)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
