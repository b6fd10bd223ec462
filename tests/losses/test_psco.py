import math

import pytest
import torch

from ssl_runner.losses.info_nce import InfoNCE
from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.psco import PsCo
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))
T, SHOT_T = 0.2, 0.7


def loss(shots: int = 2, temperature: float = T, shot_temperature: float = SHOT_T) -> PsCo:
    return PsCo(temperature, shot_temperature, shots, epsilon=0.05, sinkhorn_iterations=3)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def value(online, target, memory_bank, **settings) -> torch.Tensor:
    return loss(**settings)(Embeddings(online, target=target, memory_bank=memory_bank), CLOCK)[0]


def shots_of(target: torch.Tensor, memory_bank: list[torch.Tensor], k: int) -> list[list[int]]:
    """Indices in the memory, image by image, by Sinkhorn on the matrix itself, entry by entry."""
    q = [[math.exp((z / z.norm() @ m).item() / 0.05) for m in memory_bank] for z in target]
    images, entries = len(q), len(memory_bank)
    for _ in range(3):
        totals = [sum(row[m] for row in q) for m in range(entries)]
        q = [[row[m] / totals[m] / entries for m in range(entries)] for row in q]
        q = [[weight / sum(row) / images for weight in row] for row in q]
    return [sorted(range(entries), key=lambda m, row=row: -row[m])[:k] for row in q]


def naive(online, target, memory_bank, k: int) -> torch.Tensor:
    """One query at a time: MoCo against the whole memory bank, then a task with as many classes as images."""
    entries, terms = [m / m.norm() for m in memory_bank], []
    for i in range(len(online)):
        for j in range(len(target)):
            if i == j:
                continue
            shots = shots_of(target[j], entries, k)
            support = [entries[m] for own in shots for m in own]  # an entry that two images share occurs twice
            for n, query in enumerate(online[i]):
                q, z = query / query.norm(), target[j, n] / target[j, n].norm()
                moco = torch.exp(q @ z / T)
                moco = -torch.log(moco / (moco + sum(torch.exp(q @ m / T) for m in entries)))
                everything = sum(torch.exp(q @ s / SHOT_T) for s in support)
                own = [torch.log(torch.exp(q @ entries[m] / SHOT_T) / everything) for m in shots[n]]
                terms.append(moco - sum(own) / len(own))
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("views", "targets"), [(1, 2), (2, 2), (4, 2)])
@pytest.mark.parametrize(("entries", "shots"), [(20, 1), (20, 3), (2, 3), (1, 1)])
def test_equals_a_loop_over_queries_and_shots_with_its_gradient(views, targets, entries, shots):
    online, target, memory_bank = draw(views, 6, 4).requires_grad_(), draw(targets, 6, 4), draw(entries, 4)
    ours, reference = value(online, target, memory_bank, shots=shots), naive(online, target, memory_bank, shots)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    (mine,) = torch.autograd.grad(ours, online)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_equal_embeddings_give_the_logs_of_the_memory_and_of_the_shots():
    ones = torch.ones(2, 4, 3, dtype=torch.float64)
    found = value(ones, ones, ones[0, :1].expand(9, 3), shots=2).item()
    assert found == pytest.approx(math.log(1 + 9) + math.log(4 * 2), abs=1e-12)


def test_images_that_find_themselves_among_orthogonal_entries_have_the_closed_form():
    online = torch.eye(8, dtype=torch.float64)[:4].expand(2, 4, 8)
    memory_bank = torch.eye(8, dtype=torch.float64)
    moco = math.log(2 * math.exp(1 / T) + 7) - 1 / T  # the image's own entry is a negative as well
    task = math.log(math.exp(1 / SHOT_T) + 3) - 1 / SHOT_T
    term, metrics = loss(shots=1)(Embeddings(online, target=online, memory_bank=memory_bank), CLOCK)
    assert term.item() == pytest.approx(moco + task, abs=1e-12)
    assert metrics["shot_similarity"].item() == pytest.approx(1)
    assert metrics["distinct_shots"] == 1


def test_a_popular_entry_is_shared_among_images_and_counts_as_often_as_it_is_chosen():
    target = torch.nn.functional.normalize(draw(2, 4, 6) / 4 + torch.ones(6, dtype=torch.float64), dim=-1)
    near = torch.nn.functional.normalize(target[0] + draw(4, 6) / 2, dim=-1)
    memory_bank = torch.cat([torch.ones(1, 6, dtype=torch.float64) / math.sqrt(6), near])
    assert (target @ memory_bank.T).argmax(dim=-1).eq(0).all()  # without Sinkhorn all images would choose that one
    assert len(loss(shots=1).assign(target, memory_bank).unique()) > 1
    found = loss(shots=3)(Embeddings(draw(2, 4, 6), target=target, memory_bank=memory_bank[:3]), CLOCK)[1]
    assert found["distinct_shots"].item() == pytest.approx(3 / (4 * 3))


@pytest.mark.parametrize("views", [1, 2, 4])
def test_with_an_empty_memory_loss_and_gradient_are_0(views):
    online = draw(views, 4, 3).requires_grad_()
    seen = Embeddings(online, target=draw(2, 4, 3), memory_bank=torch.zeros(0, 3, dtype=torch.float64))
    term, metrics = loss()(seen, CLOCK)
    (gradient,) = torch.autograd.grad(term, online)
    torch.testing.assert_close(term.detach(), torch.zeros_like(term))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))
    assert "shot_similarity" not in metrics


def test_with_one_shot_and_one_image_only_the_moco_term_is_left():
    online, target, memory_bank = draw(2, 1, 3), draw(2, 1, 3), draw(7, 3)
    expected = InfoNCE(T)(Embeddings(online, target=target, memory_bank=memory_bank), CLOCK)[0]
    torch.testing.assert_close(value(online, target, memory_bank, shots=1), expected)


def test_no_gradient_reaches_targets_or_memory():
    online, target, memory_bank = (draw(*shape).requires_grad_() for shape in ((2, 6, 4), (2, 6, 4), (9, 4)))
    value(online, target, memory_bank).backward()
    assert online.grad is not None
    assert target.grad is None
    assert memory_bank.grad is None


def test_neither_order_of_images_nor_of_the_queue_nor_of_views_matters():
    online, target, memory_bank = draw(2, 5, 4), draw(2, 5, 4), draw(9, 4)
    order = torch.tensor([3, 0, 4, 1, 2])
    expected = value(online, target, memory_bank).item()
    assert value(online[:, order], target[:, order], memory_bank).item() == pytest.approx(expected, abs=1e-12)
    assert value(online, target, memory_bank.roll(4, 0)).item() == pytest.approx(expected, abs=1e-12)
    assert value(online.flip(0), target.flip(0), memory_bank).item() == pytest.approx(expected, abs=1e-12)


def test_labels_do_not_change_the_loss():
    online, target, memory_bank = draw(2, 5, 4), draw(2, 5, 4), draw(9, 4)
    labelled = Embeddings(
        online, target=target, memory_bank=memory_bank, labels=torch.arange(5), memory_bank_labels=torch.arange(9)
    )
    assert loss()(labelled, CLOCK)[0] == value(online, target, memory_bank)


def test_the_reported_negatives_are_the_share_of_the_gradient_that_repels():
    online, target, memory_bank = draw(3, 5, 4), draw(2, 5, 4), draw(12, 4)
    found = loss().negatives(Embeddings(online, target=target, memory_bank=memory_bank), CLOCK)
    assert found is not None
    similarity = found.similarity.clone().requires_grad_()
    entries = [m / m.norm() for m in memory_bank]
    total = torch.zeros((), dtype=torch.float64)
    for i, j in [(0, 1), (1, 0), (2, 0), (2, 1)]:
        shots = shots_of(target[j], entries, 2)
        support = [m for own in shots for m in own]
        for n in range(5):
            row, q, z = similarity[5 * i + n], online[i, n], target[j, n]
            pair = (q @ z / q.norm() / z.norm())[None]
            total = total + torch.cat([pair, row]).div(T).logsumexp(0)
            total = total + row[support].div(SHOT_T).logsumexp(0) - row[shots[n]].mean() / SHOT_T
    (gradient,) = torch.autograd.grad(total, similarity)
    repelling = gradient.clamp_min(0)
    assert (gradient < 0).any()
    torch.testing.assert_close(found.weight, repelling / repelling.sum(dim=1, keepdim=True))
    assert found.remembered == 12 and found.pictured().weight.shape == (15, 0)


def test_an_empty_queue_repels_nothing():
    seen = Embeddings(draw(2, 5, 4), target=draw(2, 5, 4), memory_bank=torch.zeros(0, 4, dtype=torch.float64))
    found = loss().negatives(seen, CLOCK)
    assert found is not None and found.weight.shape == (10, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_and_low_temperatures_stay_finite(dtype):
    seen = Embeddings(*(draw(2, 6, 4).to(dtype) for _ in range(2)), memory_bank=draw(9, 4).to(dtype))
    low, _ = PsCo(0.01, 0.01, 2, epsilon=0.002, sinkhorn_iterations=3)(seen, CLOCK)
    assert low.dtype == torch.float32
    assert torch.isfinite(low)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0.0, 1.0, 1, 0.05, 3), "temperature"),
        ((T, -1.0, 1, 0.05, 3), "shot_temperature"),
        ((T, 1.0, 0, 0.05, 3), "shots"),
        ((T, 1.0, 1, 0.0, 3), "epsilon"),
        ((T, 1.0, 1, 0.05, 0), "sinkhorn_iterations"),
    ],
)
def test_impossible_settings_are_refused(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}="):
        PsCo(*arguments)
