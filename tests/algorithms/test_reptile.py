import pytest
import torch
import torch.nn.functional as F
from small_tasks import context, episodes, gradients, network
from torch.func import functional_call

from ssl_runner.algorithms.reptile import Reptile, around_classes
from ssl_runner.losses.cross_entropy import CrossEntropy


def reptile(steps: int = 3, size: int = 6) -> Reptile:
    return Reptile(network(), CrossEntropy(0.0), 0.01, steps, size, steps, size, "batch")


def reached_by_loop(algorithm: Reptile, batch, task: int, steps: int, size: int) -> dict[str, torch.Tensor]:
    """Torch's own Adam on one task."""
    weights = {name: value.detach().clone().requires_grad_() for name, value in algorithm.network.named_parameters()}
    adam = torch.optim.Adam(weights.values(), lr=0.01, betas=(0.0, 0.999))
    images, labels = batch.support_images[task], batch.support_labels[task]
    order = around_classes(labels)
    for step in range(steps):
        chosen = order[[(step * size + place) % len(labels) for place in range(size)]]
        adam.zero_grad()
        F.cross_entropy(functional_call(algorithm.network, weights, (images[chosen],)), labels[chosen]).backward()
        adam.step()
    return weights


@pytest.mark.parametrize("size", [3, 4, 6])
def test_a_step_of_rate_one_ends_at_the_mean_of_the_tasks_weights(size):
    algorithm, batch = reptile(size=size), episodes()
    before = {name: value.detach().clone() for name, value in algorithm.network.named_parameters()}
    found = gradients(algorithm, batch, context())
    reached = [reached_by_loop(algorithm, batch, task, 3, size) for task in range(len(batch))]
    for name, value in before.items():
        mean = torch.stack([weights[name].detach() for weights in reached]).mean(0)
        torch.testing.assert_close(value - found[f"network.{name}"], mean, rtol=1e-7, atol=1e-8)


def test_classify_trains_on_the_support_set_alone():
    algorithm, batch = reptile(), episodes()
    algorithm.eval()
    with torch.no_grad():
        scores = algorithm.classify(batch.support_images, batch.support_labels, batch.query_images, 3)
    algorithm.train()
    for task in range(len(batch)):
        weights = reached_by_loop(algorithm, batch, task, 3, 6)
        expected = functional_call(algorithm.network, weights, (batch.query_images[task],))
        torch.testing.assert_close(scores[task], expected, rtol=1e-6, atol=1e-7)


def test_the_logged_loss_is_that_of_the_queries_after_adaptation():
    algorithm, batch = reptile(), episodes()
    step = algorithm.training_step(batch, context())
    losses = []
    for task in range(len(batch)):
        weights = reached_by_loop(algorithm, batch, task, 3, 6)
        logits = functional_call(algorithm.network, weights, (batch.query_images[task],))
        losses.append(F.cross_entropy(logits, batch.query_labels[task]))
    torch.testing.assert_close(step.metrics["loss"], torch.stack(losses).mean().detach(), rtol=1e-7, atol=1e-8)


def test_splitting_the_batch_gives_the_same_update():
    algorithm, batch = reptile(), episodes(tasks=4)
    whole = gradients(algorithm, batch, context())
    algorithm.zero_grad()
    for piece in batch.chunk(2):
        (algorithm.training_step(piece, context()).loss * len(piece) / len(batch)).backward()
    for name, value in algorithm.named_parameters():
        torch.testing.assert_close(value.grad, whole[name], rtol=1e-8, atol=1e-9)


def test_inner_batches_cycle_through_the_classes():
    labels = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])
    order = around_classes(labels)
    assert sorted(order.tolist()) == list(range(8))
    assert labels[order].tolist() == [0, 1, 2, 0, 2, 0, 2, 2]
    assert order.tolist() == [0, 3, 4, 1, 5, 2, 6, 7]
