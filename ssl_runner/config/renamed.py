"""Names that have changed: configs of version 0.1 keep working for one release, with a warning.

The hash of a config uses the old names, so that a run keeps its hash.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_DATA = "ssl_runner.data"
TARGETS = {
    "ssl_runner.algorithms.context.Context": "ssl_runner.algorithms.in_context_transformer.InContextTransformer",
    "ssl_runner.algorithms.predictive.Predictive": "ssl_runner.algorithms.stop_gradient.StopGradient",
    "ssl_runner.models.timm_encoder.ViT": "ssl_runner.models.vit.ViT",
    "ssl_runner.trainer.Trainer": "ssl_runner.training.trainer.Trainer",
    f"{_DATA}.augmentation.ColourJitter": f"{_DATA}.augmentation.ColorJitter",
    f"{_DATA}.batching.EpisodeBatching": f"{_DATA}.episodes.episode_batching.EpisodeBatching",
    f"{_DATA}.batching.ViewBatching": f"{_DATA}.batching.view_batching.ViewBatching",
    f"{_DATA}.cifar10.cifar10": f"{_DATA}.sources.cifar10.cifar10",
    f"{_DATA}.clustered.clustered": f"{_DATA}.sources.clustered.clustered",
    f"{_DATA}.digits.digits": f"{_DATA}.sources.digits.digits",
    f"{_DATA}.image_folder.image_folder": f"{_DATA}.sources.image_folder.image_folder",
    f"{_DATA}.mixture.mixture": f"{_DATA}.sources.mixture.mixture",
    f"{_DATA}.mnist.fashion_mnist": f"{_DATA}.sources.mnist.fashion_mnist",
    f"{_DATA}.mnist.mnist": f"{_DATA}.sources.mnist.mnist",
    f"{_DATA}.multi_crop.MultiCropBatching": f"{_DATA}.batching.multi_crop.MultiCropBatching",
    f"{_DATA}.omniglot.omniglot": f"{_DATA}.sources.omniglot.omniglot",
    f"{_DATA}.pseudo_episodes.PseudoEpisodeBatching": f"{_DATA}.episodes.pseudo_episodes.PseudoEpisodeBatching",
    f"{_DATA}.task_augmentation.TaskAugmentation": f"{_DATA}.episodes.task_augmentation.TaskAugmentation",
    f"{_DATA}.torchvision_sets.torchvision_set": f"{_DATA}.sources.torchvision_sets.torchvision_set",
    f"{_DATA}.translated_digits.translated_digits": f"{_DATA}.sources.translated_digits.translated_digits",
}
# dotted keys
KEYS: Mapping[str, str] = {
    "batching.task_augmentation.colourisation": "batching.task_augmentation.colorization",
    "trainer.accumulate": "trainer.accumulate_grad_batches",
    "trainer.gradient_clip": "trainer.gradient_clip_norm",
    "trainer.panel_every": "trainer.diagnostics_every",
}

# options of groups
OPTIONS: Mapping[str, str] = {
    "algorithm=context": "algorithm=in_context_transformer",
    "algorithm=predictive": "algorithm=stop_gradient",
}

_OLD_TARGETS = {new: old for old, new in TARGETS.items()}
_OLD_KEYS = {new: old for old, new in KEYS.items()}


def with_current_names(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A plain config with current names, and one line for each renamed key or target.

    If both names of a key are set, the old one was set by the user and takes precedence.
    """
    renamed: list[str] = []
    return _current(config, "", renamed), list(dict.fromkeys(renamed))


def _current(value: Any, path: str, renamed: list[str]) -> Any:
    if isinstance(value, list):
        return [_current(item, f"{path}[{number}]", renamed) for number, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    found: dict[str, Any] = {}
    for key, item in value.items():
        place = f"{path}.{key}" if path else str(key)
        new = KEYS.get(place)
        if new is not None:
            renamed.append(f"{place} is now called {new}")
            found[new.rpartition(".")[2]] = item
        elif key == "_target_" and isinstance(item, str) and item in TARGETS:
            renamed.append(f"{item} is now {TARGETS[item]}")
            found[key] = TARGETS[item]
        elif _OLD_KEYS.get(place, place).rpartition(".")[2] not in value or place not in _OLD_KEYS:
            found[key] = _current(item, place, renamed)
    return found


def current_words(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line with current keys and options, and one line for each renamed one."""
    words, renamed = [], []
    for word in overrides:
        sign = word[: len(word) - len(word.lstrip("+~"))]
        key, equals, value = word[len(sign) :].partition("=")
        if key in KEYS:
            renamed.append(f"{key} is now called {KEYS[key]}")
        elif word in OPTIONS:
            renamed.append(f"{word} is now called {OPTIONS[word]}")
        words.append(OPTIONS.get(word, f"{sign}{KEYS.get(key, key)}{equals}{value}"))
    return words, list(dict.fromkeys(renamed))


def with_hashed_names(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys and values with the names that the hash uses."""
    return {
        _OLD_KEYS.get(key, key): _OLD_TARGETS.get(value, value) if key.endswith("_target_") else value
        for key, value in flat.items()
    }
