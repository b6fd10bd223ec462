"""What stands on the page: the settings with their runs for the template, and the data for the charts."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssl_runner.comparison.page import curves, texts
from ssl_runner.comparison.page.pictures import Picture, pictures
from ssl_runner.comparison.report import Interval, Report, Row, Run
from ssl_runner.comparison.settings import labelled, shown
from ssl_runner.config.labels import key_labels

COLOURED = 8  # settings that charts draw in a colour of their own


@dataclass(frozen=True)
class ShownRun:
    """A run on the page.

    Attributes:
        run: The run.
        link: Address of its folder.
        pictures: Of its event files, small.
        differs: Keys whose values differ from the first run of its setting.
    """

    run: Run
    link: str
    pictures: list[Picture]
    differs: dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """A row of the report on the page.

    Attributes:
        number: Of the row, from 0.
        row: The row.
        label: Its values in one line.
        colour: Number of its colour in charts, from 1; 0 for the common grey.
        runs: Its runs.
        seconds: Mean duration of its runs, if known.
        commands: That make its runs again, a line each.
    """

    number: int
    row: Row
    label: str
    colour: int
    runs: list[ShownRun]
    seconds: float | None
    commands: str


def settings(report: Report, page: Path) -> list[Setting]:
    """The rows of a report with all that the page shows of them."""
    found = iter(pictures([run.folder for row in report.rows for run in row.runs]))
    colours = _colours(report)
    return [
        Setting(
            number,
            row,
            labelled(row.setting),
            colours.get(number, 0),
            [_shown(run, row.runs[0], page, next(found)) for run in row.runs],
            _mean([run.seconds for run in row.runs]),
            "\n".join(dict.fromkeys(run.command for run in row.runs if run.command)),
        )
        for number, row in enumerate(report.rows)
    ]


def _shown(run: Run, first: Run, page: Path, logged: list[Picture]) -> ShownRun:
    keys = dict.fromkeys([*first.config, *run.config])
    differs = {key: run.config.get(key, "") for key in keys if run.config.get(key, "") != first.config.get(key, "")}
    return ShownRun(run, texts.link(run.folder, page), logged, differs)


def _colours(report: Report) -> dict[int, int]:
    """A colour for each row; where there are more than colours, for the baseline and the best of the first column."""
    rows = list(range(len(report.rows)))
    if len(rows) > COLOURED:
        rows = [number for number in _best_first(report) if number != report.baseline][: COLOURED - 1]
        rows += [report.baseline] if report.baseline is not None else _best_first(report)[COLOURED - 1 : COLOURED]
    return {number: colour for colour, number in enumerate(sorted(rows), start=1)}


def _best_first(report: Report) -> list[int]:
    if not report.columns:
        return list(range(len(report.rows)))
    sign = -1 if report.columns[0].higher_is_better else 1
    return sorted(
        range(len(report.rows)),
        key=lambda number: sign * row.figures[0].mean if 0 in (row := report.rows[number]).figures else float("inf"),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for one in values if (value := _finite(one)) is not None]
    return sum(known) / len(known) if known else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def chart_data(report: Report, rows: Sequence[Setting]) -> dict[str, Any]:
    """Everything that charts draw, as JSON can hold it."""
    return {
        "keys": report.varying,
        "labels": key_labels(report.varying),
        "columns": [
            {"title": one.title, "percent": one.percent, "higher": one.higher_is_better} for one in report.columns
        ],
        "rows": [_row(report, setting) for setting in rows],
        "curves": [asdict(chart) for chart in curves.charts(report.rows)],
        "lossesDiffer": any(key.split(".")[0] == "loss" for key in report.varying),
    }


def _row(report: Report, setting: Setting) -> dict[str, Any]:
    figures: list[dict[str, Any] | None] = [None] * len(report.columns)
    for number, figure in setting.row.figures.items():
        column = report.columns[number]
        figures[number] = {
            "mean": texts.scaled(figure.mean, column),
            "low": texts.scaled(figure.low, column),
            "high": texts.scaled(figure.high, column),
            "values": [texts.scaled(value, column) for value in figure.values],
        }
    return {
        "label": setting.label,
        "colour": setting.colour,
        "values": [_plain(setting.row.setting.get(key)) for key in report.varying],
        "figures": [one if one and one["mean"] is not None else None for one in figures],
        "seconds": setting.seconds,
        "runSeconds": [_finite(run.seconds) for run in setting.row.runs],
    }


def _plain(value: Any) -> float | str:
    """A number where there is one, for its order and its place; else a text."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    return value if number else shown(value)


def untested(report: Report) -> set[int]:
    """The columns whose best has a single seed, so that nothing in them was tested."""
    return {number for _, number, figure in _figures(report) if figure.best and len(figure.values) == 1}


def marks(report: Report) -> dict[str, bool]:
    """Which signs stand in the table, for its key."""
    figures = [(number, figure) for _, number, figure in _figures(report)]
    alone = untested(report)
    ties = [number in alone or len(figure.values) == 1 for number, figure in figures if figure.tied and not figure.best]
    return {
        "best": any(figure.best for _, figure in figures),
        "tied": not all(ties),
        "untested": any(ties),
        "interval": any(figure.low is not None for _, figure in figures),
        "episodes": any(figure.low is None and figure.episodes is not None for _, figure in figures),
    }


def _figures(report: Report) -> list[tuple[int, int, Interval]]:
    return [(row, column, one) for row, found in enumerate(report.rows) for column, one in found.figures.items()]
