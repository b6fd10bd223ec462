"""Tables of ``ssl-eval``: a row for each encoder on each dataset, and the differences between encoders."""

import re
import string
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table
from rich.text import Text

from ssl_runner.evaluation.compared import Evaluations, Row
from ssl_runner.evaluation.pairs import Difference
from ssl_runner.report import tables
from ssl_runner.runtime.console import Console

# the paired difference of a classifier to the first one
_MINUS = re.compile(r"/minus_[^/]+/difference$")
_LETTERS = [*string.ascii_uppercase, *(f"{a}{b}" for a in string.ascii_uppercase for b in string.ascii_uppercase)]


def show(found: Evaluations, console: Console) -> None:
    """Print everything: accuracies in per cent, differences if there are several encoders, what was left out, files."""
    if found.rows:
        console.print(_accuracies(found, console))
    for row in found.rows:
        if row.differences:
            console.print(_differences(found, row))
        if (table := _classifiers(found, row)) is not None:
            console.print(table)
    for sentence in _sentences(found):
        console.print(sentence, soft_wrap=True)
    for name, sentence in _preprocessing(found):
        console.print(f"{name}: {sentence}", soft_wrap=True)
    for name, why in found.left_out.items():
        console.print(f"left out: {name}: {why}", soft_wrap=True)
    for row in found.rows:
        for one in row.evaluations:
            console.print(f"{one.path}{' (read; --again computes it once more)' if one.again else ''}", soft_wrap=True)


def _accuracies(found: Evaluations, console: Console) -> Table:
    names = {row.evaluations[0].content["dataset"]["name"] for row in found.rows}
    several = len(found.rows) > 1
    title = "accuracy on test, %" if several else f"accuracy on {names.pop()}/test, %"
    keys = list(dict.fromkeys(key for row in found.rows for key in row.keys))
    rows, encoders = [], _lettered(found.encoders)
    for row in found.rows:
        for number, name in enumerate(encoders):
            heads = [row.name if not number else "", name] if several else [name]
            cells = [_cell(row, number, key) for key in keys]
            rows.append(tables.Row(heads, f"{row.name}\n{name}" if several else name, cells, name == encoders[-1]))
    return tables.fitted(title, [_title(key) for key in keys], rows, console)


def _cell(row: Row, number: int, key: str) -> Text:
    metrics = row.evaluations[number].metrics
    if f"{key}/top1" not in metrics:
        return Text("-")
    interval = metrics.get(f"{key}/ci95")
    text = _percent(metrics[f"{key}/top1"]) + ("" if interval is None else f" ± {_percent(interval)}")
    if len(row.evaluations) == 1:
        return Text(text)
    best = row.best(key) == number
    mark = " " if best or number not in row.tied(key) else "≈"
    return Text(f"{text} {mark}", style="bold" if best else "")


def _differences(found: Evaluations, row: Row) -> Table:
    where = row.evaluations[0].content["dataset"]["name"]
    table = Table(title=f"differences on {where}/test, percentage points", title_justify="left")
    for name in ("", "test", "encoders", "difference", "p", "p (Holm)"):
        table.add_column(name, justify="left" if name in ("", "test", "encoders") else "right")
    for key in row.keys:
        for one in (one for one in row.differences if one.key == key):
            pair = f"{_LETTERS[one.first]} - {_LETTERS[one.second]}"
            difference = f"{100 * one.mean:+.2f} ± {100 * one.ci95:.2f}"
            verdict = "  " if one.told_apart else " ≈"
            table.add_row(_title(key), one.test, pair, difference, _p(one.p), f"{_p(one.p_holm)}{verdict}")
    return table


def _classifiers(found: Evaluations, row: Row) -> Table | None:
    """How much better each few-shot classifier is than the first, for each encoder; None if there is only one."""
    keys = dict.fromkeys(key for one in row.evaluations for key in one.metrics if _MINUS.search(key))
    if not keys:
        return None
    where = row.evaluations[0].content["dataset"]["name"]
    title = f"classifiers on {where}/test, on the same episodes, percentage points"
    table = Table(title=title, title_justify="left")
    for name in ("", *_lettered(found.encoders)):
        table.add_column(name, justify="right" if name else "left")
    for key in keys:
        name = key.removesuffix("/difference")
        cells = (_signed(one.metrics, name) for one in row.evaluations)
        table.add_row(_title(name).replace("/minus ", " - "), *cells)
    return table


def _signed(metrics: Mapping[str, float], name: str) -> str:
    if f"{name}/difference" not in metrics:
        return "-"
    return f"{100 * metrics[f'{name}/difference']:+.2f} ± {_percent(metrics[f'{name}/ci95'])}"


def _sentences(found: Evaluations) -> list[str]:
    every = found.differences
    if not every:
        return []
    pairs = len(found.encoders) * (len(found.encoders) - 1) // 2
    correction = f", Holm's correction over the {pairs} pairs" if pairs > 1 else ""
    lines = [
        f"≈ cannot be told apart{' from the best' if pairs > 1 else ''} (p >= .05, paired on the same images and "
        f"episodes{correction}); ± is a 95% interval"
    ]
    return lines + list(dict.fromkeys(_note(found, one) for one in every if one.note))


def _preprocessing(found: Evaluations) -> list[tuple[str, str]]:
    """What was done to images that have another shape than an encoder takes."""
    lines = []
    for row in found.rows:
        for name, one in zip(found.encoders, row.evaluations, strict=True):
            done = one.content["preprocessing"]
            given, taken = (" x ".join(map(str, done[side])) for side in ("images", "encoder"))
            how = "" if done["resized"] is None else f", resized ({done['resized']})"
            if given != taken:
                lines.append((name, f"images of {given} became {taken}{how}"))
    return list(dict.fromkeys(lines))


def _note(found: Evaluations, one: Difference) -> str:
    return f"{_title(one.key)}, {_LETTERS[one.first]} - {_LETTERS[one.second]}: {one.note}"


def _lettered(encoders: list[str]) -> list[str]:
    """Names without the folders before them, with the letters that stand for them in differences."""
    last = [name if ":" in name else Path(name).name or name for name in encoders]
    if len(set(last)) < len(last):
        last = ["/".join(Path(name).parts[-2:]) if ":" not in name else name for name in encoders]
    return [f"{_LETTERS[number]} {name}" for number, name in enumerate(last)] if len(last) > 1 else last


def _title(key: str) -> str:
    return key.replace("few_shot/", "").replace("_", " ").replace("pct", "%")


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< .001"
