"""Seconds and memory of ``ssl-report`` over made-up run folders: docs/results/report.json.

    python scripts/benchmarks/report.py [--runs 1000 10000] [--rounds 5]

Each folder has a config and a result as large as those of experiment=simclr_mnist. A sweep of temperatures and learning
rates has ten seeds of each setting. The command is timed from its start to its end, with all imports; the median of the
rounds counts, and the largest memory of them. On a machine that does other work, look at the processor's seconds.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from ssl_runner.runs import provenance

SEEDS = 10
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
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


def measured(outputs: Path, *words: str) -> tuple[float, float, float]:
    """Seconds, seconds of the processor, and peak memory in MB of the command."""
    command = [sys.executable, "-m", "ssl_runner.commands.report", str(outputs), *words]
    # compiled modules are kept, as they are by default
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    assert status == 0, "ssl-report failed"
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "report.json")
    asked = parser.parse_args()
    found = []
    for runs in asked.runs:
        with tempfile.TemporaryDirectory() as folder:
            # in a process of its own: the memory of a child counts from its parent's at the start
            making = multiprocessing.get_context("spawn").Process(target=make, args=(Path(folder), runs))
            making.start()
            making.join()
            for words in ([], ["--baseline", "temperature=0.05,lr=0.001"]):
                measured(Path(folder), *words)  # modules are compiled, and the disk's cache is filled
                rounds = [measured(Path(folder), *words) for _ in range(asked.rounds)]
                seconds, processor, memory = zip(*rounds, strict=True)
                found.append(
                    {
                        "runs": runs,
                        "words": words,
                        "seconds": round(statistics.median(seconds), 2),
                        "processor_seconds": round(statistics.median(processor), 2),
                        "peak_mb": round(max(memory)),
                    }
                )
                print(found[-1], flush=True)
    content = {"command": provenance.command(), "rounds": asked.rounds, "cpus": os.cpu_count(), "measured": found}
    asked.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
