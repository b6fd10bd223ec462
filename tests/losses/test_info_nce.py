import math

import pytest
import torch

from ssl_runner.losses.info_nce import InfoNCE
from ssl_runner.losses.loss import Embeddings
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


def value(online, target, memory_bank=None, temperature=0.2) -> torch.Tensor:
    return InfoNCE(temperature)(Embeddings(online, target=target, memory_bank=memory_bank), CLOCK)[0]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def naive(online, target, memory_bank, temperature) -> torch.Tensor:
    """One query and one key at a time."""
    terms = []
    for i in range(len(online)):
        for j in range(len(target)):
            if i == j:
                continue
            keys = [key / key.norm() for key in target[j]]
            for n, query in enumerate(online[i]):
                query = query / query.norm()
                others = [k for m, k in enumerate(keys) if m != n]
                if memory_bank is not None:
                    others = [k / k.norm() for k in memory_bank]
                positive = torch.exp(query @ keys[n] / temperature)
                negatives = sum(torch.exp(query @ k / temperature) for k in others)
                terms.append(-torch.log(positive / (positive + negatives)))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("entries", [None, 1, 9])
@pytest.mark.parametrize(("views", "targets"), [(1, 2), (2, 2), (4, 2)])
def test_equals_a_loop_over_queries_and_keys_with_its_gradient(temperature, entries, views, targets):
    online, target = draw(views, 5, 3).requires_grad_(), draw(targets, 5, 3)
    memory_bank = None if entries is None else draw(entries, 3)
    ours, reference = value(online, target, memory_bank, temperature), naive(online, target, memory_bank, temperature)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    (mine,) = torch.autograd.grad(ours, online)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("entries", [0, 1, 31])
def test_equal_embeddings_give_the_log_of_1_plus_the_memory(entries):
    ones = torch.ones(2, 4, 3, dtype=torch.float64)
    assert value(ones, ones, ones[0, :1].expand(entries, 3)).item() == pytest.approx(math.log(1 + entries), abs=1e-12)


def test_equal_embeddings_without_memory_give_the_log_of_the_batch():
    ones = torch.ones(2, 4, 3, dtype=torch.float64)
    assert value(ones, ones).item() == pytest.approx(math.log(4), abs=1e-12)


def test_orthogonal_negatives_have_the_closed_form():
    online = torch.eye(8, dtype=torch.float64)[:3].expand(2, 3, 8)
    memory_bank = torch.eye(8, dtype=torch.float64)[3:]
    assert value(online, online, memory_bank, 0.2).item() == pytest.approx(math.log1p(5 * math.exp(-5)), abs=1e-12)
    assert value(online, online, None, 0.2).item() == pytest.approx(math.log1p(2 * math.exp(-5)), abs=1e-12)


def test_with_an_empty_memory_loss_and_gradient_are_0():
    online = draw(2, 4, 3).requires_grad_()
    loss, metrics = InfoNCE(0.2)(
        Embeddings(online, target=draw(2, 4, 3), memory_bank=torch.zeros(0, 3).double()), CLOCK
    )
    (gradient,) = torch.autograd.grad(loss, online)
    torch.testing.assert_close(loss.detach(), torch.zeros_like(loss))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))
    assert metrics["contrastive_accuracy"] == 1


def test_one_online_view_is_only_compared_with_the_target_of_the_other():
    online, target = draw(1, 4, 3), draw(2, 4, 3)
    moved = target.clone()
    moved[0] += 1
    assert value(online, target) == value(online, moved)
    moved[1] += 1
    assert value(online, target) != value(online, moved)


def test_two_views_give_the_mean_of_both_directions():
    online, target, memory_bank = draw(2, 4, 3), draw(2, 4, 3), draw(6, 3)
    first = value(online[:1], target, memory_bank)
    second = value(online.flip(0)[:1], target.flip(0), memory_bank)
    assert value(online, target, memory_bank).item() == pytest.approx((first + second).item() / 2, abs=1e-12)


def test_no_gradient_reaches_targets_or_memory():
    online, target, memory_bank = (draw(2, 4, 3).requires_grad_() for _ in range(3))
    value(online, target, memory_bank[0]).backward()
    value(online, target).backward()
    assert online.grad is not None
    assert target.grad is None
    assert memory_bank.grad is None


def test_the_order_of_images_and_of_the_memory_does_not_matter():
    online, target, memory_bank = draw(2, 5, 3), draw(2, 5, 3), draw(6, 3)
    order = torch.tensor([3, 0, 4, 1, 2])
    expected = value(online, target, memory_bank).item()
    assert value(online[:, order], target[:, order], memory_bank.flip(0)).item() == pytest.approx(expected, abs=1e-12)
    expected = value(online, target).item()
    assert value(online[:, order], target[:, order]).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_and_low_temperature_stay_finite(dtype):
    low = value(draw(2, 4, 3).to(dtype), draw(2, 4, 3).to(dtype) + 1, draw(6, 3).to(dtype), 0.01)
    assert low.dtype == torch.float32
    assert torch.isfinite(low)


def test_metrics_distinguish_solved_from_unsolved():
    online = torch.eye(4).expand(2, 4, 4)
    solved = InfoNCE(0.2)(Embeddings(online, target=online), CLOCK)[1]
    wrong = InfoNCE(0.2)(Embeddings(online, target=online.roll(1, dims=1)), CLOCK)[1]
    assert solved["contrastive_accuracy"] == 1
    assert solved["positive_similarity"] == pytest.approx(1)
    assert wrong["contrastive_accuracy"] == 0
    assert wrong["positive_similarity"] == 0


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="temperature"):
        InfoNCE(0.0)
    with pytest.raises(ValueError, match=r"batching\.views=2"):
        value(draw(1, 4, 3), draw(1, 4, 3))
    with pytest.raises(ValueError, match="batch_size"):
        value(draw(2, 1, 3), draw(2, 1, 3))
