"""scripts/benchmark.py: every part yields rows of one form, and the figures are what they are called."""

import importlib
import json
import math
import re
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

# the others time commands, whose form is that of the rest
PARTS = ["simclr", "pipeline", "tracking", "losses", "chunks", "episodes", "maml", "knn", "probe", "packed", "epochs"]


@pytest.fixture
def scripts(monkeypatch, forgotten):
    """Imports modules from scripts/."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


@pytest.mark.parametrize("name", PARTS)
def test_every_part_yields_rows_of_one_form(scripts, name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_CACHE", str(tmp_path))
    scripts("benchmark").main(["--only", name, "--quick", "--rounds", "1", "--json", str(tmp_path / "rows.json")])
    content = json.loads((tmp_path / "rows.json").read_text())
    rows = content["tables"][name]["rows"]
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(told) == 2 + len(rows) and len({row["what"] for row in rows}) == len(rows) > 0
    assert {line.count("|") for line in told} == {8}
    for row in rows:
        assert math.isfinite(row["value"]) and (row["goal"] is None) == (row["met"] is None)
        assert row["ratio"] is None or (row["beside"] and row["other"] is not None)


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_an_exact_power_law_has_its_exponent(scripts, power):
    sizes = [64, 256, 1024, 32768]
    assert scripts("benchmarks.measure").exponent(sizes, [3e-5 * n**power for n in sizes]) == pytest.approx(power)


def test_a_ratio_is_the_median_of_those_within_rounds(scripts):
    # a slow second round, which a ratio of medians would show
    assert scripts("benchmarks.measure").median_ratio([1, 10, 3], [2, 20, 4]) == 0.5


def test_parts_take_turns_forwards_and_backwards(scripts):
    order = []
    parts = {name: lambda name=name: order.append(name) or len(order) for name in "ab"}
    assert scripts("benchmarks.measure").in_turn(parts, 3) == {"a": [1, 4, 5], "b": [2, 3, 6]}
    assert order == list("abbaab")


def test_a_call_grows_the_process_by_what_it_holds(scripts):
    assert 199 < scripts("benchmarks.measure").grown(lambda: bytearray(b"1") * 200_000_000) < 220


@pytest.mark.parametrize(("bound", "figure", "met"), [("most", 1.5, True), ("most", 1.6, False), ("least", 1.6, True)])
def test_a_goal_bounds_the_ratio_or_else_the_value(scripts, bound, figure, met):
    row = scripts("benchmarks.row")
    goal = row.Goal(**{bound: 1.5})
    assert row.Row("what", 0, "s", "peer", 2, figure, goal).met is met is row.Row("what", figure, "s", goal=goal).met


def test_the_index_names_every_part(scripts):
    index = (SCRIPTS / "README.md").read_text()
    assert sorted(re.findall(r"^\| `(\w+)` \|", index, re.MULTILINE)) == sorted(scripts("benchmark").NAMES)
