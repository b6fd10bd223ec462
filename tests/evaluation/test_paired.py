"""The paired comparison, episode by episode."""

import pytest
import torch
from scipy import stats

from ssl_runner.evaluation.paired import difference, mean, strongest_baseline


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


def spread(mean: float, half: float, episodes: int = 1000) -> torch.Tensor:
    """Accuracies whose mean has this 95% interval."""
    ends = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(episodes // 2)
    return mean + ends * half * episodes**0.5 / 1.96 * ((episodes - 1) / episodes) ** 0.5


OWN = torch.full((1000,), 0.5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("baselines", "strongest"),
    [
        # better than all: the one that it is least surely better than
        ({"low": spread(0.2, 0.01), "near": spread(0.48, 0.01), "unsure": spread(0.45, 0.045)}, "unsure"),
        # better than one everywhere, which another one of few episodes makes doubtful
        ({"whole": spread(0.47, 0.01), "few": spread(0.48, 0.03, 100)}, "few"),
        # better than one of few episodes, where it was lucky, and worse than one everywhere
        ({"whole": spread(0.51, 0.005), "few": spread(0.47, 0.02, 100)}, "whole"),
        # surely worse than one, perhaps worse than another whose mean is higher
        ({"whole": spread(0.51, 0.005), "few": spread(0.511, 0.016, 100)}, "whole"),
        # worse than both: the one that it is most surely worse than
        ({"whole": spread(0.53, 0.005), "few": spread(0.55, 0.015, 100)}, "few"),
    ],
)
def test_the_strongest_baseline_is_the_strongest_evidence_against_the_algorithm(baselines, strongest):
    assert strongest_baseline(OWN, baselines) == strongest
    paired = {name: difference(OWN, values) for name, values in baselines.items()}
    ends = {name: one["difference"] + one["ci95"] for name, one in paired.items()}
    begins = {name: one["difference"] - one["ci95"] for name, one in paired.items()}
    assert (begins[strongest] > 0) == all(value > 0 for value in begins.values())
    assert (ends[strongest] < 0) == any(value < 0 for value in ends.values())


def test_the_difference_to_a_baseline_with_fewer_episodes_uses_only_these():
    own, baseline = accuracies(0.5, 0.7, 0.0), accuracies(0.3, 0.4)
    assert difference(own, baseline)["difference"] == pytest.approx(0.25)
