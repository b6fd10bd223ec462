import math

import pytest
import torch

from ssl_runner.losses.dcl import DCL
from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.nt_xent import NTXent
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


def value(online: torch.Tensor, temperature: float, sigma: float | None) -> torch.Tensor:
    return DCL(temperature, sigma)(Embeddings(online), CLOCK)[0]


def batch(n: int = 7) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, n, 5, dtype=torch.float64)


def naive(online: torch.Tensor, temperature: float, sigma: float | None) -> torch.Tensor:
    """Equation 6, one anchor and one negative at a time; weights are constants."""
    n = online.shape[1]
    z = [row / row.norm() for row in online.reshape(2 * n, -1)]
    cosines = [z[i] @ z[i + n] for i in range(n)]
    total = torch.zeros((), dtype=online.dtype)
    for i in range(2 * n):
        weight = 1.0
        if sigma is not None:
            mean = sum(math.exp(c.item() / sigma) for c in cosines) / n
            weight = 2 - math.exp(cosines[i % n].item() / sigma) / mean
        negatives = sum(torch.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k % n != i % n)
        total = total - weight * cosines[i % n] / temperature + torch.log(negatives)
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("sigma", [None, 0.1, 0.5])
def test_equals_equation_6_with_its_gradient(temperature, sigma):
    online = batch().requires_grad_()
    ours, reference = value(online, temperature, sigma), naive(online, temperature, sigma)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    (mine,) = torch.autograd.grad(ours, online)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_orthonormal_pairs_have_the_closed_form_below_0(temperature):
    n = 6
    expected = -1 / temperature + math.log(2 * n - 2)
    online = torch.eye(n, dtype=torch.float64).expand(2, n, n)
    assert value(online, 0.1, None).item() < 0
    assert value(online, temperature, None).item() == pytest.approx(expected, abs=1e-12)
    assert value(online, temperature, 0.5).item() == pytest.approx(expected, abs=1e-12), "equal pairs weigh 1"


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_equal_embeddings_give_the_log_of_the_negatives(sigma):
    online = torch.ones(2, 5, 3, dtype=torch.float64)
    assert value(online, 0.1, sigma).item() == pytest.approx(math.log(8), abs=1e-12)


def test_with_the_positive_added_to_the_denominator_it_is_nt_xent():
    online, temperature = batch(), 0.3
    z = torch.nn.functional.normalize(online, dim=-1)
    positive = (z[0] * z[1]).sum(-1).repeat(2) / temperature
    flat = z.flatten(0, 1)
    image = torch.arange(7).repeat(2)
    log_sum = (flat @ flat.T / temperature).masked_fill(image[:, None] == image, -torch.inf).logsumexp(dim=1)
    coupled = (torch.logaddexp(log_sum, positive) - log_sum).mean()
    expected = NTXent(temperature)(Embeddings(online), CLOCK)[0] - coupled
    assert value(online, temperature, None).item() == pytest.approx(expected.item(), abs=1e-12)


def test_a_large_sigma_tends_to_the_unweighted_loss():
    online = batch()
    plain = value(online, 0.1, None).item()
    distances = [abs(value(online, 0.1, sigma).item() - plain) for sigma in (1.0, 1e2, 1e4)]
    assert distances[0] > 50 * distances[1] > 2500 * distances[2]
    assert value(online, 0.1, math.inf).item() == pytest.approx(plain, abs=1e-12)


def test_weights_are_smallest_for_the_nearest_pair_and_1_on_average():
    torch.manual_seed(0)
    similarity = torch.rand(9, dtype=torch.float64).repeat(2)
    weight = DCL(0.1, 0.5).weight(similarity)
    assert weight.argmin() == similarity.argmax()
    assert weight.mean().item() == pytest.approx(1, abs=1e-12)
    assert DCL(0.1, 0.5)(Embeddings(batch()), CLOCK)[1]["least_weight"] < 1


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_neither_the_order_of_images_nor_that_of_views_matters(sigma):
    online = batch()
    expected = value(online, 0.2, sigma).item()
    assert value(online[:, torch.randperm(7)], 0.2, sigma).item() == pytest.approx(expected, abs=1e-12)
    assert value(online.flip(0), 0.2, sigma).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_and_low_temperature_stay_finite(dtype):
    low = value(batch().to(dtype), 0.01, 0.01)
    assert low.dtype == torch.float32
    assert torch.isfinite(low)


@pytest.mark.parametrize(
    ("temperature", "sigma", "name"),
    [(0.0, None, "temperature"), (0.1, 0.0, "sigma"), (0.1, -0.5, "sigma"), (0.1, math.nan, "sigma")],
)
def test_impossible_settings_are_refused(temperature, sigma, name):
    with pytest.raises(ValueError, match=f"{name}="):
        DCL(temperature, sigma)


def test_a_lone_image_without_negatives_is_refused():
    with pytest.raises(ValueError, match="batch_size"):
        value(torch.ones(2, 1, 4), 0.1, None)
