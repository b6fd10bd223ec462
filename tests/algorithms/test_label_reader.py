"""Properties of every learner that reads labelled images."""

import pytest
import torch
from small_readers import (
    WAYS,
    assert_labels_and_images_of_the_support_matter,
    assert_order_of_the_support_does_not_matter,
    assert_parameters_all_learn,
    assert_queries_do_not_see_each_other,
    reader,
    task,
)

from ssl_runner.algorithms.attentive_cnp import AttentiveCNP
from ssl_runner.algorithms.caml import CAML
from ssl_runner.algorithms.cnp import CNP
from ssl_runner.algorithms.in_context_transformer import InContextTransformer
from ssl_runner.algorithms.label_reader import SequenceReader
from ssl_runner.algorithms.mann import MANN
from ssl_runner.algorithms.snail import SNAIL
from ssl_runner.data.batches import Episodes
from ssl_runner.runtime.step_context import StepContext

READERS = {
    CNP: {"width": 8, "layers": 2},
    AttentiveCNP: {"width": 8, "layers": 2, "heads": 2},
    InContextTransformer: {"width": 8, "depth": 2, "heads": 2},
    CAML: {"freeze_encoder": False, "label_width": 4, "depth": 2, "heads": 2},
    SNAIL: {"sequence_length": 7},
    MANN: {"hidden_features": 12, "rows": 9, "row_width": 5, "heads": 2, "usage_decay": 0.95},
}
everyone = pytest.mark.parametrize("kind", READERS)


@everyone
def test_queries_do_not_see_each_other_nor_another_task(kind):
    assert_queries_do_not_see_each_other(reader(kind, **READERS[kind]))


@pytest.mark.parametrize("kind", [kind for kind in READERS if not issubclass(kind, SequenceReader)])
def test_the_order_of_the_support_does_not_matter(kind):
    assert_order_of_the_support_does_not_matter(reader(kind, **READERS[kind]))


@everyone
def test_predictions_depend_on_the_labels_and_on_the_images_of_the_support(kind):
    assert_labels_and_images_of_the_support_matter(reader(kind, **READERS[kind]))


@everyone
def test_every_parameter_learns(kind):
    assert_parameters_all_learn(reader(kind, **READERS[kind]))


@everyone
def test_fewer_ways_than_outputs_are_classified_and_more_are_refused(kind):
    algorithm = reader(kind, **READERS[kind])
    support, labels, query = task()
    assert algorithm.compare(support, labels.clamp_max(1), query, 2).shape == (2, 5, 2)
    with pytest.raises(ValueError, match=rf"{WAYS} outputs.*at most {WAYS} ways, got 4.*batching.n_way=4"):
        algorithm.compare(support, labels, query, 4)


@everyone
def test_a_learner_of_one_class_is_refused(kind):
    with pytest.raises(ValueError, match="n_way"):
        reader(
            type(
                kind.__name__,
                (kind,),
                {"__init__": lambda self, network, loss, n_way, **rest: kind.__init__(self, network, loss, 1, **rest)},
            ),
            **READERS[kind],
        )


def test_snail_sees_the_support_in_a_new_order_at_each_training_step_and_in_one_order_in_evaluation():
    algorithm = reader(SNAIL, **READERS[SNAIL])
    support, labels, query = task()
    orders = []
    for step in (0, 0, 1):
        shown, numbers = algorithm.arranged(support, labels, StepContext(step, 9, 0, torch.device("cpu")))
        places = [(support[0] == row).all(dim=1).nonzero().item() for row in shown[0]]
        assert sorted(places) == list(range(6))
        assert torch.equal(numbers, labels[:, places])
        orders.append(places)
    assert orders[0] == orders[1] != orders[2]
    torch.testing.assert_close(
        algorithm.compare(support, labels, query, WAYS), algorithm.compare(support, labels, query, WAYS), rtol=0, atol=0
    )


@pytest.mark.parametrize("kind", [kind for kind in READERS if kind is not MANN])  # MANN's loss covers every image
def test_the_loss_is_the_mean_cross_entropy_of_the_queries_as_compare_scores_them(kind):
    algorithm = reader(kind, **READERS[kind])
    generator = torch.Generator().manual_seed(3)
    images, asked = (torch.rand(2, n, 1, 2, 2, dtype=torch.float64, generator=generator) for n in (6, 4))
    labels, answers = torch.tensor([[0, 1, 2, 0, 1, 2]] * 2), torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    context = StepContext(0, 1, 0, torch.device("cpu"))
    loss = algorithm.training_step(Episodes(images, labels, asked, answers, WAYS), context).loss
    support, query = (algorithm.network.encoder(part.flatten(0, 1)).unflatten(0, (2, -1)) for part in (images, asked))
    scores = algorithm.compare(*algorithm.arranged(support, labels, context), query, WAYS).log_softmax(dim=-1)
    naive = [-scores[t, q, answers[t, q]] for t in range(2) for q in range(4)]
    torch.testing.assert_close(loss, torch.stack(naive).mean(), rtol=1e-10, atol=1e-10)


ATTENTIVE = [AttentiveCNP, InContextTransformer, SNAIL]


@pytest.mark.parametrize("kind", ATTENTIVE)
def test_attention_maps_give_each_query_a_share_of_each_support_image_wherever_the_image_is(kind):
    algorithm = reader(kind, **READERS[kind])
    support, labels, query = task(tasks=1)
    shown = algorithm.looks(support, labels, query, WAYS)
    assert shown
    for one in shown.values():
        assert one.values.shape == (5, 6)
        total = one.values.sum(dim=1)
        assert (total <= 1 + 1e-12).all() and one.values.min() > 0
        if kind is not SNAIL:  # SNAIL's queries attend to themselves too
            torch.testing.assert_close(total, torch.ones_like(total))
    if kind is SNAIL:  # order matters
        return
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    moved = algorithm.looks(support[:, order], labels[:, order], query, WAYS)
    for name, one in moved.items():
        torch.testing.assert_close(one.values, shown[name].values[:, order])


def test_snails_map_gives_each_image_its_attention_whatever_the_reading_order():
    algorithm = reader(SNAIL, **READERS[SNAIL])
    support, labels, query = task(tasks=1)
    order = algorithm.order(support)
    first = algorithm.blocks[0]
    read = torch.cat([support, torch.nn.functional.one_hot(labels, WAYS).double()], dim=2)[:, order]
    asked = torch.cat([query, query.new_zeros(1, 5, WAYS)], dim=2)
    shares, _ = first.weights(read, asked)
    shown = algorithm.looks(support, labels, query, WAYS)["attention/block_1"].values
    for position, place in enumerate(order.tolist()):
        torch.testing.assert_close(shown[:, place], shares[0, :, position])


def test_manns_maps_are_its_usage_over_the_support_and_where_the_queries_read():
    algorithm = reader(MANN, **READERS[MANN])
    support, labels, query = task(tasks=2)
    shown = algorithm.looks(support, labels, query, WAYS)
    usage, read = shown["memory/usage"].values, shown["memory/read"].values
    assert usage.shape == (9, 6)
    expected, total = [], 0.0
    for _ in range(6):  # each head reads a total of 1 and writes one of at most 1
        total = 0.95 * total + 2 * 2
        expected.append(total)
    assert (usage.sum(dim=0) <= torch.tensor(expected, dtype=torch.float64) + 1e-9).all()
    assert (usage.sum(dim=0) > 2).all()
    torch.testing.assert_close(read.sum(dim=1), torch.ones(5, dtype=torch.float64))


def test_a_learner_without_attention_or_memory_has_no_maps():
    algorithm = reader(CNP, **READERS[CNP])
    assert algorithm.maps(torch.rand(1, 3, 1, 2, 2), torch.tensor([[0, 1, 2]]), torch.rand(1, 2, 1, 2, 2), WAYS) == {}
