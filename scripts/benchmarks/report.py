"""Seconds and memory of `ssl-report` over made-up run folders, and their growth.

Each folder has a config and a result as large as those of experiment=simclr_mnist. A sweep of temperatures and
learning rates has ten seeds of each setting. The command is timed with all imports; on a machine that does other
work, look at the processor's seconds.
"""

import json
import multiprocessing
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .measure import command_cost, exponent
from .row import Goal, Row, Settings

SEEDS = 10
SECONDS = {100: 3, 1_000: 4, 10_000: 15}  # of the processor, at most
KNN = {
    "k": 20,
    "temperature": 0.1,
    "gallery": "mnist/train and mnist/validation",
    "gallery_size": 60000,
    "validation": "mnist/validation",
    "queries": "mnist/test",
    "query_size": 10000,
    "classes": "seen",
    "seed": 0,
}
TASKS = {
    name: {"n_way": 5, "k_shot": k, "n_query": 15, "tasks": 8 * f"{k}a2b3c4d"} for name, k in (("5w1s", 1), ("5w5s", 5))
}
FEW_SHOT = {
    "source": "mnist/test",
    "classes": "seen",
    "episodes": 1000,
    "seed": 0,
    "interval": "95%",
    "settings": TASKS,
}
DATA = {
    "name": "mnist",
    "fingerprint": "6d4d73b34e3fead2",
    "split_by": "images",
    "images": {"train": 55000, "validation": 5000, "test": 10000},
    "classes": {"train": 10, "validation": 10, "test": 10},
}


def make(outputs: Path, runs: int) -> None:
    """Write run folders."""
    import yaml

    from ssl_runner.cli.python_api import compose
    from ssl_runner.config.hashing import config_hash

    config = dict(compose("experiment=simclr_mnist"))
    draw = random.Random(0)
    for number in range(runs):
        setting, seed = divmod(number, SEEDS)
        rate, temperature = divmod(setting, 10)
        config["loss"] = config["loss"] | {"temperature": (temperature + 1) / 20}
        config["optimizer"] = config["optimizer"] | {"lr": (rate + 1) / 1000}
        config["seed"] = seed
        folder = outputs / f"sweep_{rate}" / f"temperature={temperature},lr={rate},seed={seed}"
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.dump(config, Dumper=yaml.CSafeDumper, sort_keys=False))
        scores = {
            name: draw.gauss(0.9 + temperature / 1000, 0.005)
            for name in (
                "knn/top1",
                "linear_probe/top1",
                "few_shot/5w1s/top1",
                "untrained/knn/top1",
                "raw_pixels/knn/top1",
            )
        }
        result = {
            "status": "finished",
            "metrics": scores | {"few_shot/5w1s/ci95": 0.006},
            "times": {},
            "command": f"ssl-train -m experiment=simclr_mnist loss.temperature={temperature} seed={seed}",
            "config_hash": config_hash(config),
            "seed": seed,
            "planned_steps": 2145,
            "dataset": DATA,
            "protocols": {"knn": KNN, "linear_probe": KNN, "few_shot": FEW_SHOT, "algorithm": {}},
            "hardware": {"device": "cpu", "threads": 1, "processes": 1, "cpus": 2},
            "git": {"commit": 40 * "0", "dirty": False},
            "seconds": 180.0,
        }
        (folder / "result.json").write_text(json.dumps(result, indent=2))


def rows(settings: Settings) -> Iterator[Row]:
    """Of several numbers of runs, without and with a baseline."""
    sizes, costs = [20] if settings.quick else list(SECONDS), []
    for runs in sizes:
        with tempfile.TemporaryDirectory() as folder:
            # in a process of its own: the memory of a child counts from its parent's at the start
            making = multiprocessing.get_context("spawn").Process(target=make, args=(Path(folder), runs))
            making.start()
            making.join()
            # the first ten settings differ in temperature alone
            first = "temperature=0.05" if runs <= 10 * SEEDS else "temperature=0.05,lr=0.001"
            for words in ([], ["--baseline", first]):
                command = [sys.executable, "-m", "ssl_runner.commands.report", folder, *words]
                if not settings.quick:
                    command_cost(command)  # modules are compiled, and the disk's cache is filled
                found = [command_cost(command) for _ in range(settings.rounds)]
                middle = {key: statistics.median(cost[key] for cost in found) for key in found[0]}
                what = f"{runs:,} runs{' --baseline' if words else ''}"
                yield Row(f"{what}: of the processor", middle["processor"], "s", goal=Goal(most=SECONDS.get(runs, 9)))
                yield Row(f"{what}: time", middle["seconds"], "s")
                yield Row(f"{what}: memory", middle["mb"], "MB", goal=Goal(most=400))
            costs.append(middle["processor"])
    if len(sizes) > 1:
        yield Row(f"growth with runs, {sizes[0]:,} to {sizes[-1]:,}", exponent(sizes, costs), "", goal=Goal(most=1))
