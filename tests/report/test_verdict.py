"""The verdict in words and as a table."""

import io

import pytest
from rich.console import Console

from ssl_runner.evaluation.verdict import BASELINES
from ssl_runner.report.console import judge, summarise
from ssl_runner.report.verdict import WORDS, outcome, percent, sentences

EPISODES = {name: 100 if name == "from_scratch" else 1000 for name in BASELINES}


def protocol(*settings: str) -> dict:
    baselines = {name: {"recipe": "...", "episodes": episodes} for name, episodes in EPISODES.items()}
    described = {
        "name": "cifar10",
        "source": "cifar10/test",
        "episodes": 1000,
        "settings": {one: {} for one in settings},
    }
    return described | {"baselines": baselines}


def metrics(setting: str, own: float, best: str, difference: float, half: float) -> dict[str, float]:
    """Metrics of one setting; the other baselines have 20%."""
    found = {f"few_shot/{setting}/top1": own, f"few_shot/{setting}/ci95": 0.005}
    for name in BASELINES:
        pair = (difference, half) if name == best else (own - 0.2, 0.006)
        found |= {f"verdict/{setting}/{name}/top1": own - pair[0], f"verdict/{setting}/{name}/ci95": 0.004}
        found |= {f"paired/{setting}/{name}/difference": pair[0], f"paired/{setting}/{name}/ci95": pair[1]}
    found |= {f"paired/{setting}/difference": difference, f"paired/{setting}/ci95": half}
    return {f"cifar10/{key}": value for key, value in found.items()}


@pytest.mark.parametrize(
    ("difference", "half", "words"),
    [
        (0.068, 0.006, "adaptation helped: +6.80 ± 0.60 (paired, 1,000 episodes)"),
        (-0.003, 0.004, "adaptation did not help: -0.30 ± 0.40 is not distinguishable from 0 (paired, 1,000 episodes)"),
        (0.003, 0.004, "adaptation did not help: +0.30 ± 0.40 is not distinguishable from 0 (paired, 1,000 episodes)"),
        (-0.02, 0.004, "adaptation hurt: -2.00 ± 0.40 (paired, 1,000 episodes)"),
    ],
)
def test_a_difference_helps_hurts_or_is_not_distinguishable_from_zero(difference, half, words):
    (said,) = sentences(metrics("5w1s", 0.312, "pixel_centroid", difference, half), {"verdict": protocol("5w1s")})
    has = percent(0.312 - difference)
    assert said == f"cifar10 5w1s: 31.20 ± 0.50; the strongest baseline, pixel centroid, has {has}; {words}"


def test_an_interval_that_touches_zero_does_not_help():
    assert "did not help" in outcome(0.004, 0.004)
    assert "did not help" in outcome(-0.004, 0.004)
    assert "helped" in outcome(0.0041, 0.004)


def test_a_baseline_with_fewer_episodes_is_reported_as_such():
    (said,) = sentences(metrics("5w1s", 0.3, "from_scratch", 0.04, 0.016), {"verdict": protocol("5w1s")})
    assert (
        "the strongest baseline, training from scratch, has 26.00 in the first 100 episodes; adaptation helped" in said
    )
    assert said.endswith("+4.00 ± 1.60 (paired, 100 episodes)")


def test_there_is_a_sentence_for_each_setting_and_none_without_a_verdict():
    both = metrics("5w1s", 0.3, "untrained", 0.04, 0.01) | metrics("5w5s", 0.4, "supervised", 0.01, 0.02)
    said = sentences(both, {"verdict": protocol("5w1s", "5w5s"), "algorithm": {}})
    assert [sentence[:14] for sentence in said] == ["cifar10 5w1s: ", "cifar10 5w5s: "]
    assert sentences({"few_shot/5w1s/top1": 0.4}, {"few_shot": {"settings": {"5w1s": {}}}, "algorithm": {}}) == []
    assert sentences({}, {"verdict": protocol("5w1s")}) == []


def test_a_transductive_score_is_marked_as_such():
    given = {"verdict": protocol("5w1s"), "algorithm": {"transductive": True}}
    (said,) = sentences(metrics("5w1s", 0.3, "untrained", 0.04, 0.01), given)
    assert said.endswith("; its queries were normalised together (transductive), the baselines' were not")


def test_every_baseline_has_a_name_in_words():
    assert tuple(WORDS) == BASELINES


@pytest.mark.parametrize(("share", "text"), [(-0.00001, "+0.00"), (0.00001, "+0.00"), (-0.1, "-10.00")])
def test_a_value_that_rounds_to_zero_has_no_minus_sign(share, text):
    assert percent(share, "+") == text


class Judged:
    """The result of a run."""

    def __init__(self) -> None:
        self.metrics = {"few_shot/5w1s/top1": 0.8, "few_shot/5w1s/ci95": 0.01, "untrained/few_shot/5w1s/top1": 0.5}
        self.metrics |= metrics("5w1s", 0.312, "untrained", 0.068, 0.006)
        self.metrics |= metrics("5w5s", 0.412, "supervised", -0.121, 0.012)
        self.metrics |= {
            f"cifar10/few_shot/{one}/inductive/{kind}": 0.1 for one in ("5w1s", "5w5s") for kind in ("top1", "ci95")
        }
        self.content = {"metrics": self.metrics, "protocols": {"few_shot": {}, "verdict": protocol("5w1s", "5w5s")}}
        self.content["verdict"] = sentences(self.metrics, self.content["protocols"])


def test_the_runs_table_is_unchanged_and_the_verdict_fits_into_80_columns():
    console, result = Console(record=True, width=80, file=io.StringIO()), Judged()
    summarise(result, console)
    first = console.export_text()
    assert "cifar10" not in first and "80.00 ± 1.00" in first
    judge(result.content, console)
    rows = {line.split("│")[1].strip(): line for line in console.export_text().splitlines() if line.startswith("│")}
    assert list(rows) == ["trained", "inductive", *(name.replace("_", " ") for name in BASELINES)]
    cells = {name: [cell.strip() for cell in row.split("│")[2:6]] for name, row in rows.items()}
    assert cells["trained"] == ["31.2 ± 0.5", "", "41.2 ± 0.5", ""]
    assert cells["untrained"] == ["24.4 ± 0.4", "+6.8 ± 0.6", "20.0 ± 0.4", "+21.2 ± 0.6"]


def test_the_verdict_is_printed_below_its_table(capsys):
    result = Judged()
    judge(result.content, Console(width=80))
    assert capsys.readouterr().out.splitlines()[-2:] == result.content["verdict"]
