"""Paragraphs and tables of the help, as wide as a page."""

import re
import textwrap
from collections.abc import Mapping

WIDTH = 120
_WIDEST = 46  # of a table's first column; what is wider has a line of its own if need be
_ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|al|sec|app|eq|fig|[A-Z])\.$")


def table(rows: Mapping[str, str], widest: int = _WIDEST) -> list[str]:
    """Two columns, the first one as wide as needed, up to ``widest``; a wider one pushes a short text to the right."""
    width = min(max(map(len, rows), default=0), widest)
    lines: list[str] = []
    for first, text in rows.items():
        if len(first) <= width:
            lines += wrapped(text, f"  {first:<{width}}  ")
        elif len(whole := f"  {first}  {text}".rstrip()) <= WIDTH:
            lines.append(whole)
        else:
            lines += [f"  {first}", *wrapped(text, " " * (width + 4))]
    return lines


def wrapped(text: str, first: str = "  ") -> list[str]:
    """Lines of a paragraph behind its first column; none where there is nothing to show."""
    indent = " " * len(first)
    lines = textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
    return lines or ([first.rstrip()] if first.strip() else [])


def paragraph(text: str) -> list[str]:
    """Lines of a docstring's paragraph, or of an item of a list in it."""
    return wrapped(text[2:], "  - ") if text.startswith("- ") else wrapped(text)


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
