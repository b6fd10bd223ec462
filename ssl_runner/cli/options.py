"""The options of conf/, each explained key by key: what its file sets, what its comments say, what its docstring says.

Reads the option's file and the source of its ``_target_``, without importing either Hydra or torch.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ssl_runner.cli import docstrings
from ssl_runner.cli.layout import first_sentence
from ssl_runner.cli.yaml_comments import LOADER, comments, package
from ssl_runner.errors import ConfigError

EXPERIMENT, SWEEP, SUITE = "experiment", "sweep", "suite"
_SPECIAL = ("_target_", "_partial_", "_args_", "_convert_", "defaults")

# torch puts its docstrings together when it is imported
_TORCH = {
    "torch.optim.SGD": "Stochastic gradient descent with momentum.",
    "torch.optim.Adam": "Adam (Kingma & Ba 2015, arXiv:1412.6980).",
    "torch.optim.AdamW": "Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101).",
}
_OPTIMIZERS = {
    "lr": "Learning rate, which the scheduler multiplies.",
    "momentum": "Share of the last update that is kept, in [0, 1).",
    "betas": "Shares of the mean gradient and of the mean square that a step keeps, two numbers in [0, 1).",
    "weight_decay": "Of matrices and kernels; biases and normalisation have none.",
}
# keys of experiments that belong to no group
_ROOT = {
    "name": "Folder of the run's kind under outputs/.",
    "seed": "Of every draw.",
    "baselines": "What the encoder is compared with.",
}


# keys of experiments that no option has
_COMMON = _ROOT | {f"optimizer.{key}": text for key, text in _OPTIMIZERS.items()}


@dataclass(frozen=True)
class Key:
    """One key of an option.

    Attributes:
        name: Dotted, as on the command line.
        value: As conf sets it, in YAML on one line; nothing for a node, whose own keys follow.
        kind: The values that it takes, in words.
        text: What it means.
        comment: What its line in the YAML file says.
    """

    name: str
    value: str
    kind: str
    text: str
    comment: str


@dataclass(frozen=True)
class Node:
    """A nested object of an option.

    Attributes:
        name: Dotted key.
        target: The class or function.
        summary: First paragraph of its docstring.
    """

    name: str
    target: str
    summary: str


@dataclass(frozen=True)
class Option:
    """One file of conf/.

    Attributes:
        word: What selects it, ``loss=hard_negative``.
        comment: At the top of the file.
        target: The class or function, or None for an experiment.
        paragraphs: Its docstring without the sections.
        keys: In the file's order.
        nodes: Nested objects.
        selects: What an experiment chooses, group by group, or what an option contains.
        also: Arguments that conf leaves out.
    """

    word: str
    comment: str
    target: str | None
    paragraphs: list[str]
    keys: list[Key]
    nodes: list[Node] = field(default_factory=list)
    selects: Mapping[str, str] = field(default_factory=dict)
    also: list[str] = field(default_factory=list)


def groups(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Names of the options by group, in all conf folders."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.rglob("*.yaml"):
            if path.parent != folder:
                found.setdefault(path.parent.relative_to(folder).as_posix(), set()).add(path.stem)
    return {group: sorted(found[group]) for group in sorted(found)}


def summaries(options: Sequence[Option]) -> dict[str, str]:
    """One sentence for each option of a group, by its word: of the docstring, or of the file where several share it."""
    targets = [option.target for option in options]
    found = {}
    for option in options:
        texts = [" ".join(option.paragraphs[:1]), option.comment]
        shared = targets.count(option.target) > 1
        found[option.word] = next((first_sentence(text) for text in (texts[::-1] if shared else texts) if text), "")
    return found


def read(folders: Sequence[Path], group: str, name: str) -> Option:
    """An option from its file and its target's source.

    Raises:
        ConfigError: The file is no YAML.
    """
    text, content = _content(folders, f"{group}/{name}.yaml")
    header, said = comments(text)
    if group == EXPERIMENT:
        return _experiment(folders, name, header, said, content)
    if group == SWEEP:
        return Option(f"{group}={name}", header, None, [], list(_swept(folders, content, said)), [], {})
    prefix = package(text) or group.replace("/", ".")
    nodes: list[Node] = []
    keys = list(_keys(content, "", prefix, said, nodes))
    if prefix == "_global_":  # a key at the root, such as masking=null
        keys = [replace(key, name=key.name.removeprefix("_global_.")) for key in keys]
    target = content.get("_target_")
    if target is None and all(value is None for value in content.values()):  # masking=none
        keys = [replace(key, name=key.name.removeprefix("_global_."), kind="null", text=header) for key in keys]
    found = docstrings.describe(target) if target else docstrings.Found()
    paragraphs = found.paragraphs or ([_TORCH[target]] if target in _TORCH else [])
    contained = _contained(content, group, prefix)
    there = content.keys() | {place.removeprefix(f"{prefix}.").partition(".")[0] for place in contained}
    also = [key for key, taken in found.parameters.items() if taken.default is not None and key not in there]
    return Option(f"{group}={name}", header, target, paragraphs, keys, nodes, contained, also)


def file(folders: Sequence[Path], name: str) -> Path:
    """Where ``group/option.yaml`` is."""
    return next(path for folder in folders if (path := folder / name).is_file())


def _content(folders: Sequence[Path], name: str) -> tuple[str, dict[str, Any]]:
    path = file(folders, name)
    text = path.read_text(encoding="utf-8")
    try:
        return text, yaml.load(text, LOADER) or {}
    except yaml.YAMLError as error:
        raise ConfigError([f"{path} is no YAML: {' '.join(str(error).split())}"]) from None


def _keys(
    node: Mapping[str, Any], path: str, prefix: str, comments: Mapping[str, str], nodes: list[Node], of_all: str = ""
) -> Iterator[Key]:
    """The keys of a node and of what is in it.

    Args:
        of_all: Explanation of entries that have none of their own: of a mapping of nodes.
    """
    target = node.get("_target_")
    found = docstrings.describe(target) if target else docstrings.Found()
    torch_s = _OPTIMIZERS if target in _TORCH else {}
    for key, value in node.items():
        if key in _SPECIAL:
            continue
        place = f"{path}.{key}" if path else key
        name = f"{prefix}.{place}" if prefix else place
        text = found.explanations.get(key) or torch_s.get(key, "")
        kind = found.parameters[key].kind if key in found.parameters else ""
        if isinstance(value, dict) and value and not _is_plain(value, kind):
            inner = value.get("_target_")
            if inner:
                nodes.append(Node(name, inner, " ".join(docstrings.describe(inner).paragraphs[:1])))
            if text:
                yield Key(name, "", kind, text, comments.get(place, ""))
            yield from _keys(value, place, prefix, comments, nodes, "" if inner else text)
        else:
            yield Key(name, as_yaml(value), kind, text or of_all, comments.get(place, ""))


def _is_plain(value: Mapping[str, Any], kind: str) -> bool:
    """Whether a mapping is a value as a whole, such as weights by name."""
    return kind.startswith("mapping to numbers") and "_target_" not in value


def _swept(folders: Sequence[Path], content: Mapping[str, Any], said: Mapping[str, str]) -> Iterator[Key]:
    """The keys that differ between jobs, or are the same in each of them."""
    params = content["hydra"]["sweeper"]["params"]
    own = _keys({key: value for key, value in content.items() if key != "hydra"}, "", "", said, [])
    yield from _told(folders, _chosen(_content(folders, "config.yaml")[1]), own)
    for key, value in params.items():
        text = as_yaml(value).replace(", ", ",")
        several = "," in re.sub(r"\[[^]]*\]", "", text)  # commas of a list separate no jobs
        meaning = "A job for each." if several else "The same in every job."
        yield Key(key, text, "values" if several else "value", meaning, said.get(f"hydra.sweeper.params.{key}", ""))


def _contained(content: Mapping[str, Any], group: str, prefix: str) -> dict[str, str]:
    """Options that stand in an option: ``/dataset@dataset: omniglot``, or ``target: pixels`` of a group in its own."""
    entries = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
    found = {}
    for key, option in (pair for entry in entries for pair in entry.items() if pair[1] is not None):
        chosen, at, place = key.removeprefix("/").partition("@")
        found[f"{prefix}.{place or chosen}"] = f"{chosen if at else f'{group}/{chosen}'}={option}"
    return found


def _experiment(
    folders: Sequence[Path], name: str, header: str, comments: Mapping[str, str], content: Mapping[str, Any]
) -> Option:
    own, bases = _chosen(content), _bases(content)
    chosen = _chosen(_content(folders, "config.yaml")[1]) | _inherited(folders, bases) | own
    nodes: list[Node] = []
    keys = list(_told(folders, chosen, _keys(content, "", "", comments, nodes)))
    selects = {EXPERIMENT: ",".join(bases)} if bases else {}
    selects |= {group: ",".join(options) for group, options in own.items()}
    return Option(f"{EXPERIMENT}={name}", header, None, [], keys, nodes, selects)


def _told(folders: Sequence[Path], chosen: Mapping[str, Sequence[str]], keys: Iterator[Key]) -> Iterator[Key]:
    """Keys with the texts that the chosen options, by group, have of them."""
    explained = _explanations(folders, {group: names for group, names in chosen.items() if group != EXPERIMENT})
    for key in keys:
        # an entry that is set to null, such as one of augmentation.transforms, has no key of its own
        known = explained.get(key.name) or explained.get(key.name.rpartition(".")[0])
        text = key.text or (known.text if known is not None else _COMMON.get(key.name, ""))
        yield replace(key, text=text, kind=key.kind or (known.kind if known is not None else ""))


def _explanations(folders: Sequence[Path], chosen: Mapping[str, Sequence[str]]) -> dict[str, Key]:
    """The keys of options by group, by name; of ``loss@algorithm.image_loss``, those of the loss at that place."""
    inner: dict[str, list[str]] = {}  # what options contain, unless another one is chosen: algorithm/target
    for group, options in chosen.items():
        for option in options:
            content = _content(folders, f"{group.partition('@')[0]}/{option}.yaml")[1]
            inner |= {f"{group}/{name}": taken for name, taken in _chosen(content).items() if "@" not in name}
    explained: dict[str, Key] = {}
    for group, options in (inner | dict(chosen)).items():
        kind, _, place = group.partition("@")
        for key in (key for option in options for key in read(folders, kind, option).keys):
            name = f"{place}{key.name.removeprefix(kind)}" if place else key.name
            explained[name] = key
    return explained


def _inherited(folders: Sequence[Path], bases: Sequence[str]) -> dict[str, list[str]]:
    """The options that experiments select which another builds upon, and those that they build upon."""
    found: dict[str, list[str]] = {}
    for name in bases:
        content = _content(folders, f"{EXPERIMENT}/{name}.yaml")[1]
        found |= _inherited(folders, _bases(content)) | _chosen(content)
    return found


def _bases(content: Mapping[str, Any]) -> list[str]:
    """The experiments that one builds upon."""
    return [entry for entry in content.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]


def _chosen(content: Mapping[str, Any]) -> dict[str, list[str]]:
    """The options that a defaults list selects, by group."""
    entries = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
    pairs = [(key.removeprefix("override ").lstrip("/"), value) for entry in entries for key, value in entry.items()]
    return {group: value if isinstance(value, list) else [value] for group, value in pairs if value is not None}


def as_yaml(value: Any) -> str:
    """A value on one line, as it may be written on the command line."""
    if isinstance(value, str):
        return value
    return json.dumps(value).replace('"', "")
