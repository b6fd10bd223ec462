"""The word ``init=WEIGHTS``, and the fingerprint of what it names."""

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ssl_runner.config.schema import Config
from ssl_runner.errors import ConfigError, InvalidValue
from ssl_runner.runs import encoder_names
from ssl_runner.runs.encoder_names import EncoderName

WORD, KEY = "init", "init.weights"

_PLAIN = re.compile(r"[\w.:@%+-]*[/:][\w./:@%+-]*", re.ASCII)  # what Hydra's grammar takes for a string without quotes
_GRAMMAR = re.compile(r"['\"\[{]|(?:choice|glob|range|shuffle|sort|tag|str)\(")


def with_weights(overrides: Sequence[str]) -> list[str]:
    """Overrides in which ``init=WEIGHTS`` is written as Hydra can read it: ``init.weights='WEIGHTS'``.

    Paths are taken literally, except that a comma separates the values of a sweep, ``~`` is the home folder, and
    ``${seed}`` the value of another key.

    Raises:
        ConfigError: The value is empty.
    """
    return [_rewritten(override) for override in overrides]


def _rewritten(override: str) -> str:
    key, equals, value = override.partition("=")
    if key != WORD or not equals or value.startswith("{"):
        return override
    if not value.strip("'\""):
        raise ConfigError([f"{WORD}= names no weights; {encoder_names.WEIGHTS_EXPECTED}, or leave it out"])
    if _GRAMMAR.match(value) or ("${" in value and "," in value):  # ${oc.env:NAME,DEFAULT}
        return f"{KEY}={value}"
    return f"{KEY}={','.join(_quoted(os.path.expanduser(piece)) for piece in value.split(','))}"


def _quoted(text: str) -> str:
    if text in ("null", "None"):
        return "null"
    if _PLAIN.fullmatch(text):
        return text
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", text)) + "'"


def settled(config: Config) -> Config:
    """A checked config whose weights have an absolute path and their fingerprint.

    The hash of a config has the fingerprint in it and not the path. Published weights of timm have their name as
    fingerprint, because they need not be on this machine yet.

    Raises:
        ConfigError: There are no such weights.
    """
    init = config.get("init")
    if init is None or init["weights"] is None:
        return config
    try:
        name = encoder_names.parse_weights(init["weights"])
        fingerprint = init["fingerprint"] or _fingerprint(name)
    except InvalidValue as error:
        raise ConfigError([f"{WORD}: {error}"]) from None
    return config | {WORD: init | {"weights": _absolute(name), "fingerprint": fingerprint}}


def _absolute(name: EncoderName) -> str:
    if name.kind == "timm":
        return f"timm:{name.model}" + ("" if name.path is None else f"@{name.path}")
    return str(name.path)


def _fingerprint(name: EncoderName) -> str:
    if name.file is None:
        return name.word
    return _of_file(name.file, name.product, name.file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _of_file(path: Path, product: str | None, changed: int) -> str:
    """For the jobs of a sweep, whose weights are read once."""
    from ssl_runner.models.initial_weights import read_weights  # torch takes seconds to import

    return read_weights(path, product).fingerprint
