import math

import pytest
import torch

from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.relation_mse import RelationMSE
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


def test_equals_a_loop_over_pairs():
    logits, labels = torch.randn(2, 6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    terms = []
    for view in logits.tolist():
        for scores, label in zip(view, labels.tolist(), strict=True):
            terms += [(1 / (1 + math.exp(-s)) - (place == label)) ** 2 for place, s in enumerate(scores)]
    loss, _ = RelationMSE()(Embeddings(logits, labels=labels), CLOCK)
    assert loss.item() == pytest.approx(sum(terms) / len(terms), abs=1e-12)


def test_logits_of_0_give_a_quarter_and_right_ones_nothing():
    labels = torch.tensor([0, 3, 1])
    assert RelationMSE()(Embeddings(torch.zeros(1, 3, 4), labels=labels), CLOCK)[0].item() == 0.25
    right = 200 * torch.nn.functional.one_hot(labels, 4).float()[None] - 100
    loss, metrics = RelationMSE()(Embeddings(right, labels=labels), CLOCK)
    assert loss.item() == 0
    assert {name: value.item() for name, value in metrics.items()} == {
        "accuracy": 1.0,
        "positive_score": 1.0,
        "negative_score": pytest.approx(0, abs=1e-30),
    }


def test_scores_are_means_over_own_and_other_classes():
    relations = torch.tensor([[[0.8, 0.1, 0.3], [0.4, 0.6, 0.2]]])
    _, metrics = RelationMSE()(Embeddings(relations.logit(), labels=torch.tensor([0, 2])), CLOCK)
    assert metrics["positive_score"].item() == pytest.approx((0.8 + 0.2) / 2)
    assert metrics["negative_score"].item() == pytest.approx((0.1 + 0.3 + 0.4 + 0.6) / 4)
    assert metrics["accuracy"].item() == 0.5
