"""iBOT's loss of patches beside loops, with a center and with Sinkhorn's balance."""

import math

import pytest
import torch

from ssl_runner.losses.loss import Embeddings, Patches
from ssl_runner.losses.patch_cross_entropy import PatchCrossEntropy
from ssl_runner.losses.sinkhorn import sinkhorn
from ssl_runner.runtime.step_context import StepContext

IBOT = {
    "student_temperature": 0.1,
    "teacher_temperature": 0.07,
    "warmup_teacher_temperature": 0.04,
    "warmup_share": 0.1,
    "center_momentum": 0.9,
}
K = 6


def context(step: int = 0) -> StepContext:
    return StepContext(step, 100, 0, torch.device("cpu"))


def loss_of(**changes) -> PatchCrossEntropy:
    return PatchCrossEntropy(**{**IBOT, **changes}).double()


def patches(counts=(4, 2, 0, 3)) -> Patches:
    generator = torch.Generator().manual_seed(0)
    predicted, target = 0.3 * torch.randn(2, len(counts), 4, K, generator=generator, dtype=torch.float64)
    weights = torch.tensor([[1 / max(1, n)] * n + [0.0] * (4 - n) for n in counts], dtype=torch.float64)
    return Patches(predicted.requires_grad_(), target, weights)


def told(loss: PatchCrossEntropy, seen: Patches, step: int = 0):
    return loss(Embeddings(seen.predicted[None, :, 0], patches=seen), context(step))


def naive(seen: Patches, teachers: dict[tuple[int, int], torch.Tensor]) -> torch.Tensor:
    """The mean over masks of the mean over hidden patches of ``-sum P_t log P_s``."""
    total = torch.zeros((), dtype=torch.float64)
    for (r, p), teacher in teachers.items():
        student = torch.exp(seen.predicted[r, p] / 0.1)
        student = student / student.sum()
        entropy = -sum(teacher[k] * torch.log(student[k]) for k in range(K))
        total = total + entropy * seen.weights[r, p] / len(seen.weights)
    return total


def hidden(seen: Patches) -> list[tuple[int, int]]:
    return [(r, p) for r in range(len(seen.weights)) for p in range(4) if seen.weights[r, p] > 0]


@pytest.mark.parametrize(("step", "temperature"), [(0, 0.04), (5, 0.055), (50, 0.07)])
def test_with_a_center_it_equals_loops_with_its_gradient(step, temperature):
    loss, seen = loss_of(), patches()
    loss.center = torch.linspace(-0.2, 0.2, K).double()
    teachers = {}
    for r, p in hidden(seen):
        scores = torch.exp((seen.target[r, p] - loss.center) / temperature)
        teachers[r, p] = scores / scores.sum()
    ours, metrics = told(loss, seen, step)
    reference = naive(seen, teachers)
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)
    pair = [torch.autograd.grad(value, seen.predicted)[0] for value in (ours, reference)]
    torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-12)
    assert (pair[0][seen.weights == 0] == 0).all()
    entropy = sum(seen.weights[place] * torch.special.entr(teachers[place]).sum() for place in teachers)
    assert metrics["teacher_entropy"].item() == pytest.approx(float(entropy / seen.weights.sum()), rel=1e-9)


def naive_sinkhorn(exponents: list[list[float]], iterations: int) -> list[list[float]]:
    table = [[math.exp(value) for value in row] for row in exponents]
    for _ in range(iterations):
        totals = [sum(row[k] for row in table) for k in range(K)]
        table = [[row[k] / totals[k] for k in range(K)] for row in table]
        table = [[value / sum(row) for value in row] for row in table]
    return table


@pytest.mark.parametrize("iterations", [1, 3])
def test_with_sinkhorn_it_equals_loops_over_the_hidden_patches_alone(iterations):
    loss, seen = loss_of(centering="sinkhorn", sinkhorn_iterations=iterations), patches()
    places = hidden(seen)
    table = naive_sinkhorn([(seen.target[place] / 0.04).tolist() for place in places], iterations)
    teachers = {place: torch.tensor(row).double() for place, row in zip(places, table, strict=True)}
    ours, _ = told(loss, seen)
    torch.testing.assert_close(ours, naive(seen, teachers), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("iterations", [1, 3, 7])
def test_counted_rows_are_balanced_as_if_they_were_alone(iterations):
    exponents = 5 * torch.randn(40, 7, generator=torch.Generator().manual_seed(0)).double()
    counted = torch.rand(40, generator=torch.Generator().manual_seed(1)) < 0.4
    found = sinkhorn(exponents, iterations, counted)
    torch.testing.assert_close(found[counted], sinkhorn(exponents[counted], iterations), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(40).double())
    torch.testing.assert_close(
        sinkhorn(exponents, iterations, torch.ones(40, dtype=torch.bool)), sinkhorn(exponents, iterations)
    )


def test_many_iterations_give_every_prototype_the_same_total_of_counted_rows():
    exponents = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)).double()
    counted = torch.arange(30) < 20
    totals = sinkhorn(exponents, 200, counted).exp()[counted].sum(dim=0)
    torch.testing.assert_close(totals, torch.full((5,), 4.0).double())


def test_without_counted_rows_the_balance_is_the_softmax():
    exponents = 10 * torch.randn(6, 5)
    found = sinkhorn(exponents, 3, torch.zeros(6, dtype=torch.bool))
    torch.testing.assert_close(found.exp(), exponents.softmax(dim=1))


@pytest.mark.parametrize("centering", ["center", "sinkhorn"])
def test_what_only_fills_up_changes_nothing(centering):
    loss, seen = loss_of(centering=centering), patches()
    filler = (seen.weights == 0)[..., None]
    other = Patches(seen.predicted.detach().masked_fill(filler, 3), seen.target.masked_fill(filler, -2), seen.weights)
    (one, first), (two, second) = told(loss, seen), told(loss, other)
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("centering", ["center", "sinkhorn"])
def test_a_batch_that_hides_nothing_costs_nothing_and_all_figures_are_finite(centering):
    loss, seen = loss_of(centering=centering), patches((0, 0))
    value, metrics = told(loss, seen)
    assert value.item() == 0
    assert all(metric.isfinite() for metric in metrics.values())
    value.backward()
    assert (seen.predicted.grad == 0).all()


@pytest.mark.parametrize("centering", ["center", "sinkhorn"])
def test_half_precision_is_computed_in_float32(centering):
    loss, seen = loss_of(centering=centering).float(), patches()
    low = Patches(seen.predicted.detach().bfloat16(), seen.target.bfloat16(), seen.weights.float())
    full = Patches(low.predicted.float(), low.target.float(), low.weights)
    torch.testing.assert_close(told(loss, low)[0], told(loss, full)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"centering": "mean"}, "centering='mean' is not one of"),
        ({"sinkhorn_iterations": 0}, "sinkhorn_iterations=0"),
        ({"student_temperature": 0.0}, "student_temperature=0"),
        ({"warmup_share": 2.0}, "warmup_share=2"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        loss_of(**changes)
