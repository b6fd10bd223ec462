import math

import pytest
import torch

from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.pairwise import Pairwise, squared_distances
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


def naive(points: torch.Tensor, labels: list[int], margin: float, mining: str) -> torch.Tensor:
    """One anchor at a time."""
    z = points / points.norm(dim=1, keepdim=True)
    n = len(z)
    distance = [[(z[i] - z[j]).norm() for j in range(n)] for i in range(n)]
    positives, negatives = [], []
    for i in range(n):
        others = sorted((j for j in range(n) if labels[j] != labels[i]), key=lambda j: distance[i][j].item())
        mates = [j for j in range(n) if j != i and labels[j] == labels[i]]
        positives += [distance[i][j] ** 2 for j in mates]
        if mining == "all":
            negatives += [distance[i][j] for j in others]
        elif mining == "hardest":
            negatives += [distance[i][j] for j in others[:1]]
        else:
            for mate in mates:
                farther = [j for j in others if distance[i][j] > distance[i][mate]]
                negatives += [distance[i][j] for j in farther[:1]]
    hinges = [(margin - d).clamp(min=0) ** 2 for d in negatives]
    total = torch.zeros((), dtype=points.dtype)
    for group in (positives, hinges):
        if group:
            total = total + torch.stack(group).mean()
    return total


@pytest.mark.parametrize("mining", ["all", "hardest", "semi_hard"])
@pytest.mark.parametrize(
    "labels", [[0, 0, 1, 1, 2, 2, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7], [3] * 8, [0, 0, 0, 0, 0, 0, 0, 1]]
)
def test_equals_a_loop_over_pairs_with_its_gradient(mining, labels):
    torch.manual_seed(1)
    points = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    ours, _ = Pairwise(1.5, mining)(Embeddings(points[None], labels=torch.tensor(labels)), CLOCK)
    reference = naive(points, labels, 1.5, mining)
    torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)
    if reference.requires_grad:
        (mine,) = torch.autograd.grad(ours, points)
        (theirs,) = torch.autograd.grad(reference, points)
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("mining", ["all", "hardest"])
def test_two_points_of_one_class_and_one_of_another_have_the_closed_form(mining):
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    loss, _ = Pairwise(2.0, mining)(Embeddings(points[None], labels=torch.tensor([0, 0, 1])), CLOCK)
    assert loss.item() == pytest.approx((2 - math.sqrt(2)) ** 2, abs=1e-6)


@pytest.mark.parametrize("mining", ["all", "hardest", "semi_hard"])
def test_collapsed_embeddings_have_a_finite_gradient(mining):
    points = torch.ones(1, 6, 4, requires_grad=True)
    loss, _ = Pairwise(1.0, mining)(Embeddings(points, labels=torch.tensor([0, 0, 1, 1, 2, 2])), CLOCK)
    loss.backward()
    assert torch.isfinite(points.grad).all()


def test_views_of_an_image_are_positives():
    torch.manual_seed(0)
    online = torch.randn(2, 3, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2])
    loss, _ = Pairwise(1.0, "all")(Embeddings(online, labels=labels), CLOCK)
    flat, _ = Pairwise(1.0, "all")(Embeddings(online.flatten(0, 1)[None], labels=labels.repeat(2)), CLOCK)
    assert loss.item() == pytest.approx(flat.item(), abs=1e-12)


def test_hardest_negatives_are_nearer_than_the_others():
    torch.manual_seed(0)
    embeddings = Embeddings(torch.randn(1, 64, 8), labels=torch.arange(64) % 4)
    average = Pairwise(1.0, "all")(embeddings, CLOCK)[1]["mined_distance"]
    hardest = Pairwise(1.0, "hardest")(embeddings, CLOCK)[1]["mined_distance"]
    semi_hard = Pairwise(1.0, "semi_hard")(embeddings, CLOCK)[1]["mined_distance"]
    assert hardest < semi_hard
    assert hardest < average


def test_squared_distances_equal_cdist():
    torch.manual_seed(0)
    points = torch.randn(20, 5, dtype=torch.float64)
    torch.testing.assert_close(squared_distances(points), torch.cdist(points, points).square())


@pytest.mark.parametrize(("margin", "mining"), [(0.0, "all"), (2.5, "all"), (1.0, "easy")])
def test_impossible_settings_are_refused(margin, mining):
    with pytest.raises(ValueError, match=r"margin|mining"):
        Pairwise(margin, mining)
