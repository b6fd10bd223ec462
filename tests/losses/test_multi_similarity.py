import math

import pytest
import torch

from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.multi_similarity import MultiSimilarity
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))
LABELS = [[0, 0, 1, 1, 2, 2, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7], [3] * 8, [0, 0, 0, 0, 0, 0, 0, 1]]


def value(points: torch.Tensor, labels: list[int], *settings: float) -> torch.Tensor:
    return MultiSimilarity(*settings)(Embeddings(points[None], labels=torch.tensor(labels)), CLOCK)[0]


def naive(points: torch.Tensor, labels: list[int], alpha: float, beta: float, base: float, epsilon: float):
    """Equations 11, 12 and 15, one pair at a time."""
    z = points / points.norm(dim=1, keepdim=True)
    n = len(z)
    total = torch.zeros((), dtype=points.dtype)
    for i in range(n):
        positives = [z[i] @ z[j] for j in range(n) if j != i and labels[j] == labels[i]]
        negatives = [z[i] @ z[j] for j in range(n) if labels[j] != labels[i]]
        if not positives or not negatives:
            continue
        kept_positives = [s for s in positives if s < max(negatives) + epsilon]
        kept_negatives = [s for s in negatives if s > min(positives) - epsilon]
        total = total + torch.log(1 + sum(torch.exp(-alpha * (s - base)) for s in kept_positives) + z.sum() * 0) / alpha
        total = total + torch.log(1 + sum(torch.exp(beta * (s - base)) for s in kept_negatives) + z.sum() * 0) / beta
    return total / n


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("settings", [(2.0, 50.0, 1.0, 0.1), (2.0, 40.0, 0.5, 0.0), (1.0, 3.0, 0.0, 2.0)])
def test_equals_a_loop_over_pairs_with_its_gradient(labels, settings):
    torch.manual_seed(1)
    points = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    ours, reference = value(points, labels, *settings), naive(points, labels, *settings)
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)
    (mine,) = torch.autograd.grad(ours, points)
    theirs = torch.autograd.grad(reference, points)[0] if reference.requires_grad else torch.zeros_like(points)
    torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-12)


def test_equal_embeddings_have_the_closed_form():
    points = torch.ones(6, 4, dtype=torch.float64)
    expected = math.log(1 + 2 * math.exp(-1.0)) / 2 + math.log(1 + 3 * math.exp(5.0)) / 10
    assert value(points, [0, 0, 0, 1, 1, 1], 2.0, 10.0, 0.5, 0.1).item() == pytest.approx(expected, abs=1e-12)


def test_separated_classes_cost_nothing():
    points = torch.eye(3).repeat(2, 1)
    loss, metrics = MultiSimilarity(2.0, 50.0, 1.0, 0.1)(
        Embeddings(points[None], labels=torch.tensor([0, 1, 2] * 2)), CLOCK
    )
    assert loss == 0
    assert metrics["kept_positives"] == metrics["kept_negatives"] == 0
    assert metrics["positive_similarity"] == 1


def test_the_kept_pairs_are_counted():
    points = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [-1.0, 0.0]])
    _, metrics = MultiSimilarity(2.0, 50.0, 1.0, 0.1)(
        Embeddings(points[None], labels=torch.tensor([0, 0, 1, 1])), CLOCK
    )
    assert metrics["kept_positives"] == 1
    # 0 and 1 each keep 2 but not 3; 2 keeps both; of those with s > -0.8 - 0.1, 3 only keeps 1 (-0.6)
    assert metrics["kept_negatives"] == 5 / 8


def test_the_order_of_the_images_does_not_matter():
    torch.manual_seed(0)
    points, labels, order = torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 3, torch.randperm(12)
    settings = (2.0, 50.0, 1.0, 0.1)
    expected = value(points, labels.tolist(), *settings).item()
    assert value(points[order], labels[order].tolist(), *settings).item() == pytest.approx(expected, abs=1e-12)


def test_views_of_an_image_are_positives():
    torch.manual_seed(0)
    online, labels = torch.randn(2, 4, 4, dtype=torch.float64), torch.arange(4)
    loss, _ = MultiSimilarity(2.0, 50.0, 1.0, 0.1)(Embeddings(online, labels=labels), CLOCK)
    assert loss.item() == pytest.approx(value(online.flatten(0, 1), [0, 1, 2, 3] * 2, 2.0, 50.0, 1.0, 0.1).item())
    assert loss > 0


def test_sharp_weights_in_half_precision_stay_finite():
    torch.manual_seed(0)
    online, labels = torch.randn(16, 4).half(), (torch.arange(16) % 4).tolist()
    low = value(online, labels, 100.0, 400.0, -1.0, 0.1)
    assert low.dtype == torch.float32
    assert torch.isfinite(low)
    torch.testing.assert_close(low, value(online.float(), labels, 100.0, 400.0, -1.0, 0.1))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ((0.0, 50.0, 1.0, 0.1), "alpha"),
        ((2.0, -1.0, 1.0, 0.1), "beta"),
        ((2.0, 50.0, 1.5, 0.1), "base"),
        ((2.0, 50.0, 1.0, -0.1), "epsilon"),
        ((math.nan, 50.0, 1.0, 0.1), "alpha"),
    ],
)
def test_impossible_settings_are_refused(settings, name):
    with pytest.raises(ValueError, match=name):
        MultiSimilarity(*settings)
