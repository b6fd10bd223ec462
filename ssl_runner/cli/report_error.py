"""Prints errors and chooses the exit code."""

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


GONE = "the working folder was deleted or moved; change to one that exists (cd) and repeat the command there"


def of_a_thread(raised: threading.ExceptHookArgs) -> None:
    """Replaces `threading.excepthook`, and stays silent if TensorBoard's thread cannot write.

    The writer raises the same error again on its next call, and `report_error` reports it.
    """
    error = raised.exc_value
    gone = isinstance(error, FileNotFoundError) and "tfevents" in str(error.filename)
    if not gone and not (isinstance(error, OSError) and error.errno in _DISK):
        threading.__excepthook__(raised)


def working_folder_is_gone() -> bool:
    """Whether the working folder was deleted while the process ran."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def report_error(error: Exception) -> int:
    """Print an error: only its message if it is meant for the user, else its traceback.

    Returns:
        Exit code: 1 for a failure, 2 for a mistake of the user.
    """
    if launch_environment.rank() > 0 and isinstance(error, OSError | UserError | RunEvent):
        # process 0 reports it; torchrun ends all processes when the first one ends, which must be process 0
        time.sleep(PATIENCE)
    if isinstance(error, OSError) and error.errno in _DISK:
        where, remedy = error.filename or "to the run folder", "Choose another hydra.run.dir"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            ways_on = getattr(error, "__notes__", ["start again"])
            remedy = f"Files saved earlier are intact: free some space, then {ways_on[-1]}"
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
