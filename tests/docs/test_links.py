"""Links between files of the repository, as a reader of the repository follows them; those of the site are Sphinx's."""

import re

import pytest
from documentation import PAGES, name, without_code

LINK = re.compile(r"\]\(([^()\s]+)\)")


def anchors(text: str) -> set[str]:
    """Of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken(path) -> list[str]:
    found = []
    for link in LINK.findall(without_code(path.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            found.append(link)
    return found


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_link_leads_somewhere(path):
    assert broken(path) == []


def test_a_link_to_what_there_is_not_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n[good](#a-page) [bad](#another) `[code](nowhere.md)` [gone](nowhere.md) [far](https://x.y)\n"
    )
    assert broken(page) == ["#another", "nowhere.md"]
