"""Hard negatives against plain ones: HCL and SimCLR, paired over seeds, into docs/results/hard_negatives.md.

    python scripts/results/hard_negatives.py                              # what has no result yet, one after the other
    python scripts/results/hard_negatives.py --seconds 5 --results trial  # tried out, elsewhere
    python scripts/results/hard_negatives.py --table                      # only write the page anew

`experiment=hcl_cifar10` against `experiment=simclr_cifar10`, with conv4. Everything but the loss is equalised, to what
the HCL recipe has: batches of 256, Adam at a constant 0.001 with a weight decay of 1e-6, a head without a last batch
normalisation; the temperature is 0.5 in both recipes. Both take the same number of steps, which is what the slower of
the two does in the seconds, measured once and kept; and of a seed both draw the same weights, batches and crops. That
the resolved configs differ in the loss alone is checked before anything runs.

Run it alone. It goes on where it was stopped, also within a run. Figures are of test images and chose nothing; the
rates of false negatives are those of the diagnostics' training images, after the last step.
"""

import json
import statistics
from pathlib import Path
from typing import Any

from harness import command, command_line, commit, composed, interval, make, markdown, read, run, write
from timed_runs import steps_in

SEEDS = range(5)

COMMON = [
    "model/encoder=conv4",
    "trainer.max_epochs=null",
    "eval=[knn,linear_probe]",
    "baselines=[]",
]
METHODS = {
    "simclr": [
        "experiment=simclr_cifar10",
        "batching.batch_size=256",
        "optimizer=adam",
        "optimizer.lr=0.001",
        "optimizer.weight_decay=1.0e-6",
        "scheduler=constant",
        "model.head.last_norm=false",
    ],
    "hcl": ["experiment=hcl_cifar10"],
}
SCORES = {"knn/top1": "kNN", "linear_probe/top1": "linear probe"}
PANEL = {
    "false_negative_rate": "false negatives, share of the weight",
    "false_negative_base_rate": "false negatives among all images",
    "effective_negatives": "effective number of negatives",
    "hardest_negative_similarity": "similarity of the hardest negative",
    "positive_similarity": "similarity of the positive",
    "negatives_above_positive": "negatives more similar than the positive",
}

PAGE = """# Hard negatives on CIFAR-10

Made by `python scripts/results/hard_negatives.py`: HCL against SimCLR with conv4, {steps:,} steps each (seconds of
training below), paired over {seeds} seeds. Only the loss differs: both have the HCL recipe's batch (256),
optimizer, schedule, head and temperature (0.5), and of a seed the same weights, batches and crops. The difference is
HCL's figure less SimCLR's, with Student's 95% interval over seeds. Scores are of test images; the rest is of the
the diagnostics' 256 training images, of a seed the same for both, after the last step, averaged over anchors.
"""


def words(method: str) -> list[str]:
    """What makes a method, but for its seed and steps."""
    return [*METHODS[method], *COMMON]


def refuse_other_differences() -> None:
    """Raises RuntimeError where the two methods differ in more than loss and name."""
    both = [composed([*words(method), "trainer.max_steps=2"]) for method in METHODS]
    one, other = ({key: value for key, value in config.items() if key not in ("loss", "name")} for config in both)
    differing = [key for key in one if one[key] != other.get(key)]
    temperatures = {config["loss"]["temperature"] for config in both}
    if differing or len(temperatures) > 1:
        raise RuntimeError(f"the recipes differ in {', '.join(differing) or 'temperature'}; equalise METHODS")


def last_panel(folder: Path) -> dict[str, float]:
    """The diagnostics' figures after the last step."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    looks = [line for line in lines if "train/diagnostics/false_negative_rate" in line]
    return {name: looks[-1][f"train/diagnostics/{name}"] for name in PANEL}


def reproduce(method: str, seed: int, seconds: float, kept: dict[str, Any], page: Path) -> None:
    """One run, kept when it is done."""
    if "steps" not in kept:
        kept["steps"] = min(steps_in(seconds, words(name)) for name in METHODS)
        write_page(kept, page)
    given = [*words(method), f"trainer.max_steps={kept['steps']}", f"seed={seed}"]
    folder = Path("outputs") / f"hard_negatives_{seconds:g}s" / f"{method}_{seed}"
    run(given, folder)
    result = read(folder / "result.json")
    kept["runs"][f"{method}_{seed}"] = {
        "command": command(given),
        "git": result["git"],
        "training_seconds": result["training_seconds"],
        "metrics": {name: result["metrics"][name] for name in SCORES} | last_panel(folder),
        "hardware": result["hardware"],
    }


def write_page(kept: dict[str, Any], page: Path) -> None:
    """The figures as data, and the page about them as far as both runs of a seed are there."""
    write(page.with_suffix(".json"), kept)
    if paired_seeds(kept):
        page.write_text(as_page(kept), encoding="utf-8")


def paired_seeds(kept: dict[str, Any]) -> list[int]:
    """Seeds of which both methods are done."""
    return [seed for seed in SEEDS if all(f"{method}_{seed}" in kept["runs"] for method in METHODS)]


def as_page(kept: dict[str, Any]) -> str:
    """Markdown: the paired differences, every run, and what made them."""
    seeds, runs = paired_seeds(kept), kept["runs"]
    values = {
        name: [[runs[f"{method}_{seed}"]["metrics"][name] for seed in seeds] for method in METHODS]
        for name in (*SCORES, *PANEL)
    }
    rows = []
    for name, title in (SCORES | PANEL).items():
        number = name == "effective_negatives" or name.endswith("similarity")
        plain, hard = values[name]
        rows.append(compared(title, plain, hard, "{:+.2f}" if number else "{:+.2%}"))
    rates, chance = (values[f"false_negative_{kind}"] for kind in ("rate", "base_rate"))
    plain, hard = ([a / b for a, b in zip(*pair, strict=True)] for pair in zip(rates, chance, strict=True))
    rows.append(compared("false negatives, share of the weight over that among all", plain, hard, "{:+.3f}"))
    of_runs = [as_row(f"{method}_{seed}", runs[f"{method}_{seed}"]) for seed in seeds for method in METHODS]
    commands = [runs[f"{method}_{seeds[0]}"]["command"] for method in METHODS]
    parts = [
        PAGE.format(steps=kept["steps"], seeds=len(seeds)),
        markdown(["figure", "SimCLR", "HCL", "difference"], rows),
        "",
        markdown(["run", "kNN", "linear probe", "false negatives", "seconds of training", "commit"], of_runs),
        *["", "Commands of the first seed:", "", "```sh", *commands, "```"],
    ]
    return "\n".join(parts) + "\n"


def compared(title: str, plain: list[float], hard: list[float], show: str) -> list[str]:
    """A row: both means and the paired difference, in a format with a sign."""
    mean, half = interval([b - a for a, b in zip(plain, hard, strict=True)])
    means = [show.format(statistics.mean(one)).replace("+", "") for one in (plain, hard)]
    return [title, *means, f"{show.format(mean)} ± {show.format(half).replace('+', '')}"]


def as_row(name: str, result: dict[str, Any]) -> list[str]:
    scores = [f"{result['metrics'][key]:.2%}" for key in (*SCORES, "false_negative_rate")]
    return [f"`{name}`", *scores, f"{result['training_seconds']:.0f}", commit(result)]


def main() -> None:
    parser = command_line(__doc__, "--results")
    parser.add_argument("--seconds", type=float, default=170, help="of training, a run")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), choices=range(1, len(SEEDS) + 1), help="how many")
    asked = parser.parse_args()
    page = asked.results / "hard_negatives.md"
    data = page.with_suffix(".json")
    kept = read(data) if data.exists() else {"seconds": asked.seconds, "runs": {}}
    if kept["seconds"] != asked.seconds:
        raise SystemExit(
            f"{data} is of {kept['seconds']:g} seconds; move it away, or give --seconds {kept['seconds']:g}"
        )
    refuse_other_differences()
    both = [(method, seed) for seed in range(asked.seeds) for method in METHODS]
    rows = [] if asked.table else [row for row in both if "{}_{}".format(*row) not in kept["runs"]]
    make(rows, lambda row: reproduce(*row, asked.seconds, kept, page), lambda: write_page(kept, page))


if __name__ == "__main__":
    main()
