import math

import pytest
import torch

from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.nt_xent import NTXent
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


def value(online: torch.Tensor, temperature: float) -> torch.Tensor:
    return NTXent(temperature)(Embeddings(online), CLOCK)[0]


def naive(online: torch.Tensor, temperature: float) -> torch.Tensor:
    """Equation 1, one anchor and one negative at a time."""
    n = online.shape[1]
    z = [row / row.norm() for row in online.reshape(2 * n, -1)]
    total = torch.zeros((), dtype=online.dtype)
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        denominator = sum(torch.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i)
        total = total - torch.log(torch.exp(z[i] @ z[j] / temperature) / denominator)
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
def test_equals_equation_1_with_its_gradient(temperature):
    torch.manual_seed(0)
    online = torch.randn(2, 7, 5, dtype=torch.float64, requires_grad=True)
    ours, reference = value(online, temperature), naive(online, temperature)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    (mine,) = torch.autograd.grad(ours, online)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", [2, 8])
def test_equal_embeddings_give_the_log_of_all_others(n):
    assert value(torch.ones(2, n, 4, dtype=torch.float64), 0.5).item() == pytest.approx(math.log(2 * n - 1), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_orthonormal_pairs_have_the_closed_form(temperature):
    n = 6
    online = torch.eye(n, dtype=torch.float64).expand(2, n, n)
    positive = math.exp(1 / temperature)
    expected = -math.log(positive / (positive + 2 * n - 2))
    assert value(online, temperature).item() == pytest.approx(expected, abs=1e-12)


def test_the_views_may_be_swapped():
    torch.manual_seed(0)
    online = torch.randn(2, 9, 4, dtype=torch.float64)
    assert value(online, 0.2).item() == pytest.approx(value(online.flip(0), 0.2).item(), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_and_low_temperature_stay_finite(dtype):
    torch.manual_seed(0)
    online = torch.randn(2, 16, 8)
    low = value(online.to(dtype), 0.01)
    assert low.dtype == torch.float32
    assert torch.isfinite(low)
    torch.testing.assert_close(low, value(online.to(dtype).float(), 0.01))


def test_metrics_distinguish_solved_from_unsolved():
    solved = NTXent(0.5)(Embeddings(torch.eye(4).expand(2, 4, 4)), CLOCK)[1]
    assert solved["contrastive_accuracy"] == 1
    assert solved["positive_similarity"] == pytest.approx(1)
    wrong = torch.stack([torch.eye(4), torch.eye(4).roll(1, dims=0)])
    assert NTXent(0.5)(Embeddings(wrong), CLOCK)[1]["contrastive_accuracy"] == 0


def test_accuracy_counts_the_anchors_whose_nearest_is_their_partner():
    torch.manual_seed(0)
    first = torch.randn(64, 16)
    online = torch.stack([first, first + torch.randn(64, 16)])
    z = torch.nn.functional.normalize(online, dim=-1).flatten(0, 1).double()
    nearest = [max((j for j in range(128) if j != i), key=lambda j, i=i: (z[i] @ z[j]).item()) for i in range(128)]
    share = sum(nearest[i] == (i + 64) % 128 for i in range(128)) / 128
    assert 0.5 < share < 1
    assert NTXent(0.5)(Embeddings(online), CLOCK)[1]["contrastive_accuracy"].item() == pytest.approx(share)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_not_above_0_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        NTXent(temperature)


def test_three_views_are_refused():
    with pytest.raises(ValueError, match="2 views, got 3"):
        value(torch.randn(3, 4, 4), 0.5)
