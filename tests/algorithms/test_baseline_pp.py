import pytest
import torch
from torch import nn

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.algorithms.baseline_pp import BaselinePP
from ssl_runner.data.batches import Views
from ssl_runner.losses.cross_entropy import CrossEntropy
from ssl_runner.models.heads import Cosine, Linear
from ssl_runner.models.network import Encoder, Network
from ssl_runner.runtime import randomness
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))
FIT = {"scale": 4.0, "fit_steps": 7, "fit_lr": 0.3, "fit_momentum": 0.9, "fit_dampening": 0.6, "fit_weight_decay": 0.1}


class Flat(nn.Module):
    out_features = 4

    def forward(self, images):
        return images.flatten(1)


def baseline(head: nn.Module | None = None, **changes) -> BaselinePP:
    torch.manual_seed(0)
    made = Network(Encoder(Flat(), (1, 2, 2), [0.5], [0.3]), head or Cosine(4, 6, scale=10.0))
    return BaselinePP(made, CrossEntropy(0.0), **(FIT | {"fit_batch_size": None} | changes)).double()


def task(tasks: int = 3, shots: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    support, query = (torch.randn(tasks, n, 4, dtype=torch.float64, generator=generator) for n in (3 * shots, 5))
    labels = torch.stack([torch.arange(3).repeat(shots).roll(shift) for shift in range(tasks)])
    return support, labels, query


def cosines(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.stack([(f @ w) / (f.norm() * w.norm()) for w in weights]) for f in features])


def naive(support: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """One task's weights, with SGD with momentum and dampening written out."""
    generator = randomness.generator(0, "baseline_pp", 0)
    weights = (2 * torch.rand(3, 4, generator=generator) - 1).double() / 2
    momentum = None
    for chosen in rows:
        weights = weights.detach().requires_grad_()
        scores = FIT["scale"] * cosines(support[chosen], weights)
        losses = [-row.log_softmax(0)[label] for row, label in zip(scores, labels[chosen], strict=True)]
        (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), weights)
        gradient = gradient + FIT["fit_weight_decay"] * weights.detach()
        # as in torch, and so in the authors' code, the first gradient is not dampened
        momentum = (
            gradient if momentum is None else FIT["fit_momentum"] * momentum + (1 - FIT["fit_dampening"]) * gradient
        )
        weights = weights.detach() - FIT["fit_lr"] * momentum
    return weights


@pytest.mark.parametrize("batch_size", [None, 4])
def test_the_fitted_weights_equal_those_of_sgd_on_one_task_at_a_time(batch_size):
    support, labels, query = task()
    algorithm = baseline(fit_batch_size=batch_size)
    generator = randomness.generator(0, "baseline_pp", 0)
    torch.rand(3, 4, generator=generator)
    passes = [torch.randperm(6, generator=generator) for _ in range(7)]
    rows = torch.stack(passes) if batch_size is None else torch.cat(passes)[:28].view(7, 4)
    scores = algorithm.compare(support, labels, query, 3)
    for number in range(3):
        weights = naive(support[number], labels[number], rows)
        expected = FIT["scale"] * cosines(query[number], weights)
        torch.testing.assert_close(scores[number], expected, rtol=1e-6, atol=1e-6)  # initial weights are float32


def test_a_tasks_scores_depend_only_on_the_task():
    algorithm, (support, labels, query) = baseline(fit_batch_size=2), task()
    together = algorithm.compare(support, labels, query, 3)
    for one in (slice(0, 1), slice(1, 3)):
        torch.testing.assert_close(algorithm.compare(support[one], labels[one], query[one], 3), together[one])
    torch.testing.assert_close(algorithm.compare(support, labels, query[:, :2], 3), together[:, :2])


def test_it_fits_with_gradients_disabled_and_changes_no_generator_and_no_weight():
    algorithm, (support, labels, query) = baseline().eval(), task()
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in algorithm.state_dict().items()}
    with torch.no_grad():
        first = algorithm.compare(support, labels, query, 3)
        second = algorithm.compare(support, labels, query, 3)
        unfitted = baseline(fit_lr=1e-9).compare(support, labels, query, 3)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert torch.equal(torch.get_rng_state(), before)
    assert (first - unfitted).abs().max() > 0.1
    assert all(torch.equal(value, state[name]) for name, value in algorithm.state_dict().items())
    assert all(parameter.grad is None for parameter in algorithm.parameters())


def test_orthogonal_shots_reach_the_closed_form():
    support = torch.eye(4, dtype=torch.float64)[None, :3]
    algorithm = baseline(scale=1.0, fit_steps=200, fit_lr=0.1, fit_weight_decay=0.0)
    scores = algorithm.compare(support, torch.arange(3)[None], support, 3)[0]
    # in the plane of three orthogonal images, the cross-entropy of cosines is minimal for weights 2/3, -1/3, -1/3
    expected = 1 / 6**0.5 * (3 * torch.eye(3, dtype=torch.float64) - 1)
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3)


def test_evaluation_encodes_each_image_once():
    assert BaselinePP.classify is Algorithm.classify


def test_training_is_cross_entropy_of_scaled_cosines_with_one_weight_per_class():
    algorithm = baseline()
    images, labels = torch.rand(1, 5, 1, 2, 2, dtype=torch.float64), torch.tensor([0, 5, 2, 2, 1])
    loss = algorithm.training_step(Views((images,), labels, torch.arange(5)), CLOCK).loss
    head = algorithm.network.head
    scores = 10 * cosines(((images[0] - 0.5) / 0.3).flatten(1), head.weight)
    expected = -torch.stack([row.log_softmax(0)[label] for row, label in zip(scores, labels, strict=True)]).mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": Linear(4, 6)}, "choose model/head=cosine"),
        ({"scale": 0.0}, "scale=0.0"),
        ({"fit_lr": -1.0}, "fit_lr=-1.0"),
        ({"fit_steps": 0}, "fit_steps=0"),
        ({"fit_batch_size": 0}, "fit_batch_size=0"),
        ({"fit_momentum": 1.0}, "fit_momentum=1.0"),
        ({"fit_dampening": 2.0}, "fit_dampening=2.0"),
        ({"fit_weight_decay": -0.1}, "fit_weight_decay=-0.1"),
    ],
)
def test_numbers_out_of_range_and_other_heads_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        baseline(**changes)


def test_a_cosine_head_needs_classes_and_a_scale():
    with pytest.raises(ValueError, match="no classes"):
        Cosine(4, None, 10.0)
    with pytest.raises(ValueError, match=r"scale=0\.0"):
        Cosine(4, 3, 0.0)
