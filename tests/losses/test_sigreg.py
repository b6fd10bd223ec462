import cmath
import itertools
import math

import pytest
import torch

from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.sigreg import CharacteristicFunction, SIGReg
from ssl_runner.runtime.step_context import StepContext


def context(step: int = 0) -> StepContext:
    return StepContext(step=step, max_steps=1000, seed=0, device=torch.device("cpu"))


def statistic(points: torch.Tensor, slices: int = 16, knots: int = 17, t_max: float = 3.0, step: int = 0) -> float:
    return SIGReg(0.05, slices, knots, t_max).gaussianity(points, context(step)).item()


def naive(points: torch.Tensor, slices: int, knots: int, t_max: float, step: int) -> float:
    """One view, direction and knot at a time, in complex numbers, over all of [-t_max, t_max]."""
    _, images, width = points.shape
    drawn = torch.randn(width, slices, generator=context(step).generator("sigreg")).double()
    total = 0.0
    for view in points:
        for column in drawn.T:
            x = (view @ (column / column.norm())).tolist()
            t = [t_max * (k / (knots - 1)) for k in range(1 - knots, knots)]
            heights = []
            for u in t:
                empirical = sum(cmath.exp(1j * u * xb) for xb in x) / images
                heights.append(abs(empirical - math.exp(-(u**2) / 2)) ** 2 * math.exp(-(u**2) / 2))
            gap = t_max / (knots - 1)
            total += images * sum(gap * (a + b) / 2 for a, b in itertools.pairwise(heights))
    return total / (len(points) * slices)


@pytest.mark.parametrize(("knots", "t_max"), [(17, 3.0), (9, 5.0), (2, 1.0)])
def test_the_statistic_equals_a_loop_over_directions_and_knots(knots, t_max):
    torch.manual_seed(0)
    points = torch.randn(2, 7, 4, dtype=torch.float64) + 0.5
    assert statistic(points, 3, knots, t_max, 5) == pytest.approx(naive(points, 3, knots, t_max, 5), rel=1e-9)


@pytest.mark.parametrize(("views", "global_views"), [(2, None), (4, 2)])
def test_the_loss_mixes_prediction_and_statistic_and_its_gradient_is_right(views, global_views):
    torch.manual_seed(0)
    online = torch.randn(views, 5, 3, dtype=torch.float64, requires_grad=True)
    loss = SIGReg(0.2, 4, 5, 2.0)
    count = global_views or views
    entries = [
        (online[v, b, d] - sum(online[g, b, d] for g in range(count)) / count).item() ** 2
        for v in range(views)
        for b in range(5)
        for d in range(3)
    ]
    value, metrics = loss(Embeddings(online, global_views=global_views), context(2))
    regulariser = naive(online.detach(), 4, 5, 2.0, 2)
    assert value.item() == pytest.approx(0.8 * sum(entries) / len(entries) + 0.2 * regulariser, rel=1e-9)
    assert metrics["prediction"].item() == pytest.approx(sum(entries) / len(entries), rel=1e-9)
    assert metrics["gaussianity"].item() == pytest.approx(regulariser, rel=1e-9)
    assert torch.autograd.gradcheck(lambda x: loss(Embeddings(x, global_views=global_views), context(2))[0], online)


def test_float32_is_as_exact_as_with_sines_of_every_multiple():
    torch.manual_seed(0)
    angles = 3 * torch.randn(1, 64, 32)
    real, imaginary = CharacteristicFunction.apply(angles, 65)
    multiples = angles.double()[..., None] * torch.arange(65)
    torch.testing.assert_close(real.double(), multiples.cos().mean(dim=1), rtol=0, atol=3e-6)
    torch.testing.assert_close(imaginary.double(), multiples.sin().mean(dim=1), rtol=0, atol=3e-6)


def test_a_collapse_to_0_has_the_closed_form():
    # |1 - phi|^2 phi integrates to sqrt(2 pi) - 2 sqrt(pi) + sqrt(2 pi / 3)
    expected = 32 * (math.sqrt(2 * math.pi) - 2 * math.sqrt(math.pi) + math.sqrt(2 * math.pi / 3))
    assert statistic(torch.zeros(2, 32, 4, dtype=torch.float64), 2, 401, 9.0) == pytest.approx(expected, rel=1e-6)


def test_a_single_gaussian_embedding_has_its_expectation():
    # the mean over samples of |empirical - phi|^2 is (1 - phi^2) / B, so the statistic has mean
    # sqrt(2 pi) (1 - 3^-1/2)
    torch.manual_seed(0)
    expected = math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3))
    assert expected == pytest.approx(1.06, abs=0.01)
    for images in (16, 64):
        points = torch.randn(400, images, 8, dtype=torch.float64)
        assert statistic(points, 32, 41, 6.0) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("change", [lambda x: 2 * x, lambda x: 0.5 * x, lambda x: x + 1, lambda x: x.sign()])
def test_what_is_not_standard_normal_costs_more(change):
    torch.manual_seed(0)
    points = torch.randn(1, 512, 2)
    assert statistic(change(points)) > 3 * statistic(points)


def test_equal_views_have_nothing_to_predict():
    torch.manual_seed(0)
    online = torch.randn(8, 4).expand(3, 8, 4)
    assert SIGReg(0.0, 4, 17, 3.0)(Embeddings(online, global_views=2), context())[0] == 0


def test_directions_repeat_with_the_step_and_change_between_steps():
    torch.manual_seed(0)
    points = torch.randn(2, 16, 4)
    assert statistic(points, step=3) == statistic(points, step=3)
    assert statistic(points, step=3) != statistic(points, step=4)


def test_the_views_may_be_swapped_and_the_images_permuted():
    torch.manual_seed(0)
    online, loss = torch.randn(2, 9, 4, dtype=torch.float64), SIGReg(0.5, 8, 17, 3.0)
    expected = loss(Embeddings(online), context())[0].item()
    moved = [loss(Embeddings(other), context())[0].item() for other in (online.flip(0), online[:, torch.randperm(9)])]
    assert moved == pytest.approx([expected] * 2, abs=1e-12)


def test_half_precision_is_computed_in_float32():
    torch.manual_seed(0)
    online, loss = (300 * torch.randn(2, 16, 8)).half(), SIGReg(0.05, 8, 17, 3.0)
    low, _ = loss(Embeddings(online), context())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, loss(Embeddings(online.float()), context())[0])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ((1.5, 8, 17, 3.0), "weight"),
        ((0.05, 0, 17, 3.0), "slices"),
        ((0.05, 8, 1, 3.0), "knots"),
        ((0.05, 8, 17, 0.0), "t_max"),
        ((math.nan, 8, 17, 3.0), "weight"),
    ],
)
def test_impossible_settings_are_refused(settings, name):
    with pytest.raises(ValueError, match=name):
        SIGReg(*settings)
