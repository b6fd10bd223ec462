import pytest
import torch
from small_tasks import assert_gradients, context, episodes, gradients, inner_step, meta_loss_by_loop, network

from ssl_runner.algorithms.boil import BOIL
from ssl_runner.losses.cross_entropy import CrossEntropy

LR = 0.4


def boil(steps: int = 2, second_order: bool = True) -> BOIL:
    return BOIL(network(), CrossEntropy(0.0), LR, steps, steps, second_order, "batch")


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradient_equals_that_of_a_loop_in_which_the_head_is_fixed(steps, second_order):
    algorithm, batch = boil(steps, second_order), episodes()
    loss = meta_loss_by_loop(
        algorithm.network, batch, lambda name, _: 0.0 if name.startswith("head") else LR, steps, second_order
    )
    assert_gradients(gradients(algorithm, batch, context()), loss, dict(algorithm.named_parameters()))


def test_the_inner_loop_changes_every_weight_of_the_encoder_and_none_of_the_head():
    algorithm = boil(steps=1)
    before, after = inner_step(algorithm, episodes())
    assert {name.partition(".")[0] for name in before} == {"encoder"}
    assert {f"encoder.{name}" for name, _ in algorithm.network.encoder.named_parameters()} == set(before)
    assert {name for name in before if not torch.allclose(before[name], after[name], atol=1e-12)} == set(before)
