import pytest
import torch

from ssl_runner.losses.barlow_twins import BarlowTwins
from ssl_runner.losses.loss import Embeddings
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


def value(online: torch.Tensor, weight: float) -> torch.Tensor:
    return BarlowTwins(weight)(Embeddings(online), CLOCK)[0]


def naive(online: torch.Tensor, weight: float) -> torch.Tensor:
    """Equations 1 and 2, one pair of dimensions at a time."""
    _, n, width = online.shape
    columns = []
    for view in online:
        centered = [view[:, i] - view[:, i].sum() / n for i in range(width)]
        columns.append([c / ((c @ c) / n + 1e-5).sqrt() for c in centered])
    total = torch.zeros((), dtype=online.dtype)
    for i in range(width):
        for j in range(width):
            c = columns[0][i] @ columns[1][j] / n
            total = total + ((1 - c) ** 2 if i == j else weight * c**2)
    return total


@pytest.mark.parametrize("weight", [0.0, 0.005, 1.0])
def test_equals_a_loop_over_dimensions_with_its_gradient(weight):
    torch.manual_seed(0)
    online = torch.randn(2, 9, 5, dtype=torch.float64, requires_grad=True)
    ours, reference = value(online, weight), naive(online, weight)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    (mine,) = torch.autograd.grad(ours, online)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def white(n: int, width: int) -> torch.Tensor:
    """Points (n, width) with mean 0 and identity covariance over n."""
    torch.manual_seed(0)
    points = torch.randn(n, width, dtype=torch.float64)
    return torch.linalg.qr(points - points.mean(0))[0] * n**0.5


def test_equal_white_views_cost_nothing_and_opposite_ones_4_per_dimension():
    points = 100 * white(16, 5)  # so that 1e-5 is negligible compared with the variance
    assert value(torch.stack([points, points]), 0.5).item() == pytest.approx(0, abs=1e-12)
    assert value(torch.stack([points, -points]), 0.5).item() == pytest.approx(4 * 5, abs=1e-6)


def test_equal_views_with_identical_dimensions_only_pay_for_redundancy():
    points = (100 * white(16, 1)).expand(16, 6)
    loss, metrics = BarlowTwins(0.1)(Embeddings(torch.stack([points, points])), CLOCK)
    assert loss.item() == pytest.approx(0.1 * 6 * 5, rel=1e-6)
    assert metrics["off_diagonal_rms"].item() == pytest.approx(1, rel=1e-6)
    assert metrics["mean_correlation"].item() == pytest.approx(1, rel=1e-6)


def test_collapsed_embeddings_cost_1_per_dimension_with_a_finite_gradient():
    online = torch.ones(2, 8, 5, requires_grad=True)
    loss, metrics = BarlowTwins(0.005)(Embeddings(online), CLOCK)
    assert loss.item() == 5
    assert metrics["embedding_std"] == 0
    loss.backward()
    assert torch.isfinite(online.grad).all()


def test_the_views_may_be_swapped_and_the_images_permuted():
    torch.manual_seed(0)
    online = torch.randn(2, 9, 4, dtype=torch.float64)
    assert value(online, 0.2).item() == pytest.approx(value(online.flip(0), 0.2).item(), abs=1e-12)
    assert value(online, 0.2).item() == pytest.approx(value(online[:, torch.randperm(9)], 0.2).item(), abs=1e-12)


def test_shift_and_scale_of_a_dimension_do_not_matter():
    torch.manual_seed(0)
    online = 100 * torch.randn(2, 32, 4, dtype=torch.float64)
    moved = online * torch.tensor([2.0, 5.0, 0.5, 1.0]) + torch.tensor([7.0, -3.0, 0.0, 50.0])
    assert value(online, 0.2).item() == pytest.approx(value(moved, 0.2).item(), rel=1e-7)


def test_half_precision_is_computed_in_float32():
    torch.manual_seed(0)
    online = (300 * torch.randn(2, 16, 8)).half()  # squares overflow half precision
    low = value(online, 0.005)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, value(online.float(), 0.005))


@pytest.mark.parametrize("weight", [-0.1, float("nan")])
def test_a_weight_below_0_is_refused(weight):
    with pytest.raises(ValueError, match="off_diagonal_weight"):
        BarlowTwins(weight)


@pytest.mark.parametrize(("shape", "message"), [((3, 4, 4), "2 views, got 3"), ((2, 1, 4), "at least 2 images, got 1")])
def test_other_shapes_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        value(torch.randn(shape), 0.005)
