"""Few-shot classifiers in the tables of a run, of ssl-eval and of ssl-report: transductive ones are named so."""

import io
import re
from pathlib import Path
from types import SimpleNamespace

import made_runs
import pytest
from rich.console import Console

from ssl_runner.comparison.build import build
from ssl_runner.evaluation.compared import Evaluations, Row
from ssl_runner.report import evaluations
from ssl_runner.report.console import summarise
from ssl_runner.runs.evaluations import Evaluation
from ssl_runner.runs.figures import main_figures, shown_figures

SCORES = {
    "few_shot/5w1s/centroid/top1": 0.5,
    "few_shot/5w1s/centroid/ci95": 0.01,
    "few_shot/5w1s/tim_transductive/top1": 0.6,
    "few_shot/5w1s/tim_transductive/ci95": 0.02,
    "few_shot/5w1s/tim_transductive/minus_centroid/difference": 0.1,
    "few_shot/5w1s/tim_transductive/minus_centroid/ci95": 0.003,
}
RECIPES = {"centroid": "nearest class mean", "tim_transductive": "TIM-GD"}


def table(print_it, width: int = 80) -> list[list[str]]:
    console = Console(record=True, width=width, file=io.StringIO())
    print_it(console)
    lines = console.export_text().splitlines()
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines if line[:1] in ("│", "┃")]


@pytest.mark.parametrize("others", [{}, {"knn/top1": 0.7, "untrained/knn/top1": 0.4}])
def test_a_run_has_a_row_for_each_with_its_difference_to_the_first(others):
    metrics = others | SCORES | {f"untrained/{key}": value for key, value in SCORES.items()}
    rows = table(lambda console: summarise(SimpleNamespace(metrics=metrics), console))
    knn = [["knn"], ["70.00"], ["-"], ["-"], ["40.00"], ["-"], ["-"]] if others else [[]] * 7
    expected = [
        ["", "5w1s"],
        ["trained", "-"],
        ["centroid", "50.00 ± 1.00"],
        ["tim transductive", "60.00 ± 2.00 (+10.00 ± 0.30)"],
        ["untrained encoder", "-"],
        ["centroid", "50.00 ± 1.00"],
        ["tim transductive", "60.00 ± 2.00 (+10.00 ± 0.30)"],
    ]
    first = [[row[0], *cells, *row[1:]] for row, cells in zip(expected, knn, strict=True)]
    assert rows == first


def test_ssl_eval_has_a_table_of_differences_to_the_first(tmp_path):
    def one(scores):
        content = {"metrics": scores, "dataset": {"name": "mnist"}}
        content["preprocessing"] = {"images": [1], "encoder": [1], "resized": None}
        return Evaluation(tmp_path / "a.json", content)

    half = {key: value for key, value in SCORES.items() if "centroid" not in key or "minus" in key}
    found = Evaluations(["RUN", "OTHER"], [Row("", [one(SCORES), one({"few_shot/5w1s/top1": 0.5})], [])], {})
    rows = table(lambda console: evaluations.show(found, console), width=160)
    assert rows[0] == ["", "5w1s/centroid", "5w1s/tim transductive", "5w1s"]
    assert rows[-2:] == [["", "A RUN", "B OTHER"], ["5w1s/tim transductive - centroid", "+10.00 ± 0.30", "-"]]
    assert half
    alone = Evaluations(["RUN"], [Row("", [one({"few_shot/5w1s/centroid/top1": 0.5})], [])], {})
    assert len(table(lambda console: evaluations.show(alone, console))) == 2


def test_they_are_main_figures_unless_the_algorithms_own_is_there_and_differences_are_shown_too():
    tops = [key for key in SCORES if key.endswith("/top1")]
    assert main_figures(list(SCORES)) == tops
    assert shown_figures(list(SCORES)) == [*tops, "few_shot/5w1s/tim_transductive/minus_centroid/difference"]
    assert main_figures(["few_shot/5w1s/top1", *SCORES]) == ["few_shot/5w1s/top1"]


def made(folder: Path, seed: int, recipes: dict[str, str], scores=SCORES, algorithm=None) -> None:
    protocols = {"few_shot": made_runs.FEW_SHOT | {"classifiers": recipes}, "algorithm": algorithm or {}}
    made_runs.make(folder, scores, seed, protocols=protocols)


def titles(report) -> list[str]:
    return [column.title for column in report.columns]


def test_a_column_holds_one_classifier_with_one_set_of_values_whatever_else_was_asked(tmp_path):
    made(tmp_path / "a", 0, RECIPES)
    made(tmp_path / "b", 1, RECIPES | {"ridge": "ridge"})
    assert titles(build([tmp_path])) == ["few shot 5w1s centroid", "few shot 5w1s tim transductive"]
    made(tmp_path / "c", 2, RECIPES | {"tim_transductive": "TIM-GD, others"})
    assert titles(build([tmp_path])) == [
        "few shot 5w1s centroid",
        "few shot 5w1s tim transductive (classifier TIM-GD)",
        "few shot 5w1s tim transductive (classifier TIM-GD, others)",
    ]
    difference = "few_shot/5w1s/tim_transductive/minus_centroid/difference"
    assert titles(build([tmp_path], [difference])) == [
        "few shot 5w1s tim transductive minus centroid difference (classifier TIM-GD minus nearest class mean)",
        "few shot 5w1s tim transductive minus centroid difference (classifier TIM-GD, others minus nearest class mean)",
    ]


def test_an_inductive_classifier_of_a_transductive_algorithms_encoder_is_inductive(tmp_path):
    made(tmp_path / "a", 0, RECIPES)
    made(tmp_path / "b", 1, RECIPES, algorithm={"transductive": True})
    assert titles(build([tmp_path])) == ["few shot 5w1s centroid", "few shot 5w1s tim transductive"]
    own = {"few_shot/5w1s/top1": 0.5}
    made(tmp_path / "c", 0, {"own": "the algorithm's own"} | RECIPES, own | SCORES)
    made_runs.make(tmp_path / "d", own, 1)
    assert titles(build([tmp_path], ["few_shot/5w1s/top1"])) == ["few shot 5w1s"]
