import math

import pytest
import torch

from ssl_runner.losses.info_nce import InfoNCE
from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.nnclr import NNCLR
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


def value(online, target, memory_bank, temperature=0.1) -> torch.Tensor:
    return NNCLR(temperature)(Embeddings(online, target=target, memory_bank=memory_bank), CLOCK)[0]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def naive(online, target, memory_bank, temperature) -> torch.Tensor:
    """One neighbour at a time, found by the Euclidean distance of normalised vectors, as in the paper."""
    support = [row / row.norm() for row in memory_bank]

    def neighbour(z: torch.Tensor) -> torch.Tensor:
        return min(support, key=lambda q: (z / z.norm() - q).norm().item())

    terms = []
    for i in range(len(online)):
        for j in range(len(target)):
            if i == j:
                continue
            for n, z in enumerate(target[j]):
                scores = [torch.exp(neighbour(z) @ (p / p.norm()) / temperature) for p in online[i]]
                terms.append(-torch.log(scores[n] / sum(scores)))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize(("views", "entries"), [(2, 1), (2, 20), (3, 20)])
def test_equals_a_loop_over_predictions_with_its_gradient(temperature, views, entries):
    online, target, memory_bank = draw(views, 6, 4).requires_grad_(), draw(2, 6, 4), draw(entries, 4)
    ours, reference = value(online, target, memory_bank, temperature), naive(online, target, memory_bank, temperature)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    (mine,) = torch.autograd.grad(ours, online)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("others", [0, 3])
def test_a_memory_of_the_projections_themselves_gives_info_nce_with_roles_exchanged(others):
    online, target = draw(2, 6, 4).requires_grad_(), draw(3, 6, 4)[:2]
    memory_bank = torch.cat([3 * target.flatten(0, 1), -target[0, :others]])  # of any length
    ours = value(online, target, memory_bank)
    reference, _ = InfoNCE(0.1)(Embeddings(target, target=online), CLOCK)
    assert ours.item() == pytest.approx(reference.item(), abs=1e-12)


def test_with_an_empty_memory_a_projection_is_its_own_neighbour():
    online, target = draw(2, 6, 4), draw(2, 6, 4)
    loss, metrics = NNCLR(0.1)(Embeddings(online, target=target, memory_bank=torch.zeros(0, 4).double()), CLOCK)
    reference, _ = InfoNCE(0.1)(Embeddings(target, target=online), CLOCK)
    assert loss.item() == pytest.approx(reference.item(), abs=1e-12)
    assert metrics["neighbour_similarity"].item() == pytest.approx(1)


def test_equal_predictions_give_the_log_of_the_batch():
    """All predictions are equal, so nothing distinguishes them, whatever the neighbours."""
    one = draw(1, 1, 4).expand(2, 6, 4)
    assert value(one, draw(2, 6, 4), draw(9, 4)).item() == pytest.approx(math.log(6), abs=1e-12)


@pytest.mark.parametrize("entries", [0, 9])
def test_no_gradient_reaches_projections_or_memory(entries):
    online, target, memory_bank = (draw(*shape).requires_grad_() for shape in ((2, 6, 4), (2, 6, 4), (entries, 4)))
    value(online, target, memory_bank).backward()
    assert online.grad is not None
    assert target.grad is None
    assert memory_bank.grad is None


def test_neither_order_of_images_nor_of_memory_nor_of_views_matters():
    online, target, memory_bank = draw(2, 5, 4), draw(2, 5, 4), draw(9, 4)
    order = torch.tensor([3, 0, 4, 1, 2])
    expected = value(online, target, memory_bank).item()
    assert value(online[:, order], target[:, order], memory_bank).item() == pytest.approx(expected, abs=1e-12)
    assert value(online, target, memory_bank.flip(0)).item() == pytest.approx(expected, abs=1e-12)
    assert value(online.flip(0), target.flip(0), memory_bank).item() == pytest.approx(expected, abs=1e-12)


def test_neighbours_are_logged_and_labels_do_not_change_the_loss():
    target = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    memory_bank = torch.tensor([[2.0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 5]], dtype=torch.float64)
    online = draw(2, 4, 4)
    labelled = Embeddings(
        online,
        target=target,
        memory_bank=memory_bank,
        labels=torch.arange(4),
        memory_bank_labels=torch.tensor([0, 1, 2, 9]),
    )
    loss, metrics = NNCLR(0.1)(labelled, CLOCK)
    assert metrics["neighbour_accuracy"] == 0.75
    assert metrics["neighbour_similarity"].item() == pytest.approx((3 + 2 / math.sqrt(5)) / 4)
    bare, without = NNCLR(0.1)(Embeddings(online, target=target, memory_bank=memory_bank), CLOCK)
    assert loss == bare
    assert "neighbour_accuracy" not in without


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_and_low_temperature_stay_finite(dtype):
    low = value(draw(2, 6, 4).to(dtype), draw(2, 6, 4).to(dtype), draw(9, 4).to(dtype), 0.01)
    assert low.dtype == torch.float32
    assert torch.isfinite(low)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="temperature"):
        NNCLR(0.0)
    with pytest.raises(ValueError, match=r"batching\.views=2"):
        value(draw(1, 4, 3), draw(1, 4, 3), draw(5, 3))
    with pytest.raises(ValueError, match="batch_size"):
        value(draw(2, 1, 3), draw(2, 1, 3), draw(5, 3))
