"""The console output at the end of a run: tables and two lines."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from ssl_runner.config.schema import BASELINES
from ssl_runner.report import tables, verdict
from ssl_runner.runs.result import Result
from ssl_runner.runtime.console import Console

# an evaluator's name after the name of a dataset other than the run's, or of a domain
_ELSEWHERE = re.compile(r"(.+?)/(?:few_shot/|(?:knn|linear_probe|attentive_probe|fine_tuning)(?:_[^/]*)?$)")
# a further way to compute a few-shot figure: the algorithm's, or a classifier's
_WAY = re.compile(r"((?:.+/)?few_shot/[^/]+)/[^/]+")
# the paired difference of a classifier to the first one
_MINUS = re.compile(r"few_shot/.*/minus_([^/]+)/difference$")
_ROWS = {"": "trained"} | BASELINES


def summarise(result: Result, console: Console) -> None:
    """Print the table of accuracies in per cent: the trained encoder and the baselines.

    If an algorithm has further ways to classify, they follow in rows below its encoder. Scores on another dataset, or
    on few-shot tasks of one domain, have their own table.
    """
    metrics = result.metrics
    named = [name.removesuffix("/top1") for name in metrics if name.endswith("/top1") and not _baseline(name)]
    named = [name for name in named if not verdict.is_part(name, metrics)]
    # few_shot/5w1s/inductive is another way to compute few_shot/5w1s; it gets its own row, as a column would not fit
    column_of = {name: found[1] if (found := _WAY.fullmatch(name)) else name for name in named}
    columns = list(dict.fromkeys(column_of.values()))
    ways = dict.fromkeys(name.removeprefix(column) for name, column in column_of.items() if name != column)
    for where in dict.fromkeys(_where(column) for column in columns):
        _tabulate(metrics, [column for column in columns if _where(column) == where], list(ways), where, console)


def _where(column: str) -> str:
    """The dataset before the evaluator's name: ``cifar10`` for ``cifar10/knn``, empty for ``knn``."""
    found = _ELSEWHERE.match(column)
    return found[1] if found else ""


def _tabulate(metrics: dict[str, float], columns: list[str], ways: list[str], where: str, console: Console) -> None:
    first = next((found[1] for key in metrics if (found := _MINUS.search(key))), None)
    to_first = f"; in brackets, differences to {first.replace('_', ' ')} on the same episodes" if first else ""
    title = f"accuracy on {where or 'test'}, %{to_first}"
    names = [column.removeprefix(f"{where}/").removeprefix("few_shot/") for column in columns]
    found = []
    for prefix, label in _ROWS.items():
        rows = {
            way: [f"{prefix}/{column}{way}" if prefix else column + way for column in columns] for way in ("", *ways)
        }
        there = [way for way, keys in rows.items() if any(f"{key}/top1" in metrics for key in keys)]
        for way in dict.fromkeys(["", *there]) if there else ():
            short = way[1:].replace("_", " ")
            head, name = (f"  {short}", f"{label},\n{short}") if way else (label, label)
            found.append(tables.Row([head], name, [_cell(metrics, key) for key in rows[way]]))
    console.print(tables.fitted(title, [name.replace("_", " ").replace("pct", "%") for name in names], found, console))


def judge(content: Mapping[str, Any], console: Console) -> None:
    """Print the results on unseen datasets: for each a table with differences to the baselines, and sentences."""
    for protocol in content["protocols"].values():
        if "baselines" in protocol:
            console.print(_against_baselines(content["metrics"], protocol))
    for sentence in content.get("verdict", []):
        console.print(sentence, soft_wrap=True)


def _against_baselines(metrics: Mapping[str, float], protocol: Mapping[str, Any]) -> Table:
    """Accuracies, and how much higher the trained algorithm's accuracy is on the same episodes."""
    name, settings = protocol["name"], list(protocol["settings"])
    table = Table(title=f"accuracy on {protocol['source']} (unseen), %", title_justify="left")
    table.add_column("")
    for setting in settings:
        table.add_column(setting, justify="right")
        table.add_column("difference", justify="right")
    first = f"{name}/few_shot/{settings[0]}"
    own = [key for key in metrics if key.startswith(f"{first}/") and key.endswith("/top1")]
    for way in (key.removeprefix(first).removesuffix("/top1") for key in own):
        own = [_short(metrics, f"{name}/few_shot/{setting}{way}", "top1") for setting in settings]
        row = f"  {way[1:].replace('_', ' ')}" if way else "trained"
        table.add_row(row, *(cell for one in own for cell in (one, "")))
    for baseline in protocol["baselines"]:
        cells = []
        for setting in settings:
            cells.append(_short(metrics, f"{name}/verdict/{setting}/{baseline}", "top1"))
            cells.append(_short(metrics, f"{name}/paired/{setting}/{baseline}", "difference", "+"))
        table.add_row(baseline.replace("_", " "), *cells)
    return table


def farewell(folder: Path, console: Console) -> None:
    """Print the command that shows the run, and its folder."""
    console.print(f"tensorboard --logdir {shlex.quote(str(folder))}", soft_wrap=True)
    console.print(str(folder), soft_wrap=True)


def _baseline(name: str) -> bool:
    return name.partition("/")[0] in _ROWS


def _short(metrics: Mapping[str, float], key: str, score: str, sign: str = "") -> str:
    """A score with one decimal, so that two settings fit into 80 columns."""
    return " ± ".join(verdict.percent(metrics[f"{key}/{part}"], s, 1) for part, s in ((score, sign), ("ci95", "")))


def _cell(metrics: Mapping[str, float], key: str) -> str:
    top1, interval = metrics.get(f"{key}/top1"), metrics.get(f"{key}/ci95")
    if top1 is None:
        return "-"
    text = f"{top1:.2%}"[:-1] + ("" if interval is None else f" ± {interval:.2%}"[:-1])
    minus = next((one for one in metrics if one.startswith(f"{key}/minus_") and one.endswith("/difference")), None)
    if minus is None:
        return text
    half = metrics[f"{minus.removesuffix('/difference')}/ci95"]
    return f"{text} ({verdict.percent(metrics[minus], '+')} ± {verdict.percent(half)})"
