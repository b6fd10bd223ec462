"""Writes the page: template, styles, scripts and data in one file."""

import base64
import hashlib
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from ssl_runner.comparison.page import content, texts
from ssl_runner.comparison.report import Column, Report
from ssl_runner.comparison.settings import shown
from ssl_runner.config.labels import key_labels
from ssl_runner.runtime.atomic_write import write_atomically

_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("vendor/d3.min.js", "vendor/plot.min.js", "charts.js", "maps.js", "page.js")


def write(report: Report, file: Path, refresh: float | None = None) -> None:
    """Write a report as one HTML file that needs no network and no other file.

    An old file is replaced completely or not at all, so that a browser never reads half a page.

    Args:
        report: The content.
        file: Where to write; missing folders are made.
        refresh: Seconds after which an open page loads itself again; None if it stays as it is.

    Raises:
        OSError: The file cannot be written.
    """
    text = render(report, file, refresh)
    file.parent.mkdir(parents=True, exist_ok=True)
    # names of folders need not be valid UTF-8
    write_atomically(file, lambda path: path.write_text(text, encoding="utf-8", errors="replace"))


def render(report: Report, file: Path, refresh: float | None = None) -> str:
    """The text of the page; ``file`` is where it will lie, for links to run folders."""
    rows = content.settings(report, file)
    scripts = [_asset(name) for name in _SCRIPTS]
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            settings=rows,
            untested=content.untested(report),
            marks=content.marks(report),
            labels=key_labels(report.varying),
            percent=Column("", "", percent=True),
            n_runs=sum(len(row.runs) for row in report.rows),
            written=datetime.now().astimezone(),
            refresh=refresh,
            policy=_policy(scripts),
            styles=Markup(_asset("page.css")),
            scripts=[Markup(script) for script in scripts],
            # <, > and & are escaped inside, so that no name or value ends the element
            data=htmlsafe_json_dumps(content.chart_data(report, rows), separators=(",", ":"), allow_nan=False),
        )
    )


def _policy(scripts: list[str]) -> str:
    """What the browser may do with the page: run these scripts and no others, and ask no host for anything."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    # names, values and commands come from run folders of anyone: everything is escaped
    made = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions: dict[str, Any] = {
        name: getattr(texts, name) for name in ("number", "scaled", "spread", "interval", "p_value", "duration")
    }
    made.globals.update(functions | {"value": shown})
    return made
