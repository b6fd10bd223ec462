import pytest
import torch
from small_tasks import assert_gradients, context, episodes, gradients, inputs, meta_loss_by_loop, network

from ssl_runner.algorithms.maml import MAML
from ssl_runner.algorithms.maml_pp import MAMLpp
from ssl_runner.losses.cross_entropy import CrossEntropy
from ssl_runner.models.batch_norm import batch_norms

STEPS = 3


def maml_pp(
    multi_step: float = 0.0, first_order: float = 0.0, statistics: str = "batch", spread: bool = True
) -> MAMLpp:
    algorithm = MAMLpp(network(), CrossEntropy(0.0), 0.3, STEPS, STEPS, multi_step, first_order, statistics)
    if spread:
        torch.manual_seed(3)
        for value in [*algorithm.rates.parameters(), *algorithm.affine.parameters()]:
            value.data += 0.1 * torch.randn_like(value)
    return algorithm.double()


def key(name: str) -> str:
    return name.replace(".", "/")


def by_loop(algorithm: MAMLpp, batch, second_order: bool, emphasis=None) -> torch.Tensor:
    own = [name for name, _ in algorithm.network.named_parameters() if key(name) in algorithm.affine]
    return meta_loss_by_loop(
        algorithm.network,
        batch,
        lambda name, step: algorithm.rates[key(name)][step],
        STEPS,
        second_order,
        emphasis,
        fixed=lambda step: {name: algorithm.affine[key(name)][step] for name in own},
    )


def learned(algorithm: MAMLpp) -> dict[str, torch.Tensor]:
    return {name: value for name, value in algorithm.named_parameters() if value.requires_grad}


@pytest.mark.parametrize(("first_order", "second_order"), [(0.0, True), (1.0, False)])
def test_gradients_of_weights_rates_and_normalisation_equal_those_of_the_loop(first_order, second_order):
    algorithm, batch = maml_pp(first_order=first_order), episodes()
    loss = by_loop(algorithm, batch, second_order)
    assert_gradients(gradients(algorithm, batch, context()), loss, learned(algorithm))


def test_early_in_the_run_the_query_loss_after_every_step_counts():
    algorithm, batch = maml_pp(multi_step=0.5), episodes()
    loss = by_loop(algorithm, batch, True, emphasis=[0, 1 / 3, 1 / 3, 1 / 3])
    assert_gradients(gradients(algorithm, batch, context()), loss, learned(algorithm))
    halfway = context(step=1, max_steps=4)
    assert algorithm.emphasis(halfway) == pytest.approx([0, 1 / 6, 1 / 6, 4 / 6])
    assert algorithm.emphasis(context(step=2, max_steps=4)) == [0, 0, 0, 1]


def test_with_equal_rates_and_no_multi_step_loss_it_is_maml_whose_inner_loop_leaves_normalisation_alone():
    batch = episodes()
    model = network()

    class Plain(MAML):
        def adapts(self, name: str) -> bool:
            return key(name) not in ours.affine

    ours = maml_pp(spread=False)
    for rate in ours.rates.parameters():
        rate.data.fill_(0.3)  # it was created in float32
    expected = gradients(Plain(model, CrossEntropy(0.0), 0.3, STEPS, STEPS, True, "batch"), batch, context())
    found = gradients(ours, batch, context())
    for name, value in expected.items():
        place = name.removeprefix("network.")
        total = found[f"affine.{key(place)}"].sum(0) if key(place) in ours.affine else found[name]
        torch.testing.assert_close(total, value, rtol=1e-9, atol=1e-10)


def test_running_statistics_are_kept_for_each_step_and_the_network_holds_those_of_the_first():
    algorithm, batch = maml_pp(), episodes()
    step = algorithm.training_step(batch, context())
    algorithm.after_step(context(), step.carry)
    name, layer = next(iter(algorithm.layers.items()))
    means = algorithm.get_buffer(key(f"{name}.running_mean"))
    assert means.shape == (STEPS + 1, 4)
    first = network()
    for task in batch.support_images:
        first.encoder.backbone.blocks[0](first.encoder.prepare(task))
    seen = batch_norms(first)[0]
    # the loop makes a momentum step per task, this one makes a step with their mean: compare the means
    convolved = [first.encoder.backbone.blocks[0][0](first.encoder.prepare(task)) for task in batch.support_images]
    expected = 0.1 * torch.stack([maps.mean((0, 2, 3)) for maps in convolved]).mean(0)
    torch.testing.assert_close(means[0], expected.detach(), rtol=1e-9, atol=1e-12)
    assert seen.running_mean is not None
    assert torch.equal(layer.running_mean, means[0])
    assert not torch.allclose(means[0], means[-1])
    assert torch.equal(layer.weight, algorithm.affine[key(f"{name}.weight")][0])


def test_evaluation_may_take_more_steps_and_uses_the_statistics_of_the_last():
    algorithm, batch = maml_pp(statistics="running"), episodes()
    algorithm.after_step(context(), algorithm.training_step(batch, context()).carry)
    algorithm.eval_inner_steps = STEPS + 2
    with torch.no_grad():
        together = algorithm.classify(*inputs(batch))
        support_images, support_labels, queries, ways = inputs(batch)
        alone = algorithm.classify(support_images, support_labels, queries[:, :2], ways)
    torch.testing.assert_close(alone, together[:, :2], rtol=1e-9, atol=1e-10)


def test_rates_and_normalisation_get_no_weight_decay():
    algorithm = maml_pp()
    groups = algorithm.parameter_groups()
    members = [id(value) for group in groups for value in group["params"]]
    assert sorted(members) == sorted(id(value) for value in learned(algorithm).values())
    decayed = {id(value) for group in groups if group.get("weight_decay") != 0 for value in group["params"]}
    weights = {id(value) for name, value in learned(algorithm).items() if name.endswith("weight") and "network" in name}
    assert decayed == weights


def test_every_rate_of_every_step_is_logged():
    algorithm = maml_pp(spread=False)
    figures = algorithm.figures()
    assert len(figures) == STEPS * len(algorithm.rates)
    assert figures["inner_lr/head/weight/2"].item() == pytest.approx(0.3)
