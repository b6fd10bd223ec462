import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_runner.algorithms.relationnet import Relation, RelationNet, class_maps
from ssl_runner.data.batches import Episodes
from ssl_runner.data.sources.digits import digits
from ssl_runner.losses.cross_entropy import CrossEntropy
from ssl_runner.losses.relation_mse import RelationMSE
from ssl_runner.models.conv4 import Conv4
from ssl_runner.models.heads import Identity, Linear
from ssl_runner.models.network import Encoder, Network
from ssl_runner.models.resnet import ResNet
from ssl_runner.models.vit import ViT
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))


class Tokens(nn.Module):
    """A transformer's feature maps: (B, tokens, D)."""

    out_features = 8

    def feature_map(self, images):
        return images.flatten(1).unflatten(1, (-1, 8))


def network(backbone: nn.Module, side: int) -> Network:
    return Network(Encoder(backbone, (1, side, side), [0.3], [0.4]), Identity(1, None))


def relationnet(side: int = 16, loss=None) -> RelationNet:
    torch.manual_seed(0)
    made = network(Conv4(1, side, width=4, downsample="max_pool", grid=side // 4), side)
    return RelationNet(made, loss or RelationMSE(), width=5, hidden_features=3)


def episodes(side: int = 16) -> Episodes:
    """Two tasks of real digits: three ways, two shots, not sorted by class."""
    splits = digits(
        split="images", validation=0.1, test=0.25, class_counts=[5, 0, 5], split_seed=0, size=side, channels=None
    )
    train = splits.train
    places = torch.stack([(train.labels == label).nonzero()[:10, 0] for label in range(6)])  # (classes, images)
    pick = lambda classes, images: train.images[places[classes][:, images].T.flatten()].double() / 255  # noqa: E731
    support = torch.stack([pick(range(3), range(2)), pick(range(3, 6), range(2))])
    query = torch.stack([pick(range(3), range(2, 5)), pick(range(3, 6), range(2, 5))])
    return Episodes(support, torch.arange(3).repeat(2, 2), query, torch.arange(3).repeat(2, 3), 3)


def naive(relation: Relation, classes: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Concatenates each pair in a Python loop over tasks, queries and classes."""
    pairs = [torch.cat([c, q]) for task in range(len(query)) for q in query[task] for c in classes[task]]
    maps = F.conv2d(torch.stack(pairs), relation.first.weight, padding=1)
    maps = F.max_pool2d(F.relu(relation.first_norm(maps)), 2)
    maps = F.conv2d(maps, relation.second.weight, padding=1)
    maps = F.max_pool2d(F.relu(relation.second_norm(maps)), 2)
    return relation.score(F.relu(relation.hidden(maps.flatten(1)))).view(*query.shape[:2], classes.shape[1])


def test_scores_and_gradients_equal_those_of_concatenated_pairs_in_a_loop():
    torch.manual_seed(0)
    relation = Relation(channels=3, side=6, width=5, hidden_features=4).double()
    found = []
    for score in (relation, lambda *maps: naive(relation, *maps)):
        generator = torch.Generator().manual_seed(1)
        classes, query = (torch.randn(2, n, 3, 6, 6, dtype=torch.float64, generator=generator) for n in (4, 7))
        classes.requires_grad_(), query.requires_grad_()
        scores = score(classes, query)
        outer = torch.randn(scores.shape, dtype=torch.float64, generator=generator)
        found.append([scores, *torch.autograd.grad((scores * outer).sum(), [classes, query, *relation.parameters()])])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)


def test_a_class_is_the_mean_of_its_shots():
    maps = torch.tensor([1.0, 10.0, 3.0, 20.0]).view(1, 4, 1, 1, 1).expand(1, 4, 2, 3, 3)
    means = class_maps(maps, torch.tensor([[0, 1, 0, 1]]), 2)
    assert torch.equal(means, torch.tensor([2.0, 15.0]).view(1, 2, 1, 1, 1).expand(1, 2, 2, 3, 3))


def test_the_loss_is_that_of_mean_maps_and_sigmoid_scores():
    algorithm, batch = relationnet().double(), episodes()
    same = copy.deepcopy(algorithm)
    step = algorithm.training_step(batch, CLOCK)
    images = torch.cat([batch.support_images, batch.query_images], dim=1)
    maps = same.network.encoder.feature_map(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    classes = torch.stack(
        [
            torch.stack([maps[task, :6][batch.support_labels[task] == label].mean(0) for label in range(3)])
            for task in range(2)
        ]
    )
    relations = naive(same.relation, classes, maps[:, 6:]).sigmoid()
    errors = [
        (relations[task, row, label] - float(batch.query_labels[task, row] == label)) ** 2
        for task in range(2)
        for row in range(9)
        for label in range(3)
    ]
    torch.testing.assert_close(step.loss, torch.stack(errors).mean(), rtol=1e-10, atol=1e-12)


def test_cross_entropy_over_the_classes_is_possible():
    step = relationnet(loss=CrossEntropy(0.0)).double().training_step(episodes(), CLOCK)
    step.loss.backward()
    assert step.loss.isfinite()


def test_classify_sees_neither_other_queries_nor_other_tasks_and_changes_no_state():
    algorithm, batch = relationnet().double(), episodes()
    algorithm.training_step(batch, CLOCK)  # running statistics other than the initial ones
    algorithm.eval()
    before = copy.deepcopy(algorithm.state_dict())
    with torch.no_grad():
        together = algorithm.classify(batch.support_images, batch.support_labels, batch.query_images, 3)
        alone = algorithm.classify(batch.support_images[1:], batch.support_labels[1:], batch.query_images[1:, :2], 3)
    assert together.shape == (2, 9, 3)
    torch.testing.assert_close(alone[0], together[1, :2])
    assert all(torch.equal(value, before[name]) for name, value in algorithm.state_dict().items())


@pytest.mark.parametrize("side", [1, 2, 3, 5, 7, 8])
def test_maps_of_any_side_are_compared(side):
    relation = Relation(channels=2, side=side, width=3, hidden_features=2)
    assert relation(torch.randn(1, 3, 2, side, side), torch.randn(1, 4, 2, side, side)).shape == (1, 4, 3)
    larger = torch.randn(1, 3, 2, side + 4, side + 4)  # larger than the size it was created for
    assert relation(larger, larger).shape == (1, 3, 3)


def test_a_residual_networks_maps_are_compared():
    algorithm = RelationNet(network(ResNet(1, 16, 18), 16), RelationMSE(), width=4, hidden_features=2).eval()
    batch = episodes()
    images = [images[:1].float() for images in (batch.support_images, batch.query_images)]
    assert algorithm.classify(images[0], batch.support_labels[:1], images[1], 3).shape == (1, 9, 3)


def test_creating_it_does_not_change_the_encoder():
    made = network(Conv4(1, 16, width=4, downsample="max_pool", grid=4), 16)
    before = copy.deepcopy(made.state_dict())
    RelationNet(made, RelationMSE(), width=4, hidden_features=2)
    assert made.encoder.training
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_a_head_that_would_not_be_trained_and_an_encoder_without_maps_are_refused():
    made = network(Conv4(1, 16, width=4, downsample="max_pool", grid=4), 16)
    made.head = Linear(64, 3)
    with pytest.raises(ValueError, match="choose model/head=identity"):
        RelationNet(made, RelationMSE(), width=4, hidden_features=2)
    with pytest.raises(ValueError, match="choose a convolutional one"):
        RelationNet(network(Tokens(), 16), RelationMSE(), width=4, hidden_features=2)
    with pytest.raises(ValueError, match="width=0"):
        RelationNet(network(Conv4(1, 16, 4, "max_pool", 4), 16), RelationMSE(), width=0, hidden_features=2)


def test_a_transformers_patches_are_maps_to_compare():
    torch.manual_seed(0)
    learner = RelationNet(network(ViT(1, 16, "tiny", 4), 16), RelationMSE(), width=5, hidden_features=3).eval()
    support, query = torch.rand(2, 3, 1, 16, 16), torch.rand(2, 4, 1, 16, 16)
    labels = torch.arange(3).expand(2, -1)
    scores = learner.classify(support, labels, query, 3)
    assert scores.shape == (2, 4, 3) and scores.std() > 0
