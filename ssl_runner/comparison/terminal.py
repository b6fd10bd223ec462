"""A report on the terminal."""

import textwrap
from collections.abc import Sequence

import rich.table
from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.text import Text

from ssl_runner.comparison.report import Report
from ssl_runner.comparison.settings import labelled
from ssl_runner.comparison.tables import Cell, Table, differences_table, left_out, main_table

SETTING = 24  # characters, the least for a setting that must be broken
TITLE = 18  # characters, where titles of columns are broken
NAMED = 10  # folders that are left out; the others are counted


def picture(report: Report, console: Console) -> RenderableType:
    """The tables, then the notes, then the folders that were left out.

    Args:
        console: Where it will be shown; where the columns of a setting do not fit, they share one.
    """
    runs = sum(len(row.runs) for row in report.rows)
    main, differences = main_table(report), differences_table(report)
    parts: list[RenderableType] = [
        Text(f"{_counted(runs, 'run')} of {_counted(len(report.rows), 'setting')}", style="bold"),
        *_fitting(report, main, console),
    ]
    parts += [Text(main.legend, style="dim")] if main.legend else []
    if differences is not None and report.baseline is not None:
        parts.append(Text(f"\nCompared with {labelled(report.rows[report.baseline].setting)}", style="bold"))
        parts.append(_drawn(differences))
        parts += [Text(differences.legend, style="dim")] if differences.legend else []
    parts += [Text("")] if report.notes or report.unfinished else []
    parts += [_listed(note) for note in report.notes]
    lines = left_out(report)
    if lines:
        parts.append(_listed(f"{_counted(len(lines), 'folder')} left out:"))
        parts += [Padding(Text(line), (0, 0, 0, 4)) for line in lines[:NAMED]]
        parts += [Padding(Text(f"and {len(lines) - NAMED} more"), (0, 0, 0, 4))] if len(lines) > NAMED else []
    return Group(*parts)


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _listed(note: str) -> RenderableType:
    grid = rich.table.Table.grid(padding=(0, 1))
    grid.add_column()
    grid.add_column(overflow="fold")
    grid.add_row(Text("-"), Text(note))
    return grid


def _fitting(report: Report, main: Table, console: Console) -> list[RenderableType]:
    """The main table; if it is too wide, with one column for the setting, and in as many parts as necessary."""
    if _width(drawn := _drawn(main), console) <= console.width:
        return [drawn]
    main = main_table(report, narrow=True)
    first = max(SETTING, console.width - sum(map(len, _titles(main)[1:])) - 40)
    found: list[RenderableType] = []
    shown: list[int] = []
    for place in range(2, len(main.head)):  # after the setting and the number of its seeds
        wider = _drawn(main, [0, 1, *shown, place], first)
        if shown and _width(wider, console) > console.width:
            found.append(_drawn(main, [0, 1, *shown], first))
            shown = []
        shown.append(place)
    return [*found, _drawn(main, [0, 1, *shown], first)]


def _width(drawn: rich.table.Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=9_999), drawn).maximum


def _titles(table: Table) -> list[str]:
    return [max(textwrap.wrap(cell.text, TITLE) or [""], key=len) for cell in table.head]


def _drawn(table: Table, places: Sequence[int] | None = None, first: int | None = None) -> rich.table.Table:
    """A table, or some of its columns.

    Args:
        first: Largest width of the first column, whose texts are then broken.
    """
    places = range(len(table.head)) if places is None else places
    drawn = rich.table.Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place in places:
        cell, broken = table.head[place], first is not None and place == 0
        drawn.add_column(
            Text(textwrap.fill(cell.text, TITLE)),
            justify="right" if cell.number else "left",
            overflow="fold",
            max_width=first if broken else None,
            no_wrap=not broken and cell.number,
        )
    for row in table.rows:
        drawn.add_row(*(_text(row[place]) for place in places))
    return drawn


def _text(cell: Cell) -> Text:
    return Text(cell.text, style="bold" if cell.best else "")
