"""What a person sees of a run; with rich, which help and mistakes do without."""

from typing import IO

import rich.console
from rich.text import Text

from ssl_runner.runtime.streams import guard


class Console(rich.console.Console):
    """Shows text as it is: a name with brackets is no markup, and one with colons no emoji."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    @property
    def file(self) -> IO[str]:
        """Where it writes to by now; never raises for want of someone who reads."""
        return guard(super().file, "stderr" if self.stderr else "stdout")

    def warn(self, text: str) -> None:
        """One line."""
        self.print(Text.assemble(("warning", "yellow"), f": {text}"), soft_wrap=True)

    def tell(self, subject: str, text: str) -> None:
        """One line about a subject."""
        self.print(Text.assemble((f"{subject:>12}", "bold"), f"  {text}"), soft_wrap=True)
