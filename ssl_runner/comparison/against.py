"""Differences of all settings to a baseline, paired over the seeds that both have."""

from collections.abc import Sequence
from dataclasses import replace

from ssl_runner.comparison import statistics
from ssl_runner.comparison.report import Column, Difference, Row


def differences_to(number: int, rows: Sequence[Row], columns: Sequence[Column]) -> tuple[list[Difference], list[str]]:
    """Compare every other row with the baseline in each column that both have.

    Args:
        number: Of the baseline's row.

    Returns:
        The differences, corrected within each column, and sentences about what they cannot show.
    """
    found: list[Difference] = []
    weak = 0
    for place in range(len(columns)):
        column = _differences(number, place, rows)
        tested = [one for one in column if one.p is not None]
        corrected = iter(statistics.holm([one.p for one in tested if one.p is not None]))
        column = [one if one.p is None else replace(one, p_holm=next(corrected)) for one in column]
        found += [replace(one, note=_note(one)) for one in column]
        weak = max(weak, len(tested) if any(_powerless(one, len(tested)) for one in tested) else 0)
    remarks = []
    if found:
        remarks.append(
            "Differences are over common seeds: 95% interval by Student's t, p by the exact test of all sign flips, "
            "corrected (Holm) for the comparisons of a column."
        )
    if weak:
        needed = statistics.pairs_needed(weak)
        what = "1 comparison" if weak == 1 else f"{weak} comparisons"
        remarks.append(f"So few seeds can show nothing by this test: with {what}, p < .05 needs {needed} common seeds.")
    return found, remarks


def _differences(baseline: int, column: int, rows: Sequence[Row]) -> list[Difference]:
    if column not in rows[baseline].figures:
        return []
    others = [number for number, row in enumerate(rows) if number != baseline and column in row.figures]
    tests = statistics.paired([rows[one].by_seed(column) for one in others], rows[baseline].by_seed(column))
    found = []
    for number, test in zip(others, tests, strict=True):
        if test is None:
            mean = rows[number].figures[column].mean - rows[baseline].figures[column].mean
            found.append(Difference(number, column, mean, None, None, 0, None, None))
        else:
            found.append(Difference(number, column, test.mean, test.low, test.high, test.pairs, test.p, None))
    return found


def _powerless(one: Difference, comparisons: int) -> bool:
    return comparisons * statistics.least_p(one.pairs) > 1 - statistics.LEVEL


def _note(one: Difference) -> str:
    if one.pairs == 0:
        return "no common seeds: nothing is paired"
    if one.pairs == 1:
        return "1 pair has no interval and no test"
    return f"{one.pairs} pairs cannot give p < {short(statistics.least_p(one.pairs))}" if _powerless(one, 1) else ""


def short(p: float) -> str:
    """A p-value as text, without a leading zero: ``.25``, ``.031``, ``1``."""
    if p >= 1:
        return "1"
    return f"{p:.2g}".removeprefix("0") if p >= 0.001 else f"{p:.0e}"
