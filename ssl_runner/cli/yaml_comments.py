"""What the comments of a YAML file say: its head, its package, and the lines of its keys."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def package(text: str) -> str | None:
    found = re.search(r"^# @package (\S+)", text, re.MULTILINE)
    return found[1] if found else None


def comments(text: str) -> tuple[str, dict[str, str]]:
    """The comment at the top of a file, and those of its keys: beside them or above them."""
    lines = text.splitlines()
    own = [line.strip() for line in lines]
    above: dict[int, str] = {}
    collected: list[str] = []
    header, found = "", {}
    for number, line in enumerate(own):
        if line.startswith("#"):
            collected += [] if "@package" in line else [line[1:].strip()]
        elif line and collected:
            if any(before and not before.startswith("#") for before in own[:number]):
                above[number] = " ".join(collected)
            else:
                header = " ".join(collected)
            collected = []
    for place, first, last, column in _places(yaml.compose(text, LOADER)):
        beside = re.match(r"\s+#\s*(.*)", lines[last][column:]) if last < len(lines) else None
        said = [above.get(first, ""), beside[1] if beside else ""]
        found[place] = " ".join(part for part in said if part)
    return header, {place: comment for place, comment in found.items() if comment}


def _places(node: Any, path: str = "") -> Iterator[tuple[str, int, int, int]]:
    """Dotted keys, the lines where they begin, and where the text beside them ends."""
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return
    for key, value in node.value:
        place = f"{path}.{key.value}" if path else key.value
        block = isinstance(value, yaml.MappingNode) and not value.flow_style
        end = key.end_mark if block else value.end_mark
        yield place, key.start_mark.line, end.line, end.column + (1 if block else 0)
        yield from _places(value, place)
