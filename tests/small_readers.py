"""Learners that read images with their labels, on pixels, and the properties that all of them must have."""

import torch
from torch import Tensor, nn

from ssl_runner.algorithms.label_reader import LabelReader
from ssl_runner.losses.cross_entropy import CrossEntropy
from ssl_runner.models.heads import Identity
from ssl_runner.models.network import Encoder, Network

WAYS, PIXELS = 3, 4


class Flat(nn.Module):
    out_features = PIXELS

    def forward(self, images):
        return images.flatten(1)


def reader(kind: type[LabelReader], **arguments) -> LabelReader:
    torch.manual_seed(0)
    network = Network(Encoder(Flat(), (1, 2, 2), [0.5], [0.3]), Identity(PIXELS, None))
    made = kind(network, CrossEntropy(0.0), n_way=WAYS, **arguments).double().eval()
    for parameter in made.parameters():  # biases at their initial 0 would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def task(tasks: int = 2, shots: int = 2, queries: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of support (T, S, E) with labels (T, S), and of queries (T, Q, E)."""
    generator = torch.Generator().manual_seed(seed)
    support, query = (
        torch.randn(tasks, n, PIXELS, dtype=torch.float64, generator=generator) for n in (WAYS * shots, queries)
    )
    labels = torch.arange(WAYS).repeat(shots)
    return support, torch.stack([labels.roll(shift) for shift in range(tasks)]), query


def assert_queries_do_not_see_each_other(algorithm: LabelReader) -> None:
    """Each query alone, one task at a time, gets the same scores as all tasks and queries together."""
    support, labels, query = task()
    together = algorithm.compare(support, labels, query, WAYS)
    for number in range(len(support)):
        for place in range(query.shape[1]):
            one = slice(number, number + 1)
            alone = algorithm.compare(support[one], labels[one], query[one, place : place + 1], WAYS)
            torch.testing.assert_close(alone[0, 0], together[number, place], rtol=1e-10, atol=1e-10)


def assert_order_of_the_support_does_not_matter(algorithm: LabelReader) -> None:
    support, labels, query = task()
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    before = algorithm.compare(support, labels, query, WAYS)
    torch.testing.assert_close(algorithm.compare(support[:, order], labels[:, order], query, WAYS), before)


def assert_labels_and_images_of_the_support_matter(algorithm: LabelReader) -> None:
    support, labels, query = task()
    before = algorithm.compare(support, labels, query, WAYS)
    for other in (
        algorithm.compare(support, labels.roll(1, dims=1), query, WAYS),
        algorithm.compare(support.roll(1, dims=1), labels, query, WAYS),
    ):
        assert (other - before).abs().amax(dim=(1, 2)).min() > 1e-4


def assert_parameters_all_learn(algorithm: LabelReader) -> None:
    support, labels, query = task()
    algorithm.zero_grad()
    algorithm.compare(support, labels, query, WAYS).square().sum().backward()
    still = [name for name, value in algorithm.named_parameters() if value.grad is None or not value.grad.any()]
    assert still == []
