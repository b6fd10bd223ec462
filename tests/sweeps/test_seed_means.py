"""The mean over seeds with its band, against scipy's interval at each step."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ssl_runner.sweeps.seed_means import MOST, bands, titles

VALIDATION = "eval/validation/knn/top1"


def log(folder: Path, rows: dict[int, dict[str, float]]) -> Path:
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": step, **row}) + "\n" for step, row in rows.items()]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def curves(tmp_path: Path, values: np.ndarray, tag: str = "train/loss") -> list[Path]:
    """Runs that log ``values`` (runs, steps) at steps 10, 20, ..."""
    return [
        log(tmp_path / str(run), {10 * (step + 1): {tag: float(value)} for step, value in enumerate(row)})
        for run, row in enumerate(values)
    ]


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_band_is_students_interval_at_each_step(seeds, tmp_path):
    values = np.random.default_rng(seeds).normal(size=(seeds, 4))
    band = bands(curves(tmp_path, values))["train/loss"]
    lower, upper = stats.t.interval(0.95, seeds - 1, values.mean(0), stats.sem(values, axis=0))
    assert band.steps == [10, 20, 30, 40]
    assert band.mean == pytest.approx(values.mean(0))
    assert band.lower == pytest.approx(lower) and band.upper == pytest.approx(upper)


def test_only_steps_that_all_runs_have_with_a_finite_figure_count(tmp_path):
    first = log(tmp_path / "a", {step: {"train/loss": float(step)} for step in (10, 20, 30, 40)})
    second = log(tmp_path / "b", {10: {"train/loss": 2.0}, 20: {"train/loss": math.nan}, 25: {"train/loss": 1.0}})
    third = log(tmp_path / "c", {10: {"train/loss": 3.0}, 20: {"train/loss": 1.0}, 30: {"train/loss": 1.0}})
    assert bands([first, third])["train/loss"].steps == [10, 20, 30]
    assert bands([first, second, third])["train/loss"].steps == [10]
    assert bands([first, log(tmp_path / "none", {})]) == {}


def test_a_curve_that_one_run_lacks_has_no_mean(tmp_path):
    both, one = {"train/loss": 1.0, VALIDATION: 0.5}, {"train/loss": 2.0}
    folders = [log(tmp_path / "a", {1: both}), log(tmp_path / "b", {1: one})]
    assert set(bands(folders)) == {"train/loss"}


def test_curves_that_say_nothing_of_learning_have_no_mean(tmp_path):
    folders = curves(tmp_path, np.ones((2, 3)), "time/images_per_second")
    assert bands(folders) == {}


def test_a_long_curve_is_thinned_and_keeps_its_ends(tmp_path):
    steps = 3 * MOST + 1
    band = bands(curves(tmp_path, np.arange(2 * steps, dtype=float).reshape(2, steps)))["train/loss"]
    assert len(band.steps) == len(set(band.steps)) == MOST
    assert (band.steps[0], band.steps[-1]) == (10, 10 * steps)
    gaps = np.diff(band.steps)
    assert set(gaps) <= {30, 40}


def test_charts_have_the_main_figures_of_validation_only():
    tags = [VALIDATION, "eval/validation/few_shot/5w1s/top1", "eval/validation/few_shot/5w1s/ci95", "train/loss"]
    assert titles(tags) == {
        "loss": "train/loss",
        "validation: knn": VALIDATION,
        "validation: few_shot/5w1s": "eval/validation/few_shot/5w1s/top1",
    }
