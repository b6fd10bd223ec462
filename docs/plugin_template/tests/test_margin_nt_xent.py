"""The loss against a naive loop, a closed form, and the loss that it reduces to."""

import math

import pytest
import torch
from margin_losses.margin_nt_xent import MarginNTXent

from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.nt_xent import NTXent
from ssl_runner.runtime.step_context import StepContext

CONTEXT = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


def value(loss, online: torch.Tensor) -> float:
    return loss(Embeddings(online), CONTEXT)[0].item()


def test_it_is_the_mean_over_anchors_of_a_naive_loop():
    online = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    points = [row / row.norm() for row in online.flatten(0, 1)]
    terms = []
    for i, anchor in enumerate(points):
        positive = (i + 5) % 10
        logits = [((anchor @ other).item() - 0.3 * (j == positive)) / 0.2 for j, other in enumerate(points) if j != i]
        own = ((anchor @ points[positive]).item() - 0.3) / 0.2
        terms.append(math.log(sum(math.exp(logit) for logit in logits)) - own)
    assert value(MarginNTXent(0.2, 0.3), online) == pytest.approx(sum(terms) / 10, rel=1e-5)


def test_without_a_margin_it_is_nt_xent():
    online = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(1))
    assert value(MarginNTXent(0.5, 0.0), online) == pytest.approx(value(NTXent(0.5), online), rel=1e-5)


def test_equal_embeddings_cost_what_the_margin_adds():
    online = torch.ones(2, 4, 3)
    expected = math.log(6 + math.exp(-0.1 / 0.5)) + 0.1 / 0.5
    assert value(MarginNTXent(0.5, 0.1), online) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("temperature", "margin"), [(0.0, 0.1), (0.5, -0.1), (0.5, 2.0)])
def test_values_out_of_range_are_refused(temperature, margin):
    with pytest.raises(ValueError, match="give a number"):
        MarginNTXent(temperature, margin)
