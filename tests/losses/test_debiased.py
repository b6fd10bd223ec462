import math

import pytest
import torch

from ssl_runner.losses.debiased import Debiased
from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.nt_xent import NTXent
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


def value(online: torch.Tensor, temperature: float, tau_plus: float) -> torch.Tensor:
    return Debiased(temperature, tau_plus)(Embeddings(online), CLOCK)[0]


def naive(online: torch.Tensor, temperature: float, tau_plus: float) -> torch.Tensor:
    """Equations 7 and 8, one anchor and one negative at a time, not in log space."""
    b = online.shape[1]
    z = [row / row.norm() for row in online.reshape(2 * b, -1)]
    n = 2 * b - 2
    total = torch.zeros((), dtype=online.dtype)
    for i in range(2 * b):
        positive = torch.exp(z[i] @ z[(i + b) % (2 * b)] / temperature)
        negatives = sum(torch.exp(z[i] @ z[k] / temperature) for k in range(2 * b) if k % b != i % b)
        estimate = (-tau_plus * n * positive + negatives) / (1 - tau_plus)
        floor = torch.tensor(n * math.exp(-1 / temperature), dtype=online.dtype)
        total = total - torch.log(positive / (positive + torch.maximum(estimate, floor)))
    return total / (2 * b)


def related(spread: float, n: int = 7, d: int = 5) -> torch.Tensor:
    """Pairs of views whose distance grows with `spread`."""
    torch.manual_seed(0)
    first = torch.randn(n, d, dtype=torch.float64)
    return torch.stack([first, first + spread * torch.randn(n, d, dtype=torch.float64)])


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("tau_plus", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_equals_the_equation_with_its_gradient(temperature, tau_plus, spread):
    online = related(spread).requires_grad_()
    ours, reference = value(online, temperature, tau_plus), naive(online, temperature, tau_plus)
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)
    (mine,) = torch.autograd.grad(ours, online)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_without_false_negatives_it_is_nt_xent(temperature):
    online = related(1.0).requires_grad_()
    ours, reference = value(online, temperature, 0.0), NTXent(temperature)(Embeddings(online), CLOCK)[0]
    assert ours.item() == pytest.approx(reference.item(), abs=1e-12)
    (mine,) = torch.autograd.grad(ours, online)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tau_plus", [0.0, 0.1, 0.5])
def test_equal_embeddings_give_the_log_of_all_others(tau_plus):
    online = torch.ones(2, 4, 3, dtype=torch.float64)
    assert value(online, 0.5, tau_plus).item() == pytest.approx(math.log(7), abs=1e-12)


def test_orthonormal_pairs_are_at_the_floor():
    n, temperature = 6, 0.1  # the positive's share, 0.1 e^10, exceeds the mean over negatives, 1
    loss, metrics = Debiased(temperature, 0.1)(Embeddings(torch.eye(n).double().expand(2, n, n)), CLOCK)
    positive, floor = math.exp(1 / temperature), math.exp(-1 / temperature)
    assert loss.item() == pytest.approx(-math.log(positive / (positive + (2 * n - 2) * floor)), abs=1e-12)
    assert metrics["clamped_anchors"] == 1
    assert Debiased(temperature, 0.0)(Embeddings(torch.eye(n).expand(2, n, n)), CLOCK)[1]["clamped_anchors"] == 0


def test_the_share_of_clamped_anchors_is_counted():
    online, temperature, tau_plus = related(0.6, n=32), 0.5, 0.2
    z = torch.nn.functional.normalize(online, dim=-1).flatten(0, 1)
    similarity = (z @ z.T / temperature).exp()
    clamped = 0
    for i in range(64):
        negatives = [similarity[i, k] for k in range(64) if k % 32 != i % 32]
        rest = (sum(negatives) / 62 - tau_plus * similarity[i, (i + 32) % 64]) / (1 - tau_plus)
        clamped += (rest < math.exp(-1 / temperature)).item()
    assert 0 < clamped < 64
    got = Debiased(temperature, tau_plus)(Embeddings(online), CLOCK)[1]["clamped_anchors"]
    assert got.item() == pytest.approx(clamped / 64)


def test_neither_the_order_of_images_nor_that_of_views_matters():
    online = related(1.0)
    expected = value(online, 0.5, 0.1).item()
    assert value(online[:, torch.randperm(7)], 0.5, 0.1).item() == pytest.approx(expected, abs=1e-12)
    assert value(online.flip(0), 0.5, 0.1).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("spread", [0.0, 0.5, 5.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_and_low_temperature_stay_finite(dtype, spread):
    online = related(spread).to(dtype).requires_grad_()
    low = value(online, 0.01, 0.1)
    low.backward()
    assert low.dtype == torch.float32
    assert torch.isfinite(low) and torch.isfinite(online.grad).all()


def test_a_positive_whose_share_is_the_whole_mean_has_a_finite_gradient():
    # all cosines are 1, so with tau_plus next to 1 the difference is 0 up to rounding
    online = torch.ones(2, 4, 3, requires_grad=True)
    value(online, 0.5, 1 - 1e-7).backward()
    assert torch.isfinite(online.grad).all()


def test_anchors_far_beyond_the_floor_have_a_finite_gradient():
    # e^(1 / T) overflows float32, and so does the positive's share of the mean
    online = torch.eye(6).repeat(2, 1, 1).requires_grad_()
    value(online, 0.01, 0.1).backward()
    assert torch.isfinite(online.grad).all()


@pytest.mark.parametrize(
    ("temperature", "tau_plus", "name"),
    [(0.0, 0.1, "temperature"), (0.5, 1.0, "tau_plus"), (0.5, -0.1, "tau_plus"), (0.5, math.nan, "tau_plus")],
)
def test_impossible_settings_are_refused(temperature, tau_plus, name):
    with pytest.raises(ValueError, match=f"{name}=.*give a number"):
        Debiased(temperature, tau_plus)


def test_a_lone_image_is_refused():
    with pytest.raises(ValueError, match="batch_size"):
        value(torch.ones(2, 1, 4), 0.5, 0.1)
