import pytest
import torch

from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.vicreg import VICReg
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))
PAPER = (25.0, 25.0, 1.0, 1.0, 1e-4)


def value(online: torch.Tensor, *settings: float) -> torch.Tensor:
    return VICReg(*settings)(Embeddings(online), CLOCK)[0]


def naive(online, invariance, variance, covariance, gamma, epsilon):
    """Equations 1 to 6 as the authors' code scales them, one entry at a time."""
    _, n, width = online.shape
    s = sum(((online[0, b] - online[1, b]) ** 2).sum() for b in range(n)) / (n * width)
    v = c = torch.zeros((), dtype=online.dtype)
    for view in online:
        centered = [view[:, i] - view[:, i].sum() / n for i in range(width)]
        for i in range(width):
            deviation = ((centered[i] @ centered[i]) / (n - 1) + epsilon).sqrt()
            v = v + (gamma - deviation).clamp(min=0) / width / 2
            for j in range(width):
                if i != j:
                    c = c + ((centered[i] @ centered[j]) / (n - 1)) ** 2 / width
    return invariance * s + variance * v + covariance * c


@pytest.mark.parametrize(
    "settings", [PAPER, (1.0, 0.0, 0.0, 1.0, 1e-4), (0.0, 1.0, 0.0, 2.0, 0.1), (0.0, 0.0, 1.0, 1.0, 1e-4)]
)
def test_equals_a_loop_over_entries_with_its_gradient(settings):
    torch.manual_seed(0)
    online = torch.randn(2, 9, 5, dtype=torch.float64, requires_grad=True)
    ours, reference = value(online, *settings), naive(online, *settings)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    (mine,) = torch.autograd.grad(ours, online)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def white(n: int, width: int) -> torch.Tensor:
    """Points (n, width) with mean 0 and identity covariance over n - 1."""
    torch.manual_seed(0)
    points = torch.randn(n, width, dtype=torch.float64)
    return torch.linalg.qr(points - points.mean(0))[0] * (n - 1) ** 0.5


def test_equal_white_views_cost_nothing_and_opposite_ones_their_distance():
    points = white(16, 5)
    assert value(torch.stack([points, points]), *PAPER).item() == pytest.approx(0, abs=1e-12)
    # the squared distance of opposite points is 4 times their square, whose mean is (n - 1) / n
    assert value(torch.stack([points, -points]), *PAPER).item() == pytest.approx(25 * 4 * 15 / 16, abs=1e-9)


def test_collapsed_embeddings_cost_the_whole_hinge_with_a_finite_gradient():
    online = torch.ones(2, 8, 5, requires_grad=True)
    loss, metrics = VICReg(*PAPER)(Embeddings(online), CLOCK)
    assert loss.item() == pytest.approx(25 * (1 - 0.01))
    assert metrics["embedding_std"].item() == pytest.approx(0.01)
    loss.backward()
    assert torch.isfinite(online.grad).all()


def test_equal_dimensions_cost_their_covariance():
    points = white(16, 1).expand(16, 6)
    loss, metrics = VICReg(*PAPER)(Embeddings(torch.stack([points, points])), CLOCK)
    assert loss.item() == pytest.approx(2 * 6 * 5 / 6, rel=1e-9)  # both views, 6 x 5 pairs, over 6 dimensions
    assert metrics["covariance"].item() == pytest.approx(10)
    assert metrics["invariance"] == 0


def test_the_views_may_be_swapped_and_the_images_permuted():
    torch.manual_seed(0)
    online = torch.randn(2, 9, 4, dtype=torch.float64)
    assert value(online, *PAPER).item() == pytest.approx(value(online.flip(0), *PAPER).item(), abs=1e-12)
    assert value(online, *PAPER).item() == pytest.approx(value(online[:, torch.randperm(9)], *PAPER).item(), abs=1e-12)


def test_half_precision_is_computed_in_float32():
    torch.manual_seed(0)
    online = (300 * torch.randn(2, 16, 8)).half()  # squares overflow half precision
    low = value(online, *PAPER)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, value(online.float(), *PAPER))


@pytest.mark.parametrize("place", range(5))
def test_impossible_settings_are_refused(place):
    settings = list(PAPER)
    settings[place] = -1.0
    with pytest.raises(ValueError, match=["invariance", "variance", "covariance", "gamma", "epsilon"][place]):
        VICReg(*settings)


@pytest.mark.parametrize(("shape", "message"), [((3, 4, 4), "2 views, got 3"), ((2, 1, 4), "at least 2 images, got 1")])
def test_other_shapes_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        value(torch.randn(shape), *PAPER)
