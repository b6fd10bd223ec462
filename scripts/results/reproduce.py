"""Runs the experiments whose figures the documentation quotes, and writes docs/results/.

    python scripts/results/reproduce.py              # what has no result yet, one after the other
    python scripts/results/reproduce.py NAME ...     # these, again
    python scripts/results/reproduce.py --table      # only write the table anew

A row is done when docs/results/NAME.json is there, so the script goes on where it was stopped. Each result keeps its
command, commit, seconds and protocol.
"""

import shutil
from pathlib import Path

from harness import (
    RESULTS,
    accuracy,
    add_names,
    command_line,
    commit,
    keep,
    make,
    markdown,
    minutes,
    read_those_there,
    run,
    write_between,
)

OMNIGLOT: dict[str, float | None] = dict.fromkeys(
    f"few_shot/{setting}" for setting in ("5w1s", "5w5s", "20w1s", "20w5s")
)

# name: overrides, and the accuracies to show with the value each has to reach (None: shown only)
ROWS: dict[str, tuple[list[str], dict[str, float | None]]] = {
    "simclr_digits": (
        ["experiment=simclr_digits"],
        {"knn": None, "linear_probe": None, "few_shot/5w1s": None},
    ),
    "simclr_digits_seed_1": (
        ["experiment=simclr_digits", "seed=1"],
        {"knn": None, "linear_probe": None, "few_shot/5w1s": None},
    ),
    "simclr_digits_seed_2": (
        ["experiment=simclr_digits", "seed=2"],
        {"knn": None, "linear_probe": None, "few_shot/5w1s": None},
    ),
    "simclr_mnist": (
        ["experiment=simclr_mnist", "baselines=[]"],
        {"linear_probe": 0.990, "knn": 0.982, "few_shot/5w1s": None},
    ),
    "simclr_fashion_mnist": (
        ["experiment=simclr_fashion_mnist", "baselines=[]"],
        {"linear_probe": 0.890, "knn": 0.865, "few_shot/5w1s": None},
    ),
    "pairwise_mnist": (["experiment=pairwise_mnist", "baselines=[]"], {"knn": 0.990, "linear_probe": None}),
    "supervised_mnist": (
        ["experiment=supervised_mnist", "baselines=[]"],
        {"knn": None, "linear_probe": None},
    ),
    "protonet_digits": (["experiment=protonet_digits"], {"few_shot/5w1s": None}),
    "protonet_omniglot": (
        ["experiment=protonet_omniglot"],
        OMNIGLOT | {"few_shot/5w1s": 0.980, "few_shot/20w1s": 0.950},
    ),
    "protonet_omniglot_vinyals": (["experiment=protonet_omniglot", "dataset.class_split=vinyals"], OMNIGLOT),
    "maml_omniglot": (
        ["experiment=maml_omniglot"],
        {"few_shot/5w1s1q": 0.970, "few_shot/5w1s": None},
    ),
}
COLUMNS = ["experiment", "figure", "trained", "untrained", "raw pixels", "to reach"]
COLUMNS += ["minutes of training", "steps", "commit"]
KEPT = {name: RESULTS / f"{name}.json" for name in ROWS}


def reproduce(name: str, again: bool) -> None:
    """Run one row, from the start or on from where it was stopped, and keep its result."""
    overrides, _ = ROWS[name]
    folder = Path("outputs") / "reproduce" / name
    if again:
        shutil.rmtree(folder, ignore_errors=True)
    run(overrides, folder)
    keep(folder, overrides, KEPT[name])


def table() -> str:
    """All rows that have a result, as Markdown."""
    rows = []
    for name, result in read_those_there(KEPT).items():
        for key, target in ROWS[name][1].items():
            cells = [accuracy(result["metrics"], prefix + key) for prefix in ("", "untrained/", "raw_pixels/")]
            wanted = "" if target is None else f"{target:.1%}"
            last = [minutes(result), f"{result['steps']:,}", commit(result)]
            rows.append([f"`{name}`", f"{key}/top1", *cells, wanted, *last])
    return markdown(COLUMNS, rows)


def write_table() -> None:
    """Put the table between the marks of docs/results/README.md."""
    write_between(RESULTS / "README.md", "table", table)


def main() -> None:
    parser = command_line(__doc__)
    add_names(parser, ROWS)
    asked = parser.parse_args()
    missing = [name for name in ROWS if not KEPT[name].exists()]
    rows = [] if asked.table else asked.names or missing
    make(rows, lambda name: reproduce(name, again=bool(asked.names)), write_table)


if __name__ == "__main__":
    main()
