"""What commands beside ssl-train share: a parser that raises, messages for mistakes, exit codes."""

import argparse
import errno
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from ssl_runner.cli import home_folder
from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.errors import ConfigError, RunEvent, UserError
from ssl_runner.runtime.streams import guarded

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EFBIG)


class Parser(argparse.ArgumentParser):
    """Like its parent, but a mistake is a ConfigError, and an unknown flag gets a suggestion."""

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        shape = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, epilog=epilog, formatter_class=shape, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ConfigError([f"{message}; see {self.prog} --help"])

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The values of a command line. Raises ConfigError."""
        found, unknown = self.parse_known_intermixed_args(words)
        if unknown:
            # a word after an unknown flag is its value
            unknown = [word for word in unknown if word.startswith("-")] or unknown
            known = [name for action in self._actions for name in action.option_strings]
            raise ConfigError(
                [
                    f"{word}: there is no such argument{did_you_mean(word, known) or f'; see {self.prog} --help'}"
                    for word in unknown
                ]
            )
        return found


def serve(work: Callable[[Sequence[str]], int], remedy: str) -> int:
    """Do the work of the command in ``sys.argv``.

    Args:
        work: Takes the words after the program's name and returns an exit code.
        remedy: What to do if the disk is full or cannot be written to, as a sentence.

    Returns:
        Exit code: that of the work, 1 for a failure, 2 for a mistake of the user, 130 when interrupted.
    """
    home_folder.settle_environment()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # temporary files are removed then, too
    with guarded():
        try:
            return work(sys.argv[1:])
        except KeyboardInterrupt:
            print("interrupted; no half-written file is left", file=sys.stderr)
            return 130
        except OSError as error:
            if error.errno not in _DISK:
                raise
            print(f"cannot write {error.filename or 'the output'}: {error.strerror}. {remedy}", file=sys.stderr)
            return 1
        except (UserError, RunEvent) as error:
            print(error, file=sys.stderr)
            return 1 if isinstance(error, RunEvent) else 2
        finally:
            signal.signal(signal.SIGTERM, before)
