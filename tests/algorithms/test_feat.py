import pytest
import torch
from torch import nn

from ssl_runner.algorithms.feat import FEAT, SetFunction
from ssl_runner.algorithms.protonet import ProtoNet
from ssl_runner.data.batches import Episodes
from ssl_runner.losses.cross_entropy import CrossEntropy
from ssl_runner.models.heads import Identity
from ssl_runner.models.network import Encoder, Network
from ssl_runner.runtime.step_context import StepContext

CONTEXT = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))
WAYS, PIXELS = 3, 4


class Flat(nn.Module):
    out_features = PIXELS

    def forward(self, images):
        return images.flatten(1)


def feat(**changed) -> FEAT:
    given = {"heads": 2, "dropout": 0.0, "temperature": 2.0, "contrast": 0.5, "contrast_temperature": 3.0}
    torch.manual_seed(0)
    network = Network(Encoder(Flat(), (1, 2, 2), [0.4], [0.3]), Identity(PIXELS, None))
    made = FEAT(network, CrossEntropy(0.0), **given | changed).double()
    for parameter in made.parameters():  # biases and scales at their initial 0 and 1 would hide mistakes
        parameter.data += 0.3 * torch.randn_like(parameter)
    return made


def batch(tasks: int = 2) -> Episodes:
    torch.manual_seed(1)
    support, query = (torch.rand(tasks, WAYS * n, 1, 2, 2, dtype=torch.float64) for n in (2, 3))
    # not sorted, and in every task otherwise
    labels = [torch.stack([torch.arange(WAYS).repeat(n).roll(task) for task in range(tasks)]) for n in (2, 3)]
    return Episodes(support, labels[0], query, labels[1], WAYS)


def adapted(algorithm: FEAT, elements: torch.Tensor) -> torch.Tensor:
    """One set (N, E) by loops over elements and heads."""
    attention, rows = algorithm.set_function.attention, []
    queries, keys, values = (part(elements) for part in (attention.query, attention.key, attention.value))
    size = elements.shape[1] // attention.heads
    for row in range(len(elements)):
        parts = []
        for head in range(attention.heads):
            own = slice(head * size, (head + 1) * size)
            likeness = torch.stack([queries[row, own] @ key[own] / size**0.5 for key in keys]).exp()
            parts.append(
                sum(share * value[own] for share, value in zip(likeness / likeness.sum(), values, strict=True))
            )
        summed = elements[row] + attention.out(torch.cat(parts))
        norm = algorithm.set_function.norm
        centered = summed - summed.mean()
        rows.append(norm.weight * centered / (centered.square().mean() + norm.eps).sqrt() + norm.bias)
    return torch.stack(rows)


def test_the_loss_is_that_of_loops_over_tasks_queries_and_classes():
    algorithm, episodes = feat(), batch()
    plain, contrast = [], []
    for task in range(2):
        images = torch.cat([episodes.support_images[task], episodes.query_images[task]])
        labels = torch.cat([episodes.support_labels[task], episodes.query_labels[task]])
        flat = algorithm.network(images)
        support = flat[: WAYS * 2]
        means = torch.stack([support[labels[: WAYS * 2] == label].mean(0) for label in range(WAYS)])
        prototypes = adapted(algorithm, means)
        centers = torch.stack([adapted(algorithm, flat[labels == label]).mean(0) for label in range(WAYS)])
        for number, (image, label) in enumerate(zip(flat, labels, strict=True)):
            scores = torch.stack([-(image - center).square().sum() / 3.0 for center in centers])
            contrast.append(-scores.log_softmax(0)[label])
            if number >= WAYS * 2:
                scores = torch.stack([-(image - one).square().sum() / 2.0 for one in prototypes])
                plain.append(-scores.log_softmax(0)[label])
    expected = torch.stack(plain).mean() + 0.5 * torch.stack(contrast).mean()
    step = algorithm.training_step(episodes, CONTEXT)
    torch.testing.assert_close(step.loss, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(step.metrics["contrast"], 0.5 * torch.stack(contrast).mean(), rtol=1e-10, atol=1e-10)
    assert not step.metrics["contrast"].requires_grad
    for ours, theirs in zip(
        torch.autograd.grad(step.loss, list(algorithm.parameters())),
        torch.autograd.grad(expected, list(algorithm.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_with_an_identity_in_the_place_of_the_transformer_it_is_protonet():
    algorithm, episodes = feat(temperature=1.0, contrast=0.0), batch()
    algorithm.set_function = nn.Identity()
    protonet = ProtoNet(algorithm.network, CrossEntropy(0.0))
    torch.testing.assert_close(
        algorithm.training_step(episodes, CONTEXT).loss, protonet.training_step(episodes, CONTEXT).loss, rtol=0, atol=0
    )
    given = episodes.support_images, episodes.support_labels, episodes.query_images, WAYS
    assert torch.equal(algorithm.classify(*given), protonet.classify(*given))


def test_the_order_of_the_support_does_not_matter_and_classes_may_change_numbers():
    algorithm, episodes = feat().eval(), batch()
    given = episodes.support_images, episodes.support_labels, episodes.query_images
    scores = algorithm.classify(*given, WAYS)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    torch.testing.assert_close(algorithm.classify(given[0][:, order], given[1][:, order], given[2], WAYS), scores)
    number = torch.tensor([2, 0, 1])  # of each class, anew
    renamed = algorithm.classify(given[0], number[given[1]], given[2], WAYS)
    torch.testing.assert_close(renamed[..., number], scores)


def test_queries_do_not_see_each_other_nor_another_task():
    algorithm, episodes = feat().eval(), batch()
    given = episodes.support_images, episodes.support_labels, episodes.query_images
    scores = algorithm.classify(*given, WAYS)
    for task in range(2):
        one = slice(task, task + 1)
        for query in range(scores.shape[1]):
            alone = algorithm.classify(given[0][one], given[1][one], given[2][one, query : query + 1], WAYS)
            torch.testing.assert_close(alone[0, 0], scores[task, query])


def test_a_prototype_depends_on_those_of_other_classes():
    algorithm, episodes = feat().eval(), batch()
    changed = episodes.support_images.clone()
    changed[episodes.support_labels == 2] += 0.3
    first, second = (
        algorithm.classify(images, episodes.support_labels, episodes.query_images, WAYS)
        for images in (episodes.support_images, changed)
    )
    assert (first - second)[..., :2].abs().min() > 1e-6


def test_dropout_is_for_training_only_and_its_rate_is_the_share_that_is_lost():
    layer = SetFunction(400, 1, dropout=0.25).double()
    layer.norm = nn.Identity()
    elements = torch.zeros(5, 3, 400, dtype=torch.float64)
    layer.attention.out.bias.data = torch.ones(400, dtype=torch.float64)
    layer.attention.out.weight.data.zero_()
    torch.manual_seed(0)
    lost = (layer.train()(elements) == 0).double().mean().item()
    assert lost == pytest.approx(0.25, abs=0.03)
    assert (layer.eval()(elements) == 1).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"heads": 3}, "heads=3"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"contrast": -1.0}, "contrast=-1.0"),
        ({"contrast_temperature": -1.0}, "contrast_temperature=-1.0"),
    ],
)
def test_impossible_numbers_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        feat(**changed)
