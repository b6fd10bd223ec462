"""A report as a table of texts, which the terminal and files show."""

from collections.abc import Sequence
from dataclasses import dataclass

from ssl_runner.comparison.against import short
from ssl_runner.comparison.report import Column, Difference, Interval, Report
from ssl_runner.comparison.settings import labelled, shown
from ssl_runner.config.labels import key_labels
from ssl_runner.errors import printable

TIED = "="  # after a figure that cannot be told apart from the best
UNTESTED = "?"  # the same, since one of them has a single seed
EPISODES = "e"  # after an interval over episodes


@dataclass(frozen=True)
class Cell:
    """A text in a table.

    Attributes:
        best: Whether to print it in bold.
        number: Whether to align it to the right.
    """

    text: str
    best: bool = False
    number: bool = True


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns.

    Attributes:
        head: Titles of the columns.
        rows: As wide as the head.
        legend: What the signs mean.
    """

    head: list[Cell]
    rows: list[list[Cell]]
    legend: str = ""


def main_table(report: Report, narrow: bool = False) -> Table:
    """A row for each setting: its values, the number of its seeds, its figures.

    Args:
        narrow: Whether all values of a setting share one column.
    """
    labels = key_labels(report.varying)
    alone = {place for place in range(len(report.columns)) if _best_is_single(report, place)}
    if narrow or not report.varying:
        head = [Cell("setting" if report.varying else "", number=False)]
        settings = [[Cell(printable(labelled(row.setting)), number=False)] for row in report.rows]
    else:
        numeric = [_numeric([row.setting[key] for row in report.rows]) for key in report.varying]
        named = list(zip(report.varying, numeric, strict=True))
        head = [Cell(labels[key], number=one) for key, one in named]
        settings = [[Cell(printable(shown(row.setting[key])), number=one) for key, one in named] for row in report.rows]
    head += [Cell("seeds"), *(Cell(_unit(column)) for column in report.columns)]
    head += [Cell("IQM, %")] if report.aggregates else []
    rows = []
    for number, row in enumerate(report.rows):
        cells = list(settings[number])
        counts = {len(figure.values) for figure in row.figures.values()}
        cells.append(Cell(f"{min(counts)}-{max(counts)}" if len(counts) > 1 else str(max(counts, default=0))))
        cells += [_figure(row.figures.get(n), column, n in alone) for n, column in enumerate(report.columns)]
        if report.aggregates:
            cells.append(Cell(_range(report.aggregates.get(number))))
        rows.append(cells)
    return Table(head, rows, _legend(report, rows))


def _numeric(values: Sequence[object]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _unit(column: Column) -> str:
    return f"{column.title}, %" if column.percent else column.title


def _best_is_single(report: Report, place: int) -> bool:
    figures = [row.figures[place] for row in report.rows if place in row.figures]
    return any(figure.best and len(figure.values) == 1 for figure in figures)


def _figure(figure: Interval | None, column: Column, alone: bool) -> Cell:
    if figure is None:
        return Cell("-")
    text = number(figure.mean, column.percent)
    if figure.high is not None:
        text += f" ± {number(figure.high - figure.mean, column.percent)}"
    elif figure.episodes is not None:
        text += f" ± {number(figure.episodes, column.percent)} {EPISODES}"
    sign = UNTESTED if alone or len(figure.values) == 1 else TIED
    return Cell(f"{text} {sign}" if figure.tied else text, figure.best)


def _range(figure: Interval | None) -> str:
    if figure is None:
        return "-"
    ends = "" if figure.low is None or figure.high is None else f" [{number(figure.low)}, {number(figure.high)}]"
    return number(figure.mean) + ends


def number(value: float, percent: bool = True, sign: str = "") -> str:
    """A figure as text; shares in per cent, without the % sign."""
    return f"{round(100 * value, 2) + 0.0:{sign}.2f}" if percent else f"{value:{sign}.4g}"


def _legend(report: Report, rows: Sequence[Sequence[Cell]]) -> str:
    figures = [figure for row in report.rows for figure in row.figures.values()]
    parts = []
    if any(figure.high is not None for figure in figures):
        parts.append("±: 95% interval over seeds (Student's t)")
    if any(figure.episodes is not None for figure in figures):
        parts.append(f"± ... {EPISODES}: one seed only, the interval is over episodes and knows nothing of other seeds")
    if any(figure.best for figure in figures):
        parts.append("bold: best mean")
    texts = [cell.text for row in rows for cell in row]
    if any(text.endswith(f" {TIED}") for text in texts):
        parts.append(f"{TIED}: cannot be told apart from the best")
    if any(text.endswith(f" {UNTESTED}") for text in texts):
        parts.append(f"{UNTESTED}: untested, since it or the best has a single seed")
    return "; ".join(parts)


def differences_table(report: Report) -> Table | None:
    """A row for each comparison with the baseline; None if there is none."""
    if report.baseline is None or not report.differences:
        return None
    labels = key_labels(report.varying)
    head = [Cell(labels[key], number=False) for key in report.varying]
    head += [Cell("figure", number=False), Cell("difference"), Cell("pairs"), Cell("p"), Cell("p (Holm)")]
    noted = any(one.note for one in report.differences)
    head += [Cell("", number=False)] if noted else []
    rows = []
    for one in report.differences:
        setting = report.rows[one.row].setting
        cells = [Cell(printable(shown(setting[key])), number=False) for key in report.varying]
        column = report.columns[one.column]
        cells += [Cell(column.title, number=False), Cell(_difference(one, column.percent)), Cell(str(one.pairs))]
        cells += [Cell("-" if p is None else short(p)) for p in (one.p, one.p_holm)]
        cells += [Cell(one.note, number=False)] if noted else []
        rows.append(cells)
    shares = any(report.columns[one.column].percent for one in report.differences)
    return Table(head, rows, "differences in percentage points" if shares else "")


def _difference(one: Difference, percent: bool) -> str:
    text = number(one.mean, percent, "+")
    return text if one.high is None else f"{text} ± {number(one.high - one.mean, percent)}"


def left_out(report: Report) -> list[str]:
    """A line for each folder without a result."""
    return [f"{printable(str(path))}: {reason}" for path, reason in report.unfinished]
