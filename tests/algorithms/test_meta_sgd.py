import pytest
import torch
from small_tasks import assert_gradients, context, episodes, gradients, inner_step, meta_loss_by_loop, network

from ssl_runner.algorithms.maml import MAML
from ssl_runner.algorithms.meta_sgd import MetaSGD
from ssl_runner.losses.cross_entropy import CrossEntropy
from ssl_runner.models.batch_norm import normalised_by


def meta_sgd(steps: int = 1, second_order: bool = True, spread: bool = True) -> MetaSGD:
    algorithm = MetaSGD(network(), CrossEntropy(0.0), 0.3, steps, steps, second_order, "batch")
    if spread:
        torch.manual_seed(3)
        for rate in algorithm.rates.parameters():
            rate.data += 0.2 * torch.randn_like(rate)
    return algorithm


def key(name: str) -> str:
    return name.replace(".", "/")


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [1, 2])
def test_gradients_of_weights_and_rates_equal_those_of_the_loop(steps, second_order):
    algorithm, batch = meta_sgd(steps, second_order), episodes()
    loss = meta_loss_by_loop(algorithm.network, batch, lambda name, _: algorithm.rates[key(name)], steps, second_order)
    assert_gradients(gradients(algorithm, batch, context()), loss, dict(algorithm.named_parameters()))


def test_with_equal_rates_it_is_maml():
    batch = episodes()
    ours = gradients(meta_sgd(2, spread=False), batch, context())
    for name, value in gradients(
        MAML(network(), CrossEntropy(0.0), 0.3, 2, 2, True, "batch"), batch, context()
    ).items():
        torch.testing.assert_close(ours[name], value, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_a_rate_is_minus_the_product_of_outer_and_inner_gradients():
    """With one step, d L_q(theta - a * g) / da = -g * grad L_q(theta')."""
    algorithm, batch = meta_sgd(1), episodes(tasks=1)
    found = gradients(algorithm, batch, context())["rates.head/weight"]
    start, reached = inner_step(algorithm, batch)
    inner = (start["head.weight"] - reached["head.weight"]) / algorithm.rates["head/weight"]
    leaf = {name: value.detach().requires_grad_() for name, value in reached.items()}
    with normalised_by(algorithm.network, "batch"):
        loss, _ = algorithm.loss_of(leaf, batch.query_images[0], batch.query_labels[0], 1, context())
    (outer,) = torch.autograd.grad(loss, [leaf["head.weight"]])
    torch.testing.assert_close(found, -inner * outer, rtol=1e-9, atol=1e-11)


def test_rates_get_no_weight_decay_and_every_parameter_is_in_one_group():
    algorithm = meta_sgd()
    groups = algorithm.parameter_groups()
    members = [id(value) for group in groups for value in group["params"]]
    assert sorted(members) == sorted(id(value) for value in algorithm.parameters())
    rates = {id(rate) for rate in algorithm.rates.parameters()}
    decayed = {id(value) for group in groups if group.get("weight_decay") != 0 for value in group["params"]}
    assert not rates & decayed
    assert decayed


def test_the_logged_rates_are_means_and_the_share_below_zero():
    algorithm = meta_sgd(spread=False)
    algorithm.rates["head/bias"].data.copy_(torch.tensor([-1.0, 0.5, 0.5]))
    figures = algorithm.figures()
    assert figures["inner_lr/head/bias"].item() == pytest.approx(0.0)
    assert figures["inner_lr/head/weight"].item() == pytest.approx(0.3)
    assert figures["inner_lr_negative"].item() == pytest.approx(
        1 / sum(r.numel() for r in algorithm.rates.parameters())
    )
