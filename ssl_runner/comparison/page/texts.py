"""Figures and values as people read them."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ssl_runner.comparison.report import Column, Interval


def scaled(value: float | None, column: Column) -> float | None:
    """In percent where the column is; None for what is missing or no number."""
    if value is None or not math.isfinite(value):
        return None
    return value * 100 if column.percent else value


def number(value: float | None, column: Column, sign: bool = False) -> str:
    """``94.3`` of 0.943 in a column of shares; four digits in others."""
    shown = scaled(value, column)
    if shown is None:
        return "–"
    text = f"{shown:{'+' if sign else ''}{'.1f' if column.percent else '.4g'}}"
    return text.replace("-", "−")


def spread(figure: Interval, column: Column) -> str:
    """What stands below a mean: its interval and the number of seeds. Episodes and seeds are never mixed."""
    seeds = len(figure.values)
    if figure.low is not None and figure.high is not None:
        return f"{number(figure.low, column)} to {number(figure.high, column)}, {seeds} seeds"
    if seeds > 1:
        return f"{seeds} seeds, no interval"
    if figure.episodes is not None:
        return f"1 seed; ±{number(figure.episodes, column)} over episodes"
    return "1 seed, no interval"


def p_value(p: float | None) -> str:
    """``0.25``; tiny ones as ``<0.0001``."""
    if p is None or not math.isfinite(p):
        return "–"
    return "<0.0001" if p < 1e-4 else f"{p:.2g}" if p >= 0.01 else f"{p:.1g}"


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


def value(one: Any) -> str:
    """A config value: ``0.2``, ``null``, ``[5, 0, 5]``."""
    return one if isinstance(one, str) else json.dumps(one, ensure_ascii=False, default=str)


def label(setting: Mapping[str, Any]) -> str:
    """``temperature=0.2, width=16``; ``all runs`` if nothing varies."""
    return ", ".join(f"{key.rsplit('.', 1)[-1]}={value(one)}" for key, one in setting.items()) or "all runs"


def link(folder: Path, page: Path) -> str:
    """The address of a folder, seen from the page. Quoted, so that no name makes it the address of something else."""
    try:
        found = os.path.relpath(folder.resolve(), page.resolve().parent)
    except ValueError:  # on another drive
        return folder.resolve().as_uri()
    return "./" + quote(os.fsencode(Path(found).as_posix()), safe="/") + "/"
