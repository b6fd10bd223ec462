"""The console of a run. It uses rich, which help and error messages do not need."""

import contextlib
from typing import IO, Any

import rich.console
from rich.text import Text

from ssl_runner.runtime.streams import guard


class Console(rich.console.Console):
    """Shows text literally: brackets in names are not markup, and colons are not emoji."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    @property
    def file(self) -> IO[str]:
        """The present output stream; writing to it never raises, even if nobody reads it."""
        return guard(super().file, "stderr" if self.stderr else "stdout")

    def status(self, *arguments: Any, **options: Any) -> Any:
        """A line that moves while something is at work; nothing in a notebook, where rich would need ipywidgets."""
        return contextlib.nullcontext() if self.is_jupyter else super().status(*arguments, **options)

    def warn(self, text: str) -> None:
        """Print a warning in one line."""
        self.print(Text.assemble(("warning", "yellow"), f": {text}"), soft_wrap=True)

    def tell(self, subject: str, text: str) -> None:
        """Print one line about a subject."""
        self.print(Text.assemble((f"{subject:>12}", "bold"), f"  {text}"), soft_wrap=True)
