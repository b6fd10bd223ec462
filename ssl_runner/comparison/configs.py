"""The config.yaml of many runs, read fast: the runs of a sweep share most of their nodes, which are parsed once."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ssl_runner.config.hashing import flatten
from ssl_runner.config.renamed import with_current_names

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TOP = re.compile(r"^(?=[A-Za-z_]\w*:)", re.MULTILINE)
# what gives a part of a document a meaning that depends on another part
_LINKED = re.compile(r"(?:^|\s)[&*]\w|^(?:---|\.\.\.|%)", re.MULTILINE)


class Configs:
    """Reads configs and remembers their top-level nodes."""

    def __init__(self) -> None:
        self._nodes: dict[str, dict[str, Any]] = {}

    def read(self, path: Path) -> dict[str, Any]:
        """Dotted keys and values, with current names.

        Args:
            path: The config.yaml of a run.

        Raises:
            OSError: It cannot be read.
            ValueError: It is not the config of a run.
        """
        text = path.read_text(encoding="utf-8")
        try:
            if _LINKED.search(text):
                return _flat(text)
            found: dict[str, Any] = {}
            for part in _parts(text):
                if part not in self._nodes:
                    self._nodes[part] = _flat(part)
                found |= self._nodes[part]
        except yaml.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from None
        return found


def _parts(text: str) -> Iterator[str]:
    """The text of each top-level key."""
    starts = [found.start() for found in _TOP.finditer(text)]
    if not starts or text[: starts[0]].strip():
        yield text
        return
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        yield text[start:end]


def _flat(text: str) -> dict[str, Any]:
    content = yaml.load(text, _LOADER)
    if not isinstance(content, dict):
        raise ValueError("it holds no keys")
    return flatten(with_current_names(content)[0])
