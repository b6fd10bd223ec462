"""The exceptions for user mistakes and run events, and the spelling of names in messages."""

import os
import re
from collections.abc import Iterable, Sequence

# line breaks, escapes, and marks that change the direction of the text
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class UserError(Exception):
    """A mistake of the user: its message is printed without a traceback, and the exit code is 2.

    Every other exception is a bug or a `RunEvent`. Raise `InvalidValue` to refuse a value.
    """


class RunEvent(Exception):
    """A run ended, but not by a user's mistake: its message is printed without a traceback, and the exit code is 1."""


class InvalidValue(UserError, ValueError):
    """A value is out of range or does not fit others. The message says what was given, what is valid and what to do.

    A constructor raises it; `ssl_runner.config.building.build` adds the dotted key of the node.
    """


class ConfigError(InvalidValue):
    """All problems of a config.

    Attributes:
        problems: One sentence each, beginning with the dotted key.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__(self.problems)  # the argument, so that a sweep's worker can pickle it

    def __str__(self) -> str:
        return "\n".join(self.problems)


class Misspelled(ConfigError):
    """Words on the command line from which no config can be composed.

    Attributes:
        rest: The command line without them.
    """

    def __init__(self, problems: Sequence[str], rest: Sequence[str] = ()) -> None:
        super().__init__(problems)
        self.rest = list(rest)


class DataError(InvalidValue):
    """Data is missing, damaged or does not fit the config."""


class NotDownloaded(DataError):
    """Data would have to be downloaded or decoded first, and `no_download` forbids it."""


class ResumeError(InvalidValue):
    """A run cannot be resumed; the message says why."""


class JobFailed(RunEvent, RuntimeError):
    """A job of a sweep failed and has already printed why."""


class FolderInUse(RunEvent, RuntimeError):
    """Another process uses the run folder; two would destroy each other's files."""


class RunStopped(RunEvent, RuntimeError):
    """A run ended before its last step; the message says why and how to resume it."""


class FolderGone(RunEvent, RuntimeError):
    """The run folder, or a part of it, was deleted or moved while the run wrote to it."""


class ClusterSilent(RunEvent, RuntimeError):
    """The scheduler of a cluster does not answer; what it has queued goes on."""


class ProcessLost(RunEvent, RuntimeError):
    """Another process of the run does not answer.

    Args:
        reason: The network's error message.
        when: The training step, in words; empty outside training.
        remedy: What to do.
    """

    def __init__(self, reason: str, when: str = "", remedy: str = "Continue with resume=RUN, or start again") -> None:
        super().__init__(f"another process of this run is gone{when} ({reason}). {remedy}")
        self.reason = reason


def printable(name: str) -> str:
    """A file's name in UTF-8, whatever the locale.

    Bytes that are not UTF-8 are escaped, as in ``caf\\xe9``, and so are characters that would control a terminal or
    break a table.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
