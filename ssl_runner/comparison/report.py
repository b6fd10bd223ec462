"""The content of a report, which tables and pages show."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ENCODER = "encoder"  # the only key of the config of an encoder that no run has trained


@dataclass(frozen=True)
class Run:
    """One run, as its folder shows it.

    Attributes:
        folder: The run folder.
        name: What a person calls it: the name of a sweep's job, or the folder's name.
        status: As `run_folder.status`.
        config: The resolved config, with dotted keys; of an encoder without a run, its name under `ENCODER` alone.
        config_hash: Of everything that can change the result.
        seed: Of its draws.
        metrics: All figures of result.json: ``knn/top1``, ``raw_pixels/knn/top1``.
        protocols: How each evaluator measured, by its name.
        dataset: What result.json says of the data: name, fingerprint, split, numbers of images and classes.
        seconds: Of training; None if unknown.
        command: The command that runs it again.
        commit: Of the code; None if unknown.
        init: What result.json says of the weights from which it began; empty if they were drawn.
    """

    folder: Path
    name: str
    status: str
    config: dict[str, Any]
    config_hash: str
    seed: int
    metrics: dict[str, float]
    protocols: dict[str, Any]
    dataset: dict[str, Any]
    seconds: float | None
    command: str
    commit: str | None
    init: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95% interval.

    Attributes:
        mean: Of the seeds.
        low: Lower end; None with a single seed.
        high: Upper end.
        values: The figure of each seed, in the order of `Row.runs`; see ``runs`` where only some were measured so.
        episodes: For a single seed, the interval over episodes that its evaluator reports, half its width; never mixed
            with the interval over seeds.
        best: Whether no other row of the column has a better mean.
        tied: Whether it cannot be told apart from the best.
        runs: Positions in `Row.runs` of the runs whose values these are.
    """

    mean: float
    low: float | None
    high: float | None
    values: list[float]
    episodes: float | None = None
    best: bool = False
    tied: bool = False
    runs: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Column:
    """Figures that may be compared: one metric, measured in one way on the same data.

    Attributes:
        metric: ``knn/top1``.
        title: For people; says what tells it from another column of the same metric.
        higher_is_better: Direction.
        percent: Whether figures are shares, shown in percent.
    """

    metric: str
    title: str
    higher_is_better: bool = True
    percent: bool = True


@dataclass(frozen=True)
class Row:
    """A setting: the runs that differ in their seed only.

    Attributes:
        setting: The keys that vary over the report, and this row's values.
        runs: In the order of their seeds.
        figures: By position of the column in `Report.columns`; missing where the setting was not measured so.
    """

    setting: dict[str, Any]
    runs: list[Run]
    figures: dict[int, Interval]

    def by_seed(self, column: int) -> dict[int, float]:
        """The figures in a column, by seed."""
        figure = self.figures[column]
        return {self.runs[position].seed: value for position, value in zip(figure.runs, figure.values, strict=True)}


@dataclass(frozen=True)
class Difference:
    """A row compared with the baseline in one column, paired over the seeds that both have.

    Attributes:
        row: Number of the row.
        column: Number of the column.
        mean: Mean difference, positive if the row is larger.
        low: Lower end of its 95% interval; None with fewer than two pairs.
        high: Upper end.
        pairs: Number of seeds that both have.
        p: Of the exact paired test; None if there are too few pairs for one.
        p_holm: Corrected for the number of comparisons of the column (Holm 1979).
        note: What a person must know: "3 pairs cannot give p < .25".
    """

    row: int
    column: int
    mean: float
    low: float | None
    high: float | None
    pairs: int
    p: float | None
    p_holm: float | None
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that a report shows.

    Attributes:
        paths: Where the runs were looked for.
        varying: The config keys that differ between rows.
        columns: What was measured.
        rows: One for each setting.
        baseline: Number of the row that others are compared with, or None.
        differences: To the baseline.
        aggregates: For several tasks or datasets: by row, the interquartile mean and its bootstrap interval.
        notes: Sentences: runs left out and why, why columns stand apart.
        unfinished: Runs without a result: running, failed, interrupted, killed; folders that are damaged.
    """

    paths: list[Path]
    varying: list[str]
    columns: list[Column]
    rows: list[Row]
    baseline: int | None = None
    differences: list[Difference] = field(default_factory=list)
    aggregates: dict[int, Interval] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unfinished: list[tuple[Path, str]] = field(default_factory=list)
