import pytest
import torch
from small_readers import PIXELS, WAYS, reader, task

from ssl_runner.algorithms.snail import ATTENTION, SNAIL, CausalAttention, DenseBlock


def attention(sequence: torch.Tensor, block: CausalAttention) -> torch.Tensor:
    """Position by position, over that position and earlier ones (arXiv:1707.03141, fig. 2 c)."""
    found = []
    for place in range(len(sequence)):
        seen = sequence[: place + 1]
        logits = block.key(seen) @ block.query(sequence[place]) / block.key_width**0.5
        found.append(logits.softmax(dim=0) @ block.value(seen))
    return torch.cat([sequence, torch.stack(found)], dim=1)


def convolution(sequence: torch.Tensor, block: DenseBlock) -> torch.Tensor:
    """torch's convolution, padded on the left (fig. 2 b)."""
    kernel = torch.stack([block.past.weight, block.present.weight], dim=2)
    padded = torch.nn.functional.pad(sequence.T[None], (block.dilation, 0))
    both = torch.nn.functional.conv1d(padded, kernel, block.present.bias, dilation=block.dilation)[0].T
    signal, gate = both.chunk(2, dim=1)
    return torch.cat([sequence, signal.tanh() * gate.sigmoid()], dim=1)


@pytest.mark.parametrize("shots", [1, 2])  # shorter than the longest dilation, and longer
def test_it_is_one_causal_sequence_for_each_query(shots):
    algorithm = reader(SNAIL, sequence_length=7, label_scale=10.0)
    support, labels, query = task(shots=shots)
    one_hot = torch.nn.functional.one_hot(labels, WAYS).double()
    found = algorithm.read(support, one_hot, query)
    for number in range(2):
        for place in range(query.shape[1]):
            end = torch.cat([query[number, place], torch.zeros(WAYS, dtype=torch.float64)])[None]
            sequence = torch.cat([torch.cat([support[number], 10 * one_hot[number]], dim=1), end])
            for block in algorithm.blocks:
                sequence = (attention if isinstance(block, CausalAttention) else convolution)(sequence, block)
            torch.testing.assert_close(found[number, place], algorithm.score(sequence[-1]), rtol=1e-10, atol=1e-10)


def test_no_position_sees_later_ones():
    algorithm = reader(SNAIL, sequence_length=7)
    support, labels, query = task(tasks=1, shots=3)
    sequence = torch.cat([support, torch.nn.functional.one_hot(labels, WAYS).double()], dim=2).requires_grad_()
    outputs, others = sequence, torch.cat([query, query.new_zeros(*query.shape[:2], WAYS)], dim=2)
    for block in algorithm.blocks:
        outputs, others = block(outputs, others)
    for place in range(sequence.shape[1]):
        (gradient,) = torch.autograd.grad(outputs[0, place].sum(), sequence, retain_graph=True)
        assert not gradient[0, place + 1 :].any()
        assert gradient[0, : place + 1].abs().sum(dim=1).min() > 0  # and it sees all earlier ones


def test_widths_and_dilations_are_those_of_the_paper_for_omniglot():
    algorithm = reader(SNAIL, sequence_length=26)
    dilations = [block.dilation for block in algorithm.blocks if isinstance(block, DenseBlock)]
    assert dilations == [1, 2, 4, 8, 16] * 2
    values = sum(value for _, value in ATTENTION)
    assert algorithm.score.in_features == PIXELS + WAYS + values + 10 * 128


def test_a_sequence_of_one_is_refused():
    with pytest.raises(ValueError, match="sequence_length=1"):
        reader(SNAIL, sequence_length=1)


def test_labels_without_a_length_are_refused():
    with pytest.raises(ValueError, match="label_scale=0"):
        reader(SNAIL, sequence_length=7, label_scale=0)
