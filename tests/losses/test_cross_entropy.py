import math

import pytest
import torch

from ssl_runner.losses.cross_entropy import CrossEntropy
from ssl_runner.losses.loss import Embeddings
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


def test_equal_logits_give_the_log_of_the_classes():
    loss, _ = CrossEntropy(0.0)(Embeddings(torch.zeros(2, 3, 5), labels=torch.tensor([0, 1, 4])), CLOCK)
    assert loss.item() == pytest.approx(math.log(5), abs=1e-6)


def test_smoothing_equals_the_mixed_target():
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    target = 0.9 * torch.nn.functional.one_hot(labels, 4).double() + 0.1 / 4
    expected = -(target * logits[0].log_softmax(-1)).sum(-1).mean()
    loss, _ = CrossEntropy(0.1)(Embeddings(logits, labels=labels), CLOCK)
    torch.testing.assert_close(loss, expected)


def test_accuracy_counts_every_view():
    logits = torch.eye(3).expand(2, 3, 3).clone()
    logits[1] = logits[1].roll(1, dims=1)
    _, metrics = CrossEntropy(0.0)(Embeddings(logits, labels=torch.arange(3)), CLOCK)
    assert metrics["accuracy"].item() == 0.5


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_a_smoothing_outside_0_to_1_is_refused(smoothing):
    with pytest.raises(ValueError, match="label_smoothing"):
        CrossEntropy(smoothing)
