"""From a command line to a composed config: Hydra's composition, without values left over from deselected options."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from ssl_runner.cli import search_path
from ssl_runner.cli.hydra_private import Loader, Override
from ssl_runner.config.hashing import flatten

EXPERIMENT = "experiment"


@dataclass(frozen=True)
class Selection:
    """The options that a composition selects.

    Attributes:
        packages: Maps ``group/option`` to the dotted key of the node it fills.
        several: Groups from which a list is selected, even an empty one.
        known: Groups that can be selected without a +.
    """

    packages: dict[str, str]
    several: frozenset[str]
    known: frozenset[str]

    def options(self, group: str) -> list[str]:
        """The group's options, in order."""
        return [path.rpartition("/")[2] for path in self.packages if path.rpartition("/")[0] == group]

    def override(self, group: str) -> str:
        """The override that selects the same options of this group."""
        options = self.options(group)
        if group in self.several:
            return f"{group}=[{','.join(options)}]"
        return f"{group}={options[0]}" if options else f"~{group}"


class Composer:
    """Composes configs from folders, without Hydra's global state; remembers what it has composed.

    Attributes:
        folder: The conf folder, absolute.
        extra_folder: The folder that ``--config-dir`` adds, or None.
        name: Name of the primary config.
    """

    def __init__(self, folder: Path, extra_folder: Path | None = None, name: str = "config") -> None:
        self.folder, self.extra_folder, self.name = folder, extra_folder, name
        self._composed: dict[tuple[tuple[str, ...], RunMode], DictConfig] = {}

    def compose(self, overrides: Sequence[str], mode: RunMode = RunMode.RUN) -> DictConfig:
        """The config, with the node ``hydra``. Mode MULTIRUN allows sweeps and skips missing options.

        Raises:
            HydraException, OmegaConfBaseException, ValueError: `compose_errors.explain` turns them into sentences.
        """
        key = (tuple(overrides), mode)
        if key not in self._composed:
            self._composed[key] = self._loader.compose(self.name, overrides, mode)
        return self._composed[key].copy()

    def selection(self, overrides: Sequence[str]) -> Selection:
        """The application's options that `compose` would select."""
        chosen, single = self._loader.defaults(self.name, overrides)
        packages, several = {}, set()
        for path, package, key in chosen:
            # an option inside another option's node, dataset@dataset.dataset, is selected and dropped with that option
            if "/" in path and not path.startswith("hydra/") and "@" not in (key or ""):
                packages[path] = package
                # an option with its own defaults list has no key either, but is the only choice of its group
                if key is None and path.rpartition("/")[0] not in single:
                    several.add(path.rpartition("/")[0])
        known = {group for group in single if not group.startswith("hydra/")}
        return Selection(packages, frozenset(several), frozenset(known | several))

    def option(self, group: str, option: str) -> dict[str, Any]:
        """The content of an option's own file, with its defaults list."""
        return self._loader.content(f"{group}/{option}")

    def options(self, group: str) -> list[str]:
        """Names of a group's options."""
        return self._loader.options(group)

    def file(self, group: str, option: str) -> Path | None:
        """The file of an option, or None if there is no such file."""
        for folder in self.folders:
            path = folder / group / f"{option.removesuffix('.yaml')}.yaml"
            if path.is_file():
                return path
        return None

    @property
    def folders(self) -> list[Path]:
        """The folders that are searched for options, in order."""
        extra = [] if self.extra_folder is None else [self.extra_folder]
        return [self.folder, *search_path.plugin_folders(), *extra]

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """Overrides as Hydra parses them; ``glob(*)`` matches the options that exist."""
        return self._loader.parse(overrides)

    def is_group(self, name: str) -> bool:
        """Whether there are options or further groups under this name."""
        return self._loader.group_exists(name)

    @cached_property
    def _loader(self) -> Loader:
        return Loader(self.folder, self.extra_folder)


def compose_config(composer: Composer, overrides: Sequence[str]) -> tuple[DictConfig, list[str]]:
    """The config for a command line, with the node ``hydra``, and a line for every value that was dropped."""
    config = composer.compose(overrides)
    parsed = composer.parse(overrides)
    keys = {override.key_or_group for override in parsed} - {EXPERIMENT}
    if not any(composer.is_group(key) for key in keys):  # nothing can be deselected; saves a tenth of a second
        return config, []
    selected = composer.selection(overrides)
    experiments = selected.options(EXPERIMENT)  # including those it builds upon
    if not experiments:
        return config, []
    hydra = [override.input_line or "" for override in parsed if override.is_hydra_override()]
    chosen = [override.input_line or "" for override in parsed if override.key_or_group == EXPERIMENT]
    original = composer.selection([*hydra, *chosen])  # what the experiment alone selects
    values = {key: value for name in experiments for key, value in _values_of(composer, name).items()}
    deselected = []
    for path, node in original.packages.items():
        group = path.rpartition("/")[0]
        own = group.replace("/", ".")
        if node and own != node and _within(own, node):  # algorithm/predictor=none sets algorithm.predictor=null
            node = own
        if path not in selected.packages and any(_within(key, node) for key in values):
            # an empty selection no longer shows that it was a list
            none = group in original.several and not selected.options(group)
            now = f"{group}=[]" if none else selected.override(group)
            deselected.append((node, now, original.override(group)))
    if not deselected:
        return config, []
    own = [override.input_line or "" for override in parsed if any(_is_value(override, d[0]) for d in deselected)]
    bare = composer.compose([*hydra, *_without_experiment(composer, hydra, selected), *own])
    return drop_leftovers(config, bare, deselected, values, f"{EXPERIMENT} {', '.join(experiments)}")


def drop_leftovers(
    config: DictConfig, bare: DictConfig, deselected: Sequence[tuple[str, str, str]], values: dict[str, Any], who: str
) -> tuple[DictConfig, list[str]]:
    """Replace the nodes of deselected options by those of a config without the experiment.

    Args:
        config: Composed with the experiment.
        bare: Composed with the same options and overrides, but without the experiment.
        deselected: For each node: its key, the present selection, and the experiment's selection.
        values: Dotted keys and values that the experiment itself sets.
        who: The experiment, for the messages.

    Returns:
        The config, and one line for every value of the experiment that was dropped.
    """
    config, messages = config.copy(), []
    for node, now, before in deselected:
        old, new = OmegaConf.select(config, node), OmegaConf.select(bare, node)
        parent, _, name = node.rpartition(".")
        container = OmegaConf.select(config, parent) if parent else config
        with open_dict(config):
            if new is not None:
                OmegaConf.update(config, node, new, merge=False, force_add=True)
            elif container is not None and name in container:
                del container[name]
                if name in ((OmegaConf.select(bare, parent) if parent else bare) or {}):
                    container[name] = None  # an option that stands for nothing
        left, had = _flat(new, node), _flat(old, node)
        gone = {k: v for k, v in values.items() if _within(k, node) and had.get(k) == v and left.get(k, ...) != v}
        messages += [
            f"{now}: dropped {key}={spell(value)}, which {who} set for {before}" for key, value in gone.items()
        ]
    return config, messages


def spell(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, list):
        return f"[{','.join(spell(item) for item in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _values_of(composer: Composer, experiment: str) -> dict[str, Any]:
    """Dotted keys and values that an experiment's own file sets."""
    content = composer.option(EXPERIMENT, experiment)
    content.pop("defaults", None)
    return flatten(content) if content else {}


def _without_experiment(composer: Composer, hydra: list[str], selected: Selection) -> list[str]:
    """Overrides that select the same options without the experiment."""
    removed = [f"~{EXPERIMENT}"] if composer.selection(hydra).options(EXPERIMENT) else []
    there = composer.selection([*hydra, *removed])
    groups = dict.fromkeys(path.rpartition("/")[0] for path in (*there.packages, *selected.packages))
    groups.pop(EXPERIMENT, None)
    inner = [group for group in groups if any(group.startswith(f"{outer}/") for outer in groups)]
    lines = [*removed]
    for some in ([group for group in groups if group not in inner], inner):  # algorithm=masked brings algorithm/target
        there = composer.selection([*hydra, *lines]) if some is inner and inner else there
        lines += [_selecting(selected.override(group), group, there) for group in some]
    return lines


def _selecting(override: str, group: str, there: Selection) -> str:
    """The override of a group for a composition that selects these options so far."""
    line = f"{group}=[]" if override[0] == "~" and group in there.several else override
    return line if group in there.known else f"+{line}"


def _is_value(override: Override, node: str) -> bool:
    """Whether an override sets or selects something inside this node."""
    place = override.package or override.key_or_group  # dataset@dataset.dataset=mnist
    return "." in place and _within(place, node)


def _within(key: str, node: str) -> bool:
    return node != "" and (key == node or key.startswith(f"{node}."))


def _flat(node: Any, path: str) -> dict[str, Any]:
    return {} if node is None else flatten(OmegaConf.to_container(node), path)
