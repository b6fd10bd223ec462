from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from ssl_runner.algorithms.maml import MAML
from ssl_runner.algorithms.reference_loop import adapted_by_loop, meta_loss_by_loop
from ssl_runner.data.batches import Episodes
from ssl_runner.losses.cross_entropy import CrossEntropy
from ssl_runner.models.batch_norm import batch_norms, normalised_by
from ssl_runner.models.conv4 import Conv4
from ssl_runner.models.heads import Linear
from ssl_runner.models.network import Encoder, Network
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


def maml(
    steps: int = 1, second_order: bool = True, statistics: str = "batch", lr: float = 0.4, smooth: bool = False
) -> MAML:
    torch.manual_seed(0)
    backbone = Conv4(1, 12, width=4, downsample="stride" if smooth else "max_pool", grid=None)
    if smooth:  # a kink would make the finite difference wrong, not the gradient
        for block in backbone.blocks:
            block[2] = nn.Softplus()
    encoder = Encoder(backbone, (1, 12, 12), [0.4], [0.3])
    network = Network(encoder, Linear(backbone.out_features, 3)).double()
    for parameter in network.parameters():  # biases and scales at their initial 0 and 1 would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    return MAML(network, CrossEntropy(0.0), lr, steps, steps, second_order, statistics)


def episodes(tasks: int = 4, shots: int = 2, queries: int = 3) -> Episodes:
    torch.manual_seed(1)
    labels = [torch.arange(3).repeat_interleave(n).expand(tasks, -1) for n in (shots, queries)]
    images = [torch.rand(tasks, 3 * n, 1, 12, 12, dtype=torch.float64) for n in (shots, queries)]
    return Episodes(images[0], labels[0], images[1], labels[1], n_way=3)


def meta_gradient(algorithm: MAML, batch: Episodes) -> dict[str, torch.Tensor]:
    algorithm.zero_grad()
    algorithm.training_step(batch, CLOCK).loss.backward()
    return {name: parameter.grad for name, parameter in algorithm.network.named_parameters()}


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradient_equals_the_loop_over_tasks(steps, second_order):
    algorithm, batch = maml(steps, second_order), episodes()
    ours = meta_gradient(algorithm, batch)
    parameters = dict(algorithm.network.named_parameters())
    reference = torch.autograd.grad(meta_loss_by_loop(algorithm, batch), list(parameters.values()))
    for (name, gradient), expected in zip(ours.items(), reference, strict=True):
        torch.testing.assert_close(
            gradient, expected, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_meta_gradient_equals_finite_differences():
    algorithm, batch = maml(steps=2, smooth=True), episodes(tasks=2)
    gradients = meta_gradient(algorithm, batch)
    epsilon = 1e-6
    for name, parameter in algorithm.network.named_parameters():
        torch.manual_seed(2)
        direction = torch.randn_like(parameter)
        losses = []
        for sign in (1, -1):
            parameter.data += sign * epsilon * direction
            losses.append(algorithm.training_step(batch, CLOCK).loss.item())
            parameter.data -= sign * epsilon * direction
        slope = (losses[0] - losses[1]) / (2 * epsilon)
        assert (gradients[name] * direction).sum().item() == pytest.approx(slope, rel=1e-6, abs=1e-8), name


def test_the_loop_does_not_change_running_averages():
    algorithm = maml()
    before = {name: buffer.clone() for name, buffer in algorithm.network.named_buffers()}
    meta_loss_by_loop(algorithm, episodes())
    for name, buffer in algorithm.network.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_first_order_and_second_order_gradients_differ():
    exact, first = meta_gradient(maml(5), episodes()), meta_gradient(maml(5, second_order=False), episodes())
    flat = [torch.cat([gradient.flatten() for gradient in each.values()]) for each in (exact, first)]
    assert F.cosine_similarity(flat[0], flat[1], dim=0) < 0.9


def test_splitting_the_batch_gives_the_same_gradient():
    algorithm, batch = maml(2), episodes(tasks=5)
    whole = meta_gradient(algorithm, batch)
    algorithm.zero_grad()
    for piece in batch.chunk(3):
        (algorithm.training_step(piece, CLOCK).loss * len(piece) / len(batch)).backward()
    for name, parameter in algorithm.network.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-9, atol=1e-12)


def test_classify_adapts_as_the_loop_does():
    algorithm, batch = maml(2), episodes()
    with torch.no_grad():
        scores = algorithm.classify(batch.support_images, batch.support_labels, batch.query_images, 3)
    for task in range(len(batch)):
        support = batch.support_images[task], batch.support_labels[task]
        parameters = adapted_by_loop(algorithm.network, *support, inner_lr=0.4, inner_steps=2, second_order=False)
        expected = functional_call(algorithm.network, parameters, (batch.query_images[task],))
        torch.testing.assert_close(scores[task], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("statistics", ["batch", "support"])
def test_with_fewer_ways_than_outputs_the_first_outputs_are_the_labels_after_the_same_descent(statistics):
    algorithm, batch = maml(2, statistics=statistics), episodes()
    support, query = (labels < 2 for labels in (batch.support_labels[0], batch.query_labels[0]))
    images, labels = batch.support_images[:, support], batch.support_labels[:, support]
    queries = batch.query_images[:, query]
    with torch.no_grad():
        scores = algorithm.classify(images, labels, queries, 2)
        steps = algorithm.trajectory(images, labels, queries, 2)
    assert scores.shape == (4, 6, 2)
    assert torch.equal(steps[-1], scores)
    if statistics == "batch":
        algorithm.train()
        for task in range(4):
            adapted = adapted_by_loop(algorithm.network, images[task], labels[task], 0.4, 2, second_order=False)
            expected = functional_call(algorithm.network, adapted, (queries[task],))
            torch.testing.assert_close(scores[task], expected[:, :2], rtol=1e-9, atol=1e-10)


def test_more_ways_than_outputs_are_refused():
    batch = episodes()
    with pytest.raises(ValueError, match="the head has 3 outputs, so MAML classifies at most 3 ways, got 4"):
        maml().classify(batch.support_images, batch.support_labels, batch.query_images, 4)


@pytest.mark.parametrize(("statistics", "inductive"), [("batch", False), ("support", True), ("running", True)])
def test_only_inductive_statistics_ignore_the_other_queries(statistics, inductive):
    algorithm, batch = maml(1, statistics=statistics), episodes()
    with torch.no_grad():
        together = algorithm.classify(batch.support_images, batch.support_labels, batch.query_images, 3)
        fewer = algorithm.classify(batch.support_images, batch.support_labels, batch.query_images[:, :4], 3)
    assert torch.allclose(together[:, :4], fewer, atol=1e-9) == inductive


def test_classify_does_not_change_weights_buffers_or_layers():
    algorithm, batch = maml(1, statistics="support"), episodes()
    before = {name: value.clone() for name, value in algorithm.state_dict().items()}
    with torch.no_grad():
        algorithm.classify(batch.support_images, batch.support_labels, batch.query_images, 3)
    for name, value in algorithm.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(layer.statistics == "module" and layer.recorded is None for layer in batch_norms(algorithm.network))


def test_running_statistics_follow_the_queries_of_the_adapted_networks():
    algorithm, batch = maml(1, lr=1e-12), episodes()
    algorithm.after_step(CLOCK, algorithm.training_step(batch, CLOCK).carry)
    reference = maml(1)  # with a tiny inner rate, the first layer sees all tasks' queries with the same weights
    layer, expected = batch_norms(algorithm.network)[0], batch_norms(reference.network)[0]
    means = []
    for task in range(len(batch)):
        with normalised_by(reference.network, "batch"):
            reference.network(batch.query_images[task])
        assert expected.recorded is not None
        means.append(expected.recorded[0])
    torch.testing.assert_close(layer.running_mean, 0.1 * torch.stack(means).mean(0).detach(), rtol=1e-6, atol=1e-9)


def test_batch_statistics_equal_torchs_own_normalisation():
    layer = batch_norms(maml().network)[0]
    images = torch.randn(5, 4, 6, 6, dtype=torch.float64)
    native = layer(images)
    with normalised_by(layer, "batch"):
        torch.testing.assert_close(layer(images), native, rtol=1e-12, atol=1e-12)


def test_a_number_of_ways_other_than_the_heads_is_refused():
    batch = episodes()
    with pytest.raises(ValueError, match="3 outputs"):
        maml().classify(batch.support_images, batch.support_labels, batch.query_images, 20)


def classified(algorithm: MAML, classify, batch: Episodes) -> torch.Tensor:
    with torch.no_grad():
        return classify(batch.support_images, batch.support_labels, batch.query_images, 3)


@pytest.mark.parametrize(
    ("configured", "inductive"), [("batch", "support"), ("support", "support"), ("running", "running")]
)
def test_each_classifier_gives_what_its_statistics_would_give_if_configured(configured, inductive):
    batch, algorithm = episodes(), maml(2, statistics=configured)
    expected = {"inductive": inductive, "transductive": "batch"}
    assert algorithm.classifiers == tuple(expected)
    found = classified(algorithm, algorithm.classify_by_all, batch)
    for name, statistics in {"": configured, **expected}.items():
        alone = maml(2, statistics=statistics)
        assert torch.equal(found[name], classified(alone, alone.classify, batch))
    assert algorithm.protocol()["classifiers"] == expected


@pytest.mark.parametrize("configured", ["batch", "support", "running"])
def test_only_the_transductive_classifier_sees_the_other_queries(configured):
    algorithm, batch = maml(1, statistics=configured), episodes()
    fewer = replace(batch, query_images=batch.query_images[:, :4])
    together, apart = (classified(algorithm, algorithm.classify_by_all, each) for each in (batch, fewer))
    for name in algorithm.classifiers:
        assert torch.allclose(together[name][:, :4], apart[name], atol=1e-9) == (name == "inductive")


def test_one_descent_serves_all_statistics_except_running_averages(monkeypatch):
    for configured, descents in {"batch": 1, "support": 1, "running": 2}.items():
        algorithm, begun = maml(1, statistics=configured), []
        descend = algorithm.descend
        monkeypatch.setattr(
            algorithm, "descend", lambda *given, to=descend, calls=begun: (calls.append(1), to(*given))[1]
        )
        classified(algorithm, algorithm.classify_by_all, episodes())
        assert len(begun) == descents


@pytest.mark.parametrize("statistics", ["batch", "support", "running"])
def test_the_last_point_of_a_trajectory_equals_classify(statistics):
    algorithm, batch = maml(3, statistics=statistics), episodes()
    scores = classified(algorithm, algorithm.trajectory, batch)
    assert scores.shape == (4, 4, 9, 3)
    assert torch.equal(scores[-1], classified(algorithm, algorithm.classify, batch))
    assert not torch.equal(scores[0], scores[1])
    assert all(layer.statistics == "module" and layer.recorded is None for layer in batch_norms(algorithm.network))


def test_a_trajectory_follows_the_loop_over_tasks_and_steps():
    algorithm, batch = maml(3), episodes()
    found = classified(algorithm, algorithm.trajectory, batch)
    for task in range(len(batch)):
        parameters = dict(algorithm.network.named_parameters())
        for step in range(4):
            expected = functional_call(algorithm.network, parameters, (batch.query_images[task],))
            torch.testing.assert_close(found[step, task], expected, rtol=1e-9, atol=1e-10)
            logits = functional_call(algorithm.network, parameters, (batch.support_images[task],))
            loss = F.cross_entropy(logits, batch.support_labels[task])
            gradients = torch.autograd.grad(loss, list(parameters.values()))
            moves = zip(parameters.items(), gradients, strict=True)
            parameters = {name: value - 0.4 * gradient for (name, value), gradient in moves}
