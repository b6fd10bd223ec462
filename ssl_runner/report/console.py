"""What a person sees of a run at its end: a table and two lines."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from ssl_runner.report.result import Result

_ROWS = {"": "trained", "untrained": "untrained encoder", "raw_pixels": "raw pixels"}


def summarise(result: Result, console: Console) -> None:
    """The table of accuracies in per cent: the trained encoder beside the baselines."""
    metrics = result.metrics
    columns = [name.removesuffix("/top1") for name in metrics if name.endswith("/top1") and not _baseline(name)]
    if not columns:
        return
    table = Table(title="accuracy on test, %", title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(column.replace("few_shot/", "").replace("_", " ").replace("pct", "%"), justify="right")
    for prefix, label in _ROWS.items():
        keys = [f"{prefix}/{column}" if prefix else column for column in columns]
        if any(f"{key}/top1" in metrics for key in keys):
            table.add_row(label, *(_cell(metrics, key) for key in keys))
    console.print(table)


def farewell(folder: Path, console: Console) -> None:
    """How to look at the run, and where it is."""
    console.print(f"tensorboard --logdir {folder}", highlight=False, soft_wrap=True)
    console.print(str(folder), highlight=False, soft_wrap=True)


def _baseline(name: str) -> bool:
    return name.partition("/")[0] in _ROWS


def _cell(metrics: dict[str, float], key: str) -> str:
    top1, interval = metrics.get(f"{key}/top1"), metrics.get(f"{key}/ci95")
    if top1 is None:
        return "-"
    return f"{top1:.2%}"[:-1] + ("" if interval is None else f" ± {interval:.2%}"[:-1])
