import pytest
import torch
from small_tasks import assert_gradients, context, episodes, gradients, inputs, meta_loss_by_loop, network
from torch.func import functional_call

from ssl_runner.algorithms.anil import ANIL
from ssl_runner.losses.cross_entropy import CrossEntropy

LR = 0.4


def anil(steps: int = 2, second_order: bool = True, statistics: str = "batch") -> ANIL:
    return ANIL(network(), CrossEntropy(0.0), LR, steps, steps, second_order, statistics)


def rate(name: str, step: int) -> float:
    return LR if name.startswith("head") else 0.0


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradient_equals_that_of_a_loop_in_which_only_the_head_adapts(steps, second_order):
    algorithm, batch = anil(steps, second_order), episodes()
    loss = meta_loss_by_loop(algorithm.network, batch, rate, steps, second_order)
    assert_gradients(gradients(algorithm, batch, context()), loss, dict(algorithm.named_parameters()))


def test_the_encoder_sees_each_image_once_for_any_number_of_inner_steps():
    algorithm, batch, passes = anil(steps=4), episodes(), []
    algorithm.network.encoder.register_forward_hook(lambda *_: passes.append(1))
    algorithm.training_step(batch, context())
    assert len(passes) == 2  # support, queries; all tasks at once


def test_classify_fits_the_head_to_fixed_features():
    algorithm, batch = anil(), episodes()
    with torch.no_grad():
        scores = algorithm.classify(*inputs(batch))
    for task in range(len(batch)):
        features = algorithm.network.encoder(batch.support_images[task]).detach()
        head = {name: value.detach().requires_grad_() for name, value in algorithm.network.head.named_parameters()}
        for _ in range(2):
            logits = functional_call(algorithm.network.head, head, (features,))
            loss = torch.nn.functional.cross_entropy(logits, batch.support_labels[task])
            slopes = torch.autograd.grad(loss, list(head.values()))
            head = {name: value - LR * slope for (name, value), slope in zip(head.items(), slopes, strict=True)}
        expected = functional_call(algorithm.network.head, head, (algorithm.network.encoder(batch.query_images[task]),))
        torch.testing.assert_close(scores[task], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("statistics", "inductive"), [("batch", False), ("support", True), ("running", True)])
def test_only_inductive_statistics_ignore_the_other_queries(statistics, inductive):
    algorithm, batch = anil(statistics=statistics), episodes()
    support_images, support_labels, queries, ways = inputs(batch)
    with torch.no_grad():
        together = algorithm.classify(support_images, support_labels, queries, ways)
        fewer = algorithm.classify(support_images, support_labels, queries[:, :4], ways)
    assert torch.allclose(together[:, :4], fewer, atol=1e-9) == inductive
