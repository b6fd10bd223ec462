"""The console of a run. It uses rich, which help and error messages do not need."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import rich.console
from rich.text import Text

from ssl_runner.runtime import progress
from ssl_runner.runtime.streams import guard


class Console(rich.console.Console):
    """Shows text literally: brackets in names are not markup, and colons are not emoji."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    @property
    def file(self) -> IO[str]:
        """The present output stream; writing to it never raises, even if nobody reads it."""
        return guard(super().file, "stderr" if self.stderr else "stdout")

    @contextmanager
    def working(self, activity: str) -> Iterator[None]:
        """A line that moves while something is at work and says how far it is, see `ssl_runner.runtime.progress`.

        Nothing in a notebook, where rich would need ipywidgets.
        """
        if self.is_jupyter:
            yield
            return
        line = self.status(Text(activity))
        with line, progress.shown_by(lambda words: line.update(Text(f"{activity}: {words}"))):
            yield

    def warn(self, text: str) -> None:
        """Print a warning in one line."""
        self.print(Text.assemble(("warning", "yellow"), f": {text}"), soft_wrap=True)

    def tell(self, subject: str, text: str) -> None:
        """Print one line about a subject."""
        self.print(Text.assemble((f"{subject:>12}", "bold"), f"  {text}"), soft_wrap=True)
