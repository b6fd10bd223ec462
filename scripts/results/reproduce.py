"""Runs the experiments whose figures the documentation quotes, and writes docs/results/.

    python scripts/results/reproduce.py              # what has no result yet, one after the other
    python scripts/results/reproduce.py NAME ...     # these, again
    python scripts/results/reproduce.py --table      # only write the table anew

A row is done when docs/results/NAME.json is there, so the script goes on where it was stopped. Each result keeps its
command, commit, seconds and protocol.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from timed_runs import RESULTS, commit, keep, run, write_between

OMNIGLOT: dict[str, float | None] = dict.fromkeys(
    f"few_shot/{setting}/top1" for setting in ("5w1s", "5w5s", "20w1s", "20w5s")
)

# name: overrides, and the figures to show with the value each has to reach (None: shown only)
ROWS: dict[str, tuple[list[str], dict[str, float | None]]] = {
    "simclr_digits": (
        ["experiment=simclr_digits"],
        {"knn/top1": None, "linear_probe/top1": None, "few_shot/5w1s/top1": None},
    ),
    "simclr_digits_seed_1": (
        ["experiment=simclr_digits", "seed=1"],
        {"knn/top1": None, "linear_probe/top1": None, "few_shot/5w1s/top1": None},
    ),
    "simclr_digits_seed_2": (
        ["experiment=simclr_digits", "seed=2"],
        {"knn/top1": None, "linear_probe/top1": None, "few_shot/5w1s/top1": None},
    ),
    "simclr_mnist": (
        ["experiment=simclr_mnist", "baselines=[]"],
        {"linear_probe/top1": 0.990, "knn/top1": 0.982, "few_shot/5w1s/top1": None},
    ),
    "simclr_fashion_mnist": (
        ["experiment=simclr_fashion_mnist", "baselines=[]"],
        {"linear_probe/top1": 0.890, "knn/top1": 0.865, "few_shot/5w1s/top1": None},
    ),
    "pairwise_mnist": (["experiment=pairwise_mnist", "baselines=[]"], {"knn/top1": 0.990, "linear_probe/top1": None}),
    "supervised_mnist": (
        ["experiment=supervised_mnist", "baselines=[]"],
        {"knn/top1": None, "linear_probe/top1": None},
    ),
    "protonet_digits": (["experiment=protonet_digits"], {"few_shot/5w1s/top1": None}),
    "protonet_omniglot": (
        ["experiment=protonet_omniglot"],
        OMNIGLOT | {"few_shot/5w1s/top1": 0.980, "few_shot/20w1s/top1": 0.950},
    ),
    "protonet_omniglot_vinyals": (["experiment=protonet_omniglot", "dataset.class_split=vinyals"], OMNIGLOT),
    "maml_omniglot": (
        ["experiment=maml_omniglot"],
        {"few_shot/5w1s1q/top1": 0.970, "few_shot/5w1s/top1": None},
    ),
}


def reproduce(name: str, again: bool) -> None:
    """Run one row, from the start or on from where it was stopped, and keep its result."""
    overrides, _ = ROWS[name]
    folder = Path("outputs") / "reproduce" / name
    if again:
        shutil.rmtree(folder, ignore_errors=True)
    run(overrides, folder)
    keep(folder, overrides, RESULTS / f"{name}.json")


def table() -> str:
    """All rows that have a result, as Markdown."""
    lines = [
        "| experiment | figure | trained | untrained | raw pixels | to reach | minutes of training | steps | commit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, (_, figures) in ROWS.items():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        last = f"{result['training_seconds'] / 60:.1f} | {result['steps']:,} | {commit(result)}"
        for key, target in figures.items():
            cells = [_cell(result["metrics"], prefix + key) for prefix in ("", "untrained/", "raw_pixels/")]
            wanted = "" if target is None else f"{target:.1%}"
            lines.append(f"| `{name}` | {key} | {' | '.join(cells)} | {wanted} | {last} |")
    return "\n".join(lines)


def _cell(metrics: dict[str, Any], key: str) -> str:
    if key not in metrics:
        return "-"
    interval = metrics.get(key.replace("/top1", "/ci95"))
    return f"{metrics[key]:.2%}" + ("" if interval is None else f" ± {interval:.2%}")


def write_table() -> None:
    """Put the table between the marks of docs/results/README.md."""
    write_between(RESULTS / "README.md", "table", table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *ROWS], metavar="NAME")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    missing = [name for name in ROWS if not (RESULTS / f"{name}.json").exists()]
    for name in [] if asked.table else asked.names or missing:
        reproduce(name, again=bool(asked.names))
        write_table()
    write_table()


if __name__ == "__main__":
    main()
