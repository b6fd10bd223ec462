import math

import pytest
import torch

from ssl_runner.losses.similarity import (
    anchor_metrics,
    compare_all,
    different_views,
    refuse_temperature,
    two_views,
    unit,
)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_unit_vectors_have_length_1_in_at_least_float32(dtype):
    torch.manual_seed(0)
    z = unit(torch.randn(3, 5, 7).to(dtype))
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(3, 5))
    assert unit(torch.ones(2, dtype=torch.float64)).dtype == torch.float64


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    online = torch.randn(2, 4, 3, dtype=torch.float64)
    return online, torch.nn.functional.normalize(online, dim=-1).flatten(0, 1)


def test_two_views_are_compared_with_their_partners():
    online, flat = pairs()
    positive, rows = two_views(online)
    torch.testing.assert_close(rows, flat)
    for i in range(8):
        assert positive[i].item() == pytest.approx((flat[i] @ flat[(i + 4) % 8]).item())


@pytest.mark.parametrize("apart", [None, 4])
def test_each_row_sums_over_all_others_but_its_partner(apart):
    _, flat = pairs()
    classes = torch.tensor([0, 1, 0, 2, 1, 1, 3, 2])
    found = compare_all(flat, (2.0, 0.0, 5.0), apart, classes, weigh=True)
    for i in range(8):
        others = [j for j in range(8) if j != i and not (apart and j % apart == i % apart)]
        cosines = torch.stack([flat[i] @ flat[j] for j in others])
        for k, scale in enumerate((2.0, 0.0, 5.0)):
            assert found.log_sums[k, i].item() == pytest.approx((scale * cosines).exp().sum().log().item())
        assert found.nearest[i].item() == pytest.approx(cosines.max().item())
        other_class = cosines[classes[others] != classes[i]]
        assert found.nearest_of_another_class[i].item() == pytest.approx(other_class.max().item())
        weight = (2 * cosines).exp()
        assert found.weighted[i].item() == pytest.approx(((weight * cosines).sum() / weight.sum()).item())


@pytest.mark.parametrize(("shape", "reason"), [((3, 4, 2), "2 views, got 3"), ((2, 1, 2), "batch_size to at least 2")])
def test_batches_that_cannot_be_compared_are_refused(shape, reason):
    with pytest.raises(ValueError, match=reason):
        two_views(torch.ones(shape))


def test_each_view_is_compared_with_the_targets_of_the_others():
    assert different_views(1, 2) == [(0, 1)]
    assert different_views(2, 1) == [(1, 0)]
    assert different_views(2, 2) == [(0, 1), (1, 0)]
    assert different_views(4, 2) == [(0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1)]


def test_a_view_alone_with_its_own_target_is_refused():
    with pytest.raises(ValueError, match=r"batching\.views=2"):
        different_views(1, 1)


def test_accuracy_is_the_share_of_anchors_whose_positive_beats_all_negatives():
    positive = torch.tensor([2.0, 2.0, 2.0, 2.0])
    negative = torch.tensor([[1.0, -math.inf], [3.0, 1.0], [2.0, 1.0], [1.0, 1.0]])
    metrics = anchor_metrics(positive, negative, 0.25)
    assert metrics["contrastive_accuracy"] == 0.5
    assert metrics["positive_similarity"] == 0.5


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_not_above_0_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        refuse_temperature(temperature)
