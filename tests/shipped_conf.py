"""The shipped conf folder, which a process of the tests and its forks read once."""

from collections.abc import Callable
from pathlib import Path

from ssl_runner.cli import search_path
from ssl_runner.cli.compose import Loader
from ssl_runner.cli.search_path import conf_folder


def read_once(loader: type[Loader] = Loader) -> Callable[[Path, Path | None], Loader]:
    """Stands in the place of `compose.Loader`: composers of the shipped folder share one, which keeps its files."""
    made: dict[tuple[Path, ...], Loader] = {}

    def shared(folder: Path, extra_folder: Path | None) -> Loader:
        if folder != conf_folder() or extra_folder is not None:
            return loader(folder, extra_folder)
        key = (folder, *search_path.plugin_folders())
        if key not in made:
            made[key] = loader(folder, None)
        return made[key]

    return shared
