"""Makes a report of the runs below some paths."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ssl_runner.comparison import reading, settings, statistics
from ssl_runner.comparison.against import differences_to
from ssl_runner.comparison.aggregate import aggregated
from ssl_runner.comparison.columns import Measure, Measures, chosen, titled
from ssl_runner.comparison.report import Column, Interval, Report, Row, Run
from ssl_runner.comparison.stages import with_origins
from ssl_runner.config.schema import BASELINES
from ssl_runner.errors import ConfigError, printable
from ssl_runner.runs.figures import EPISODES, VALIDATION, main_figures
from ssl_runner.runs.intervals import mean_interval


def build(paths: Sequence[Path], metrics: Sequence[str] = (), baseline: str | None = None) -> Report:
    """Read the runs below the paths and compare them.

    Args:
        paths: Run folders, or folders above them.
        metrics: Names or globs of the metrics to show; by default the main ones of the trained encoder.
        baseline: ``KEY=VALUE[,KEY=VALUE]``, the setting to which differences are computed.

    Raises:
        ConfigError: A path is missing, no run has a result, or a metric or the baseline is not found.
    """
    return of(reading.read(paths, any(one.startswith(VALIDATION) for one in metrics)), paths, metrics, baseline)


def of(found: reading.Found, paths: Sequence[Path], metrics: Sequence[str] = (), baseline: str | None = None) -> Report:
    """The report of runs that were read; see `build`."""
    if not found.runs:
        raise ConfigError([_nothing(found, paths)])
    runs, notes = _once(found)
    runs = with_origins(runs)
    names = chosen(runs, metrics)
    known = Measures()
    measured = [known.of(run, names) for run in runs]
    keys: dict[str, Measure] = {}
    for name in names:
        for run in measured:
            if name in run:
                keys.setdefault(run[name][0], run[name][1])
    measures = list(keys.values())
    columns, apart = titled(measures)
    by_data = len({one.task.partition(', "tasks')[0] for one in measures}) > 1 and all(one.own_data for one in measures)
    varying = settings.varying(runs, by_data)
    places = {key: number for number, key in enumerate(keys)}
    columns_of = {
        run.folder: {name: places[key] for name, (key, _) in has.items()}
        for run, has in zip(runs, measured, strict=True)
    }
    rows, repeated = [], 0
    for setting, members in settings.grouped(runs, varying):
        figures, twice = _figures(members, columns_of, found.ended)
        repeated += twice
        rows.append(Row(setting, members, figures))
    if repeated:
        notes.append(
            "Figures of one setting, seed and column that several runs have count once, from the newest run: "
            f"{repeated} times."
        )
    rows, told = _with_best(rows, columns)
    number = None if baseline is None else settings.find_baseline(baseline, [row.setting for row in rows])
    compared, remarks = ([], []) if number is None else differences_to(number, rows, columns)
    aggregates, over = aggregated(rows, measures, columns)
    notes += [*apart, *told, *remarks, *over, *_about(runs, rows, metrics)]
    return Report(list(paths), varying, columns, rows, number, compared, aggregates, notes, found.left_out)


def _nothing(found: reading.Found, paths: Sequence[Path]) -> str:
    where = ", ".join(printable(str(path)) for path in paths)
    if not found.left_out:
        return f"there is no run below {where}; give run folders, or folders above them, such as outputs"
    some = "; ".join(f"{printable(str(path))}: {reason}" for path, reason in found.left_out[:3])
    more = f"; and {len(found.left_out) - 3} more" if len(found.left_out) > 3 else ""
    return f"no run below {where} has a result ({some}{more}); wait for one, or give other folders"


def _once(found: reading.Found) -> tuple[list[Run], list[str]]:
    """The runs, of equal ones (content, data and seed) only the newest, and a sentence about the others."""
    newest: dict[tuple[str, str, int], Run] = {}
    for run in sorted(found.runs, key=lambda run: found.ended[run.folder]):
        newest[run.config_hash, str(run.dataset.get("fingerprint")), run.seed] = run
    kept = {run.folder for run in newest.values()}
    runs = [run for run in found.runs if run.folder in kept]
    left = [run for run in found.runs if run.folder not in kept]
    if not left:
        return runs, []
    some = ", ".join(printable(str(run.folder)) for run in left[:3]) + (", ..." if len(left) > 3 else "")
    what = "1 run is repeated by a newer one" if len(left) == 1 else f"{len(left)} runs are repeated by newer ones"
    return runs, [f"{what} (same content, data and seed), which alone count: {some}."]


def _figures(
    members: Sequence[Run], columns_of: dict[Path, dict[str, int]], ended: dict[Path, float]
) -> tuple[dict[int, Interval], int]:
    """The figures of a setting by column, and how many were repeated."""
    by_column: dict[int, dict[int, tuple[int, str]]] = {}  # for each seed, position of the run and the metric
    repeated = 0
    for position, run in enumerate(members):
        for name, column in columns_of[run.folder].items():
            seeds = by_column.setdefault(column, {})
            if run.seed in seeds:
                repeated += 1
                if ended[members[seeds[run.seed][0]].folder] > ended[run.folder]:
                    continue
            seeds[run.seed] = position, name
    return {column: _interval(members, list(seeds.values())) for column, seeds in sorted(by_column.items())}, repeated


def _interval(members: Sequence[Run], found: Sequence[tuple[int, str]]) -> Interval:
    values = [members[position].metrics[name] for position, name in found]
    episodes = None
    if len(found) == 1:
        position, name = found[0]
        episodes = members[position].metrics.get(f"{name.rpartition('/')[0]}/{EPISODES}")
    return Interval(*mean_interval(values), values, episodes, runs=[position for position, _ in found])


def _with_best(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[list[Row], list[str]]:
    """The rows with the best figure of each column marked and those that cannot be told apart from it."""
    figures = [dict(row.figures) for row in rows]
    tests: list[str] = []
    for number, column in enumerate(columns):
        having = [place for place, row in enumerate(rows) if number in row.figures]
        if len(having) < 2:
            continue
        seeds = [rows[place].by_seed(number) for place in having]
        best, apart, used = statistics.unlike_best(seeds, column.higher_is_better)
        tests += used
        for place, one in enumerate(having):
            is_best = place == best
            tied = not is_best and not apart[place]
            figures[one][number] = replace(figures[one][number], best=is_best, tied=tied)
    told = []
    if tests:
        names = " and ".join(dict.fromkeys(tests))
        told.append(f"Told apart from the best by {names} at 5%, corrected (Holm) for all pairs of rows of a column.")
    return [replace(row, figures=found) for row, found in zip(rows, figures, strict=True)], told


def _about(runs: Sequence[Run], rows: Sequence[Row], metrics: Sequence[str]) -> list[str]:
    """What else a reader must know."""
    notes = []
    single = sum(any(len(figure.values) == 1 for figure in row.figures.values()) for row in rows)
    if single:
        what, them = ("A setting has", "it") if single == 1 else (f"{single} settings have", "them")
        notes.append(
            f"{what} a single seed: without an interval over seeds, nothing about {them} can be told from chance. "
            "Run more: seed=0,1,2,3,4."
        )
    bare = [row for row in rows if not row.figures and main_figures(list(row.runs[0].metrics))]
    if bare and not metrics:
        own = ", ".join(dict.fromkeys(main_figures(list(row.runs[0].metrics))[0] for row in bare))
        some = "; ".join(settings.labelled(row.setting) for row in bare[:3]) + ("; ..." if len(bare) > 3 else "")
        what = "A row has none of these figures" if len(bare) == 1 else f"{len(bare)} rows have none of these figures"
        notes.append(f"{what} ({some}), but for example {own}: choose with --metric, also by a glob such as '*/top1'.")
    commits = Counter(run.commit for run in runs)
    if len(commits) > 1:
        listed = ", ".join(f"{(commit or 'unknown')[:9]} ({n})" for commit, n in commits.most_common(4))
        more = ", ..." if len(commits) > 4 else ""
        notes.append(f"The runs come from {len(commits)} states of the code: {listed}{more}.")
    if not metrics:
        kinds = [kind for kind in BASELINES if any(key.startswith(f"{kind}/") for run in runs for key in run.metrics)]
        asked = " or ".join(f"--metric '{kind}/*'" for kind in kinds)
        notes += [f"Baselines were measured too: {asked} shows them."] if kinds else []
    return notes
