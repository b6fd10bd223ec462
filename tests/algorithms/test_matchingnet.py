import math

import pytest
import torch
from torch import nn

from ssl_runner.algorithms.matchingnet import FullContext, MatchingNet
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


def matchingnet(temperature: float = 0.3, learned: bool = True, read_steps: int = 0) -> MatchingNet:
    torch.manual_seed(0)
    network = Network(Encoder(Flat(), (1, 2, 2), [0.5], [0.3]), Identity(4, None))
    return MatchingNet(network, CrossEntropy(0.0), temperature, learned, read_steps).double()


def episodes() -> Episodes:
    generator = torch.Generator().manual_seed(1)
    support, query = (torch.rand(2, n, 1, 2, 2, dtype=torch.float64, generator=generator) for n in (6, 9))
    labels = torch.tensor([[0, 1, 2, 0, 1, 2], [2, 2, 1, 1, 0, 0]])
    return Episodes(support, labels, query, torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2]] * 2), 3)


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a @ b) / (a.norm() * b.norm())


def naive(batch: Episodes, temperature: float) -> torch.Tensor:
    """The mean of minus log p(y | x, S), one query at a time."""
    losses = []
    for task in range(len(batch)):
        support, query = (
            ((images[task] - 0.5) / 0.3).flatten(1) for images in (batch.support_images, batch.query_images)
        )
        for image, label in zip(query, batch.query_labels[task], strict=True):
            weights = [torch.exp(cosine(image, other) / temperature) for other in support]
            own = [w for w, other in zip(weights, batch.support_labels[task], strict=True) if other == label]
            losses.append(-torch.log(sum(own) / sum(weights)))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_loss_is_minus_the_log_of_the_attention_to_the_querys_class(temperature):
    batch = episodes()
    ours = matchingnet(temperature).training_step(batch, CLOCK).loss
    torch.testing.assert_close(ours, naive(batch, temperature), rtol=1e-6, atol=1e-7)  # log(temperature) is float32


def test_scores_are_log_probabilities():
    batch = episodes()
    scores = matchingnet().classify(batch.support_images, batch.support_labels, batch.query_images, 3)
    torch.testing.assert_close(scores.exp().sum(dim=2), torch.ones(2, 9, dtype=torch.float64))


@pytest.mark.parametrize("n_way", [2, 4])
def test_a_query_equal_to_one_of_orthogonal_supports_has_the_closed_form(n_way):
    support = torch.eye(4, dtype=torch.float64)[None, :n_way]
    labels = torch.arange(n_way)[None]
    scores = matchingnet(temperature=0.5).compare(support, labels, 7 * support, n_way)
    own = 2 - math.log(math.exp(2) + n_way - 1)
    expected = torch.full((n_way, n_way), own - 2, dtype=torch.float64).fill_diagonal_(own)
    torch.testing.assert_close(scores[0], expected, rtol=1e-6, atol=1e-7)


def test_a_class_whose_probability_is_0_in_float32_still_has_a_score_and_a_gradient():
    algorithm = matchingnet(temperature=0.01).float()
    support = torch.tensor([[[1.0, 0, 0, 0], [-1.0, 0.1, 0, 0]]], requires_grad=True)
    scores = algorithm.compare(support, torch.tensor([[0, 1]]), torch.tensor([[[1.0, 0, 0, 0]]]), 2)
    assert scores[0, 0, 1].item() == pytest.approx(-199.5, abs=0.1)
    assert math.exp(scores[0, 0, 1].item()) < torch.finfo(torch.float32).tiny
    (gradient,) = torch.autograd.grad(scores[0, 0, 1], support)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 1


def test_autocast_does_not_reach_the_attention():
    algorithm = matchingnet(temperature=0.05, read_steps=2).float()
    support, query = torch.randn(1, 6, 4), torch.randn(1, 5, 4)
    labels = torch.tensor([[0, 1, 2, 0, 1, 2]])
    with torch.autocast("cpu", torch.bfloat16):
        half = algorithm.compare(support, labels, query, 3)
    assert torch.equal(half, algorithm.compare(support, labels, query, 3))


@pytest.mark.parametrize("learned", [True, False])
def test_a_learned_temperature_is_trained_and_a_fixed_one_is_not(learned):
    algorithm = matchingnet(learned=learned)
    step = algorithm.training_step(episodes(), CLOCK)
    assert step.metrics["temperature"].item() == pytest.approx(0.3, abs=1e-6)
    trained = [parameter for group in algorithm.parameter_groups() for parameter in group["params"]]
    assert any(parameter is algorithm.log_temperature for parameter in trained) == learned
    if learned:
        step.loss.backward()
        expected = [naive(episodes(), math.exp(math.log(0.3) + shift)) for shift in (1e-4, -1e-4)]
        difference = (expected[0] - expected[1]) / 2e-4
        torch.testing.assert_close(algorithm.log_temperature.grad, difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("read_steps", [0, 3])
def test_a_query_does_not_see_other_queries_nor_a_task_other_tasks(read_steps):
    algorithm, batch = matchingnet(read_steps=read_steps).eval(), episodes()
    together = algorithm.classify(batch.support_images, batch.support_labels, batch.query_images, 3)
    for task in range(2):
        one = slice(task, task + 1)
        alone = algorithm.classify(batch.support_images[one], batch.support_labels[one], batch.query_images[one, :2], 3)
        torch.testing.assert_close(alone[0], together[task, :2])


def gates(x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, weights: tuple[torch.Tensor, ...]):
    """One step of an LSTM (Hochreiter and Schmidhuber 1997 with a forget gate), in torch's order of gates."""
    w_x, w_h, b_x, b_h = weights
    i, f, g, o = (w_x @ x + b_x + w_h @ h + b_h).chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def test_full_context_embeddings_equal_a_loop_over_the_equations():
    torch.manual_seed(0)
    context = FullContext(width=4, read_steps=3).double()
    support, query = torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    ours_support, ours_query = context(support, query)
    lstm = dict(context.support.named_parameters())
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    reader = tuple(context.query.parameters())
    zero = torch.zeros(4, dtype=torch.float64)
    for task in range(2):
        g = [row.clone() for row in support[task]]
        for suffix, order in (("", range(5)), ("_reverse", reversed(range(5)))):
            h, c = zero, zero
            for place in order:
                h, c = gates(support[task, place], h, c, tuple(lstm[name + suffix] for name in names))
                g[place] = g[place] + h
        torch.testing.assert_close(ours_support[task], torch.stack(g))
        for number, f in enumerate(query[task]):
            h, c = f, zero
            for _ in range(3):
                attention = torch.stack([h @ other for other in g]).softmax(0)
                read = sum(a * other for a, other in zip(attention, g, strict=True))
                out, c = gates(torch.cat([f, read]), h, c, reader)
                h = out + f
            torch.testing.assert_close(ours_query[task, number], h)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"temperature": 0.0}, "temperature=0"), ({"read_steps": -1}, "read_s")]
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        matchingnet(**arguments)
