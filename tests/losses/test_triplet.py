import pytest
import torch

from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.triplet import Triplet
from ssl_runner.runtime.step_context import StepContext

MININGS = ["batch_all", "batch_hard", "semi_hard", "distance_weighted"]
LABELS = [[0, 0, 1, 1, 2, 2, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7], [3] * 8, [0, 0, 0, 0, 0, 0, 0, 1]]


def context(step: int = 0) -> StepContext:
    return StepContext(step=step, max_steps=10**6, seed=0, device=torch.device("cpu"))


def value(points: torch.Tensor, labels: list[int], margin: float, mining) -> torch.Tensor:
    return Triplet(margin, mining)(Embeddings(points[None], labels=torch.tensor(labels)), context())[0]


def naive(points: torch.Tensor, labels: list[int], margin: float, mining: str) -> torch.Tensor:
    """One triplet at a time; the draws of distance_weighted are taken from the loss."""
    z = points / points.norm(dim=1, keepdim=True)
    n = len(z)
    d = [[(z[i] - z[j]).norm() for j in range(n)] for i in range(n)]
    costs = []
    for i in range(n):
        others = sorted((j for j in range(n) if labels[j] != labels[i]), key=lambda j: d[i][j].item())
        mates = [j for j in range(n) if j != i and labels[j] == labels[i]]
        if not others or not mates:
            continue
        if mining == "batch_all":
            triplets = [(p, q) for p in mates for q in others if margin + d[i][p] - d[i][q] > 0]
        elif mining == "batch_hard":
            triplets = [(max(mates, key=lambda j: d[i][j].item()), others[0])]
        elif mining == "semi_hard":
            farther = [(p, [q for q in others if d[i][q] > d[i][p]]) for p in mates]
            triplets = [(p, found[0]) for p, found in farther if found]
        else:
            triplets = [(p, drawn(points, labels)[i][p]) for p in mates]
        costs += [(margin + d[i][p] - d[i][q]).clamp(min=0) for p, q in triplets]
    return torch.stack(costs).mean() if costs else torch.zeros((), dtype=points.dtype)


def drawn(points: torch.Tensor, labels: list[int], step: int = 0) -> list[list[int]]:
    same = torch.tensor([[a == b for b in labels] for a in labels])
    itself = torch.eye(len(labels), dtype=torch.bool)
    z = torch.nn.functional.normalize(points.detach(), dim=1)
    loss = Triplet(1.0, "distance_weighted")
    return loss.mine(torch.cdist(z, z), same & ~itself, ~same, points.shape[1], context(step))[0].tolist()


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_equals_a_loop_over_triplets_with_its_gradient(mining, labels, margin):
    torch.manual_seed(1)
    points = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)
    ours, reference = value(points, labels, margin, mining), naive(points, labels, margin, mining)
    torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)
    (mine,) = torch.autograd.grad(ours, points)
    theirs = torch.autograd.grad(reference, points)[0] if reference.requires_grad else torch.zeros_like(points)
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("mining", MININGS)
def test_two_points_of_one_class_and_one_of_another_have_the_closed_form(mining):
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    # anchor (1, 0): 1 + sqrt 2 - 2; anchor (0, 1): 1, because its negative is as near as its positive
    expected = {"semi_hard": 2**0.5 - 1}.get(mining, 2**0.5 / 2)
    assert value(points, [0, 0, 1], 1.0, mining).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("mining", "expected"), [(name, 0.0 if name == "semi_hard" else 0.3) for name in MININGS])
def test_equal_embeddings_cost_the_margin_and_have_a_finite_gradient(mining, expected):
    points = torch.ones(6, 4, requires_grad=True)
    loss, metrics = Triplet(0.3, mining)(Embeddings(points[None], labels=torch.tensor([0, 0, 1, 1, 2, 2])), context())
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert metrics["active_triplets"] == (mining != "semi_hard")
    loss.backward()
    assert torch.isfinite(points.grad).all()


@pytest.mark.parametrize("mining", MININGS)
def test_separated_classes_cost_nothing(mining):
    points = torch.eye(3, 5).repeat(2, 1)
    loss, metrics = Triplet(1.0, mining)(Embeddings(points[None], labels=torch.tensor([0, 1, 2] * 2)), context())
    assert loss == 0
    assert metrics["active_triplets"] == 0
    assert metrics["negative_distance"].item() == pytest.approx(2**0.5)


@pytest.mark.parametrize("mining", ["batch_all", "batch_hard", "semi_hard"])
def test_the_order_of_the_images_does_not_matter(mining):
    torch.manual_seed(0)
    points, labels, order = torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 3, torch.randperm(12)
    expected = value(points, labels.tolist(), 0.5, mining).item()
    assert value(points[order], labels[order].tolist(), 0.5, mining).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("mining", ["batch_all", "batch_hard", "semi_hard"])
def test_views_of_an_image_are_positives(mining):
    torch.manual_seed(0)
    online, labels = torch.randn(2, 4, 4, dtype=torch.float64), torch.arange(4)
    loss, _ = Triplet(1.0, mining)(Embeddings(online, labels=labels), context())
    assert loss.item() == pytest.approx(value(online.flatten(0, 1), labels.repeat(2).tolist(), 1.0, mining).item())
    assert loss > 0


def test_the_share_of_active_triplets_is_counted():
    torch.manual_seed(0)
    points, labels = torch.randn(9, 4), [0, 0, 0, 1, 1, 1, 2, 2, 2]
    z = torch.nn.functional.normalize(points, dim=1)
    triplets = [
        bool((z[i] - z[p]).norm() - (z[i] - z[q]).norm() + 0.2 > 0)
        for i in range(9)
        for p in range(9)
        for q in range(9)
        if p != i and labels[p] == labels[i] != labels[q]
    ]
    _, metrics = Triplet(0.2, "batch_all")(Embeddings(points[None], labels=torch.tensor(labels)), context())
    assert metrics["active_triplets"].item() == pytest.approx(sum(triplets) / len(triplets))


def test_distance_weighted_draws_by_the_inverse_density():
    torch.manual_seed(3)
    points, labels = torch.randn(8, 3, dtype=torch.float64), [0, 0, 1, 1, 1, 1, 1, 1]
    z = torch.nn.functional.normalize(points, dim=1)
    distance = (z[0] - z[2:]).norm(dim=1).clamp(0.5, 1.4)
    weight = distance ** (2 - 3) * (1 - distance**2 / 4) ** (-(3 - 3) / 2)
    draws = torch.tensor([drawn(points, labels, step)[0] for step in range(600)]).flatten()
    share = torch.bincount(draws, minlength=8) / len(draws)
    assert weight.max() > 1.5 * weight.min()
    torch.testing.assert_close(share[2:].double(), weight / weight.sum(), atol=0.03, rtol=0)
    assert share[:2].sum() == 0


def test_wide_embeddings_draw_near_negatives_without_overflow():
    near = torch.zeros(4, 2048)
    near[0, 0] = near[1, 1] = near[3, 2] = 1.0
    near[2, :2] = torch.tensor([1.0, 0.3])  # of the other class, close to the first point
    assert drawn(near, [0, 0, 1, 1])[0] == [2, 2, 2, 2]


def test_draws_repeat_with_the_step_and_change_between_steps():
    torch.manual_seed(0)
    points, labels = torch.randn(16, 8), [0, 1] * 8
    assert drawn(points, labels, 5) == drawn(points, labels, 5)
    assert drawn(points, labels, 5) != drawn(points, labels, 6)


@pytest.mark.parametrize("mining", MININGS)
def test_half_precision_is_computed_in_float32(mining):
    torch.manual_seed(0)
    online, labels = torch.randn(1, 16, 8).half(), torch.arange(16) % 4
    low, _ = Triplet(0.5, mining)(Embeddings(online, labels=labels), context())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, value(online[0].float(), labels.tolist(), 0.5, mining))


@pytest.mark.parametrize(("margin", "mining"), [(0.0, "batch_all"), (2.5, "batch_hard"), (1.0, "hardest")])
def test_impossible_settings_are_refused(margin, mining):
    with pytest.raises(ValueError, match=r"margin|mining"):
        Triplet(margin, mining)
