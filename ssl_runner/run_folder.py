"""A run folder: held by one process, with the config it was made for, and where it stopped."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ssl_runner import checkpoint
from ssl_runner.config import config_difference
from ssl_runner.data.lock import locked
from ssl_runner.interruption import FolderInUse, how_to_go_on

Config = dict[str, Any]


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds the run folder, made if missing.

    Raises:
        FolderInUse: Another process is at work in it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / ".lock", wait=False))
        except BlockingIOError:
            raise FolderInUse(
                f"{folder} is in use by another process; wait for it, or give another hydra.run.dir"
            ) from None
        yield


def write_config(config: Config, folder: Path) -> None:
    """Write folder/config.yaml: resolved, and enough to start the run again."""
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config | {"resume": None, "reproduce": None, "dry_run": False}, sort_keys=False)
    checkpoint.write_atomically(folder / "config.yaml", lambda path: path.write_text(text, encoding="utf-8"))


def resume(config: Config, folder: Path, identity: checkpoint.Identity) -> tuple[dict[str, Any] | None, list[str]]:
    """The checkpoint to go on from, if the config asks for one, and warnings.

    Raises:
        ResumeError: ``resume`` names a run without a checkpoint, or of another config or data.
    """
    if config["resume"] is None:
        if (folder / "config.yaml").exists():
            raise checkpoint.ResumeError(
                f"{folder} holds a run already; go on with it (resume=auto), or give another hydra.run.dir"
            )
        return None, []
    if (folder / "config.yaml").exists():
        changes = config_difference(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")), config)
        if changes:
            raise checkpoint.ResumeError(
                "\n".join([f"{folder} is a run of another config:", *changes])
                + f"\n{how_to_go_on(folder)}, or start a new run in another folder"
            )
    found = checkpoint.load(folder / "checkpoints", identity)
    if found is not None:
        return found
    if config["resume"] == "auto":
        return None, []
    raise checkpoint.ResumeError(f"{folder} has no checkpoint to go on from; start a new run without resume=")
