"""The features of a task that are shown to people are those that `classify` works with."""

import pytest
import torch
from small_readers import Flat
from small_tasks import adapted, episodes, inputs, network
from torch.func import functional_call

from ssl_runner.algorithms.anil import ANIL
from ssl_runner.algorithms.boil import BOIL
from ssl_runner.algorithms.maml import MAML
from ssl_runner.algorithms.maml_pp import MAMLpp
from ssl_runner.algorithms.protonet import ProtoNet
from ssl_runner.algorithms.relationnet import RelationNet
from ssl_runner.algorithms.supervised import Supervised
from ssl_runner.losses.cross_entropy import CrossEntropy
from ssl_runner.losses.relation_mse import RelationMSE
from ssl_runner.models.batch_norm import batch_norms
from ssl_runner.models.heads import Identity, Linear
from ssl_runner.models.network import Encoder, Network

LR, STEPS = 0.4, 3


def stages(algorithm, batch):
    algorithm.eval()
    with torch.no_grad():
        return algorithm.task_features(*inputs(batch))


def prefixed(weights: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


@pytest.mark.parametrize("kind", [MAML, BOIL])
def test_features_before_and_after_adaptation_equal_a_loop_over_tasks(kind):
    algorithm, batch = kind(network(), CrossEntropy(0.0), LR, STEPS, STEPS, True, "batch"), episodes()
    before, after = stages(algorithm, batch)
    assert [before.stage, after.stage] == ["before adaptation", "after 3 inner steps"]
    model = algorithm.network.train()
    for task in range(len(batch)):
        weights = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
        path = adapted(
            model,
            batch.support_images[task],
            batch.support_labels[task],
            weights,
            lambda name, step: LR if algorithm.adapts(name) else 0.0,
            STEPS,
        )
        for stage, reached in ((before, path[0]), (after, path[-1])):
            for images, found in ((batch.support_images, stage.support), (batch.query_images, stage.query)):
                expected = functional_call(model.encoder, prefixed(reached, "encoder."), (images[task],))
                torch.testing.assert_close(found[task], expected.detach(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("statistics", ["batch", "support", "running"])
@pytest.mark.parametrize("kind", [BOIL, MAMLpp])
def test_the_head_makes_classifys_scores_of_the_last_features(kind, statistics):
    """BOIL's head does not adapt, and a step of rate 0 does not change MAML++'s."""
    shares = (0.0, 0.0) if kind is MAMLpp else (True,)
    algorithm = kind(network(), CrossEntropy(0.0), LR, STEPS, STEPS, *shares, statistics).double().eval()
    if kind is MAMLpp:
        torch.manual_seed(3)
        for value in algorithm.affine.parameters():
            value.data += 0.1 * torch.randn_like(value)
        for name, value in algorithm.rates.items():
            value.data *= not name.startswith("head")
    batch = episodes()
    with torch.no_grad():
        scores = algorithm.classify(*inputs(batch))
        _, after = stages(algorithm, batch)
        torch.testing.assert_close(algorithm.network.head(after.query), scores, rtol=1e-9, atol=1e-10)
    assert all(layer.statistics == "module" and layer.recorded is None for layer in batch_norms(algorithm.network))


def test_an_encoder_that_does_not_adapt_has_one_stage():
    algorithm, batch = ANIL(network(), CrossEntropy(0.0), LR, STEPS, STEPS, True, "running"), episodes()
    (only,) = stages(algorithm, batch)
    assert only.stage == ""
    with torch.no_grad():
        for images, found in ((batch.support_images, only.support), (batch.query_images, only.query)):
            expected = torch.stack([algorithm.network.encoder(task) for task in images])
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def flat() -> Network:
    torch.manual_seed(0)
    encoder = Encoder(Flat(), (1, 2, 2), [0.5], [0.3])
    return Network(encoder, Linear(4, 3)).double()


def on_maps() -> RelationNet:
    made = network()
    return RelationNet(Network(made.encoder, Identity(1, None)), RelationMSE(), width=5, hidden_features=3).double()


@pytest.mark.parametrize(
    "algorithm",
    [ProtoNet(flat(), CrossEntropy(0.0)), Supervised(flat(), CrossEntropy(0.0)), on_maps()],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_scores_are_the_comparison_of_these_features(algorithm):
    batch = episodes()
    if not isinstance(algorithm, RelationNet):
        batch = batch.each(lambda value: value[..., :2, :2] if value.is_floating_point() else value)
    (only,) = stages(algorithm, batch)
    with torch.no_grad():
        scores = algorithm.classify(*inputs(batch))
        compared = algorithm.compare(only.support, batch.support_labels, only.query, batch.n_way)
    assert only.stage == ""
    assert torch.equal(compared, scores)
