"""KoLeo: closed forms and a loop."""

import math

import pytest
import torch

from ssl_runner.losses.koleo import KoLeo
from ssl_runner.losses.loss import Embeddings
from ssl_runner.runtime.step_context import StepContext

CONTEXT = StepContext(0, 10, 0, torch.device("cpu"))


def koleo(online: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return KoLeo()(Embeddings(online), CONTEXT)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_points_evenly_on_a_circle_have_the_chord_as_distance(n):
    angles = torch.arange(n).double() * 2 * math.pi / n
    online = 5 * torch.stack([angles.cos(), angles.sin()], dim=1)[None]
    loss, metrics = koleo(online)
    assert loss.item() == pytest.approx(-math.log(2 * math.sin(math.pi / n)), abs=1e-6)
    assert metrics["nearest_distance"].item() == pytest.approx(2 * math.sin(math.pi / n), abs=1e-6)


def test_equals_a_loop_over_all_pairs_of_each_view_with_its_gradient():
    online = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    terms = []
    for view in online:
        points = [row / row.norm() for row in view]
        for i in range(9):
            near = max((j for j in range(9) if j != i), key=lambda j, i=i: (points[i] @ points[j]).item())
            terms.append(-torch.log((points[i] - points[near] + 1e-8).norm() + 1e-8))
    expected = torch.stack(terms).mean()
    loss, _ = koleo(online)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    pair = [torch.autograd.grad(value, online)[0] for value in (loss, expected)]
    torch.testing.assert_close(*pair, rtol=1e-8, atol=1e-10)


def test_equal_points_cost_much_but_not_infinitely_and_lengths_do_not_matter():
    online = torch.ones(1, 4, 3)
    loss, _ = koleo(online.requires_grad_())
    loss.backward()
    assert 10 < loss.item() < 20
    assert online.grad.isfinite().all()
    points = torch.randn(1, 6, 4).double()
    torch.testing.assert_close(koleo(points)[0], koleo(points * torch.rand(1, 6, 1).double().add(0.1))[0])
