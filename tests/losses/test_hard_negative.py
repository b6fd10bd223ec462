import math

import pytest
import torch

from ssl_runner.losses.debiased import Debiased
from ssl_runner.losses.hard_negative import HardNegative
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.nt_xent import NTXent
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


def value_and_gradient(loss: Loss, online: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    online = online.detach().requires_grad_()
    result = loss(Embeddings(online), CLOCK)[0]
    return result.detach(), torch.autograd.grad(result, online)[0]


def related(spread: float) -> torch.Tensor:
    torch.manual_seed(0)
    first = torch.randn(7, 5, dtype=torch.float64)
    return torch.stack([first, first + spread * torch.randn(7, 5, dtype=torch.float64)])


def naive(online: torch.Tensor, temperature: float, tau_plus: float, beta: float) -> torch.Tensor:
    """One anchor and one negative at a time, without logarithms."""
    b = online.shape[1]
    z = [row / row.norm() for row in online.reshape(2 * b, -1)]
    n = 2 * b - 2
    total = torch.zeros((), dtype=online.dtype)
    for i in range(2 * b):
        positive = torch.exp(z[i] @ z[(i + b) % (2 * b)] / temperature)
        cosines = torch.stack([z[i] @ z[k] for k in range(2 * b) if k % b != i % b])
        weights = torch.exp(beta * cosines / temperature)
        negatives = (weights * torch.exp(cosines / temperature)).sum() / weights.mean()
        estimate = (-tau_plus * n * positive + negatives) / (1 - tau_plus)
        floor = torch.tensor(n * math.exp(-1 / temperature), dtype=online.dtype)
        total = total - torch.log(positive / (positive + torch.maximum(estimate, floor)))
    return total / (2 * b)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
@pytest.mark.parametrize(("tau_plus", "beta"), [(0.0, 1.0), (0.1, 0.5), (0.1, 10.0), (0.4, 2.0)])
@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_equals_the_reweighted_sum_with_its_gradient(temperature, tau_plus, beta, spread):
    online = related(spread)
    ours, mine = value_and_gradient(HardNegative(temperature, tau_plus, beta), online)
    online.requires_grad_()
    reference = naive(online, temperature, tau_plus, beta)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(ours, reference.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_with_beta_and_tau_plus_0_it_is_nt_xent(temperature):
    ours, mine = value_and_gradient(HardNegative(temperature, 0.0, 0.0), related(1.0))
    reference, theirs = value_and_gradient(NTXent(temperature), related(1.0))
    assert ours.item() == pytest.approx(reference.item(), abs=1e-12)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tau_plus", [0.05, 0.3])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_with_beta_0_it_is_the_debiased_loss(tau_plus, spread):
    ours, mine = value_and_gradient(HardNegative(0.5, tau_plus, 0.0), related(spread))
    reference, theirs = value_and_gradient(Debiased(0.5, tau_plus), related(spread))
    assert ours.item() == pytest.approx(reference.item(), abs=1e-12)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 1.0, 100.0])
def test_equal_embeddings_give_the_log_of_all_others(beta):
    loss, _ = HardNegative(0.5, 0.1, beta)(Embeddings(torch.ones(2, 4, 3, dtype=torch.float64)), CLOCK)
    assert loss.item() == pytest.approx(math.log(7), abs=1e-12)


def test_with_a_large_beta_only_the_nearest_negative_counts():
    online = related(1.0)
    z = torch.nn.functional.normalize(online, dim=-1).flatten(0, 1)
    image = torch.arange(7).repeat(2)
    cosines = (z @ z.T).masked_fill(image[:, None] == image[None, :], -torch.inf)
    positive, nearest = (z[:7] * z[7:]).sum(-1).repeat(2), cosines.amax(dim=1)
    expected = (torch.logaddexp(positive, nearest + math.log(12)) - positive).mean()
    loss, metrics = HardNegative(1.0, 0.0, 1e6)(Embeddings(online), CLOCK)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    assert metrics["weighted_negative_similarity"].item() == pytest.approx(nearest.mean().item(), abs=1e-6)


def test_neither_the_order_of_images_nor_that_of_views_matters():
    loss, online = HardNegative(0.5, 0.1, 1.0), related(1.0)
    expected = value_and_gradient(loss, online)[0]
    torch.testing.assert_close(value_and_gradient(loss, online[:, torch.randperm(7)])[0], expected)
    torch.testing.assert_close(value_and_gradient(loss, online.flip(0))[0], expected)


@pytest.mark.parametrize("tau_plus", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_beta_that_would_overflow_float32_stays_exact(dtype, tau_plus):
    online = related(1.0).to(dtype)
    loss = HardNegative(0.07, tau_plus, 10.0)  # e^(11 / 0.07) is about 1e68
    low, gradient = value_and_gradient(loss, online)
    assert low.dtype == torch.float32
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(low.double(), value_and_gradient(loss, online.double())[0], rtol=1e-4, atol=1e-5)


def test_clamped_anchors_are_counted():
    pairs = Embeddings(torch.eye(6).expand(2, 6, 6))
    assert HardNegative(0.1, 0.1, 1.0)(pairs, CLOCK)[1]["clamped_anchors"] == 1
    assert HardNegative(0.1, 0.0, 1.0)(pairs, CLOCK)[1]["clamped_anchors"] == 0


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0.0, 0.1, 1.0), "temperature"),
        ((0.5, 1.0, 1.0), "tau_plus"),
        ((0.5, 0.1, -1.0), "beta"),
        ((0.5, 0.1, math.inf), "beta"),
    ],
)
def test_impossible_settings_are_refused(arguments, name):
    with pytest.raises(ValueError, match=f"{name}="):
        HardNegative(*arguments)
