"""What the command line serves, and the run folder that it works in."""

import contextlib
import secrets
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

FAILURE = "failure.txt"


@dataclass(frozen=True)
class App:
    """What there is to serve.

    Attributes:
        prepare: Makes of a checked config what ``run`` needs, or raises what is wrong with it; writes nothing.
        run: Does the work, given config, the run folder, which exists, and what ``prepare`` made; gives the result.
            Of several processes, only number 0 has the folder.
        rehearse: Shows what ``run`` would do.
    """

    prepare: Callable[[Config], Any]
    run: Callable[[Config, Path | None, Any], Any]
    rehearse: Callable[[Any], None]


def unique() -> str:
    """A name for a new run folder: the second, and six hex digits, as two runs may start in one second."""
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(3)}"


def follow(app: App, config: Config, prepared: Any) -> Any:
    """Run beside process 0, whose affair the folder is."""
    with interrupted_by_sigterm():
        return app.run(config, None, prepared)


def run_in(folder: Path, app: App, config: Config, prepared: Any) -> Any:
    """Run, and leave the traceback of a failure in the folder, whatever process and launcher this is."""
    if launch_environment.rank() > 0:
        return follow(app, config, prepared)
    (folder / FAILURE).unlink(missing_ok=True)
    try:
        with interrupted_by_sigterm():
            return app.run(config, folder, prepared)
    except KeyboardInterrupt as interruption:
        if str(interruption) or not (folder / "checkpoints").is_dir():
            raise
        raise KeyboardInterrupt(f"interrupted; {how_to_go_on(folder)}") from None
    except FolderInUse:  # the folder is another's
        raise
    except Exception:  # written down whatever it is, and raised again
        with contextlib.suppress(OSError):  # a full disk must not hide what happened
            (folder / FAILURE).write_text(traceback.format_exc())
        raise
