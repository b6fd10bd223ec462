"""What every benchmark yields: a figure beside a peer's or a limit, and the goal that it is held to."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HEADER = "| what | value | beside | its value | ratio | goal | |\n| --- | ---: | --- | ---: | ---: | --- | --- |"


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Args:
        rounds: Rounds in which parts take turns, at least 1.
        quick: Tiny sizes, in this process where that can be: the form of rows, not their figures.
        peers: Folder of the peers' environments; None leaves them out.
    """

    rounds: int = 3
    quick: bool = False
    peers: Path | None = None


@dataclass(frozen=True)
class Goal:
    """A bound of a row's ratio or, in a row without one, of its value."""

    most: float | None = None
    least: float | None = None

    def __str__(self) -> str:
        return f"at most {self.most:,g}" if self.most is not None else f"at least {self.least:,g}"

    def met(self, figure: float) -> bool:
        """Whether the figure keeps to it."""
        return figure <= self.most if self.most is not None else figure >= (self.least or 0)


@dataclass(frozen=True)
class Row:
    """A median, and beside it that of a peer or a limit from the same rounds.

    Args:
        what: What was measured.
        value: The median.
        unit: Its unit.
        beside: The peer or limit.
        other: The median of the peer or limit.
        ratio: value / other or its inverse, as `what` or `beside` says: the median of the rounds' ratios.
        goal: Of the ratio, if there is one, or else of the value; None where the row only informs.
    """

    what: str
    value: float
    unit: str
    beside: str = ""
    other: float | None = None
    ratio: float | None = None
    goal: Goal | None = field(default=None)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        return None if self.goal is None else self.goal.met(self.value if self.ratio is None else self.ratio)

    def __str__(self) -> str:
        other = "" if self.other is None else f"{shown(self.other)} {self.unit}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        met = {None: "", True: "met", False: "**missed**"}[self.met]
        value = f"{shown(self.value)} {self.unit}"
        cells = [self.what, value, self.beside, other, ratio, "" if self.goal is None else str(self.goal), met]
        return f"| {' | '.join(cell.strip() for cell in cells)} |"

    def record(self) -> dict[str, Any]:
        """The row as plain data."""
        return asdict(self) | {"goal": None if self.goal is None else str(self.goal), "met": self.met}


def shown(value: float) -> str:
    """Three digits, and all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"
