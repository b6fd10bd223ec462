"""Losses that compare numbers of patches, in loops."""

import pytest
import torch

from ssl_runner.losses.loss import Embeddings, Patches
from ssl_runner.losses.patches import MeanSquaredError, SmoothL1
from ssl_runner.runtime.step_context import StepContext

CONTEXT = StepContext(0, 10, 0, torch.device("cpu"))


def patches(dtype=torch.float64) -> Patches:
    """Six masks, of which one hides nothing and some have patches that only fill up."""
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, 6, 5, 7, generator=generator, dtype=torch.float64).to(dtype)
    counts = [5, 3, 0, 1, 5, 2]
    weights = torch.tensor([[1 / max(1, n)] * n + [0.0] * (5 - n) for n in counts])
    return Patches(predicted.requires_grad_(), target, weights.to(dtype))


def told(loss, seen: Patches) -> torch.Tensor:
    value, metrics = loss(Embeddings(seen.predicted[None, :, 0], patches=seen), CONTEXT)
    assert metrics == {}
    return value


def naive(seen: Patches, of_number) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for r in range(6):
        hidden = [p for p in range(5) if seen.weights[r, p] > 0]
        for p in hidden:
            numbers = [of_number(seen.predicted[r, p, d] - seen.target[r, p, d]) for d in range(7)]
            total = total + sum(numbers) / 7 / len(hidden) / 6
    return total


def smooth(beta: float):
    return lambda gap: gap**2 / (2 * beta) if abs(gap) < beta else abs(gap) - beta / 2


CASES = {"mse": (MeanSquaredError(), lambda gap: gap**2)}
CASES |= {f"smooth_l1, {beta}": (SmoothL1(beta), smooth(beta)) for beta in (0.3, 1.0, 2.0)}
CASES["smooth_l1, 0"] = (SmoothL1(0), abs)


@pytest.mark.parametrize("name", CASES)
def test_equals_a_loop_over_masks_and_hidden_patches_with_its_gradient(name):
    loss, of_number = CASES[name]
    seen = patches()
    ours, reference = told(loss, seen), naive(seen, of_number)
    torch.testing.assert_close(ours, reference, rtol=1e-7, atol=1e-9)  # thirds in float64
    (mine,) = torch.autograd.grad(ours, seen.predicted)
    (theirs,) = torch.autograd.grad(reference, seen.predicted)
    torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)
    assert (mine[seen.weights == 0] == 0).all()


@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_computed_in_float32_and_the_target_gets_no_gradient(name):
    loss, _ = CASES[name]
    low = patches(torch.bfloat16)
    low.target.requires_grad_()
    value = told(loss, Patches(low.predicted, low.target, low.weights.float()))
    full = told(loss, Patches(low.predicted.float(), low.target.float(), low.weights.float()))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, full)
    value.backward()
    assert low.target.grad is None


def test_a_batch_that_hides_nothing_costs_nothing():
    seen = patches()
    assert told(MeanSquaredError(), Patches(seen.predicted, seen.target, torch.zeros(6, 5))).item() == 0


@pytest.mark.parametrize("beta", [-1.0, float("nan")])
def test_a_beta_below_0_is_refused(beta):
    with pytest.raises(ValueError, match="beta="):
        SmoothL1(beta)
