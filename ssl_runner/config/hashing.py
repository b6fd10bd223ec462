"""The hash of everything in a config that can change a result, and the difference of two configs."""

import fnmatch
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_runner.config.renamed import with_hashed_names

# patterns of dotted keys that cannot change a result, and may therefore differ on resume
OUTSIDE_THE_HASH = (
    "resume",
    "reproduce",
    "dry_run",
    "sweep",
    "sweep.*",
    "init.weights",  # only where they are; their content is init.fingerprint
    "name",
    "dataset.root",
    "dataset.*.root",
    "eval.*.dataset.root",
    "eval.*.dataset.*.root",
    "dataset.encoder",  # only its path; its content is part of the data's fingerprint
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.diagnostics_every",
    "trainer.stop_on_collapse",
    "trainer.progress",
    "trainer.profile",
    "trainer.timeout",
    "trainer.keep_pages",
    "trainer.compile",  # rounds differently, as another number of threads does
    "trainer.shard",  # the same
)


# patterns of keys that earlier versions do not have, with the values by which a run is what it was then
AS_BEFORE: Mapping[str, Any] = {
    "init.freeze": False,
    "init.fingerprint": None,
    "*dataset.decoder": "pillow",
    "masking": None,
    "dataset.weights": None,
    "scheduler.final_weight_decay": None,
    "loss.centering": "center",
    "model.encoder.features": "cls",
    "model.encoder.layers": 1,
    "model.encoder.positions": "learned",
    "model.encoder.registers": 0,
    "model.encoder.drop_path": 0.0,
    "eval.knn*.labels": 1.0,
    "eval.*.features": None,
    "eval.*.layers": None,
    "eval.*.optimizer": "sgd",
    "eval.*.layer_decay": 1,
    "eval.*.mixup": 0,
    "eval.*.warmup_share": 0,
    "eval.*.precision": "float32",
    "model.head.batch_norm": False,
    "algorithm.label_scale": 1.0,
    "*.without": None,
    "eval.*.classifier": None,
}

# its config of earlier versions has no class_split, and draws its classes
TINY_IMAGENET = "ssl_runner.data.sources.tiny_imagenet.tiny_imagenet"

# where a run ends; part of the hash, but it may change if nothing in the run depends on it
END = ("trainer.max_steps", "trainer.max_epochs")


def join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Dotted keys and values; empty mappings count as values, and so do lists unless they hold mappings or lists."""
    if isinstance(value, Mapping) and value:
        children = {join(path, key): item for key, item in value.items()}
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        children = {f"{path}[{number}]": item for number, item in enumerate(value)}
    else:
        return {path: value}
    return {key: leaf for name, child in children.items() for key, leaf in flatten(child, name).items()}


def _inside_the_hash(config: Mapping[str, Any]) -> dict[str, Any]:
    flat = flatten(config)
    outside = {key for key in flat for pattern in OUTSIDE_THE_HASH if fnmatch.fnmatchcase(key, pattern)}
    outside |= {
        key
        for key, value in flat.items()
        for pattern, before in AS_BEFORE.items()
        if fnmatch.fnmatchcase(key, pattern) and value == before
    }
    outside |= _unread(flat)
    return {key: _canonical(value) for key, value in flat.items() if key not in outside}


def _unread(flat: Mapping[str, Any]) -> set[str]:
    """Keys that nothing reads, because of the values of others."""
    unread = {"loss.sinkhorn_iterations"} if flat.get("loss.centering") == "center" else set()
    if str(flat.get("algorithm._target_")).endswith(".ProtoNet") and flat.get("algorithm.temperature") == 1:
        unread.add("algorithm.temperature")  # which MatchingNet has had from the start
    for key, value in flat.items():
        node = key.removesuffix("_target_")
        if value == TINY_IMAGENET and (
            flat.get(f"{node}split") == "images" or flat.get(f"{node}class_split") == "random"
        ):
            unread.add(f"{node}class_split")
    return unread | {key for key in flat if _unread_classifier(key, flat)}


def _unread_classifier(key: str, flat: Mapping[str, Any]) -> bool:
    """Whether a key belongs to a few-shot classifier that is not chosen, or to the table of them if it is empty."""
    evaluator, found, rest = key.partition(".classifiers")
    if not found or not evaluator.startswith("eval.") or rest[:1] not in ("", "."):
        return False
    chosen = flat.get(f"{evaluator}.classifier")
    return rest[1:].partition(".")[0] not in (chosen if isinstance(chosen, list) else [chosen])


def _canonical(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # lr=1 and lr=1.0 are the same run
    return value


def config_hash(config: Mapping[str, Any], but: Sequence[str] = ()) -> str:
    """A hash of everything that can change the result, in sixteen hex digits; see OUTSIDE_THE_HASH for exceptions.

    Args:
        but: Further dotted keys to leave out.
    """
    kept = {key: value for key, value in _inside_the_hash(config).items() if key not in but}
    text = json.dumps(with_hashed_names(kept), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def setting_hash(config: Mapping[str, Any], origin: str | None = None) -> str:
    """The hash that runs share which differ in their seed only, and in the seeds of what they begin from.

    Args:
        origin: The setting of the run from which the weights are; None if they are drawn, or no run's.
    """
    own = config_hash(config, ("seed",) if origin is None else ("seed", "init.fingerprint"))
    return own if origin is None else hashlib.sha256(f"{own} {origin}".encode()).hexdigest()[:16]


def config_difference(before: Mapping[str, Any], after: Mapping[str, Any], but: Sequence[str] = ()) -> list[str]:
    """Lines such as ``optimizer.lr: 0.1 -> 0.2`` for each difference in the hashed keys, except the keys ``but``."""
    first, second = _inside_the_hash(before), _inside_the_hash(after)
    keys = sorted((first.keys() | second.keys()) - set(but))
    show = {key: tuple(repr(side[key]) if key in side else "(absent)" for side in (first, second)) for key in keys}
    return [f"{key}: {old} -> {new}" for key, (old, new) in show.items() if old != new]
