import pytest
import torch
from torch import nn

from ssl_runner.algorithms.algorithm import class_means
from ssl_runner.algorithms.protonet import ProtoNet
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


def protonet(temperature: float = 1.0) -> ProtoNet:
    encoder = Encoder(Flat(), (1, 2, 2), [0.0], [1.0]).double()
    return ProtoNet(Network(encoder, Identity(4, None)), CrossEntropy(0.0), temperature)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_loss_is_the_softmax_over_minus_squared_distances(temperature):
    torch.manual_seed(0)
    support, query = torch.rand(2, 6, 1, 2, 2, dtype=torch.float64), torch.rand(2, 9, 1, 2, 2, dtype=torch.float64)
    support_labels, query_labels = (
        torch.tensor([[0, 1, 2, 0, 1, 2]] * 2),
        torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2]] * 2),
    )
    ours = protonet(temperature).training_step(Episodes(support, support_labels, query, query_labels, 3), CLOCK).loss
    losses = []
    for task in range(2):
        flat = support[task].flatten(1)
        means = [flat[support_labels[task] == label].mean(0) for label in range(3)]
        for image, label in zip(query[task].flatten(1), query_labels[task], strict=True):
            scores = torch.stack([-(image - mean).square().sum() / temperature for mean in means])
            losses.append(-scores.log_softmax(0)[label])
    torch.testing.assert_close(ours, torch.stack(losses).mean(), rtol=1e-10, atol=1e-10)


def test_classify_does_not_look_at_the_other_queries():
    torch.manual_seed(0)
    algorithm = protonet().eval()
    support, labels, query = (
        torch.rand(1, 4, 1, 2, 2).double(),
        torch.tensor([[0, 1, 0, 1]]),
        torch.rand(1, 5, 1, 2, 2).double(),
    )
    together = algorithm.classify(support, labels, query, 2)
    torch.testing.assert_close(algorithm.classify(support, labels, query[:, :2], 2), together[:, :2])


def test_class_means_of_an_unsorted_support():
    features = torch.tensor([[[1.0], [10.0], [3.0], [20.0]]])
    means = class_means(features, torch.tensor([[0, 1, 0, 1]]), 2)
    assert means.tolist() == [[[2.0], [15.0]]]


def test_a_head_that_normalises_over_the_batch_sees_one_row_per_image():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    model = ProtoNet(Network(Encoder(Flat(), (1, 2, 2), [0.0], [1.0]), head), CrossEntropy(0.0)).eval()
    support, query, labels = torch.rand(2, 4, 1, 2, 2), torch.rand(2, 5, 1, 2, 2), torch.tensor([[0, 0, 1, 1]] * 2)
    together = model.classify(support, labels, query, 2)
    for task in range(2):
        means = model.network(support[task]).unflatten(0, (2, 2)).mean(1)
        scores = -(model.network(query[task])[:, None] - means).square().sum(-1)
        torch.testing.assert_close(together[task], scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_above_0_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature}"):
        protonet(temperature)
