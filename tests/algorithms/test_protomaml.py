from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_tasks import assert_gradients, context, episodes, gradients, inputs, network
from torch import nn
from torch.func import functional_call

from ssl_runner.algorithms.protomaml import BIAS, WEIGHT, ProtoMAML
from ssl_runner.algorithms.protonet import ProtoNet
from ssl_runner.data.batches import Episodes
from ssl_runner.losses.cross_entropy import CrossEntropy
from ssl_runner.models.batch_norm import normalised_by

LR = 0.1


def protomaml(steps: int = 2, second_order: bool = True, statistics: str = "batch", smooth: bool = False) -> ProtoMAML:
    model = network(smooth)
    model.head = nn.Identity()
    return ProtoMAML(model, CrossEntropy(0.0), LR, steps, steps, second_order, statistics).train()


def start(algorithm: ProtoMAML, images, labels, ways: int) -> dict[str, torch.Tensor]:
    """Weights, and the output layer row by row."""
    embedded = functional_call(algorithm.network, dict(algorithm.network.named_parameters()), (images,))
    means = [embedded[labels == label].mean(dim=0) for label in range(ways)]
    layer = {WEIGHT: torch.stack([2 * mean for mean in means]), BIAS: torch.stack([-mean @ mean for mean in means])}
    return dict(algorithm.network.named_parameters()) | layer


def logits(algorithm: ProtoMAML, weights: dict[str, torch.Tensor], images) -> torch.Tensor:
    of_network = {name: value for name, value in weights.items() if name not in (WEIGHT, BIAS)}
    return functional_call(algorithm.network, of_network, (images,)) @ weights[WEIGHT].T + weights[BIAS]


def adapted_by_loop(algorithm: ProtoMAML, images, labels, ways: int, steps: int, second_order: bool):
    """Weights after each step on one task, through torch.autograd and torch's own batch normalisation."""
    weights = start(algorithm, images, labels, ways)
    path = [weights]
    for _ in range(steps):
        # copies, so that a slope by the network is not also one through the output layer that came from it
        weights = {name: value.clone() for name, value in weights.items()}
        loss = F.cross_entropy(logits(algorithm, weights, images), labels)
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=second_order, retain_graph=True)
        weights = {name: value - LR * slope for (name, value), slope in zip(weights.items(), slopes, strict=True)}
        path.append(weights)
    return path


def loss_by_loop(algorithm: ProtoMAML, batch: Episodes, steps: int, second_order: bool) -> torch.Tensor:
    losses = []
    for task in range(len(batch)):
        support = batch.support_images[task], batch.support_labels[task]
        weights = adapted_by_loop(algorithm, *support, batch.n_way, steps, second_order)[-1]
        losses.append(F.cross_entropy(logits(algorithm, weights, batch.query_images[task]), batch.query_labels[task]))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradient_equals_the_loop_over_tasks_through_the_prototypes(steps, second_order):
    algorithm, batch = protomaml(steps, second_order), episodes()
    loss = loss_by_loop(algorithm, batch, steps, second_order)
    assert_gradients(gradients(algorithm, batch, context()), loss, dict(algorithm.named_parameters()))


def test_meta_gradient_equals_finite_differences():
    algorithm, batch = protomaml(smooth=True), episodes(tasks=2)
    found = gradients(algorithm, batch, context())
    torch.manual_seed(2)
    for name, parameter in algorithm.named_parameters():
        direction, losses = torch.randn_like(parameter), []
        for sign in (1, -1):
            parameter.data += sign * 1e-6 * direction
            losses.append(algorithm.training_step(batch, context()).loss.item())
            parameter.data -= sign * 1e-6 * direction
        slope = (losses[0] - losses[1]) / 2e-6
        assert (found[name] * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_before_the_first_step_scores_are_protonets_up_to_a_constant_of_each_query(statistics):
    algorithm, batch = protomaml(statistics=statistics), episodes()
    protonet = ProtoNet(algorithm.network, CrossEntropy(0.0)).eval()
    with torch.no_grad():
        before = algorithm.eval().trajectory(*inputs(batch))[0]
        for task in range(len(batch)):
            with normalised_by(algorithm.network, statistics):
                support = algorithm.network(batch.support_images[task])[None]
                query = algorithm.network(batch.query_images[task])[None]
            expected = protonet.compare(support, batch.support_labels[task][None], query, batch.n_way)[0]
            apart = before[task] - expected
            torch.testing.assert_close(apart, apart[:, :1].expand_as(apart), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(apart[:, 0], query[0].square().sum(dim=1), rtol=1e-9, atol=1e-9)


def test_every_weight_and_the_output_layer_adapt():
    algorithm, batch = protomaml(), episodes()
    task = batch.support_images[0], batch.support_labels[0]
    with normalised_by(algorithm.network, "batch"):
        begun = algorithm.start(*task, batch.n_way)
        (before, _), (after, _) = algorithm.descend(begun, *task, 1, context())
    assert before.keys() == after.keys() == {*dict(algorithm.network.named_parameters()), WEIGHT, BIAS}
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_classify_adapts_as_the_loop_does():
    algorithm, batch = protomaml(), episodes()
    with torch.no_grad():
        scores = algorithm.eval().classify(*inputs(batch))
    algorithm.train()
    for task in range(len(batch)):
        support = batch.support_images[task], batch.support_labels[task]
        weights = adapted_by_loop(algorithm, *support, batch.n_way, 2, second_order=False)[-1]
        expected = logits(algorithm, weights, batch.query_images[task])
        torch.testing.assert_close(scores[task], expected, rtol=1e-9, atol=1e-9)


def test_tasks_may_have_another_number_of_ways_than_any_head():
    algorithm, batch = protomaml(), episodes()
    pairs = replace(
        batch,
        support_labels=torch.tensor([[0, 1, 0, 1, 0, 1]] * 4),
        query_labels=batch.query_labels.clamp_max(1),
        n_way=2,
    )
    sixes = torch.arange(6).expand(4, -1)
    assert algorithm.training_step(pairs, context()).loss.isfinite()
    with torch.no_grad():
        scores = algorithm.classify(batch.support_images, sixes, batch.query_images, 6)
        assert scores.shape == (4, 9, 6)
        # classes with other numbers: the same scores in another order
        turned = algorithm.classify(batch.support_images, 5 - sixes, batch.query_images, 6)
    torch.testing.assert_close(turned.flip(-1), scores, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("statistics", "inductive"), [("batch", False), ("support", True), ("running", True)])
def test_only_inductive_statistics_ignore_the_other_queries(statistics, inductive):
    algorithm, batch = protomaml(statistics=statistics).eval(), episodes()
    support_images, support_labels, queries, ways = inputs(batch)
    with torch.no_grad():
        together = algorithm.classify(support_images, support_labels, queries, ways)
        fewer = algorithm.classify(support_images, support_labels, queries[:, :4], ways)
    assert torch.allclose(together[:, :4], fewer, atol=1e-9) == inductive
