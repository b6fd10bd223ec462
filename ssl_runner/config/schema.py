"""The keys at the root of a config, and the arguments that the wiring supplies."""

from collections.abc import Mapping, Set
from typing import Any

from omegaconf import DictConfig, open_dict

from ssl_runner.config.checking import check_config, check_plain
from ssl_runner.config.paths import with_absolute_paths
from ssl_runner.config.signatures import Factory, Node

# a whole config, or a node of it, of plain values
Config = dict[str, Any]

ROOT_KEYS: Mapping[str, Any] = {
    "algorithm": Node,
    "model.encoder": Factory,
    "model.head": Factory,
    "loss": Node | None,
    "dataset": Node,
    "augmentation": Node,
    "batching": Node,
    "masking": Node | None,
    "optimizer": Factory,
    "scheduler": Node,
    "eval.*": Node | None,
    "trainer": Node,
    "baselines": list[str],
    "name": str,
    "seed": int,
    "resume": str | None,
    "reproduce": str | None,
    "dry_run": bool,
    "init.weights": str | None,
    "init.freeze": bool,
    "init.fingerprint": str | None,
    "sweep": dict[str, bool] | None,
}

# the baselines that the trained encoder is compared with, and their names in tables
BASELINES = {"untrained": "untrained encoder", "raw_pixels": "raw pixels"}

# arguments that the wiring supplies
SUPPLIED: Mapping[str, Set[str]] = {
    "algorithm": {"network", "loss", "n_way"},
    "batching": {"augmentation"},
    "model.encoder": {"in_channels", "image_size"},
    "model.head": {"in_features", "n_outputs"},
    "optimizer": {"params"},
}


# what configs of earlier versions lack, and stood for
NO_WEIGHTS: Mapping[str, Any] = {"weights": None, "freeze": False, "fingerprint": None}


def check_again(plain: Config) -> Config:
    """Like `check`, for a config that was plain already."""
    if "init" not in plain and "init.weights" in ROOT_KEYS:
        plain = plain | {"init": dict(NO_WEIGHTS)}
    return with_absolute_paths(check_plain(plain, ROOT_KEYS, SUPPLIED))


def check(config: DictConfig) -> dict[str, Any]:
    """The plain form of a run's config, its paths absolute.

    Raises:
        ConfigError: With every problem at once.
    """
    if "init" not in config and "init.weights" in ROOT_KEYS:
        config = config.copy()
        with open_dict(config):
            config.init = dict(NO_WEIGHTS)
    return with_absolute_paths(check_config(config, ROOT_KEYS, SUPPLIED))
