"""One figure over several tasks or datasets: the interquartile mean."""

from collections.abc import Sequence

from ssl_runner.comparison import statistics
from ssl_runner.comparison.columns import Measure
from ssl_runner.comparison.report import Column, Interval, Row


def aggregated(
    rows: Sequence[Row], measures: Sequence[Measure], columns: Sequence[Column]
) -> tuple[dict[int, Interval], list[str]]:
    """The interquartile mean of each row over the columns of one evaluator on several tasks, and a sentence about it.

    Only columns of different tasks count, and only rows that have all of them: a mean over other tasks is another
    figure.

    Args:
        measures: How each column was measured.
    """
    over = _several_tasks(measures, columns)
    if not over:
        return {}, []
    found: dict[int, Interval] = {}
    for number, row in enumerate(rows):
        if all(column in row.figures for column in over):
            tasks = [row.figures[column].values for column in over]
            values = [value for task in tasks for value in task]
            found[number] = Interval(*statistics.stratified_bootstrap(tasks), values)
    if not found:
        return {}, []
    titles = "; ".join(columns[column].title for column in over)
    return found, [
        f"IQM is the interquartile mean over {len(over)} tasks ({titles}) with the 95% interval of the bootstrap that "
        "resamples runs within each task (Agarwal et al. 2021, arXiv:2108.13264)."
    ]


def _several_tasks(measures: Sequence[Measure], columns: Sequence[Column]) -> list[int]:
    """The columns of the first evaluator that has several tasks, and each task once."""
    for evaluator in dict.fromkeys(measure.evaluator for measure in measures):
        members = [n for n, one in enumerate(measures) if one.evaluator == evaluator and columns[n].percent]
        tasks = {measures[number].task for number in members}
        if 1 < len(members) == len(tasks):
            return members
    return []
