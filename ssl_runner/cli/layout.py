"""Paragraphs and tables of the help, as wide as a page."""

import re
import textwrap
from collections.abc import Mapping

WIDTH = 120
_WIDEST = 46  # of a table's first column; what is wider stands out of it, or has a line of its own
_ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|al|sec|app|eq|fig|[A-Z])\.$")


def table(rows: Mapping[str, str], widest: int = _WIDEST) -> list[str]:
    """Two columns, the first one as wide as needed, up to ``widest``."""
    width = min(max(map(len, rows), default=0), widest)
    lines: list[str] = []
    for first, text in rows.items():
        if width < len(first) <= WIDTH - len(text) - 4:
            lines.append(f"  {first}  {text}")
        elif len(first) > width:
            lines += [f"  {first}", *wrapped(text, " " * (width + 4))]
        else:
            lines += wrapped(text, f"  {first:<{width}}  ")
    return lines


def wrapped(text: str, first: str = "  ") -> list[str]:
    """Lines of a paragraph behind its first column; none where there is nothing to show."""
    indent = " " * len(first)
    lines = textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
    return lines or ([first.rstrip()] if first.strip() else [])


def first_sentence(text: str) -> str:
    """Of a paragraph; a full stop in parentheses, or that of an abbreviation, ends none."""
    for match in re.finditer(r"\.(?= |$)", text):
        head = text[: match.end()]
        if head.count("(") == head.count(")") and not _ABBREVIATIONS.search(head):
            return head
    return text


def plain(text: str) -> str:
    """Without the marks of code."""
    return text.replace("`", "")
