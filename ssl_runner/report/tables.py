"""Tables of figures that are turned on their side where the console is too narrow for them."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from ssl_runner.runtime.console import Console

ENDLESS = 10_000  # characters, in which every table fits


class Row(NamedTuple):
    """A row of figures.

    Attributes:
        heads: What stands before them, as many cells in every row.
        name: What it is called where it stands as a column.
        figures: One for each column.
        ends_section: Whether a line follows.
    """

    heads: Sequence[str]
    name: str
    figures: Sequence[str | Text]
    ends_section: bool = False


def fitted(title: str, columns: Sequence[str], rows: Sequence[Row], console: Console) -> Table:
    """The rows below the columns; where that is too wide, the columns as rows, if these are narrower.

    Args:
        rows: At least one.
    """
    wide = _empty(title, ["" for _ in rows[0].heads], columns)
    for row in rows:
        wide.add_row(*row.heads, *row.figures, end_section=row.ends_section)
    if _width(wide, console) <= console.width:
        return wide
    tall = _empty(title, [""], [row.name for row in rows])
    for number, column in enumerate(columns):
        tall.add_row(column, *(row.figures[number] for row in rows))
    return min((wide, tall), key=lambda table: _width(table, console))


def _empty(title: str, heads: Sequence[str], columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update(width=ENDLESS)).maximum
