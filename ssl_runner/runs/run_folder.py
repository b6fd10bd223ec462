"""A run folder: held by one process, with the config it was made for, how it stands, and where it stopped."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from ssl_runner.config.schema import Config
from ssl_runner.errors import ConfigError, FolderGone, FolderInUse, InvalidValue, printable
from ssl_runner.runtime import atomic_write
from ssl_runner.runtime.file_lock import is_held, locked
from ssl_runner.runtime.launch_environment import how_to_go_on

RESULT, LOCK = "result.json", ".lock"
FINISHED, RUNNING = "finished", "running"

_TRIES = 10  # in the second it takes: someone who looks whether a run is alive holds its lock for a moment


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds the run folder, made if missing.

    Raises:
        FolderInUse: Another process is at work in it.
    """
    with contextlib.ExitStack() as stack:
        for left in reversed(range(_TRIES)):
            try:
                stack.enter_context(locked(folder / LOCK, wait=False))
                break
            except BlockingIOError:
                if not left:
                    raise FolderInUse(
                        f"{folder} is in use by another process; wait for it, or give another hydra.run.dir"
                    ) from None
                time.sleep(1 / _TRIES)
        yield


def refuse_name(folder: Path) -> None:
    """Raises ConfigError for a folder whose name is no valid UTF-8: TensorBoard cannot write there."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        said = printable(str(folder))
        raise ConfigError([f"hydra.run.dir: {said} is no valid UTF-8; choose a folder whose whole path is"]) from None


def status(folder: Path) -> str:
    """How a run stands: ``running``, ``interrupted``, ``failed``, ``finished`` or ``killed``.

    A run that says it is running, while no process holds its folder, was killed. Looking disturbs no process.

    Raises:
        OSError: There is no result.json that can be read.
        ValueError: It is damaged.
    """
    content = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("status"), str):
        raise InvalidValue(f"{folder / RESULT} has no status")
    stated = content["status"]
    return "killed" if stated == RUNNING and not is_held(folder / LOCK) else stated


def remedy(folder: Path, status: str) -> str:
    """What to do about a run that is not finished, as the end of a sentence."""
    return "it is at work: wait for it" if status == RUNNING else how_to_go_on(folder)


@contextlib.contextmanager
def kept(folder: Path, step: Callable[[], int]) -> Iterator[None]:
    """Inside, it is told in one sentence if the folder, or a part of it, is taken away.

    Args:
        step: Gives the steps done by now.

    Raises:
        FolderGone: Something below the folder was not there any more.
    """
    try:
        yield
    except FileNotFoundError as error:
        missing = None if error.filename is None else Path(str(error.filename))
        if not folder.is_dir():
            raise FolderGone(
                f"the run folder {folder} is gone since step {step()}: it was deleted or moved. What was saved in it "
                f"went with it; start the run again, or put the folder back and {how_to_go_on(folder)}"
            ) from None
        if missing is None or not missing.is_relative_to(folder):
            raise
        raise FolderGone(
            f"{missing} is gone since step {step()}: it was deleted or moved while the run wrote to it; put it back "
            f"and {how_to_go_on(folder)}"
        ) from None


def write_config(config: Config, folder: Path) -> None:
    """Write folder/config.yaml: resolved, and enough to start the run again."""
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config | {"resume": None, "reproduce": None, "dry_run": False}, sort_keys=False)
    atomic_write.write_atomically(folder / "config.yaml", lambda path: path.write_text(text, encoding="utf-8"))
