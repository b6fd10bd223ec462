import pytest
import torch
from torch import nn

from ssl_runner.algorithms.r2d2 import R2D2, ridge
from ssl_runner.data.batches import Episodes
from ssl_runner.losses.cross_entropy import CrossEntropy
from ssl_runner.models.heads import Identity
from ssl_runner.models.network import Encoder, Network
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


class Flat(nn.Module):
    out_features = 4

    def forward(self, images):
        return images.flatten(1)


def r2d2(regularisation: float = 0.5, scale: float = 3.0) -> R2D2:
    network = Network(Encoder(Flat(), (1, 2, 2), [0.5], [0.3]), Identity(4, None))
    return R2D2(network, CrossEntropy(0.0), regularisation, scale).double()


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def primal(inputs: torch.Tensor, targets: torch.Tensor, regularisation: torch.Tensor) -> torch.Tensor:
    """(X^T X + lambda I)^-1 X^T Y, one task at a time."""
    found = []
    for x, y in zip(inputs, targets, strict=True):
        identity = torch.eye(x.shape[1], dtype=x.dtype)
        found.append(torch.linalg.inv(x.T @ x + regularisation * identity) @ x.T @ y)
    return torch.stack(found)


@pytest.mark.parametrize(("shots", "width"), [(5, 12), (12, 5)])
def test_the_dual_solution_and_its_gradients_equal_those_of_primal_ridge(shots, width):
    inputs, targets, outer = draw(3, shots, width), draw(3, shots, 4), draw(3, width, 4)
    values, gradients = [], []
    for solve in (ridge, primal):
        x, log = inputs.clone().requires_grad_(), torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
        weights = solve(x, targets, log.exp())
        values.append(weights)
        gradients.append(torch.autograd.grad((weights * outer).sum(), [x, log]))
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_the_solution_has_no_gradient_in_the_ridge_objective():
    x, y, regularisation = draw(1, 5, 8), draw(1, 5, 3), torch.tensor(0.3, dtype=torch.float64)
    weights = ridge(x, y, regularisation).requires_grad_()
    objective = (x @ weights - y).square().sum() + regularisation * weights.square().sum()
    (gradient,) = torch.autograd.grad(objective, weights)
    assert gradient.abs().max() < 1e-12


def test_orthonormal_supports_have_the_closed_form():
    algorithm = r2d2(regularisation=0.5, scale=3.0)
    algorithm.bias.data.fill_(0.25)
    support = torch.eye(4, dtype=torch.float64)[None, :3]
    scores = algorithm.compare(support, torch.tensor([[2, 0, 1]]), 2 * support, 3)
    expected = 3 * 2 / 1.5 * torch.eye(3, dtype=torch.float64)[[2, 0, 1]] + 0.25
    torch.testing.assert_close(scores[0], expected, rtol=1e-6, atol=1e-7)  # logarithms are float32


def batch() -> Episodes:
    generator = torch.Generator().manual_seed(1)
    support, query = (torch.rand(2, n, 1, 2, 2, dtype=torch.float64, generator=generator) for n in (6, 9))
    labels = torch.tensor([[0, 1, 2, 0, 1, 2], [2, 2, 1, 1, 0, 0]])
    return Episodes(support, labels, query, torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2]] * 2), 3)


def test_the_loss_and_its_gradients_equal_those_of_a_loop_over_tasks():
    algorithm, given = r2d2(), batch()
    algorithm.training_step(given, CLOCK).loss.backward()
    learned = (algorithm.log_regularisation, algorithm.log_scale)
    log, log_scale = (parameter.detach().clone().requires_grad_() for parameter in learned)
    losses = []
    for task in range(2):
        x, q = (((images[task] - 0.5) / 0.3).flatten(1) for images in (given.support_images, given.query_images))
        y = torch.zeros(6, 3, dtype=torch.float64)
        for row, label in enumerate(given.support_labels[task]):
            y[row, label] = 1
        scores = log_scale.exp() * q @ primal(x[None], y[None], log.exp())[0]
        losses += [-row.log_softmax(0)[label] for row, label in zip(scores, given.query_labels[task], strict=True)]
    expected = torch.autograd.grad(torch.stack(losses).mean(), [log, log_scale])
    torch.testing.assert_close(algorithm.training_step(given, CLOCK).loss, torch.stack(losses).mean())
    torch.testing.assert_close(tuple(parameter.grad for parameter in learned), expected)


def test_the_regularisation_stays_positive_whatever_a_step_does_to_it():
    algorithm = r2d2()
    algorithm.log_regularisation.data.sub_(50)
    assert 0 < algorithm.training_step(batch(), CLOCK).metrics["regularisation"] < 1e-20


@pytest.mark.parametrize(("n_way", "shots"), [(2, 1), (2, 5), (5, 3)])
def test_any_ways_and_shots_work_and_other_queries_or_tasks_do_not_matter(n_way, shots):
    algorithm = r2d2().eval()
    support, query = torch.rand(2, n_way * shots, 1, 2, 2).double(), torch.rand(2, 7, 1, 2, 2).double()
    labels = torch.arange(n_way).repeat(2, shots)
    together = algorithm.classify(support, labels, query, n_way)
    assert together.shape == (2, 7, n_way)
    alone = algorithm.classify(support[1:], labels[1:], query[1:, :2], n_way)
    torch.testing.assert_close(alone[0], together[1, :2])


def test_autocast_does_not_reach_the_ridge():
    algorithm, labels = r2d2().float(), torch.tensor([[0, 1, 0, 1]])
    support, query = torch.randn(1, 4, 4), torch.randn(1, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        half = algorithm.compare(support, labels, query, 2)
    assert torch.equal(half, algorithm.compare(support, labels, query, 2))


@pytest.mark.parametrize("arguments", [{"regularisation": 0.0}, {"scale": -1.0}])
def test_numbers_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}="):
        r2d2(**arguments)
