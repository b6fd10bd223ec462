"""Single answers: their means are the scores, and they are kept only where they are asked for."""

import pytest
import torch

from ssl_runner.data.augmentation import Augmentation
from ssl_runner.evaluation.answers import kept
from ssl_runner.evaluation.few_shot import FewShot
from ssl_runner.evaluation.fine_tuning import FineTuning
from ssl_runner.evaluation.knn import KNN
from ssl_runner.evaluation.linear_probe import LinearProbe

CPU = torch.device("cpu")
EVALUATORS = {
    "knn": KNN(5, 0.1),
    "linear_probe": LinearProbe([0.1, 0.01], 50, 1.0),
    "linear_probe_10pct": LinearProbe([0.1], 50, 0.1),
    "fine_tuning_10pct": FineTuning(0.1, 1, 16, 0.02, 1.0, 0.0, Augmentation({})),
    "few_shot/5w1s": FewShot(["5w1s"], 5, 20, 0, 8),
}


@pytest.mark.parametrize("key", EVALUATORS)
@pytest.mark.parametrize("splits", ["by_images", "by_classes"])
def test_the_mean_of_the_answers_is_the_score(key, splits, small, request):
    algorithm, data = small(), request.getfixturevalue(splits)
    with kept() as found:
        scores = EVALUATORS[key](algorithm, data, CPU)
    assert list(found) == [key]
    assert found[key].dtype == (torch.float64 if "few_shot" in key else torch.bool)
    assert found[key].double().mean().item() == pytest.approx(scores[f"{key}/top1"], abs=1e-6)
    assert EVALUATORS[key](algorithm, data, CPU) == scores  # they change nothing
    assert len(found) == 1
