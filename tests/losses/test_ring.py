import math

import pytest
import torch

from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.nt_xent import NTXent
from ssl_runner.losses.ring import Ring
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


def views(n: int = 6) -> torch.Tensor:
    return torch.randn(2, n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def value_and_gradient(loss, online: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    online = online.detach().requires_grad_()
    value = loss(Embeddings(online), CLOCK)[0]
    return value.detach(), torch.autograd.grad(value, online)[0]


def naive(online: torch.Tensor, temperature: float, first: int, last: int) -> torch.Tensor:
    """One anchor at a time: the sum over the negatives of ranks first to last, the least similar being 0."""
    n = online.shape[1]
    z = [row / row.norm() for row in online.reshape(2 * n, -1)]
    terms = []
    for i in range(2 * n):
        cosines = sorted((z[i] @ z[k] for k in range(2 * n) if k % n != i % n), key=lambda cosine: cosine.item())
        positive = torch.exp(z[i] @ z[(i + n) % (2 * n)] / temperature)
        terms.append(-torch.log(positive / (positive + sum(torch.exp(s / temperature) for s in cosines[first:last]))))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize(
    ("lower", "upper", "first", "last"),  # of ten negatives
    [(0.0, 1.0, 0, 10), (0.5, 1.0, 5, 10), (0.0, 0.7, 0, 7), (0.2, 0.9, 2, 9), (0.9, 0.99, 9, 10), (0.99, 1.0, 9, 10)],
)
def test_equals_a_loop_over_the_negatives_between_the_quantiles_with_its_gradient(
    temperature, lower, upper, first, last
):
    online = views()
    ours, mine = value_and_gradient(Ring(temperature, lower, upper), online)
    online.requires_grad_()
    reference = naive(online, temperature, first, last)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(ours, reference.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_the_whole_range_is_nt_xent(temperature):
    ours, mine = value_and_gradient(Ring(temperature, 0.0, 1.0), views(9))
    theirs, reference = value_and_gradient(NTXent(temperature), views(9))
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("lower", "upper", "kept"), [(0.0, 1.0, 14), (0.5, 1.0, 7), (0.0, 1e-9, 1), (0.999, 1.0, 1)])
def test_equal_embeddings_give_the_log_of_1_plus_the_kept_negatives(lower, upper, kept):
    loss, _ = Ring(0.5, lower, upper)(Embeddings(torch.ones(2, 8, 3, dtype=torch.float64)), CLOCK)
    assert loss.item() == pytest.approx(math.log(1 + kept), abs=1e-12)


def test_two_images_keep_at_least_one_negative_each():
    loss, _ = Ring(0.5, 0.9, 0.99)(Embeddings(torch.eye(2, dtype=torch.float64).expand(2, 2, 2)), CLOCK)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2)), abs=1e-12)


def test_without_the_nearest_negatives_a_copy_of_an_image_is_not_repelled():
    online = torch.eye(8, dtype=torch.float64).repeat(2, 1, 1)
    online[:, 1] = online[:, 0]  # images 0 and 1 are equal: two false negatives for each of four anchors
    assert Ring(0.1, 0.0, 12 / 14)(Embeddings(online), CLOCK)[0].item() == pytest.approx(math.log1p(12 * math.exp(-10)))
    assert Ring(0.1, 0.0, 1.0)(Embeddings(online), CLOCK)[0].item() > 0.25 * math.log(3)


@pytest.mark.parametrize(("lower", "upper"), [(-0.1, 1.0), (0.5, 0.5), (0.9, 0.1), (0.0, 1.1), (math.nan, 1.0)])
def test_impossible_quantiles_are_refused(lower, upper):
    with pytest.raises(ValueError, match="quantiles"):
        Ring(0.5, lower, upper)


def test_impossible_temperatures_and_batches_are_refused():
    with pytest.raises(ValueError, match="temperature"):
        Ring(0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="batch_size"):
        Ring(0.5, 0.0, 1.0)(Embeddings(torch.ones(2, 1, 3)), CLOCK)
