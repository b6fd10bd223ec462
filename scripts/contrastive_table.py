"""Every joint-embedding method on MNIST with a small network and little time, in docs/results/contrastive/.

    python scripts/contrastive_table.py                # what has no result yet, one after the other
    python scripts/contrastive_table.py NAME ...       # these, again
    python scripts/contrastive_table.py --seconds 60   # with another budget of training
    python scripts/contrastive_table.py --table        # only write the table anew

The script goes on where it was stopped, also within a method. A method gets as many steps as its first ones promise for
the seconds; the schedules span just these. Run it alone: other work on the machine costs steps.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "contrastive"
PAGE = RESULTS.parent / "README.md"

# Losses, heads, teachers and queues are the recipes'; data, encoder and optimization one for all.
COMMON = [
    "dataset=mnist",
    "model/encoder=conv4",
    "augmentation=glyph",
    "batching.batch_size=128",
    "batching.second_augmentation=null",  # of colours
    "optimizer=adam",
    "optimizer.lr=0.002",
    "scheduler=warmup_cosine",
    "scheduler.warmup_steps=50",
    "scheduler.final=0",
    "trainer.max_epochs=null",
    "eval=[knn,linear_probe]",
    "eval.knn.k=20",
]

# name of the recipe: what it needs beyond that
METHODS: dict[str, list[str]] = {
    "simclr": [],
    "hcl": [],
    "debiased": [],
    "dcl": [],
    "supcon": [],
    "triplet": [],
    "moco_v2": [],
    "moco_v3": [],
    "byol": [],
    "simsiam": [],
    "barlow_twins": [],
    "vicreg": [],
    "w_mse": [],
    "nnclr": [],
    "swav": [],
    "dino": [],
    "lejepa": ["loss.weight=0.02"],  # the statistic grows with the batch, the recipe's is twice as large
}
LABELLED = {"supcon", "triplet"}
BASELINES = {"untrained": "untrained encoder", "raw_pixels": "raw pixels"}
# why a row stands below raw pixels or the untrained encoder
REASONS: dict[str, str] = {}

WARM, TIMED = 5, 25  # steps


def overrides(name: str) -> list[str]:
    """What makes the row of a method, but for its steps; the first one measures the baselines, which are all rows'."""
    baselines = "[untrained,raw_pixels]" if name == next(iter(METHODS)) else "[]"
    return [f"experiment={name}_cifar10", *COMMON, *METHODS[name], f"baselines={baselines}"]


def steps_in(seconds: float, words: list[str]) -> int:
    """How many steps of this run take so long, judged by some of them after the slow first ones."""
    from ssl_runner import wiring
    from ssl_runner.checks import settled
    from ssl_runner.clock import Clock
    from ssl_runner.commandline import conf_folder
    from ssl_runner.composition import Composer

    config, _ = settled(Composer(conf_folder()), [*words, "trainer.max_steps=1000"])
    run = wiring.wire(config)
    run.algorithm.train()
    began = 0.0
    for step in range(WARM + TIMED):
        if step == WARM:
            began = time.perf_counter()
        clock = Clock(step, 1000, run.seed, run.device)
        run.trainer.step(run.algorithm, run.batching.batch(step), run.optimizer, clock, measure=False)
    return round(seconds * TIMED / (time.perf_counter() - began))


def reproduce(name: str, seconds: float, again: bool) -> None:
    """Run one row, from the start or on from where it was stopped, and keep its result."""
    folder = Path("outputs") / "contrastive" / f"{name}_{seconds:g}s"
    if again:
        shutil.rmtree(folder, ignore_errors=True)
    if (folder / "config.yaml").is_file():
        steps = yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_steps"]
    else:
        steps = steps_in(seconds, overrides(name))
    words = [*overrides(name), f"trainer.max_steps={steps}"]
    command = [sys.executable, "-m", "ssl_runner.train", *words, f"hydra.run.dir={folder}", "resume=auto"]
    subprocess.run(command, check=True)
    result = json.loads((folder / "result.json").read_text())
    result["command"] = " ".join(["ssl-train", *words])
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")


def results() -> dict[str, dict[str, Any]]:
    """What there is, in the methods' order."""
    paths = {name: RESULTS / f"{name}.json" for name in METHODS}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def table() -> str:
    """All rows that have a result, best neighbours first, as Markdown."""
    found = results()
    lines = [
        "| method | labels | kNN | linear probe | steps | seconds of training | images/s | commit | below a baseline |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    first = next(iter(found.values()), {"metrics": {}})["metrics"]
    floors = {}
    for baseline, words in BASELINES.items():
        if f"{baseline}/knn/top1" in first:
            floors[words] = [first[f"{baseline}/{key}/top1"] for key in ("knn", "linear_probe")]
            knn, linear = floors[words]
            lines.append(f"| *{words}* | | {knn:.2%} | {linear:.2%} | | | | | |")
    for name, result in sorted(found.items(), key=lambda item: -item[1]["metrics"]["knn/top1"]):
        scores = [result["metrics"][f"{key}/top1"] for key in ("knn", "linear_probe")]
        below = [words for words, floor in floors.items() if any(a < b for a, b in zip(scores, floor, strict=True))]
        why = f"{' and '.join(below)}: {REASONS.get(name, 'not looked into')}" if below else ""
        git = result["git"] or {"commit": "-", "dirty": False}
        commit = git["commit"][:9] + (" and changes" if git["dirty"] else "")
        lines.append(
            f"| `{name}` | {'yes' if name in LABELLED else 'no'} | {scores[0]:.2%} | {scores[1]:.2%} "
            f"| {result['steps']:,} | {result['training_seconds']:.0f} | {result['images_per_second']:,.0f} "
            f"| {commit} | {why} |"
        )
    return "\n".join(lines)


def write_table() -> None:
    """Put the table between its marks in docs/results/README.md."""
    begin, end = "<!-- contrastive table -->", "<!-- end of contrastive table -->"
    before, _, rest = PAGE.read_text().partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n{table()}\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *METHODS], metavar="NAME")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    missing = [name for name in METHODS if not (RESULTS / f"{name}.json").exists()]
    for name in [] if asked.table else asked.names or missing:
        reproduce(name, asked.seconds, again=bool(asked.names))
        write_table()
    write_table()


if __name__ == "__main__":
    main()
