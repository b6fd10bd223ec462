"""Run folders that no run wrote: results of which the truth is known."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ssl_runner.config.hashing import config_hash

CONFIG = {
    "algorithm": {"_target_": "ssl_runner.algorithms.contrastive.Contrastive", "encode_chunks": 1},
    "loss": {"_target_": "ssl_runner.losses.nt_xent.NTXent", "temperature": 0.5},
    "dataset": {"_target_": "ssl_runner.data.sources.mnist.mnist", "root": "data", "split": "images"},
    "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.002},
    "eval": {"knn": {"_target_": "ssl_runner.evaluation.knn.KNN", "k": 20}},
    "trainer": {"max_steps": 100, "log_every": 10, "select": None},
    "name": "made",
    "seed": 0,
    "baselines": [],
}
KNN = {"k": 20, "gallery": "mnist/train", "queries": "mnist/test", "classes": "seen", "seed": 0}
FEW_SHOT = {
    "source": "mnist/test",
    "classes": "seen",
    "episodes": 1000,
    "seed": 0,
    "interval": "95%, 1.96 std / sqrt(n)",
    "settings": {
        "5w1s": {"n_way": 5, "k_shot": 1, "n_query": 15, "tasks": "aaaa" * 16},
        "5w5s": {"n_way": 5, "k_shot": 5, "n_query": 15, "tasks": "bbbb" * 16},
    },
}
DATA = {"name": "mnist", "fingerprint": "6d4d73b34e3fead2", "split_by": "images", "images": {"train": 9, "test": 3}}


def changed(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A config with other values, by dotted key; a value that is a dict replaces its node."""
    found: dict[str, Any] = copy.deepcopy(dict(config))
    for key, value in values.items():
        *above, last = key.split(".")
        node = found
        for name in above:
            node = node.setdefault(name, {})
        node[last] = value
    return found


def make(
    folder: Path,
    metrics: Mapping[str, float],
    seed: int = 0,
    values: Mapping[str, Any] | None = None,
    protocols: Mapping[str, Any] | None = None,
    dataset: Mapping[str, Any] | None = None,
    **content: Any,
) -> Path:
    """Write a run folder.

    Args:
        metrics: Of result.json.
        values: What differs from `CONFIG`, by dotted key.
        protocols: Instead of those of kNN and few-shot tasks, by evaluator.
        dataset: What differs from `DATA`.
        content: Further parts of result.json.
    """
    config = changed(CONFIG, {**(values or {}), "seed": seed})
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    result = {
        "status": "finished",
        "metrics": dict(metrics),
        "command": f"ssl-train experiment=made seed={seed}",
        "config_hash": config_hash(config),
        "seed": seed,
        "dataset": DATA | dict(dataset or {}),
        "protocols": {"knn": KNN, "few_shot": FEW_SHOT, "algorithm": {}} | dict(protocols or {}),
        "git": {"commit": "0" * 40, "dirty": False},
        "seconds": 60.0,
    }
    (folder / "result.json").write_text(json.dumps(result | content), encoding="utf-8")
    return folder


def sweep(folder: Path, figures: Mapping[float, Mapping[int, float]], metric: str = "knn/top1") -> Path:
    """Runs of several temperatures and seeds.

    Args:
        figures: By temperature and seed.
    """
    for temperature, seeds in figures.items():
        for seed, value in seeds.items():
            name = f"temperature={temperature},seed={seed}"
            make(folder / name, {metric: value}, seed, {"loss.temperature": temperature})
    return folder
