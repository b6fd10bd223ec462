import pytest
import torch

from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.w_mse import WMSE
from ssl_runner.runtime.step_context import StepContext


def context(step: int = 0) -> StepContext:
    return StepContext(step=step, max_steps=100, seed=0, device=torch.device("cpu"))


def value(online: torch.Tensor, size: int, iterations: int = 1, epsilon: float = 0.0, step: int = 0) -> torch.Tensor:
    return WMSE(size, iterations, epsilon)(Embeddings(online), context(step))[0]


def naive(online: torch.Tensor, size: int, iterations: int, epsilon: float, step: int) -> torch.Tensor:
    """One sub-batch and one pair at a time, with an explicit inverse."""
    images, width = online.shape[1:]
    generator = context(step).generator("w_mse")
    distances = []
    for _ in range(iterations):
        order = torch.randperm(images, generator=generator).tolist()
        for start in range(0, images, size):
            pair = []
            for view in online:
                rows = torch.stack([view[i] for i in order[start : start + size]])
                centered = rows - rows.sum(0) / size
                covariance = sum(torch.outer(row, row) for row in centered) / (size - 1)
                mixed = (1 - epsilon) * covariance + epsilon * torch.eye(width, dtype=online.dtype)
                pair.append(centered @ torch.linalg.cholesky(mixed).inverse().T)
            for z, w in zip(*pair, strict=True):
                distances.append((z / z.norm() - w / w.norm()).square().sum())
    return torch.stack(distances).mean()


@pytest.mark.parametrize(
    ("size", "iterations", "epsilon", "step"), [(12, 1, 0.0, 0), (6, 1, 0.0, 3), (4, 3, 0.0, 7), (6, 2, 0.1, 1)]
)
def test_equals_a_loop_over_sub_batches_with_its_gradient(size, iterations, epsilon, step):
    torch.manual_seed(0)
    online = torch.randn(2, 12, 3, dtype=torch.float64, requires_grad=True)
    ours, reference = value(online, size, iterations, epsilon, step), naive(online, size, iterations, epsilon, step)
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)
    (mine,) = torch.autograd.grad(ours, online)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


def test_whitened_groups_have_mean_0_and_identity_covariance():
    torch.manual_seed(0)
    mixing = torch.randn(5, 5, dtype=torch.float64)
    whitened, _ = WMSE(16, 1, 0.0).whiten(torch.randn(2, 3, 16, 5, dtype=torch.float64) @ mixing + 4)
    zero = torch.zeros(2, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(whitened.mean(dim=2), zero)
    torch.testing.assert_close(whitened.mT @ whitened / 15, torch.eye(5, dtype=torch.float64).expand(2, 3, 5, 5))


def test_equal_views_cost_nothing_and_opposite_ones_4():
    torch.manual_seed(0)
    view = torch.randn(16, 3, dtype=torch.float64)
    assert value(torch.stack([view, view]), 8).item() == pytest.approx(0, abs=1e-9)
    assert value(torch.stack([view, -view]), 8).item() == pytest.approx(4, abs=1e-9)


def test_unrelated_views_cost_about_2():
    torch.manual_seed(0)
    assert value(torch.randn(2, 4096, 16), 1024).item() == pytest.approx(2, abs=0.03)


def test_what_whitening_undoes_does_not_matter():
    torch.manual_seed(0)
    online = torch.randn(2, 16, 4, dtype=torch.float64)
    stretch = torch.randn(4, 4, dtype=torch.float64).tril(-1) + torch.diag(torch.tensor([2.0, 0.1, 5.0, 1.0])).double()
    moved = online @ stretch.T + torch.tensor([3.0, 0.0, -7.0, 1.0])
    assert value(moved, 8).item() == pytest.approx(value(online, 8).item(), abs=1e-9)


def test_the_views_may_be_swapped():
    torch.manual_seed(0)
    online = torch.randn(2, 16, 4, dtype=torch.float64)
    assert value(online, 8).item() == pytest.approx(value(online.flip(0), 8).item(), abs=1e-12)


def test_the_split_changes_between_steps_and_repeats_for_a_step():
    torch.manual_seed(0)
    online = torch.randn(2, 16, 4, dtype=torch.float64)
    assert value(online, 8, step=1) == value(online, 8, step=1)
    assert value(online, 8, step=1) != value(online, 8, step=2)
    # one sub-batch is the whole batch in any order
    assert value(online, 16, step=1).item() == pytest.approx(value(online, 16, step=2).item(), abs=1e-12)


def test_a_singular_covariance_gives_nan_and_epsilon_is_the_remedy():
    torch.manual_seed(0)
    online = torch.randn(2, 16, 4)
    online[..., 2] = 1.0  # a dead dimension
    assert torch.isnan(value(online, 8))
    assert torch.isfinite(value(online, 8, epsilon=0.01))


def test_the_condition_is_logged():
    torch.manual_seed(0)
    online = torch.randn(2, 4096, 3, dtype=torch.float64) * torch.tensor([1.0, 0.01, 1.0])
    _, metrics = WMSE(4096, 1, 0.0)(Embeddings(online), context())
    assert metrics["log10_condition"].item() == pytest.approx(4, abs=0.1)


def test_half_precision_is_computed_in_float32():
    torch.manual_seed(0)
    online = (300 * torch.randn(2, 16, 4)).half()
    low = value(online, 16)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, value(online.float(), 16))


@pytest.mark.parametrize(
    ("settings", "name"), [((1, 1, 0.0), "size"), ((8, 0, 0.0), "iterations"), ((8, 1, 1.0), "epsilon")]
)
def test_impossible_settings_are_refused(settings, name):
    with pytest.raises(ValueError, match=name):
        WMSE(*settings)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 16, 4), "2 views, got 3"), ((2, 12, 4), "12 images cannot be split"), ((2, 16, 8), "loss.size=16 and a")],
)
def test_other_shapes_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        value(torch.randn(shape), 8)
