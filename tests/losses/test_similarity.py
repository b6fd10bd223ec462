import math

import pytest
import torch

from ssl_runner.losses.similarity import anchor_metrics, different_views, refuse_temperature, two_views, unit


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_unit_vectors_have_length_1_in_float32_at_least(dtype):
    torch.manual_seed(0)
    z = unit(torch.randn(3, 5, 7).to(dtype))
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(3, 5))
    assert unit(torch.ones(2, dtype=torch.float64)).dtype == torch.float64


def test_two_views_separates_partner_and_others():
    torch.manual_seed(0)
    online = torch.randn(2, 4, 3, dtype=torch.float64)
    flat = torch.nn.functional.normalize(online, dim=-1).flatten(0, 1)
    positive, negative = two_views(online, 0.3)
    for i in range(8):
        assert positive[i].item() == pytest.approx((flat[i] @ flat[(i + 4) % 8]).item() / 0.3)
        for j in range(8):
            expected = -math.inf if i % 4 == j % 4 else (flat[i] @ flat[j]).item() / 0.3
            assert negative[i, j].item() == pytest.approx(expected)


@pytest.mark.parametrize(("shape", "reason"), [((3, 4, 2), "2 views, got 3"), ((2, 1, 2), "batch_size at least 2")])
def test_batches_that_cannot_be_compared_are_refused(shape, reason):
    with pytest.raises(ValueError, match=reason):
        two_views(torch.ones(shape), 0.5)


def test_each_view_meets_the_targets_of_the_others():
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
