"""Every joint-embedding method side by side, one row each, in docs/results/contrastive_SETTING/.

    python scripts/results/contrastive_table.py mnist               # what has no result yet, one after the other
    python scripts/results/contrastive_table.py mnist NAME ...      # these, again
    python scripts/results/contrastive_table.py mnist --seconds 60  # with another budget of training
    python scripts/results/contrastive_table.py cifar10             # the recipes as they stand, 200 epochs, on a GPU
    python scripts/results/contrastive_table.py cifar10 --trial     # two steps of each, nothing evaluated or kept
    python scripts/results/contrastive_table.py mnist --table       # only write the table anew

mnist is a small network and little time: a method gets as many steps as its first ones promise for the seconds, and the
schedules span just these. Run it alone: other work on the machine costs steps. The script goes on where it was stopped,
also within a method.
"""

import shutil
from pathlib import Path

from harness import (
    BASELINES,
    RESULTS,
    add_names,
    command_line,
    commit,
    keep,
    make,
    markdown,
    minutes,
    read_those_there,
    run,
    steps_of_stopped,
    try_out,
    write_between,
)
from timed_runs import steps_in

# Losses, heads, teachers and queues are always the recipes'.
SETTINGS = {
    "mnist": [  # data, encoder and optimization one for all
        "dataset=mnist",
        "model/encoder=conv4",
        "augmentation=glyph",
        "batching.batch_size=128",
        "batching.second_augmentation=null",  # of colors
        "optimizer=adam",
        "optimizer.lr=0.002",
        "scheduler=warmup_cosine",
        "scheduler.warmup_steps=50",
        "scheduler.final=0",
        "trainer.max_epochs=null",
        "eval=[knn,linear_probe]",
        "eval.knn.k=20",
    ],
    "cifar10": ["trainer.precision=bfloat16", "trainer.cudnn_benchmark=true", "eval=[knn,linear_probe]"],
}
METHODS = [
    "simclr",
    "byol",
    "moco_v2",
    "barlow_twins",
    "vicreg",
    "moco_v3",
    "simsiam",
    "swav",
    "dino",
    "nnclr",
    "dcl",
    "hcl",
    "debiased",
    "w_mse",
    "lejepa",
    "supcon",
    "triplet",
]
# what a recipe needs beyond its setting
OWN = {
    ("mnist", "lejepa"): ["loss.weight=0.02"],  # the statistic grows with the batch, the recipe's is twice as large
    ("mnist", "dino"): ["optimizer.lr=0.0005"],  # at the common rate few prototypes stay in use
}
LABELLED = {"supcon", "triplet"}
# why a row stands below raw pixels or the untrained encoder
REASONS = {  # of the mnist table
    "byol": "without negatives it learns slowly and is not done: 95.81% after 605 steps of an earlier run, 96.50% "
    "after 939; a teacher ten times as fast (momentum 0.9) did no better in 400 steps",
    "simsiam": "without negatives and without a teacher it learns slowly and is not done: 96.45% after 619 steps of "
    "an earlier run, 96.81% after 860",
    "dino": "collapses in part: between steps 100 and 400 the prototypes in use fall from 1,556 to 15 of 2,048, and "
    "the diagnostics' kNN with them, from 0.79 to 0.61; it is not the teacher's lag, the student has 94.09%",
}
# kNN (k = 200, T = .1) at the best of 200 epochs and minutes on an A6000, of lightly's CIFAR-10 benchmark
LIGHTLY = {
    "simclr": (84.8, 87),
    "byol": (86.8, 108),
    "moco_v2": (84.7, 112),
    "barlow_twins": (81.9, 153),
    "swav": (84.2, 89),
    "nnclr": (81.5, 88),
    "simsiam": (76.4, 88),
    "dino": (81.3, 109),
    "dcl": (84.0, 88),
}
COLUMNS = ["method", "labels", "kNN", "linear probe", "steps", "minutes of training", "images/s", "commit"]
LAST_COLUMN = {"mnist": "below a baseline", "cifar10": "lightly: kNN at its best epoch, minutes on an A6000"}


def overrides(setting: str, name: str) -> list[str]:
    """What makes a row, but for its steps; the first row measures the baselines, which are every row's."""
    baselines = "[untrained,raw_pixels]" if setting == "mnist" and name == METHODS[0] else "[]"
    own = OWN.get((setting, name), [])
    return [f"experiment={name}_cifar10", *SETTINGS[setting], *own, f"baselines={baselines}"]


def reproduce(setting: str, name: str, seconds: float, again: bool) -> None:
    """Run one row and keep its result."""
    words = overrides(setting, name)
    folder = Path("outputs") / f"contrastive_{setting}" / (f"{name}_{seconds:g}s" if setting == "mnist" else name)
    if again:
        shutil.rmtree(folder, ignore_errors=True)
    if setting == "mnist":
        words.append(f"trainer.max_steps={steps_of_stopped(folder) or steps_in(seconds, words)}")
    run(words, folder)
    keep(folder, words, kept(setting)[name])


def kept(setting: str) -> dict[str, Path]:
    """Where results are, or will be, in the methods' order."""
    return {name: RESULTS / f"contrastive_{setting}" / f"{name}.json" for name in METHODS}


def table(setting: str) -> str:
    """All rows that have a result, best neighbours first, as Markdown."""
    found = read_those_there(kept(setting))
    floors = floors_of(found.get(METHODS[0], {"metrics": {}})["metrics"])
    rows = [[f"*{words}*", None, f"{knn:.2%}", f"{linear:.2%}"] for words, (knn, linear) in floors.items()]
    for name, result in sorted(found.items(), key=lambda item: -item[1]["metrics"]["knn/top1"]):
        scores = [result["metrics"][f"{key}/top1"] for key in ("knn", "linear_probe")]
        if setting == "mnist":
            below = [words for words, floor in floors.items() if any(a < b for a, b in zip(scores, floor, strict=True))]
            note = f"{' and '.join(below)}: {REASONS.get(name, 'not looked into')}" if below else ""
        else:
            note = "{}, {}".format(*LIGHTLY[name]) if name in LIGHTLY else "none"
        cells = [f"`{name}`", "yes" if name in LABELLED else "no", f"{scores[0]:.2%}", f"{scores[1]:.2%}"]
        cells += [f"{result['steps']:,}", minutes(result), f"{result['images_per_second']:,.0f}", commit(result), note]
        rows.append(cells)
    return markdown([*COLUMNS, LAST_COLUMN[setting]], rows)


def floors_of(metrics: dict[str, float]) -> dict[str, list[float]]:
    """kNN and linear probe of the baselines, where they were measured."""
    measured = {key: words for key, words in BASELINES.items() if f"{key}/knn/top1" in metrics}
    return {words: [metrics[f"{key}/{one}/top1"] for one in ("knn", "linear_probe")] for key, words in measured.items()}


def write_table(setting: str) -> None:
    """Put the table between its marks in docs/results/README.md."""
    write_between(RESULTS / "README.md", f"contrastive {setting}", lambda: table(setting))


def main() -> None:
    parser = command_line(__doc__, "--trial")
    parser.add_argument("setting", choices=SETTINGS, help="dataset and budget")
    add_names(parser, METHODS)
    parser.add_argument("--seconds", type=float, default=180, help="of training, with mnist")
    asked = parser.parse_args()
    setting, again = asked.setting, bool(asked.names)
    if asked.trial:
        for name in [] if asked.table else asked.names or METHODS:
            try_out(overrides(setting, name), f"{setting}_{name}")
        return
    missing = [name for name, path in kept(setting).items() if not path.exists()]
    rows = [] if asked.table else asked.names or missing
    make(rows, lambda name: reproduce(setting, name, asked.seconds, again), lambda: write_table(setting))


if __name__ == "__main__":
    main()
