"""What the site makes of conf/ and of the packages' docstrings."""

import importlib.util

import pytest
from documentation import DOCS

import ssl_runner
from ssl_runner.cli import options
from ssl_runner.cli.search_path import conf_folder

spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
assert spec is not None and spec.loader is not None
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


def test_every_group_of_conf_has_a_page():
    assert set(generate.GROUPS) == set(options.groups([conf_folder()]))


@pytest.mark.parametrize("group", generate.GROUPS)
def test_a_page_says_what_the_terminal_says(group):
    page = generate.reference(group)
    for option in options.groups([conf_folder()])[group]:
        read = options.read([conf_folder()], group, option)
        section = page.partition(f"\n## {read.word}\n")[2].partition("\n## ")[0]
        assert section
        for key in read.keys:
            assert f"| `{key.name}` |" in section
            assert generate.markdown(key.text).replace("|", "\\|") in section


def test_the_page_on_python_has_the_notebook_and_every_public_name():
    page = generate.python_page()
    assert "ssl_runner.compose(" in page
    for public in ssl_runner.__all__:
        section = page.partition(f"### `{public}(")[2].partition("###")[0]
        assert len(section) > 60
    assert "- `overrides`: Words of a command line" in page


def test_text_is_escaped_and_papers_are_links():
    assert generate.markdown("a_b * [c] ``x_y`` <d>") == r"a\_b \* \[c\] `x_y` \<d\>"
    assert generate.markdown("(arXiv:2002.05709)") == "([arXiv:2002.05709](https://arxiv.org/abs/2002.05709))"


def test_pages_are_written_once_and_old_ones_removed(tmp_path):
    (tmp_path / "gone.md").write_text("a group that was")
    generate.write_reference(tmp_path)
    pages = {f"{group.replace('/', '_')}.md" for group in generate.GROUPS}
    assert {path.name for path in tmp_path.iterdir()} == pages | {"python.md"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    generate.write_reference(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_drawing_and_table_of_packages_are_up_to_date():
    stale = "run python docs/generate.py"
    assert generate.DRAWING.read_text(encoding="utf-8") == generate.drawing(), stale
    text = generate.DESIGN.read_text(encoding="utf-8")
    assert text == generate.design(text), stale


def test_drawing_and_table_have_every_package():
    for package in set().union(*generate.storeys()):
        assert f">{package}</text>" in generate.drawing()
        assert f"| `{package}` |" in generate.packages()
