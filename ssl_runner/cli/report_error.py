"""What is said of an error, and the exit code it ends with."""

import errno
import os
import sys
import threading
import time
import traceback

from omegaconf.errors import OmegaConfBaseException

from ssl_runner.errors import RunEvent, UserError
from ssl_runner.runtime import launch_environment

PATIENCE = 30.0  # seconds
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EEXIST)


GONE = "the working folder is gone: it was deleted or moved; change to one that exists (cd), and say it again there"


def of_a_thread(raised: threading.ExceptHookArgs) -> None:
    """In the place of `threading.excepthook`: what TensorBoard's thread cannot write to is reported by `report_error`.

    The writer raises the same error again when it is next called.
    """
    error = raised.exc_value
    gone = isinstance(error, FileNotFoundError) and "tfevents" in str(error.filename)
    if not gone and not (isinstance(error, OSError) and error.errno in _DISK):
        threading.__excepthook__(raised)


def working_folder_is_gone() -> bool:
    """Whether somebody deleted it under the process."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def report_error(error: Exception) -> int:
    """Print an error: one message if it is meant for the user, else with its traceback.

    Returns:
        Exit code: 1 for a failure, 2 for a mistake in what was asked.
    """
    if launch_environment.rank() > 0 and isinstance(error, OSError | UserError | RunEvent):
        # process 0 tells it; torchrun ends all of them with the first that ends, which must not be another
        time.sleep(PATIENCE)
    if isinstance(error, OSError) and error.errno in _DISK:
        where, remedy = error.filename or "to the run folder", "Choose another hydra.run.dir"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "What was saved before is whole: make room, then go on with resume=RUN"
        print(f"cannot write {where}: {error.strerror}. {remedy}.", file=sys.stderr)
        return 1
    if isinstance(error, FileNotFoundError) and working_folder_is_gone():
        print(GONE, file=sys.stderr)
        return 1
    from hydra.errors import HydraException

    if not isinstance(error, HydraException | OmegaConfBaseException | UserError | RunEvent):
        traceback.print_exception(error)
        return 1
    print(error, file=sys.stderr)
    return 1 if isinstance(error, RunEvent) else 2
