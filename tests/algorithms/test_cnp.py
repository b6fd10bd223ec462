import pytest
import torch
from small_readers import PIXELS, WAYS, reader, task
from torch.nn import functional as F

from ssl_runner.algorithms.attentive_cnp import AttentiveCNP
from ssl_runner.algorithms.cnp import CNP


def test_a_task_is_represented_by_the_mean_of_each_class():
    algorithm = reader(CNP, width=8, layers=2)
    support, labels, query = task()
    found = algorithm.compare(support, labels, query, WAYS)
    for number in range(2):
        means = [algorithm.representation(support[number][labels[number] == label]).mean(0) for label in range(WAYS)]
        for place in range(query.shape[1]):
            expected = algorithm.decoder(torch.cat([*means, query[number, place]]))
            torch.testing.assert_close(found[number, place], expected, rtol=1e-10, atol=1e-10)


def test_a_class_missing_from_a_task_is_zeros():
    algorithm = reader(CNP, width=8, layers=2)
    support, labels, query = task(tasks=1)
    labels = labels.clamp_max(1)
    means = [algorithm.representation(support[0][labels[0] == label]).mean(0) for label in range(2)]
    expected = algorithm.decoder(torch.cat([*means, torch.zeros(8, dtype=torch.float64), query[0, 0]]))
    torch.testing.assert_close(algorithm.compare(support, labels, query, 2)[0, 0], expected[:2])


def test_a_query_reads_the_support_by_attention_over_images():
    """One head at a time, one query at a time (arXiv:1706.03762, eq. 1)."""
    algorithm = reader(AttentiveCNP, width=8, layers=2, heads=2, label_scale=10.0)
    support, labels, query = task()

    def attended(attention, asked, keys, values):
        heads = []
        for head in range(2):
            own = slice(4 * head, 4 * head + 4)
            logits = attention.key(keys)[:, own] @ attention.query(asked)[own] / 2
            heads.append(logits.softmax(0) @ attention.value(values)[:, own])
        return attention.out(torch.cat(heads))

    found = algorithm.compare(support, labels, query, WAYS)
    for number in range(2):
        pairs = algorithm.representation(torch.cat([support[number], 10 * F.one_hot(labels[number], WAYS).double()], 1))
        pairs = torch.stack([pair + attended(algorithm.among_support, pair, pairs, pairs) for pair in pairs])
        keys = algorithm.key(support[number])
        for place, asked in enumerate(query[number]):
            taken = attended(algorithm.to_support, algorithm.key(asked), keys, pairs)
            expected = algorithm.decoder(torch.cat([taken, asked]))
            torch.testing.assert_close(found[number, place], expected, rtol=1e-10, atol=1e-10)


def test_repeating_a_support_image_does_not_change_the_scores():
    algorithm = reader(CNP, width=8, layers=1)
    image = torch.ones(1, 1, PIXELS, dtype=torch.float64)
    once = algorithm.compare(image, torch.tensor([[1]]), image, WAYS)
    thrice = algorithm.compare(image.repeat(1, 3, 1), torch.tensor([[1, 1, 1]]), image, WAYS)
    torch.testing.assert_close(once, thrice)


@pytest.mark.parametrize("kind", [CNP, AttentiveCNP])
def test_impossible_sizes_are_refused(kind):
    more = {"heads": 2} if kind is AttentiveCNP else {}
    with pytest.raises(ValueError, match="layers=0"):
        reader(kind, width=8, layers=0, **more)


def test_labels_without_a_length_are_refused():
    with pytest.raises(ValueError, match="label_scale=0"):
        reader(AttentiveCNP, width=8, layers=2, heads=2, label_scale=0)
