"""Writes files completely or not at all."""

import errno
import os
import re
from pathlib import Path

from safetensors import SafetensorError


def write_atomically(path: Path, write) -> None:
    """Call ``write(temporary)``, flush to disk, then rename, so that a crash leaves the old file or the new one.

    Who may read it is the user's choice (umask), also where `write` makes a file of its own: safetensors' are private.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        if temporary.stat().st_mode != mode:
            temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(path)  # which a person knows
        raise
    except RuntimeError as error:  # torch's zip writer raises this for a full disk or a missing folder
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
        if "inline_container" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
    except SafetensorError as error:  # it wraps the system's error
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
