"""Every exception that is a mistake of the user or an event of a run, and how names are spelled in messages."""

import os
import re
from collections.abc import Iterable, Sequence

# line breaks, escapes, and marks that turn the direction of what follows
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class UserError(Exception):
    """A mistake of the user: its message is printed without a traceback, and the exit code is 2.

    Every other exception is a bug or an event of the run. Raise `InvalidValue` for a value that was refused.
    """


class RunEvent(Exception):
    """What ended a run that was not the user's mistake: its message is printed without a traceback, exit code 1."""


class InvalidValue(UserError, ValueError):
    """A value is out of range, or does not fit others. The message says what was given, what is valid, and what to do.

    A constructor raises it; `ssl_runner.config.building.build` adds the dotted key of the node.
    """


class ConfigError(InvalidValue):
    """What is wrong with a config, all of it.

    Attributes:
        problems: One sentence each, beginning with the dotted key.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__(self.problems)  # the argument, so that a sweep's worker can pickle it

    def __str__(self) -> str:
        return "\n".join(self.problems)


class Misspelled(ConfigError):
    """Words that no config can be composed with.

    Attributes:
        rest: The command line without them.
    """

    def __init__(self, problems: Sequence[str], rest: Sequence[str] = ()) -> None:
        super().__init__(problems)
        self.rest = list(rest)


class DataError(InvalidValue):
    """Data that is missing, damaged or does not fit what was asked."""


class NotDownloaded(DataError):
    """Data that would have to be downloaded or decoded first, where `no_download` forbids it."""


class ResumeError(InvalidValue):
    """A run cannot go on from here, and why."""


class JobFailed(RunEvent, RuntimeError):
    """A job of a sweep failed and has told why."""


class FolderInUse(RunEvent, RuntimeError):
    """Two processes in one run folder would destroy each other's files."""


class RunStopped(RunEvent, RuntimeError):
    """A run ended before its last step; the message says why and how to go on."""


class FolderGone(RunEvent, RuntimeError):
    """The run folder, or a part of it, was taken away while the run wrote to it."""


class ProcessLost(RunEvent, RuntimeError):
    """Another process of the run does not answer.

    Args:
        reason: What the network told.
        when: In training, the step, as words.
        remedy: What to do.
    """

    def __init__(self, reason: str, when: str = "", remedy: str = "Go on with resume=RUN, or start it again") -> None:
        super().__init__(f"another process of this run is gone{when} ({reason}). {remedy}")
        self.reason = reason


def printable(name: str) -> str:
    """A file's name as UTF-8 has it, whatever the locale.

    Bytes that are no UTF-8 are escaped, ``caf\\xe9``, and so is what would steer a terminal or tear a table.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
