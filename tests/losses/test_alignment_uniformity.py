import math

import pytest
import torch

from ssl_runner.losses.alignment_uniformity import AlignmentUniformity
from ssl_runner.losses.loss import Embeddings
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


def value(online, alignment_weight=1.0, uniformity_weight=1.0, alpha=2.0, t=2.0) -> torch.Tensor:
    return AlignmentUniformity(alignment_weight, uniformity_weight, alpha, t)(Embeddings(online), CLOCK)[0]


def batch(views: int = 2) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(views, 6, 4, dtype=torch.float64)


def naive(online, alignment_weight, uniformity_weight, alpha, t) -> torch.Tensor:
    """One pair at a time."""
    v, n, _ = online.shape
    z = [[row / row.norm() for row in view] for view in online]
    distances = [(z[a][i] - z[b][i]).norm() for a in range(v) for b in range(a) for i in range(n)]
    alignment = sum(d**alpha for d in distances) / len(distances)
    uniformity = 0
    for view in z:
        potentials = [torch.exp(-t * (view[i] - view[j]).norm() ** 2) for i in range(n) for j in range(i)]
        uniformity = uniformity + torch.log(sum(potentials) / len(potentials)) / v
    return alignment_weight * alignment + uniformity_weight * uniformity


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("settings", [(1.0, 1.0, 2.0, 2.0), (0.98, 0.96, 1.0, 3.0), (3.0, 0.5, 4.0, 0.5)])
def test_equals_a_loop_over_pairs_with_its_gradient(views, settings):
    online = batch(views).requires_grad_()
    ours, reference = value(online, *settings), naive(online, *settings)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    (mine,) = torch.autograd.grad(ours, online)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_equal_embeddings_are_aligned_and_not_uniform():
    loss, metrics = AlignmentUniformity(1.0, 1.0, 2.0, 2.0)(Embeddings(torch.ones(2, 6, 4).double()), CLOCK)
    for found in (loss, metrics["alignment"], metrics["uniformity"]):
        assert found.item() == pytest.approx(0, abs=1e-9)


def test_orthonormal_images_have_the_closed_form():
    axes = torch.eye(5, dtype=torch.float64).expand(2, 5, 5)
    _, metrics = AlignmentUniformity(1.0, 1.0, 2.0, 2.0)(Embeddings(axes), CLOCK)
    assert metrics["uniformity"].item() == pytest.approx(-4, abs=1e-12)  # squared distances of 2
    _, metrics = AlignmentUniformity(1.0, 1.0, 3.0, 2.0)(Embeddings(axes * torch.tensor([1, -1])[:, None, None]), CLOCK)
    assert metrics["alignment"].item() == pytest.approx(8, abs=1e-12)  # opposite ends, 2 apart


def test_uniformity_does_not_overflow_or_vanish():
    opposite = torch.tensor([[[1.0], [-1.0]]]).expand(2, 2, 1)
    assert value(opposite, 0.0, 1.0, 2.0, 1000.0).item() == pytest.approx(-4000)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_views_that_coincide_have_a_finite_gradient(alpha):
    online = batch()[:1].expand(2, 6, 4).clone().requires_grad_()
    value(online, alpha=alpha).backward()
    assert torch.isfinite(online.grad).all()


def test_neither_order_of_images_nor_of_views_nor_length_matters():
    online = batch()
    expected = value(online).item()
    assert value(online[:, torch.randperm(6)]).item() == pytest.approx(expected, abs=1e-12)
    assert value(online.flip(0)).item() == pytest.approx(expected, abs=1e-12)
    assert value(5 * online).item() == pytest.approx(expected, abs=1e-12)


def test_half_precision_is_computed_in_float32():
    low = value(batch().half())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, value(batch().half().float()))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ((-1.0, 1.0, 2.0, 2.0), "alignment_weight"),
        ((1.0, math.nan, 2.0, 2.0), "uniformity_weight"),
        ((1.0, 1.0, 0.0, 2.0), "alpha"),
        ((1.0, 1.0, 2.0, -2.0), "t"),
    ],
)
def test_impossible_settings_are_refused(settings, name):
    with pytest.raises(ValueError, match=f"^{name}="):
        AlignmentUniformity(*settings)


@pytest.mark.parametrize(("shape", "reason"), [((1, 4, 3), "views=2"), ((2, 1, 3), "batch_size")])
def test_a_lone_view_or_image_is_refused(shape, reason):
    with pytest.raises(ValueError, match=reason):
        value(torch.ones(shape))
