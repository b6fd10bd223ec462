"""The comparison episode by episode."""

import pytest
import torch
from scipy import stats

from ssl_runner.evaluation.paired import best_baseline, difference, mean


def accuracies(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_paired_interval_by_hand():
    found = difference(accuracies(0.5, 0.6, 0.9, 0.8), accuracies(0.4, 0.6, 0.7, 0.7))
    # differences .1, 0, .2, .1: mean .1, variance (0 + .01 + .01 + 0) / 3; Student's t, 3 degrees of freedom: 3.1824
    assert found["difference"] == pytest.approx(0.1)
    assert found["ci95"] == pytest.approx(3.182446 * (0.02 / 3) ** 0.5 / 2, rel=1e-6)


def test_the_interval_is_that_of_a_paired_t_test_and_narrower_than_of_two_means():
    generator = torch.Generator().manual_seed(0)
    easy = torch.rand(25, dtype=torch.float64, generator=generator)
    own, baseline = (easy + 0.1 * torch.rand(25, dtype=torch.float64, generator=generator) for _ in range(2))
    found, expected = difference(own, baseline), stats.ttest_rel(own, baseline).confidence_interval(0.95)
    assert found["difference"] - found["ci95"] == pytest.approx(expected.low)
    assert found["difference"] + found["ci95"] == pytest.approx(expected.high)
    assert found["ci95"] < 0.2 * (mean(own)["ci95"] ** 2 + mean(baseline)["ci95"] ** 2) ** 0.5


def test_the_best_baseline_has_the_highest_mean_of_all_episodes():
    found = {"chance": accuracies(0.2, 0.2, 0.2), "low": accuracies(0.6, 0.1, 0.1), "high": accuracies(0.1, 0.5, 0.5)}
    assert best_baseline(found) == "high"
    assert best_baseline({"first": accuracies(0.3, 0.5), "second": accuracies(0.5, 0.3)}) == "first"


@pytest.mark.parametrize(
    ("shorter", "best"),
    [
        ((0.7, 0.4), "shorter"),  # better than each of the others there, worse than one everywhere
        ((0.45, 0.45), "high"),  # worse there than one that is not the best everywhere
        ((0.5, 0.5), "high"),  # equal there
    ],
)
def test_one_that_was_asked_less_is_the_best_if_it_is_better_where_it_was_asked(shorter, best):
    whole = {"early": accuracies(0.5, 0.5, 0.0, 0.0), "high": accuracies(0.4, 0.4, 0.9, 0.9)}
    assert best_baseline({**whole, "shorter": accuracies(*shorter)}) == best


def test_the_difference_to_one_that_was_asked_less_is_of_the_episodes_that_it_was_asked():
    own, baseline = accuracies(0.5, 0.7, 0.0), accuracies(0.3, 0.4)
    assert difference(own, baseline)["difference"] == pytest.approx(0.25)
