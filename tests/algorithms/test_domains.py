"""The training accuracy of each domain is that of its tasks, however a batch is split and distributed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_tasks import context, episodes, network
from torch import nn

from ssl_runner.algorithms.feat import FEAT
from ssl_runner.algorithms.imaml import IMAML
from ssl_runner.algorithms.maml import MAML
from ssl_runner.algorithms.matchingnet import MatchingNet
from ssl_runner.algorithms.protomaml import ProtoMAML
from ssl_runner.algorithms.protonet import ProtoNet
from ssl_runner.algorithms.r2d2 import R2D2
from ssl_runner.algorithms.relationnet import RelationNet
from ssl_runner.algorithms.reptile import Reptile
from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.batches import Episodes
from ssl_runner.data.episodes.episode_batching import EpisodeBatching
from ssl_runner.data.sources.digits import digits
from ssl_runner.losses.cross_entropy import CrossEntropy
from ssl_runner.runtime import process_group

ADAPTING = {
    "maml": lambda network, loss: MAML(network, loss, 0.4, 1, 1, True, "batch"),
    "protomaml": lambda network, loss: ProtoMAML(network, loss, 0.1, 1, 1, True, "batch"),
    "imaml": lambda network, loss: IMAML(network, loss, 0.1, 2, 2, 2.0, 2, "batch"),
    "reptile": lambda network, loss: Reptile(network, loss, 0.01, 2, 6, 2, 6, "batch"),
}
COMPARING = {
    "protonet": ProtoNet,
    "matchingnet": lambda network, loss: MatchingNet(network, loss, 0.1, False, 0),
    "r2d2": lambda network, loss: R2D2(network, loss, 1.0, 1.0),
    "feat": lambda network, loss: FEAT(network, loss, 1, 0.0, 1.0, 1.0, 1.0).double(),
    "relationnet": lambda network, loss: RelationNet(network, loss, 4, 4).double(),
}
OF_A = torch.tensor([True, False, True, True, False, False, True, False])


def made(name: str):
    model = network()
    if name == "relationnet":
        model.head = nn.Identity()
    return (ADAPTING | COMPARING)[name](model, CrossEntropy(0.0)).train()


def with_domains(batch: Episodes) -> Episodes:
    return replace(batch, domains={"a": OF_A.float() / OF_A.float().mean(), "b": (~OF_A).float() / 0.5})


def only(batch: Episodes, rows: torch.Tensor) -> Episodes:
    parts = ("support_images", "support_labels", "query_images", "query_labels")
    return replace(batch, domains={}, **{name: getattr(batch, name)[rows] for name in parts})


@pytest.mark.parametrize("name", ADAPTING)
def test_accuracy_of_a_domain_is_that_of_its_tasks_alone_if_tasks_are_independent(name):
    batch, algorithm = episodes(tasks=8), made(name)
    found = algorithm.training_step(with_domains(batch), context()).metrics
    for domain, rows in (("a", OF_A), ("b", ~OF_A)):
        alone = algorithm.training_step(only(batch, rows), context()).metrics["accuracy"]
        torch.testing.assert_close(found[f"accuracy/{domain}"], alone)


@pytest.mark.parametrize("name", ADAPTING | COMPARING)
def test_domain_accuracies_average_to_the_accuracy_and_nothing_else_changes(name):
    batch, algorithm = episodes(tasks=8), made(name)
    plain, split = algorithm.training_step(batch, context()), algorithm.training_step(with_domains(batch), context())
    assert split.metrics.keys() - plain.metrics.keys() == {"accuracy/a", "accuracy/b"}
    assert torch.equal(split.loss, plain.loss)
    mean = (split.metrics["accuracy/a"] + split.metrics["accuracy/b"]) / 2
    torch.testing.assert_close(mean, plain.metrics["accuracy"])
    assert not any(split.metrics[f"accuracy/{domain}"].requires_grad for domain in "ab")


def test_the_mean_over_pieces_of_a_batch_is_the_mean_over_the_domains_tasks():
    accuracy, batch = torch.rand(8), with_domains(episodes(tasks=8))
    pieces = list(zip(batch.chunk(3), accuracy.split(3), strict=True))
    assert [len(piece) for piece, _ in pieces] == [3, 3, 2]
    for domain, rows in (("a", OF_A), ("b", ~OF_A)):
        parts = [piece.by_domain(own)[f"accuracy/{domain}"] * len(piece) / 8 for piece, own in pieces]
        torch.testing.assert_close(sum(parts), accuracy[rows].mean())


@pytest.fixture
def batching():
    """Episodes of ten digits as three domains, six tasks per step."""

    def make(tasks: int) -> EpisodeBatching:
        train = digits("images", 0.0, 0.25, None, split_seed=0, size=None, channels=None).train
        made = EpisodeBatching(Augmentation({}), 2, 1, 2, tasks)
        made.bind(replace(train, class_domains=tuple("aabbccabca")), 0, torch.device("cpu"))
        return made

    return make


def test_the_weights_of_a_step_cover_its_tasks_and_are_shared_by_processes(batching, monkeypatch):
    six, seen = batching(6), []
    assert six.domains == ("a", "b", "c")
    for step in range(30):
        batch = six.batch(step)
        kinds = torch.stack([weights > 0 for weights in batch.domains.values()])
        assert (kinds.sum(dim=0) == 1).all()  # each task belongs to one domain
        for weights in batch.domains.values():
            assert np.allclose(weights[weights > 0], 6 / (weights > 0).sum())
        seen.append(len(kinds))
        with monkeypatch.context() as patch:
            patch.setattr(process_group, "size", lambda: 2)
            halves = []
            for rank in range(2):
                patch.setattr(process_group, "rank", lambda rank=rank: rank)
                halves.append(six.batch(step).domains)
        assert [half.keys() for half in halves] == [batch.domains.keys()] * 2  # all processes log the same
        for name, weights in batch.domains.items():
            assert torch.equal(torch.cat([half[name] for half in halves]), weights)
    assert set(seen) == {2, 3}  # a domain without a task in the step has no accuracy


def test_no_domain_accuracy_is_logged_if_a_step_has_fewer_tasks_than_domains(batching):
    assert batching(2).domains == () and batching(2).batch(0).domains == {}
    assert batching(3).domains == ("a", "b", "c")
