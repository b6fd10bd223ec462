"""Whether meta-learners adapt to a dataset that they never saw, by `eval=verdict` over seeds, in docs/results/.

    python scripts/results/verdict_table.py                          # both tables: what has no result yet, one by one
    python scripts/results/verdict_table.py --sources two            # trained on MNIST and Fashion-MNIST
    python scripts/results/verdict_table.py --sources four --seeds 0 # on Omniglot and Tiny ImageNet too, one seed
    python scripts/results/verdict_table.py snail protonet           # of these
    python scripts/results/verdict_table.py snail --seeds 0 1 2 3 4  # more seeds
    python scripts/results/verdict_table.py snail --again            # anew
    python scripts/results/verdict_table.py snail --steps 500        # where other work would bend the measurement
    python scripts/results/verdict_table.py protonet --experiment {}_digits --results trial --minutes 0.1 \\
        --words eval=[verdict] eval.verdict.episodes=20      # tried out, elsewhere
    python scripts/results/verdict_table.py --table                  # only write the tables anew

A method gets as many steps as its first ones promise for its minutes of training, evaluation apart; a decay by steps is
stretched to span them. Its first seed fixes them for all. The script goes on where it was stopped, also within a run.
"""

import argparse
import shutil
import statistics
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness import (
    command_line,
    commit,
    interval,
    is_kept,
    keep,
    make,
    markdown,
    minutes,
    read,
    run,
    spanning,
    steps_of_stopped,
    write_between,
)
from timed_runs import steps_in

from ssl_runner.report.verdict import WORDS, outcome, percent, strongest_baseline


class Sources(NamedTuple):
    """What methods are trained on, and for how long.

    Attributes:
        name: Of the table in the page, and of the folder of its results.
        experiment: ``{}`` stands for the method.
        minutes: Of training, a run.
    """

    name: str
    experiment: str
    minutes: float


SOURCES = {
    "two": Sources("verdict", "{}_mnist_fashion_to_cifar10", 10),
    "four": Sources("verdict_four_sources", "{}_four_sources_to_cifar10", 20),
}
METHODS = ("snail", "context", "mann", "maml", "protonet")
SEEDS = (0, 1, 2)
COLUMNS = [
    "method",
    "setting",
    "accuracy",
    "strongest baseline",
    "difference, paired within a run",
    "over seeds",
    "adaptation",
    "ms to adapt (from scratch)",
    "minutes of training",
    "steps",
    "commit",
]


@dataclass(frozen=True)
class Asked:
    """How runs are to be made.

    Attributes:
        results: Folder of the page; results stand in a folder of it.
        table: Name of the table in the page, and of the folder of its results.
        experiment: Name of the experiment, ``{}`` for the method.
        minutes: Of training.
        steps: Of training, instead of what the first ones promise.
        threads: None for torch's choice.
        words: Further overrides.
    """

    results: Path
    table: str
    experiment: str
    minutes: float
    steps: int | None
    threads: int | None
    words: tuple[str, ...]

    def folder(self, name: str, seed: int) -> Path:
        """Where a run is made: another for whatever would make it another run."""
        parts = [self.experiment.format(name), f"{self.minutes:g}min", f"seed{seed}"]
        parts += [] if self.threads is None else [f"{self.threads}threads"]
        parts += [f"{zlib.crc32(' '.join(self.words).encode()):08x}"] if self.words else []
        return Path("outputs") / "verdict" / "_".join(parts)

    def kept(self, name: str, seed: int) -> Path:
        return self.results / self.table / f"{name}_{seed}.json"

    def overrides(self, name: str, seed: int) -> list[str]:
        """What makes a run, but for its steps."""
        threads = [] if self.threads is None else [f"trainer.threads={self.threads}"]
        experiment = f"experiment={self.experiment.format(name)}"
        return [experiment, *self.words, "baselines=[]", "trainer.max_epochs=null", *threads, f"seed={seed}"]


def reproduce(name: str, seed: int, asked: Asked) -> None:
    """One run, kept when it is done."""
    words, folder = asked.overrides(name, seed), asked.folder(name, seed)
    before = [result["steps"] for result in results(asked).get(name, {}).values()]
    steps = steps_of_stopped(folder) or asked.steps or next(iter(before), None)
    words += spanning(words, steps or steps_in(60 * asked.minutes, words, asked.threads))
    run(words, folder, asked.threads)
    keep(folder, words, asked.kept(name, seed))


def results(asked: Asked) -> dict[str, dict[int, dict[str, Any]]]:
    """What there is, by method and seed: those of `METHODS` first, in its order."""
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in METHODS}
    for path in sorted((asked.results / asked.table).glob("*_*.json")):
        name, _, seed = path.stem.rpartition("_")
        found.setdefault(name, {})[int(seed)] = read(path)
    return {name: of_seeds for name, of_seeds in found.items() if of_seeds}


def table(asked: Asked) -> str:
    """The baselines of the first method, then every method that has a result, as Markdown."""
    rows: list[list[str]] = []
    for number, (name, of_seeds) in enumerate(results(asked).items()):
        runs = list(of_seeds.values())
        rows += [] if number else baselines(name, runs[0])
        rows += [row(name, setting, runs) for setting in protocol(runs[0])["settings"]]
    return markdown(COLUMNS, rows)


def protocol(result: dict[str, Any]) -> dict[str, Any]:
    """What the verdict of a run says of itself."""
    return next(protocol for protocol in result["protocols"].values() if "baselines" in protocol)


def baselines(name: str, result: dict[str, Any]) -> list[list[str]]:
    """Rows of a run's baselines; those with an encoder have that method's architecture."""
    told, rows = protocol(result), []
    for setting in told["settings"]:
        for baseline, how in told["baselines"].items():
            accuracy = score([result], f"{told['name']}/verdict/{setting}/{baseline}")
            few = f" ({how['episodes']:,} episodes)" if how["episodes"] < told["episodes"] else ""
            encoder = f", as `{name}`" if baseline in ("untrained", "supervised", "from_scratch") else ""
            rows.append([f"*{WORDS[baseline]}*{encoder}{few}", setting, accuracy, *[""] * (len(COLUMNS) - 3)])
    return rows


def row(name: str, setting: str, of_seeds: list[dict[str, Any]]) -> list[str]:
    """A method in one setting, pooled over its seeds."""
    dataset, several = protocol(of_seeds[0])["name"], len(of_seeds) > 1
    best = [strongest_baseline(result["metrics"], protocol(result), setting) for result in of_seeds]
    floors = [
        result["metrics"][f"{dataset}/verdict/{setting}/{one}/top1"] for result, one in zip(of_seeds, best, strict=True)
    ]
    told = protocol(of_seeds[0])
    asked = {told["baselines"][one]["episodes"] for one in best} - {told["episodes"]}
    few = "".join(f" ({number:,} episodes)" for number in sorted(asked))
    mean, within, over_seeds = pooled(of_seeds, f"{dataset}/paired/{setting}")
    times = [
        statistics.mean(result["times"][f"{dataset}/adaptation_ms/{setting}{way}"] for result in of_seeds)
        for way in ("", "/from_scratch")
    ]
    return [
        f"`{name}`, {len(of_seeds)} seed{'s' if several else ''}",
        setting,
        score(of_seeds, f"{dataset}/few_shot/{setting}"),
        f"{' or '.join(WORDS[one] for one in dict.fromkeys(best))}, {percent(statistics.mean(floors))}{few}",
        f"{percent(mean, '+')} ± {percent(within)}",
        f"{percent(mean, '+')} ± {percent(over_seeds)}" if several else "-",
        outcome(mean, max(within, over_seeds)).partition(":")[0].removeprefix("adaptation "),
        f"{times[0]:,.0f} ({times[1]:,.0f})",
        minutes(*of_seeds),
        ", ".join(f"{steps:,}" for steps in dict.fromkeys(result["steps"] for result in of_seeds)),
        ", ".join(dict.fromkeys(map(commit, of_seeds))),
    ]


def pooled(of_seeds: list[dict[str, Any]], key: str) -> tuple[float, float, float]:
    """Mean of the seeds' differences, and half its 95% interval by two ways, of which the wider one gives the word.

    Within a run: of its episodes, in the mean over seeds. All were asked the same ones, so more seeds do not narrow it.
    Over seeds: Student's, of the seeds' differences; 0 for one seed, which has none.
    """
    mean, half = interval([result["metrics"][f"{key}/difference"] for result in of_seeds])
    within = statistics.mean(result["metrics"][f"{key}/ci95"] for result in of_seeds)
    return mean, within, half if len(of_seeds) > 1 else 0.0


def score(results: list[dict[str, Any]], key: str) -> str:
    """Mean over seeds of an accuracy and of its interval within a run, in per cent."""
    parts = (f"{key}/top1", f"{key}/ci95")
    return " ± ".join(percent(statistics.mean(result["metrics"][part] for result in results)) for part in parts)


def write_table(asked: Asked) -> None:
    """Put the table between its marks in the page."""
    write_between(asked.results / "README.md", asked.table, lambda: table(asked))


def wanted(names: list[str], seeds: list[int], again: bool, asked: Asked) -> Iterator[tuple[str, int]]:
    """Methods with their seeds that have no result, and a line about each of the others; if again, all have none."""
    for name in names or METHODS:
        for seed in seeds if again else []:
            shutil.rmtree(asked.folder(name, seed), ignore_errors=True)
            asked.kept(name, seed).unlink(missing_ok=True)  # its steps are no longer the method's
        yield from ((name, seed) for seed in seeds if not is_kept(name, asked.kept(name, seed)))


def options() -> argparse.ArgumentParser:
    parser = command_line(__doc__, "--steps", "--threads", "--results", "--again")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of experiments; by default {', '.join(METHODS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="by default 0, 1 and 2")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=[*SOURCES], help="by default both, in turn")
    parser.add_argument("--experiment", help="another one, {} for the method; its table is that of two sources")
    parser.add_argument("--minutes", type=float, help="of training, a run, instead of ten and twenty")
    parser.add_argument("--words", nargs="+", default=[], help="further overrides")
    return parser


def asked_for(given: argparse.Namespace) -> list[Asked]:
    """The tables that a command line asks for, each with how its runs are to be made."""
    chosen = [SOURCES[name] for name in given.sources]
    if given.experiment is not None:
        chosen = [SOURCES["two"]._replace(experiment=given.experiment)]
    common = (given.steps, given.threads, tuple(given.words))
    return [Asked(given.results, one.name, one.experiment, given.minutes or one.minutes, *common) for one in chosen]


def main() -> None:
    given = options().parse_args()
    for asked in asked_for(given):
        rows = [] if given.table else wanted(given.names, given.seeds, given.again, asked)
        make(rows, lambda row, asked=asked: reproduce(*row, asked), lambda asked=asked: write_table(asked))


if __name__ == "__main__":
    main()
