import math

import pytest
import torch

from ssl_runner.losses.info_nce import InfoNCE
from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.mochi import MoCHi, mixture
from ssl_runner.runtime.step_context import StepContext

T = 0.2


def context(step: int = 0) -> StepContext:
    return StepContext(step=step, max_steps=10, seed=0, device=torch.device("cpu"))


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def given(views: int = 1, entries: int = 9, n: int = 5) -> Embeddings:
    return Embeddings(draw(views, n, 3), target=draw(2, n, 3), memory_bank=draw(entries, 3))


def value_and_gradient(loss, embeddings: Embeddings, step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    online = embeddings.online.detach().requires_grad_()
    value = loss(Embeddings(online, target=embeddings.target, memory_bank=embeddings.memory_bank), context(step))[0]
    return value.detach(), torch.autograd.grad(value, online)[0]


def naive(embeddings: Embeddings, hardest: int, pairs: int, with_query: int) -> torch.Tensor:
    """One query and one mixture at a time, with every mixture computed; the draws are those of the loss."""
    generator = context().generator("mochi")
    memory_bank = [entry / entry.norm() for entry in embeddings.memory_bank]
    online, target, terms = embeddings.online, embeddings.target, []
    n, hardest = online.shape[1], min(hardest, len(memory_bank))
    for i in range(len(online)):
        for j in range(len(target)):
            if i == j:
                continue
            sizes = (pairs, pairs, pairs, with_query, with_query)
            one, other, a, beside, b = (torch.rand(n, size, generator=generator, dtype=torch.float64) for size in sizes)
            for row in range(n):
                q = online[i, row] / online[i, row].norm()
                k = target[j, row] / target[j, row].norm()
                near = sorted(memory_bank, key=lambda entry, q=q: -(q @ entry).item())[:hardest]
                mixed = [
                    a[row, m] * near[int(one[row, m] * hardest)] + (1 - a[row, m]) * near[int(other[row, m] * hardest)]
                    for m in range(pairs)
                ]
                mixed += [
                    b[row, m] / 2 * q.detach() + (1 - b[row, m] / 2) * near[int(beside[row, m] * hardest)]
                    for m in range(with_query)
                ]
                negatives = memory_bank + [point / point.norm() for point in mixed]
                positive = torch.exp(q @ k / T)
                terms.append(-torch.log(positive / (positive + sum(torch.exp(q @ x / T) for x in negatives))))
    return torch.stack(terms).mean()


@pytest.mark.parametrize(
    ("hardest", "pairs", "with_query"), [(4, 6, 0), (4, 0, 6), (3, 5, 2), (1, 2, 2), (100, 40, 20)]
)
@pytest.mark.parametrize("views", [1, 2])
def test_equals_a_loop_that_computes_every_mixture_with_its_gradient(hardest, pairs, with_query, views):
    embeddings = given(views, n=20)  # more queries than are processed at a time
    ours, mine = value_and_gradient(MoCHi(T, hardest, pairs, with_query), embeddings)
    embeddings.online.requires_grad_()
    reference = naive(embeddings, hardest, pairs, with_query)
    (theirs,) = torch.autograd.grad(reference, embeddings.online)
    torch.testing.assert_close(ours, reference.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("entries", [0, 1, 9])
@pytest.mark.parametrize("views", [1, 2, 4])
def test_without_mixtures_it_is_info_nce(entries, views):
    embeddings = given(views, entries)
    ours, mine = value_and_gradient(MoCHi(T, 4, 0, 0), embeddings)
    theirs, reference = value_and_gradient(InfoNCE(T), embeddings)
    assert torch.equal(ours, theirs) and torch.equal(mine, reference)


@pytest.mark.parametrize(("pairs", "with_query"), [(5, 0), (0, 7), (5, 7)])
def test_equal_embeddings_give_the_log_of_1_plus_all_negatives(pairs, with_query):
    ones = torch.ones(2, 4, 3, dtype=torch.float64)
    loss, metrics = MoCHi(T, 2, pairs, with_query)(Embeddings(ones, target=ones, memory_bank=ones[0]), context())
    assert loss.item() == pytest.approx(math.log(1 + 4 + pairs + with_query), abs=1e-10)
    assert metrics["mixed_similarity"].item() == pytest.approx(1)


def test_mixtures_are_harder_than_the_entries_they_are_mixed_from():
    embeddings = given(entries=200)
    plain = InfoNCE(T)(embeddings, context())[0]
    hard, metrics = MoCHi(T, 10, 50, 0)(embeddings, context())
    harder, more = MoCHi(T, 10, 0, 50)(embeddings, context())
    assert plain < hard < harder
    assert metrics["mixed_similarity"] < more["mixed_similarity"]


def test_a_share_of_1_or_0_gives_the_point_itself():
    generator = torch.Generator().manual_seed(0)
    q, x, y = torch.nn.functional.normalize(torch.randn(3, 6, dtype=torch.float64, generator=generator), dim=1)
    ones = torch.ones((), dtype=torch.float64)
    assert mixture(q @ x, q @ y, x @ y, ones).item() == pytest.approx((q @ x).item())
    assert mixture(q @ x, q @ y, x @ y, 0 * ones).item() == pytest.approx((q @ y).item())
    middle = (x + y) / (x + y).norm()
    assert mixture(q @ x, q @ y, x @ y, ones / 2).item() == pytest.approx((q @ middle).item())


def test_with_an_empty_memory_the_loss_is_0():
    loss, metrics = MoCHi(T, 4, 5, 5)(given(entries=0), context())
    assert loss == 0 and "mixed_similarity" not in metrics


def test_draws_depend_on_the_step_and_never_use_the_global_generator():
    embeddings, loss, state = given(), MoCHi(T, 4, 6, 6), torch.get_rng_state()
    values = [value_and_gradient(loss, embeddings, step)[0].item() for step in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_and_low_temperature_stay_finite(dtype):
    embeddings = Embeddings(*(draw(2, 4, 3).to(dtype) for _ in range(2)), memory_bank=draw(6, 3).to(dtype))
    value, _ = MoCHi(0.01, 4, 8, 8)(embeddings, context())
    assert value.dtype == torch.float32 and torch.isfinite(value)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0.0, 4, 1, 1), "temperature"),
        ((T, 0, 1, 1), "hardest"),
        ((T, 4, -1, 1), "pairs"),
        ((T, 4, 1, -1), "with_query"),
    ],
)
def test_impossible_settings_are_refused(arguments, name):
    with pytest.raises(ValueError, match=f"{name}="):
        MoCHi(*arguments)
