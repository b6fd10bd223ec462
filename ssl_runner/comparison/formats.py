"""A report as CSV, Markdown, LaTeX and JSON."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from ssl_runner.comparison.report import Interval, Report
from ssl_runner.comparison.settings import labelled
from ssl_runner.comparison.tables import Cell, Table, differences_table, left_out, main_table

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
}
_FIGURES = ("mean", "low", "high", "seeds", "episode_interval", "best", "tied")


def as_csv(report: Report) -> str:
    """One line a setting. Numbers are as computed, shares as fractions; missing ones are empty.

    A column's figures are ``TITLE mean``, ``low`` and ``high`` (95% over seeds), ``seeds``, ``episode_interval`` (half
    its width, for a single seed), ``best``, ``tied``; with a baseline also ``difference``, its ``low`` and ``high``,
    ``pairs``, ``p`` and ``p_holm``.
    """
    against = {(one.row, one.column): one for one in report.differences}
    compared = [] if report.baseline is None else ["mean", "low", "high", "pairs", "p", "p_holm"]
    head = list(report.varying)
    for column in report.columns:
        head += [f"{column.title} {name}" for name in _FIGURES]
        head += [f"{column.title} difference {name}".removesuffix(" mean") for name in compared]
    head += ["iqm", "iqm low", "iqm high"] if report.aggregates else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for number, row in enumerate(report.rows):
        cells = [_plain(value) for value in row.setting.values()]
        for place in range(len(report.columns)):
            cells += _figures(row.figures.get(place))
            difference = against.get((number, place))
            cells += [None if difference is None else getattr(difference, name) for name in compared]
        if report.aggregates:
            one = report.aggregates.get(number)
            cells += [None] * 3 if one is None else [one.mean, one.low, one.high]
        writer.writerow(cells)
    return text.getvalue()


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else json.dumps(value)


def _figures(figure: Interval | None) -> list[Any]:
    if figure is None:
        return [None] * len(_FIGURES)
    found = [figure.mean, figure.low, figure.high, len(figure.values), figure.episodes, figure.best, figure.tied]
    return [str(value).lower() if isinstance(value, bool) else value for value in found]


def as_json(report: Report) -> str:
    """Everything that the report holds; NaN and infinite numbers become null."""
    content = {
        "paths": [str(path) for path in report.paths],
        "varying": report.varying,
        "columns": [asdict(column) for column in report.columns],
        "rows": [
            {
                "setting": row.setting,
                "label": labelled(row.setting),
                "runs": [
                    {"folder": str(run.folder), "seed": run.seed, "config_hash": run.config_hash, "commit": run.commit}
                    | {"command": run.command, "seconds": run.seconds}
                    for run in row.runs
                ],
                "figures": {number: asdict(figure) for number, figure in row.figures.items()},
                "iqm": asdict(report.aggregates[number]) if number in report.aggregates else None,
            }
            for number, row in enumerate(report.rows)
        ],
        "baseline": report.baseline,
        "differences": [asdict(one) for one in report.differences],
        "notes": report.notes,
        "unfinished": [{"folder": str(path), "reason": reason} for path, reason in report.unfinished],
    }
    return json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_markdown(report: Report) -> str:
    """Tables and notes."""
    main, differences = main_table(report), differences_table(report)
    parts = [_markdown(main), *([main.legend] if main.legend else [])]
    if differences is not None and report.baseline is not None:
        parts += [f"Compared with {_escaped(labelled(report.rows[report.baseline].setting))}:", _markdown(differences)]
    notes = [*report.notes, *(f"Left out: {line}" for line in left_out(report))]
    parts += ["\n".join(f"- {_escaped(note)}" for note in notes)] if notes else []
    return "\n\n".join(parts) + "\n"


def _markdown(table: Table) -> str:
    lines = [[_escaped(cell.text) for cell in table.head], ["---:" if one.number else "---" for one in table.head]]
    lines += [[_bold(_escaped(cell.text), cell, "**{}**") for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    for sign in ("\\", "|", "*", "_", "<", "`"):
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")


def _bold(text: str, cell: Cell, form: str) -> str:
    return form.format(text) if cell.best else text


def as_latex(report: Report) -> str:
    """Tables for the package booktabs, with the notes as comments."""
    main, differences = main_table(report), differences_table(report)
    lines = ["% needs \\usepackage{booktabs}", *(f"% {note}" for note in (main.legend, *report.notes) if note)]
    lines += [f"% left out: {line}" for line in left_out(report)]
    lines.append(_latex(main))
    if differences is not None and report.baseline is not None:
        lines += [f"\n% compared with {labelled(report.rows[report.baseline].setting)}", _latex(differences)]
    return "\n".join(lines) + "\n"


def _latex(table: Table) -> str:
    shape = "".join("r" if cell.number else "l" for cell in table.head)
    head = _latex_row(table.head)
    body = [_latex_row(row) for row in table.rows]
    lines = [rf"\begin{{tabular}}{{{shape}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines)


def _latex_row(cells: Sequence[Cell]) -> str:
    return " & ".join(_bold(_in_latex(cell.text), cell, r"\textbf{{{}}}") for cell in cells) + r" \\"


def _in_latex(text: str) -> str:
    escaped = "".join(_LATEX.get(sign, sign) for sign in text)
    return re.sub(r"^-(?=[\d.])", "$-$", escaped)


FORMATS: dict[str, Callable[[Report], str]] = {
    "csv": as_csv,
    "json": as_json,
    "latex": as_latex,
    "markdown": as_markdown,
}
