"""The application that the command line runs, and the run folder that it works in."""

import contextlib
import secrets
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_runner.config.schema import Config
from ssl_runner.errors import FolderInUse
from ssl_runner.runtime import launch_environment
from ssl_runner.runtime.launch_environment import how_to_go_on
from ssl_runner.runtime.signals import interrupted_by_sigterm
from ssl_runner.sweeps.forked import end_with_parent
from ssl_runner.sweeps.sweep import read_job

FAILURE = "failure.txt"


@dataclass(frozen=True)
class App:
    """The functions behind the command line.

    Attributes:
        prepare: Builds what ``run`` needs from a checked config, or raises an error; writes nothing.
        run: Does the work, given the config, the run folder, which exists, and the value that ``prepare`` returned.
            Returns the result. With several processes, only process 0 gets the folder.
        rehearse: Shows what ``run`` would do.
    """

    prepare: Callable[[Config], Any]
    run: Callable[[Config, Path | None, Any], Any]
    rehearse: Callable[[Any], None]


def unique() -> str:
    """A name for a new run folder: the time, and six hex digits, since two runs may start in the same second."""
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(3)}"


def follow(app: App, config: Config, prepared: Any) -> Any:
    """Run beside process 0, which alone uses the folder."""
    with interrupted_by_sigterm():
        return app.run(config, None, prepared)


def serve_job(app: App, folder: Path) -> int:
    """Run a job of a sweep, or resume it, from the file that the sweep wrote into its run folder."""
    end_with_parent()  # torchrun's processes would outlive it
    folder = folder.absolute()
    job = read_job(folder)
    sys.argv = ["ssl-train", *job["overrides"]]  # which the run records as its command
    config = job["config"] | {"resume": "auto"}
    try:
        prepared = app.prepare(config)
    except Exception:  # any error is saved and raised again
        if launch_environment.rank() == 0:
            (folder / FAILURE).write_text(traceback.format_exc())
        raise
    run_in(folder, app, config, prepared)
    return 0


def run_in(folder: Path, app: App, config: Config, prepared: Any) -> Any:
    """Run, and save the traceback of a failure in the folder, whichever launcher started this process."""
    if launch_environment.rank() > 0:
        return follow(app, config, prepared)
    (folder / FAILURE).unlink(missing_ok=True)
    try:
        with interrupted_by_sigterm():
            return app.run(config, folder, prepared)
    except KeyboardInterrupt as interruption:
        if str(interruption) or not _resumable(folder):
            raise
        raise KeyboardInterrupt(f"interrupted; {how_to_go_on(folder)}") from None
    except FolderInUse:  # the folder belongs to another process
        raise
    except Exception as error:  # any error is saved and raised again
        with contextlib.suppress(OSError):  # a full disk must not hide the error itself
            (folder / FAILURE).write_text(traceback.format_exc())
        if isinstance(error, OSError) and _resumable(folder):
            error.add_note(how_to_go_on(folder))
        raise


def _resumable(folder: Path) -> bool:
    return any((folder / "checkpoints").glob("*.pt"))
