"""A report on the terminal."""

import rich.table
from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.text import Text

from ssl_runner.comparison.report import Report
from ssl_runner.comparison.settings import labelled
from ssl_runner.comparison.tables import Cell, Table, differences_table, left_out, main_table

NAMED = 10  # folders that are left out; the others are counted


def picture(report: Report, console: Console) -> RenderableType:
    """The tables, then the notes, then the folders that were left out.

    Args:
        console: Where it will be shown; where the columns of a setting do not fit, they share one.
    """
    runs = sum(len(row.runs) for row in report.rows)
    main, differences = main_table(report), differences_table(report)
    drawn = _drawn(main)
    if Measurement.get(console, console.options.update(max_width=9_999), drawn).maximum > console.width:
        drawn = _drawn(main_table(report, narrow=True))
    parts: list[RenderableType] = [
        Text(f"{_counted(runs, 'run')} of {_counted(len(report.rows), 'setting')}", style="bold"),
        drawn,
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


def _drawn(table: Table) -> rich.table.Table:
    drawn = rich.table.Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for cell in table.head:
        drawn.add_column(Text(cell.text), justify="right" if cell.number else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*map(_text, row))
    return drawn


def _text(cell: Cell) -> Text:
    return Text(cell.text, style="bold" if cell.best else "")
