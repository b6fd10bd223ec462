import math

import pytest
import torch

from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.nt_xent import NTXent
from ssl_runner.losses.supcon import SupCon
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))
LABELS = torch.tensor([0, 0, 1, 2, 1, 0])


def value(online: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    return SupCon(temperature)(Embeddings(online, labels=labels), CLOCK)[0]


def batch(views: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(views, 6, 4, dtype=torch.float64)


def naive(online: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Equation 2, one anchor, one positive and one other at a time."""
    z = [row / row.norm() for row in online.reshape(-1, online.shape[-1])]
    classes = labels.tolist() * len(online)
    total = torch.zeros((), dtype=online.dtype)
    for i in range(len(z)):
        positives = [j for j in range(len(z)) if j != i and classes[j] == classes[i]]
        denominator = sum(torch.exp(z[i] @ z[a] / temperature) for a in range(len(z)) if a != i)
        for j in positives:
            total = total - torch.log(torch.exp(z[i] @ z[j] / temperature) / denominator) / len(positives)
    return total / len(z)


@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_equals_equation_2_with_its_gradient(views, temperature):
    online = batch(views).requires_grad_()
    ours, reference = value(online, LABELS, temperature), naive(online, LABELS, temperature)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    (mine,) = torch.autograd.grad(ours, online)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_one_class_per_image_gives_nt_xent(temperature):
    online = batch(2).requires_grad_()
    ours, reference = value(online, torch.arange(6), temperature), NTXent(temperature)(Embeddings(online), CLOCK)[0]
    assert ours.item() == pytest.approx(reference.item(), abs=1e-12)
    (mine,) = torch.autograd.grad(ours, online)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_equal_embeddings_give_the_log_of_all_others():
    online = torch.ones(2, 6, 4, dtype=torch.float64)
    assert value(online, LABELS, 0.1).item() == pytest.approx(math.log(11), abs=1e-12)


def test_orthonormal_classes_have_the_closed_form():
    online = torch.eye(3, dtype=torch.float64).repeat_interleave(4, dim=0)[None]  # 3 classes of 4 images
    expected = -math.log(math.exp(2) / (3 * math.exp(2) + 8))
    assert value(online, torch.arange(3).repeat_interleave(4), 0.5).item() == pytest.approx(expected, abs=1e-12)


def test_anchors_without_positives_count_0():
    online = batch(1).requires_grad_()
    loss, metrics = SupCon(0.1)(Embeddings(online, labels=torch.arange(6)), CLOCK)
    (gradient,) = torch.autograd.grad(loss, online)
    assert loss == 0
    assert (gradient == 0).all()
    assert metrics["anchors_without_positive"] == 1
    assert SupCon(0.1)(Embeddings(online, labels=LABELS), CLOCK)[1]["anchors_without_positive"] == pytest.approx(1 / 6)


def test_only_which_images_share_a_label_matters():
    online, order = batch(2), torch.tensor([3, 1, 5, 0, 2, 4])
    expected = value(online, LABELS, 0.2).item()
    assert value(online[:, order], LABELS[order], 0.2).item() == pytest.approx(expected, abs=1e-12)
    assert value(online.flip(0), LABELS, 0.2).item() == pytest.approx(expected, abs=1e-12)
    assert value(online, 7 - LABELS, 0.2).item() == pytest.approx(expected, abs=1e-12)


def test_accuracy_is_the_share_of_anchors_with_a_nearest_neighbour_of_their_class():
    online = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]])
    right = SupCon(0.1)(Embeddings(online, labels=torch.tensor([0, 0, 1, 1])), CLOCK)[1]
    half = SupCon(0.1)(Embeddings(online, labels=torch.tensor([0, 0, 0, 1])), CLOCK)[1]
    assert right["contrastive_accuracy"] == 1
    assert right["positive_similarity"] == pytest.approx(1 / math.sqrt(1.01))
    assert half["contrastive_accuracy"] == 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_and_low_temperature_stay_finite(dtype):
    low = value(batch(2).to(dtype), LABELS, 0.01)
    assert low.dtype == torch.float32
    assert torch.isfinite(low)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="temperature"):
        SupCon(0.0)
    with pytest.raises(ValueError, match="batch_size"):
        value(torch.ones(1, 1, 4), torch.tensor([0]), 0.1)
