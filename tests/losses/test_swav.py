import math

import pytest
import torch

from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.swav import SwAV
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


def cosines(*shape: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(shape, dtype=torch.float64) * 2 - 1


def value(online, settings=(0.1, 0.05, 3), memory_bank=None, global_views=None) -> torch.Tensor:
    return SwAV(*settings)(Embeddings(online, memory_bank=memory_bank, global_views=global_views), CLOCK)[0]


def sinkhorn(scores: torch.Tensor, epsilon: float, iterations: int) -> list[list[float]]:
    """The matrix itself, not its logarithm, entry by entry."""
    q = [[math.exp(s / epsilon) for s in row] for row in scores.tolist()]
    n, k = len(q), len(q[0])
    for _ in range(iterations):
        totals = [sum(q[i][j] for i in range(n)) for j in range(k)]
        q = [[q[i][j] / totals[j] / k for j in range(k)] for i in range(n)]
        q = [[entry / sum(row) / n for entry in row] for row in q]
    return [[entry * n for entry in row] for row in q]


def naive(online, settings, memory_bank, global_views) -> torch.Tensor:
    """One global view, one other view and one image at a time; equation 2 with the codes as constants."""
    temperature, epsilon, iterations = settings
    views, images, prototypes = online.shape
    terms = []
    for g in range(global_views or views):
        scores = online[g].detach() if memory_bank is None else torch.cat([online[g].detach(), memory_bank.detach()])
        codes = sinkhorn(scores, epsilon, iterations)
        for v in range(views):
            for b in range(images):
                if v != g:
                    exponents = torch.exp(online[v, b] / temperature)
                    terms.append(
                        -sum(codes[b][k] * torch.log(exponents[k] / exponents.sum()) for k in range(prototypes))
                    )
    return torch.stack(terms).mean()


@pytest.mark.parametrize("settings", [(0.1, 0.05, 3), (1.0, 0.5, 1), (0.2, 0.1, 10)])
@pytest.mark.parametrize(("views", "global_views"), [(2, None), (4, 2), (3, 1)])
@pytest.mark.parametrize("queued", [0, 5, None])
def test_equals_a_loop_over_views_and_images_with_its_gradient(settings, views, global_views, queued):
    online = cosines(views, 6, 4).requires_grad_()
    memory_bank = None if queued is None else cosines(queued + 7, 4)[7:]
    ours, reference = (
        value(online, settings, memory_bank, global_views),
        naive(online, settings, memory_bank, global_views),
    )
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)
    (mine,) = torch.autograd.grad(ours, online)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("prototypes", [3, 8])
def test_equal_scores_cost_the_log_of_the_prototypes(prototypes):
    online = torch.full((3, 6, prototypes), 0.3, dtype=torch.float64)
    loss, metrics = SwAV(0.1, 0.05, 3)(Embeddings(online), CLOCK)
    assert loss.item() == pytest.approx(math.log(prototypes), abs=1e-12)
    assert metrics["code_entropy"].item() == pytest.approx(math.log(prototypes), abs=1e-12)


def test_every_prototype_gets_an_equal_share_of_the_images():
    codes = SwAV(0.1, 0.2, 200).codes(cosines(2, 12, 4), None)
    torch.testing.assert_close(codes.sum(dim=2), torch.ones(2, 12, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(dim=1), torch.full((2, 4), 3.0, dtype=torch.float64))


def test_a_popular_prototype_still_gets_an_equal_share():
    scores = cosines(1, 12, 4) / 10
    scores[..., 0] += 0.9
    codes = SwAV(0.1, 0.05, 50).codes(scores, None)
    assert codes.argmax(dim=2).unique().tolist() == [0, 1, 2, 3]
    assert scores.argmax(dim=2).unique().tolist() == [0]


def test_views_that_agree_on_evenly_used_prototypes_cost_almost_nothing():
    online = torch.eye(4).repeat(2, 3, 1)
    loss, metrics = SwAV(0.05, 0.05, 3)(Embeddings(online), CLOCK)
    assert loss < 1e-6
    assert metrics["prototypes_in_use"].item() == pytest.approx(4, rel=1e-6)
    assert metrics["code_entropy"] < 1e-6


def test_memory_changes_the_codes_and_gets_no_gradient():
    online, memory_bank = cosines(2, 6, 4).requires_grad_(), cosines(40, 4).requires_grad_()
    with_memory = value(online, memory_bank=memory_bank)
    assert with_memory.item() != pytest.approx(value(online).item(), abs=1e-3)
    with_memory.backward()
    assert memory_bank.grad is None


def test_the_global_views_may_be_swapped_and_the_images_permuted():
    online = cosines(2, 9, 4)
    assert value(online).item() == pytest.approx(value(online.flip(0)).item(), abs=1e-12)
    assert value(online).item() == pytest.approx(value(online[:, torch.randperm(9)]).item(), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_and_low_temperatures_stay_finite(dtype):
    online = cosines(2, 16, 8).to(dtype)
    low = value(online, (0.005, 0.002, 3))  # exp(1 / 0.002) overflows double precision
    assert low.dtype == torch.float32
    assert torch.isfinite(low)
    torch.testing.assert_close(low, value(online.float(), (0.005, 0.002, 3)))


@pytest.mark.parametrize(
    ("settings", "name"),
    [((0.0, 0.05, 3), "temperature"), ((0.1, -0.05, 3), "epsilon"), ((0.1, 0.05, 0), "sinkhorn_iterations")],
)
def test_impossible_settings_are_refused(settings, name):
    with pytest.raises(ValueError, match=name):
        SwAV(*settings)


def test_one_view_is_refused():
    with pytest.raises(ValueError, match="got 1 view"):
        value(cosines(1, 4, 4))
