import pytest
import torch
import torch.nn.functional as F
from small_readers import WAYS, reader, task

from ssl_runner.algorithms.mann import MANN
from ssl_runner.data.batches import Episodes
from ssl_runner.runtime.step_context import StepContext

SIZES = {"hidden_features": 12, "rows": 9, "row_width": 5, "heads": 2, "usage_decay": 0.9}


def walked(algorithm: MANN, support: torch.Tensor, labels: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Scores of one query after one task, row by row and head by head (arXiv:1605.06065, eq. 2-8)."""
    rows, width, heads = algorithm.rows, algorithm.row_width, algorithm.heads
    hidden, cell = torch.zeros(2, 1, algorithm.hidden_features, dtype=torch.float64)
    memory, usage = torch.zeros(rows, width, dtype=torch.float64), [0.0] * rows
    read_weights, read = torch.zeros(heads, rows, dtype=torch.float64), torch.zeros(heads * width, dtype=torch.float64)
    before = torch.zeros(WAYS, dtype=torch.float64)
    for number, image in enumerate([*support, query]):
        inputs = torch.cat([image, before, read])[None]
        hidden, cell = algorithm.controller(inputs, (hidden, cell))
        keys = torch.tanh(algorithm.key(hidden))[0].view(heads, width)
        gates, strengths = torch.sigmoid(algorithm.gate(hidden))[0], 1 + F.softplus(algorithm.strength(hidden))[0]
        weights, found = [], []
        for head in range(heads):
            cosines = torch.stack([F.cosine_similarity(keys[head], row, dim=0, eps=1e-12) for row in memory])
            weights.append((strengths[head] * cosines).softmax(dim=0))
            found.append(weights[-1] @ memory)
        least = sorted(range(rows), key=lambda row: (usage[row], row))[:heads]
        memory = memory.clone()
        memory[least] = 0
        written = torch.zeros(heads, rows, dtype=torch.float64)
        for head in range(heads):
            for row in range(rows):
                fresh = 1.0 if row == least[head] else 0.0
                written[head, row] = gates[head] * read_weights[head, row] + (1 - gates[head]) * fresh
        memory = memory + sum(torch.outer(written[head], keys[head]) for head in range(heads))
        read_weights, read = torch.stack(weights), torch.cat(found)
        usage = [
            algorithm.usage_decay * usage[row] + float((read_weights[:, row].sum() + written[:, row].sum()).detach())
            for row in range(rows)
        ]
        before = F.one_hot(labels[number], WAYS).double() if number < len(support) else before
    return algorithm.score(torch.cat([hidden[0], read]))


def test_it_equals_a_loop_over_each_task_row_by_row():
    algorithm = reader(MANN, **SIZES)
    support, labels, query = task(shots=3)  # more images than the heads have rows, so rows are reused
    found = algorithm.read(support, F.one_hot(labels, WAYS).double(), query)
    for number in range(2):
        for place in range(query.shape[1]):
            expected = walked(algorithm, support[number], labels[number], query[number, place])
            torch.testing.assert_close(found[number, place], expected, rtol=1e-8, atol=1e-8)


def test_a_label_comes_with_the_next_image():
    """An image's own label cannot change its scores; the label before it can."""
    algorithm = reader(MANN, **SIZES)
    support, labels, query = task(tasks=1)
    for place in range(labels.shape[1]):
        other = labels.clone()
        other[0, place] = (labels[0, place] + 1) % WAYS
        one, another = (algorithm.walk(support, F.one_hot(given, WAYS).double()) for given in (labels, other))
        for early in range(place + 1):
            assert all(torch.equal(a, b) for a, b in zip(one[early], another[early], strict=True))
        if place + 1 < labels.shape[1]:
            assert not torch.equal(one[place + 1].hidden, another[place + 1].hidden)
    last = algorithm.read(support, F.one_hot(labels, WAYS).double(), query)
    assert not torch.equal(last, algorithm.read(support, F.one_hot(other, WAYS).double(), query))


def test_with_a_closed_gate_the_write_goes_to_the_least_used_row_which_is_cleared_first():
    algorithm = reader(MANN, **SIZES | {"heads": 1})
    algorithm.gate.weight.data.zero_()
    algorithm.gate.bias.data.fill_(-torch.inf)  # sigmoid 0: it never writes to where it last read
    support, labels, _ = task(tasks=1, shots=4)
    states = algorithm.walk(support, F.one_hot(labels, WAYS).double())
    memory, usage = torch.zeros(9, 5, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
    for state in states:
        least = int(usage.argmin())
        memory[least] = algorithm.key(state.hidden)[0].tanh()
        torch.testing.assert_close(state.memory[0], memory, rtol=1e-10, atol=1e-10)
        usage = state.usage[0]


@pytest.mark.parametrize("ways", [2, WAYS])  # with fewer ways, the other outputs do not matter
def test_training_predicts_every_image_of_each_task_in_its_own_order(ways):
    algorithm = reader(MANN, **SIZES).train()
    torch.manual_seed(1)
    images = torch.rand(2, ways * 3, 1, 2, 2, dtype=torch.float64)
    labels = torch.arange(ways).repeat(3).expand(2, -1)
    batch = Episodes(images[:, :ways], labels[:, :ways], images[:, ways:], labels[:, ways:], ways, {})
    context = StepContext(step=4, max_steps=9, seed=0, device=torch.device("cpu"))
    step = algorithm.training_step(batch, context)
    orders = torch.rand(labels.shape, generator=context.generator("support order")).argsort(dim=1)
    assert not torch.equal(*orders)
    losses, right = [], {instance: [] for instance in range(1, 4)}
    for number, order in enumerate(orders):
        shown, given = algorithm.network(images[number, order]), labels[number, order]
        for place in range(len(order)):
            scores = walked(algorithm, shown[:place], given[:place], shown[place])[:ways]
            losses.append(F.cross_entropy(scores, given[place][None]))
            right[int((given[: place + 1] == given[place]).sum())].append(scores.argmax() == given[place])
    torch.testing.assert_close(step.loss, torch.stack(losses).mean(), rtol=1e-8, atol=1e-8)
    for name, instance in (("1st", 1), ("2nd", 2)):
        assert step.metrics[f"accuracy/{name}"].item() == pytest.approx(sum(right[instance]) / len(right[instance]))
    assert "accuracy/5th" not in step.metrics


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"rows": 1}, "rows=1"), ({"usage_decay": 1.0}, "usage_decay=1.0"), ({"heads": 0}, "heads=0")],
)
def test_impossible_sizes_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        reader(MANN, **SIZES | changed)
