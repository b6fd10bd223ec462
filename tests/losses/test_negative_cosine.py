import pytest
import torch

from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.negative_cosine import NegativeCosine
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


def value(online: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return NegativeCosine()(Embeddings(online, target=target), CLOCK)[0]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive(online: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """One image and one ordered pair of views at a time."""
    terms = []
    for i in range(len(online)):
        for j in range(len(target)):
            for p, z in zip(online[i], target[j], strict=True):
                if i != j:
                    terms.append(-(p @ z) / (p.norm() * z.norm()))
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("views", "targets"), [(1, 2), (2, 2), (6, 2), (3, 3)])
def test_equals_a_loop_over_pairs_of_views_with_its_gradient(views, targets):
    online, target = draw(views, 5, 4).requires_grad_(), draw(targets, 5, 4, seed=1)
    ours, reference = value(online, target), naive(online, target)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    (mine,) = torch.autograd.grad(ours, online)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_equal_opposite_and_orthogonal_views_give_minus_1_plus_1_and_0():
    first = draw(1, 5, 4).expand(2, 5, 4)
    assert value(first, 3 * first).item() == pytest.approx(-1, abs=1e-12)
    assert value(first, -first).item() == pytest.approx(1, abs=1e-12)
    axes = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    assert value(axes, axes.roll(1, dims=1)).item() == 0


def test_the_loss_of_byol_is_4_plus_4_times_it():
    online, target = draw(2, 5, 4), draw(2, 5, 4, seed=1)
    p, z = (torch.nn.functional.normalize(x, dim=-1) for x in (online, target))
    byol = ((p[0] - z[1]).square().sum(-1) + (p[1] - z[0]).square().sum(-1)).mean()
    assert 4 + 4 * value(online, target).item() == pytest.approx(byol.item(), abs=1e-12)


def test_a_view_is_never_compared_with_its_own_target():
    online, target = draw(1, 5, 4), draw(2, 5, 4, seed=1)
    moved = target.clone()
    moved[0] += 1
    assert value(online, target) == value(online, moved)


def test_no_gradient_reaches_the_target():
    online, target = draw(2, 5, 4).requires_grad_(), draw(2, 5, 4, seed=1).requires_grad_()
    value(online, target).backward()
    assert online.grad is not None
    assert target.grad is None


def test_spread_distinguishes_collapse_from_an_even_sphere():
    def spread(target: torch.Tensor) -> float:
        return NegativeCosine()(Embeddings(draw(2, *target.shape), target=target.expand(2, -1, -1)), CLOCK)[1][
            "target_spread"
        ].item()

    assert spread(torch.ones(8, 16).double()) == pytest.approx(0, abs=1e-12)
    assert spread(torch.tensor([[1.0], [-1.0]]).double()) == pytest.approx(1, abs=1e-12)
    assert spread(draw(4096, 16)) == pytest.approx(1, abs=0.02)


def test_neither_order_of_images_nor_of_views_matters():
    online, target, order = draw(2, 5, 4), draw(2, 5, 4, seed=1), torch.tensor([3, 0, 4, 1, 2])
    expected = value(online, target).item()
    assert value(online[:, order], target[:, order]).item() == pytest.approx(expected, abs=1e-12)
    assert value(online.flip(0), target.flip(0)).item() == pytest.approx(expected, abs=1e-12)


def test_half_precision_is_computed_in_float32():
    low = value(300 * draw(2, 5, 400).half(), draw(2, 5, 400, seed=1).half())  # the squared norm overflows float16
    assert low.dtype == torch.float32
    assert torch.isfinite(low)


def test_a_single_view_is_refused():
    with pytest.raises(ValueError, match=r"batching\.views=2"):
        value(draw(1, 5, 4), draw(1, 5, 4))
