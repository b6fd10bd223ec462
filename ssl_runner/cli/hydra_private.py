"""Every use of Hydra beyond its documented interface, and the differences between its versions 1.3 and 1.4.

The other modules of this package import only `hydra.errors`, `hydra.types` and `HydraConfig.get`. When a new version
of Hydra breaks something, tests/cli/test_hydra_private.py fails and says which function or pattern.
"""

import contextlib
import copy
import functools
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import omegaconf
from hydra import version
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.errors import ConfigCompositionException, HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ssl_runner.cli.app import unique
from ssl_runner.cli.search_path import plugin_folders

# 1.4 has one set of defaults and warns if a version is given; 1.3 warns if none is
BASE = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}

# Hydra's messages. One exception class covers many mistakes, so only the text says which it is.
SEVERAL_VALUES = re.compile(r"^Ambiguous value for argument|^Sweep parameters .* requires --multirun")
SELECTED_TWICE = re.compile(
    r"^Multiple values for (\S+?)\.|^(\S+) appears more than once|^force-add of config groups is not supported"
)
NO_SUCH_KEY = re.compile(r"^Could not override")
NOTHING_TO_DELETE = re.compile(r"^Could not delete(?: '(\S+)=)?")
ALREADY_THERE = re.compile(r"^Could not append to config\.")
NO_OPTION = re.compile(r"^Config group override")
LEFT_OPEN = re.compile(r"^(?:In '\S+': )?You must specify '")
IN_A_FILE = re.compile(r"^In '[^']+'")
INNER_GROUP_IN_A_FILE = re.compile(r"^In '([^']+)': Could not override '(\S+)/([^/\s]+)'")
_SEARCH_PATH = re.compile(r"\nConfig search path:.*", re.DOTALL)
_NAME = re.compile(r"'(\S+?)'|override ([^\s']+)")


def group_in(found: re.Match[str]) -> str | None:
    """The group in a match of SELECTED_TWICE or NOTHING_TO_DELETE, or None if the message names none."""
    return next((group for group in found.groups() if group is not None), None)


def names_in(message: str) -> set[str]:
    """Keys, groups and whole overrides that Hydra's message quotes."""
    return {name for pair in _NAME.findall(message) for name in pair if name}


def without_search_path(message: str) -> str:
    """A message about a missing option, without the list of folders that Hydra searched."""
    return _SEARCH_PATH.sub("", message).strip()


class Chosen(NamedTuple):
    """An entry of the final defaults list.

    Attributes:
        path: ``group/option``.
        package: Dotted key of the node it fills.
        key: The key that selects it, ``group`` or ``group@package``. None for an item of a list, for a file with its
            own defaults list, and for the primary config.
    """

    path: str
    package: str
    key: str | None


class Loader:
    """Composes configs from folders, without Hydra's global state.

    Relies on ``ConfigLoaderImpl``, which Hydra's ``compose()`` calls too. That function needs
    ``initialize_config_dir()``, which takes one folder, does not support ``--config-dir``, and occupies the process's
    only ``GlobalHydra``, which ``hydra.main`` needs next. It does not return the defaults list or a group's options
    either.

    Args:
        folder: The conf folder, absolute.
        extra_folder: The folder that ``--config-dir`` adds, or None.
    """

    def __init__(self, folder: Path, extra_folder: Path | None) -> None:
        register_resolver("unique", unique)
        search_plugins_too()
        interpolate_where_asked()
        if BASE:
            version.setbase(BASE["version_base"])
        setup_globals()  # ${now:} and ${hydra:}, which otherwise only hydra.main registers
        path = create_config_search_path(str(folder))
        if extra_folder is not None:  # in the place where Hydra itself puts it
            extra = f"file://{extra_folder}"
            path.prepend(provider="command-line", path=extra, anchor=SearchPathQuery(provider="schema"))
        self._loader = ConfigLoaderImpl(config_search_path=path)
        self._loader.repository = _FilesReadOnce(path)
        self._defaults: dict[tuple[str, ...], tuple[list[Chosen], set[str]]] = {}

    def compose(self, name: str, overrides: Sequence[str], mode: RunMode) -> DictConfig:
        """The config, with the node ``hydra``.

        Relies on ``load_configuration``, its two parameters for sweeps, and the exceptions it raises for a file that
        is not a mapping or has a broken header.
        """
        running = mode is RunMode.RUN
        try:
            return self._loader.load_configuration(
                name, list(overrides), mode, from_shell=running, validate_sweep_overrides=running
            )
        except HydraException:  # some are also OSErrors
            raise
        except (AssertionError, AttributeError, IndexError, OSError, TypeError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # raised by the disk, not by Hydra
                raise
            raise ConfigCompositionException(f"a config file cannot be read: {error}") from error

    def defaults(self, name: str, overrides: Sequence[str]) -> tuple[list[Chosen], set[str]]:
        """The final defaults list, and the groups with a single choice in it, including Hydra's own.

        Relies on ``compute_defaults_list``; the only public way is ``--info defaults``, which prints it.
        """
        key = (name, *overrides)
        if key not in self._defaults:
            found = self._loader.compute_defaults_list(name, list(overrides), RunMode.MULTIRUN)
            chosen = [Chosen(one.config_path or "", one.package or "", one.override_key) for one in found.defaults]
            self._defaults[key] = chosen, set(found.overrides.known_choices)
        return self._defaults[key]

    def content(self, path: str) -> dict[str, Any]:
        """The content of the file ``group/option``, with its defaults list; empty if there is no such file.

        Relies on the loader's sources, whose public interface is meant for authors of new ones.
        """
        source = next((source for source in self._loader.get_sources() if source.is_config(path)), None)
        content: Any = {} if source is None else OmegaConf.to_container(source.load_config(path).config)
        return content

    def options(self, group: str) -> list[str]:
        """Names of a group's options. Relies on ``get_group_options``; the only public way is completion."""
        return self._loader.get_group_options(group)

    def group_exists(self, name: str) -> bool:
        """Whether there are options or further groups under this name. Relies on the loader's ``repository``."""
        return self._loader.repository.group_exists(name)

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """Like `parse`, but ``glob(*)`` matches the options that exist."""
        return _parse(overrides, self._loader)


class _FilesReadOnce(ConfigRepository):
    """Keeps the files that it has read, which makes a composition twice as fast: 0.42 s -> 0.23 s.

    Hydra reads every file again for each defaults list. Relies on ``load_config``, whose results Hydra changes, and on
    ``initialize_sources``, which Hydra calls on a copy if an override changes the search path.
    """

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        self._read: dict[str, bytes] = {}
        super().initialize_sources(config_search_path)

    def load_config(self, config_path: str) -> Any:
        if config_path not in self._read:
            self._read[config_path] = pickle.dumps(super().load_config(config_path))
        return pickle.loads(self._read[config_path])  # a fresh copy, in a third of the time of copy.deepcopy

    def __deepcopy__(self, known: dict[int, Any]) -> "_FilesReadOnce":
        return copy.copy(self)  # the sources and the files are never changed in place


class PluginSearchPath(SearchPathPlugin):
    """The conf folders of our plugins, for Hydra's composition, completion and ``--info``."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in plugin_folders():
            search_path.append(provider="ssl_runner.plugins", path=f"file://{folder}")


def search_plugins_too() -> None:
    """Register `PluginSearchPath` in this process.

    Relies on ``Plugins.register``. Installed in ``hydra_plugins``, it would affect every Hydra app in the environment.
    """
    known = Plugins.instance().discover(SearchPathPlugin)
    if PluginSearchPath not in known:
        Plugins.instance().register(PluginSearchPath)


def interpolate_where_asked() -> None:
    """Let Hydra 1.3 make a config of all choices only for defaults lists that interpolate one of them.

    It makes one for the defaults list of each file, twenty in a composition, which takes most of the time of a defaults
    list; nothing reads it in a list without ``${``. Relies on ``_create_interpolation_map``, which 1.4 does not have.
    """
    name = "_create_interpolation_map"
    make = getattr(defaults_list, name, None)
    if make is None or hasattr(make, "__wrapped__"):
        return

    @functools.wraps(make)
    def made(overrides: Any, entries: Sequence[Any], self_added: bool) -> DictConfig:
        if any(not entry.is_self() and entry.is_interpolation() for entry in entries):
            return make(overrides, entries, self_added)
        return DictConfig({})

    setattr(defaults_list, name, made)


def parse(overrides: Sequence[str]) -> list[Override]:
    """Overrides as Hydra parses them, without knowledge of the options that exist.

    Relies on ``OverridesParser``, and callers rely on ``Override``; the grammar is documented, these two are not.
    """
    return _parse(overrides, None)


def _parse(overrides: Sequence[str], loader: ConfigLoaderImpl | None) -> list[Override]:
    return OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))


def has_basic_sweeper(config: DictConfig) -> bool:
    """Whether Hydra's own sweeper is selected, whose jobs are known in advance. Relies on its private class's name."""
    return str(config.hydra.sweeper.get("_target_", "")).endswith(f".{BasicSweeper.__name__}")


def split(overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of each job of Hydra's own sweeper.

    Relies on ``BasicSweeper.split_arguments``; the public interface can only run a sweep.
    """
    return [list(job) for job in BasicSweeper.split_arguments(list(overrides), max_batch_size=None)[0]]


class Swept(NamedTuple):
    """What a word of several values says.

    Attributes:
        kind: ``choice``, ``range`` or ``interval``.
        values: The texts of a choice, the numbers of a range, or the ends of an interval.
        tags: Words of ``tag(...)``.
    """

    kind: str
    values: list[Any]
    tags: frozenset[str]


def swept(override: Override) -> Swept | None:
    """The values of a word; None if it has one. Relies on the classes of sweeps, which only sweepers see."""
    found = override.value()
    if isinstance(found, ChoiceSweep):
        return Swept("choice", list(override.sweep_string_iterator()), frozenset(found.tags))
    if isinstance(found, RangeSweep):
        return Swept("range", sorted(found.range()), frozenset(found.tags))
    if isinstance(found, IntervalSweep):
        return Swept("interval", [found.start, found.end], frozenset(found.tags))
    return None


@contextlib.contextmanager
def hydra_config(config: DictConfig) -> Iterator[None]:
    """Inside, ``${hydra:...}`` and ``HydraConfig.get()`` refer to this config's node ``hydra``.

    Relies on the singleton and its attribute ``cfg``; the public interface only reads it, and only inside a job.
    """
    holder = HydraConfig.instance()
    before = holder.cfg
    holder.set_config(config)
    try:
        yield
    finally:
        holder.cfg = before


def serve(job: Callable[[DictConfig], None], module: str, folder: Path, name: str, arguments: Sequence[str]) -> None:
    """Let ``hydra.main`` run a command line.

    Relies on ``hydra.main`` to read ``sys.argv``, to name a job's log after the module of its function (``-m`` would
    make that ``__main__``), and to leave errors to the caller if HYDRA_FULL_ERROR is set, instead of printing and
    exiting.

    Args:
        job: Called for each job.
        module: The module whose name the log gets.
        folder: The conf folder, absolute.
        name: Name of the primary config.
        arguments: Flags and overrides. A sweep needs ``--multirun`` here even if a file asks for it: 1.4 decides
            before it reads the option files.
    """
    search_plugins_too()
    job.__module__ = module
    with _hydra_arguments(arguments), _mode_as_in_arguments():
        hydra.main(config_path=str(folder), config_name=name, **BASE)(job)()


@contextlib.contextmanager
def _hydra_arguments(arguments: Sequence[str]) -> Iterator[None]:
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [before[0], *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = before
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


@contextlib.contextmanager
def _mode_as_in_arguments() -> Iterator[None]:
    """Inside, Hydra does not compose a command line only to find out whether a file makes it a sweep.

    Whoever calls `serve` has found it out. Relies on ``get_mode``, without whose answer ``--multirun`` decides.
    """
    get_mode = Hydra.get_mode
    Hydra.get_mode = lambda *_, **__: None
    try:
        yield
    finally:
        Hydra.get_mode = get_mode


def register_resolver(name: str, resolver: Callable[..., Any]) -> None:
    """Register ``${name:}``, with one value for each config.

    OmegaConf 2.4 renames ``register_new_resolver`` to ``register_resolver``, which in 2.3 is a different, older
    function.
    """
    register = "register_new_resolver" if omegaconf.__version__.startswith("2.3.") else "register_resolver"
    getattr(OmegaConf, register)(name, resolver, use_cache=True, replace=True)
