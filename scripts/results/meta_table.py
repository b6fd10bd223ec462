"""Meta-learners on Omniglot, by their recipes and in minutes of a CPU, into docs/results/.

    python scripts/results/meta_table.py                            # what has no result yet, one row after the other
    python scripts/results/meta_table.py maml anil                  # of these
    python scripts/results/meta_table.py maml --again               # anew
    python scripts/results/meta_table.py protonet --threads 1       # so that another row can run beside it
    python scripts/results/meta_table.py maml --processes 2 --threads 1  # one process a core: twice two threads' steps
    python scripts/results/meta_table.py maml --steps 5000          # where other work would bend the measurement
    python scripts/results/meta_table.py cactus --encoder outputs/meta_omniglot/simclr_30min  # of simclr's features
    python scripts/results/meta_table.py --trial                    # two steps of each, nothing evaluated or kept
    python scripts/results/meta_table.py --table                    # only write the table anew

A row gets as many steps as its first ones promise for its minutes of training, evaluation apart, and schedules are
stretched to span these, but for ways that grow, which take the steps that they take. The script goes on where it was
stopped, also within a row. Rows whose experiment is not there are left out.
"""

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import (
    BASELINES,
    accuracy,
    add_names,
    command_line,
    commit,
    config_of,
    has_experiment,
    is_kept,
    keep,
    make,
    markdown,
    minutes,
    read_those_there,
    run,
    spanning,
    steps_of_stopped,
    try_out,
    write_between,
)
from timed_runs import steps_in

WAYS_AND_SHOTS = ["5w1s", "5w5s", "20w1s", "20w5s"]
PAPERS = "5w1s1q"  # MAML's protocol: one query a class
COMPARING = f"[{','.join(WAYS_AND_SHOTS)}]"
ADAPTING = f"[5w1s,{PAPERS},5w5s]"  # heads of 5 outputs


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        settings: Of the episodes that it can be asked.
        minutes: Of training.
        published: Its accuracies for WAYS_AND_SHOTS, in per cent.
        schedule: How long it was trained for these.
        tasks: The same as a number of tasks, where it was fixed beforehand.
        words: Overrides beyond the experiment's.
        experiment: Where it is not the row's name.
    """

    settings: str
    minutes: float = 15
    published: str = "- / - / - / -"
    schedule: str = "not published"
    tasks: int | None = None
    words: tuple[str, ...] = ()
    experiment: str | None = None


PATIENCE = "until 20,000 episodes brought no better validation"
# Accuracies are the papers'. Schedules: MAML's appendix A.1; ProtoNet's, MAML++'s, iMAML's and RelationNet's authors'
# code (defaults of train/few_shot, the config omniglot_1_8_0.1_64_5_0, examples/README, omniglot_train_one_shot);
# Reptile's table 4 (with its authors' README, 100,000 x 10 for the transductive 5w1s).
ROWS = {
    "protonet": Row(COMPARING, 20, "98.8 / 99.7 / 96.0 / 98.9", PATIENCE),
    "protonet_vinyals": Row(
        COMPARING,
        20,
        "98.8 / 99.7 / 96.0 / 98.9",
        PATIENCE,
        words=("dataset.class_split=vinyals",),
        experiment="protonet",
    ),
    "maml": Row(ADAPTING, 40, "98.7 / 99.9 / 95.8 / 98.9", "60,000 x 32", 60_000 * 32),
    "anil": Row(ADAPTING),
    "boil": Row(ADAPTING),
    "meta_sgd": Row(ADAPTING, published="99.5 / 99.9 / 95.9 / 99.0"),
    "protomaml": Row(ADAPTING),
    "maml_pp": Row(ADAPTING, published="99.5 / - / 97.7 / 99.3", schedule="50,000 x 8", tasks=50_000 * 8),
    "reptile": Row(ADAPTING, published="97.7 / 99.5 / 89.4 / 97.1", schedule="100,000 x 5", tasks=100_000 * 5),
    "imaml": Row(ADAPTING, published="99.2 / 99.7 / 94.5 / 98.7", schedule="at least 20,000 x 32", tasks=20_000 * 32),
    "matchingnet": Row(COMPARING, published="98.1 / 98.9 / 93.8 / 98.5"),
    "relationnet": Row(COMPARING, published="99.6 / 99.8 / 97.6 / 99.1", schedule="1,000,000", tasks=1_000_000),
    "r2d2": Row(COMPARING),
    "feat": Row(COMPARING),
    "baseline_pp": Row(COMPARING),
    "context": Row(ADAPTING, 30),
    "caml": Row(ADAPTING, 30),
    "snail": Row("[5w1s,5w1s1q]", 30, "99.07 / 99.78 / 97.64 / 99.36"),
    "mann": Row(ADAPTING, published="82.8 / 94.9 / - / -"),
    "cnp": Row(ADAPTING, published="95.3 / 98.5 / 89.9 / 96.8"),
    "attentive_cnp": Row(ADAPTING),
    "simclr": Row(COMPARING, 30),
    "umtra": Row(ADAPTING, 30, "83.8 / 95.4 / 74.3 / 92.1"),
    "protoclr": Row(COMPARING, 30, "88.0 / 96.5 / 72.3 / 89.1"),
    "cactus": Row(COMPARING, 30, "68.8 / 87.8 / 48.1 / 73.4"),
    "psco": Row(COMPARING, 30, "96.4 / 99.1 / 89.6 / 97.1"),
}
FIRST = next(iter(ROWS))  # with which the baselines are measured
COLUMNS = ["method", *WAYS_AND_SHOTS, PAPERS, "5w1s inductive", "5w1s transductive"]
COLUMNS += [f"published {' / '.join(WAYS_AND_SHOTS)}", "minutes of training", "processes x threads", "steps"]
COLUMNS += ["tasks seen", "published schedule, and the share of it", "commit"]


@dataclass(frozen=True)
class Asked:
    """How rows are to be run.

    Attributes:
        results: Folder of the page; results stand in a folder of it.
        minutes: Of training, instead of the row's.
        steps: Of training, instead of what the first ones promise.
        threads: None for torch's choice; of each process.
        processes: That share the tasks of a step.
        episodes: Of each setting, instead of the experiment's.
        encoder: Folder of the run whose features are clustered, where classes are clusters; None for the pixels.
    """

    results: Path
    minutes: float | None
    steps: int | None
    threads: int | None
    processes: int
    episodes: int | None
    encoder: Path | None

    def folder(self, name: str) -> Path:
        """Where a row runs: another for whatever would make it another run."""
        parts = [name, f"{self.minutes_of(name):g}min"]
        parts += [] if self.threads is None else [f"{self.threads}threads"]
        parts += [] if self.processes == 1 else [f"{self.processes}processes"]
        parts += [] if self.episodes is None else [f"{self.episodes}episodes"]
        parts += [] if self.encoder is None else [f"of_{self.encoder.name}"]
        return Path("outputs") / "meta_omniglot" / "_".join(parts)

    def minutes_of(self, name: str) -> float:
        return self.minutes or ROWS[name].minutes

    def kept(self, name: str) -> Path:
        return self.results / "meta_omniglot" / f"{name}.json"


def experiment(name: str) -> str:
    return f"{ROWS[name].experiment or name}_omniglot"


def overrides(name: str, asked: Asked) -> list[str]:
    """What makes a row, but for its steps."""
    words = [f"experiment={experiment(name)}", *ROWS[name].words, "trainer.max_epochs=null"]
    words.append(f"eval.few_shot.settings={ROWS[name].settings}")
    words.append("baselines=[untrained,raw_pixels]" if name == FIRST else "baselines=[]")
    words += [] if asked.threads is None else [f"trainer.threads={asked.threads}"]
    words += [] if asked.episodes is None else [f"eval.few_shot.episodes={asked.episodes}"]
    words += [] if asked.encoder is None else [f"dataset.encoder={asked.encoder}"]
    return words


def reproduce(name: str, asked: Asked, again: bool) -> None:
    """Run one row and keep its result."""
    words, folder = overrides(name, asked), asked.folder(name)
    if again:
        shutil.rmtree(folder, ignore_errors=True)
    seconds, shared = 60 * asked.minutes_of(name), (asked.threads, asked.processes)
    steps = steps_of_stopped(folder) or asked.steps or steps_in(seconds, words, *shared)
    words += spanning(words, steps)
    run(words, folder, *shared)
    keep(folder, words, asked.kept(name), {"tasks_per_step": config_of(folder)["batching"].get("tasks_per_batch")})


def table(asked: Asked) -> str:
    """All rows that have a result, as Markdown."""
    found = read_those_there({name: asked.kept(name) for name in ROWS})
    floors = found.get(FIRST, {"metrics": {}})["metrics"]
    rows = [
        [f"*{words}*", *scores(floors, f"{key}/")]
        for key, words in BASELINES.items()
        if any(name.startswith(f"{key}/") for name in floors)
    ]
    for name, result in found.items():
        seen = result["steps"] * result["tasks_per_step"] if result["tasks_per_step"] else None
        hardware = result["hardware"]
        cells = [f"`{name}`", *scores(result["metrics"]), ROWS[name].published, minutes(result)]
        cells += [f"{hardware['processes']} x {hardware['threads']}", f"{result['steps']:,}"]
        cells += ["-" if seen is None else f"{seen:,}", share(ROWS[name], seen), commit(result)]
        rows.append(cells)
    return markdown(COLUMNS, rows)


def scores(metrics: dict[str, float], prefix: str = "") -> list[str]:
    """Cells of every setting and of the two ways to normalise, with their intervals."""
    settings = (*WAYS_AND_SHOTS, PAPERS, "5w1s/inductive", "5w1s/transductive")
    return [accuracy(metrics, f"{prefix}few_shot/{setting}") for setting in settings]


def share(row: Row, seen: int | None) -> str:
    """How the method was trained for its published figures, and how much of that was run."""
    return row.schedule if row.tasks is None or seen is None else f"{row.schedule}, {seen / row.tasks:.2%}"


def write_table(asked: Asked) -> None:
    """Put the table between its marks in the page."""
    write_between(asked.results / "README.md", "meta omniglot", lambda: table(asked))


def wanted(names: list[str], asked: Asked, anew: bool) -> Iterator[str]:
    """Rows that can be run and, unless anew, have no result; a line about each of the others."""
    for name in names or ROWS:
        if not has_experiment(experiment(name)):
            print(f"{name}: there is no experiment={experiment(name)}; left out", flush=True)
        elif anew or not is_kept(name, asked.kept(name)):
            yield name


def options() -> argparse.ArgumentParser:
    parser = command_line(__doc__, "--steps", "--threads", "--results", "--again", "--trial")
    add_names(parser, ROWS)
    parser.add_argument("--minutes", type=float, help="of training, instead of each row's own")
    parser.add_argument("--processes", type=int, default=1, help="of each row, which share the tasks of a step")
    parser.add_argument("--episodes", type=int, help="of each setting, instead of 1,000")
    parser.add_argument("--encoder", type=Path, help="folder of a run whose features cactus clusters (else the pixels)")
    return parser


def main() -> None:
    given = options().parse_args()
    asked = Asked(
        given.results, given.minutes, given.steps, given.threads, given.processes, given.episodes, given.encoder
    )
    rows = [] if given.table else wanted(given.names, asked, given.again or given.trial)
    if given.trial:
        for name in rows:
            words = [f"experiment={experiment(name)}", *ROWS[name].words]
            try_out(words, f"meta_{name}", given.threads, given.processes)
        return
    make(rows, lambda name: reproduce(name, asked, given.again), lambda: write_table(asked))


if __name__ == "__main__":
    main()
