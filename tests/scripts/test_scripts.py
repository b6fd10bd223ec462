"""The scripts that developers run: each says what it is for."""

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
# modules of a script are none themselves
FOUND = [path.relative_to(SCRIPTS) for path in [*SCRIPTS.glob("*.py"), *SCRIPTS.glob("*/*.py")]]
PATHS = sorted(path for path in FOUND if path.parent.name != "benchmarks" and path.name != "harness.py")


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_every_script_says_what_it_is_for_and_how_it_is_called(path, monkeypatch, capsys, forgotten):
    monkeypatch.syspath_prepend((SCRIPTS / path).parent)
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / path), run_name="__main__")
    told = capsys.readouterr()
    purpose = ast.get_docstring(ast.parse((SCRIPTS / path).read_text()))
    assert purpose and (ended.value.code, told.err) == (0, "")
    assert purpose.splitlines()[0] in told.out and f" scripts/{path}" in told.out


def test_the_index_has_every_script_once():
    index = (SCRIPTS / "README.md").read_text()
    assert sorted(re.findall(r"\]\(((?:\w+/)?\w+\.py)\)", index)) == sorted([*map(str, PATHS), "results/harness.py"])
