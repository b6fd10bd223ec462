"""What a report looks like: files are parsed again, the terminal's table is read."""

import csv
import io
import json
import re

import made_runs
import pytest

from ssl_runner.comparison.build import build
from ssl_runner.comparison.formats import FORMATS, as_csv, as_json, as_latex, as_markdown
from ssl_runner.comparison.terminal import picture
from ssl_runner.runtime.console import Console


@pytest.fixture
def report(tmp_path):
    """Three temperatures, one with a single seed and its interval over episodes, and a run that failed."""
    scores = {0.1: (0.91, 0.93, 0.92), 0.2: (0.9, 0.91, 0.93), 0.5: (0.5,)}
    for temperature, values in scores.items():
        for seed, value in enumerate(values):
            metrics = {"few_shot/5w1s/top1": value, "few_shot/5w1s/ci95": 0.004}
            made_runs.make(tmp_path / f"{temperature}_{seed}", metrics, seed, {"loss.temperature": temperature})
    made_runs.make(tmp_path / "bad_100%_run", {}, 9, status="failed", reason="a_b & c | d")
    return build([tmp_path], baseline="temperature=0.1")


def test_csv_holds_the_numbers_as_they_are(report):
    rows = list(csv.DictReader(io.StringIO(as_csv(report))))
    assert [float(row["loss.temperature"]) for row in rows] == [0.1, 0.2, 0.5]
    for row, line in zip(report.rows, rows, strict=True):
        assert float(line["few shot 5w1s mean"]) == row.figures[0].mean
    assert [row["few shot 5w1s seeds"] for row in rows] == ["3", "3", "1"]
    assert float(rows[0]["few shot 5w1s low"]) == report.rows[0].figures[0].low
    assert [row["few shot 5w1s episode_interval"] for row in rows] == ["", "", "0.004"]
    assert rows[2]["few shot 5w1s low"] == ""
    assert [row["few shot 5w1s best"] for row in rows] == ["true", "false", "false"]
    assert float(rows[1]["few shot 5w1s difference"]) == report.differences[0].mean
    assert rows[0]["few shot 5w1s difference"] == ""


def test_json_holds_everything(report):
    content = json.loads(as_json(report))
    assert [row["setting"] for row in content["rows"]] == [row.setting for row in report.rows]
    assert content["rows"][0]["figures"]["0"]["values"] == report.rows[0].figures[0].values
    assert len(content["rows"][0]["runs"]) == 3
    assert content["differences"][0]["p_holm"] == report.differences[0].p_holm
    assert content["notes"] == report.notes
    assert content["unfinished"][0]["reason"] == "failed: a_b & c | d"


def test_json_has_no_nan(tmp_path):
    made_runs.make(tmp_path / "run", {"knn/top1": float("nan")})
    content = json.loads(as_json(build([tmp_path])), parse_constant=pytest.fail)
    assert content["rows"][0]["figures"]["0"]["mean"] is None


def test_markdown_tables_have_as_many_cells_in_every_row(report):
    text = as_markdown(report)
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1
    assert "| 0.1 | 3 | **92.00 ± 2.48** |" in tables[0]
    assert "| 0.2 | 3 | 91.33 ± 3.79 = |" in tables[0]
    assert "| 0.5 | 1 | 50.00 ± 0.40 e ? |" in tables[0]
    assert r"a\_b & c \| d" in text


def test_latex_is_balanced_and_escaped(report):
    text = as_latex(report)
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert code.count("{") == code.count("}")
    assert re.findall(r"\\(begin|end)\{tabular\}", code) == ["begin", "end"] * 2
    for command in ("toprule", "midrule", "bottomrule"):
        assert code.count(rf"\{command}") == 2
    assert not re.search(r"(?<!\\)[%_#&](?<! & )(?<!&)", code.replace(" & ", " "))
    shapes = [len(shape) for shape in re.findall(r"\\begin\{tabular\}\{([rl]+)\}", code)]
    tables = code.split(r"\begin{tabular}")[1:]
    for width, table in zip(shapes, tables, strict=True):
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert rows and {len(re.split(r"(?<!\\)&", row)) for row in rows} == {width}
    assert r"\textbf{92.00 $\pm$ 2.48}" in code
    assert r"few shot 5w1s, \%" in code
    assert "$-$0.67" in code


def test_latex_escapes_every_special_sign(tmp_path):
    for seed, value in enumerate((r"a_b%c&d#e$f{g}h~i^j\k", "x<y>z")):
        made_runs.make(tmp_path / str(seed), {"knn/top1": 0.5}, 0, {"loss.kind": value})
    text = as_latex(build([tmp_path]))
    escaped = r"a\_b\%c\&d\#e\$f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k"
    assert escaped in text
    assert r"x\textless{}y\textgreater{}z" in text


@pytest.mark.parametrize("form", FORMATS)
def test_a_report_of_one_run_has_every_format(tmp_path, form):
    made_runs.make(tmp_path / "run", {"knn/top1": 0.5})
    text = FORMATS[form](build([tmp_path]))
    assert text.endswith("\n")
    assert "0.5" in text or "50.00" in text


def shown(report, width):
    console = Console()
    console.width = width
    with console.capture() as capture:
        console.print(picture(report, console))
    return capture.get()


def test_the_terminal_shows_seeds_intervals_ties_and_notes(report):
    text = shown(report, 160)
    assert "7 runs of 3 settings" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip().startswith("0.")}
    assert rows["0.5"] != []
    lines = [line.split() for line in text.splitlines()]
    assert ["0.1", "3", "92.00", "±", "2.48"] in lines
    assert ["0.2", "3", "91.33", "±", "3.79", "="] in lines
    assert ["0.5", "1", "50.00", "±", "0.40", "e", "?"] in lines
    assert "one seed only, the interval is over episodes" in text
    assert "Compared with temperature=0.1" in text
    assert "3 pairs cannot give p < .25" in text
    assert "failed: a_b & c | d" in text


def test_a_narrow_terminal_gets_one_column_for_the_setting(tmp_path):
    values = {f"loss.a_rather_long_name_{n}": n for n in range(6)}
    made_runs.make(tmp_path / "a", {"knn/top1": 0.5}, 0, values)
    made_runs.make(tmp_path / "b", {"knn/top1": 0.6}, 0, {key: value + 10 for key, value in values.items()})
    report = build([tmp_path])
    narrow = shown(report, 80)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "setting" in narrow and "a_rather_long_name_5=15" in narrow
    assert "a_rather_long_name_5=15" not in shown(report, 300)


def test_figures_that_are_no_shares_are_shown_as_they_are(tmp_path):
    for seed, value in enumerate((-1.5, -1.7)):
        made_runs.make(tmp_path / str(seed), {"diagnostics/uniformity": value}, seed)
    report = build([tmp_path], ["diagnostics/*"])
    assert not report.columns[0].percent and not report.columns[0].higher_is_better
    assert "-1.6 ± 1.271" in shown(report, 80)
