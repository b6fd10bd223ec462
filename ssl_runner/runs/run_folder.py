"""A run folder: locked by one process, with its config and the status of the run."""

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

RESULT, METRICS, LOCK = "result.json", "metrics.jsonl", ".lock"
FINISHED, RUNNING = "finished", "running"

_TRIES = 10  # within a second, since `status` in another process may hold the lock for a moment


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Locks the run folder, which is created if missing.

    Raises:
        FolderInUse: Another process is using it.
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
    """Raises ConfigError for a folder whose name is not valid UTF-8, since TensorBoard cannot write there."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        shown = printable(str(folder))
        raise ConfigError([f"hydra.run.dir: {shown} is not valid UTF-8; choose a folder whose path is"]) from None


def status(folder: Path) -> str:
    """The status of a run: ``running``, ``interrupted``, ``failed``, ``finished`` or ``killed``.

    A run was killed if its result.json says ``running`` but no process holds the lock on its folder. Calling this does
    not disturb a running process.

    Raises:
        OSError: There is no readable result.json.
        ValueError: result.json is damaged.
    """
    content = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("status"), str):
        raise InvalidValue(f"{folder / RESULT} has no status")
    stated = content["status"]
    return "killed" if stated == RUNNING and not is_held(folder / LOCK) else stated


def remedy(folder: Path, status: str) -> str:
    """What to do about an unfinished run, as the end of a sentence."""
    return "it is still running: wait for it" if status == RUNNING else how_to_go_on(folder)


@contextlib.contextmanager
def kept(folder: Path, step: Callable[[], int]) -> Iterator[None]:
    """Inside, an error reports in one sentence that the folder, or a part of it, was deleted or moved.

    Args:
        folder: The run folder.
        step: Returns the number of steps done so far.

    Raises:
        FolderGone: The folder, or something inside it, no longer exists.
    """
    try:
        yield
    except FileNotFoundError as error:
        missing = None if error.filename is None else Path(str(error.filename))
        if not folder.is_dir():
            raise FolderGone(
                f"the run folder {folder} was deleted or moved after step {step()}, with everything saved in it; start "
                f"the run again, or put the folder back and {how_to_go_on(folder)}"
            ) from None
        if missing is None or not missing.is_relative_to(folder):
            raise
        raise FolderGone(
            f"{missing} was deleted or moved after step {step()}, while the run wrote to it; put it back and "
            f"{how_to_go_on(folder)}"
        ) from None


def write_config(config: Config, folder: Path) -> None:
    """Write folder/config.yaml, the resolved config from which the run can be started again."""
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config | {"resume": None, "reproduce": None, "dry_run": False}, sort_keys=False)
    atomic_write.write_atomically(folder / "config.yaml", lambda path: path.write_text(text, encoding="utf-8"))
