"""Figures and values as the page shows them; the tables of the terminal have the same ones."""

import math
import os
from pathlib import Path
from urllib.parse import quote

from ssl_runner.comparison import tables
from ssl_runner.comparison.against import short
from ssl_runner.comparison.report import Column, Interval


def scaled(value: float | None, column: Column) -> float | None:
    """In percent where the column is; None for what is missing or no number."""
    if value is None or not math.isfinite(value):
        return None
    return value * 100 if column.percent else value


def number(value: float | None, column: Column, sign: bool = False) -> str:
    """``94.30`` of 0.943 in a column of shares; four digits in others; a dash for what is missing."""
    if value is None or not math.isfinite(value):
        return "–"
    return tables.number(value, column.percent, "+" if sign else "").replace("-", "−")


def spread(figure: Interval, column: Column) -> str:
    """What stands below a mean: its interval and the number of seeds. Episodes and seeds are never mixed."""
    seeds = len(figure.values)
    if figure.low is not None and figure.high is not None:
        return f"{number(figure.low, column)} to {number(figure.high, column)}, {seeds} seeds"
    if seeds > 1:
        return f"{seeds} seeds, no interval"
    if figure.episodes is not None:
        return f"1 seed, ±{number(figure.episodes, column)} over episodes"
    return "1 seed, no interval"


def interval(figure: Interval, column: Column) -> str:
    """Of a figure over several tasks: its values are no seeds."""
    if figure.low is None or figure.high is None:
        return "no interval"
    return f"{number(figure.low, column)} to {number(figure.high, column)}"


def p_value(p: float | None) -> str:
    """``.25``; a dash where there is no test."""
    return "–" if p is None or not math.isfinite(p) else short(p)


def duration(seconds: float | None) -> str:
    """``35 s``, ``4 min 10 s``, ``3 h 20 min``."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def link(folder: Path, page: Path) -> str:
    """The address of a folder, seen from the page. Quoted, so that no name makes it the address of something else."""
    try:
        found = os.path.relpath(folder.resolve(), page.resolve().parent)
    except ValueError:  # on another drive
        return folder.resolve().as_uri()
    return "./" + quote(os.fsencode(Path(found).as_posix()), safe="/") + "/"
