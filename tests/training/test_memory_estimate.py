"""The memory of a step, estimated without running it."""

import copy

import pytest
import torch
from torch import nn

from ssl_runner.algorithms.algorithm import Algorithm, Step
from ssl_runner.data.batches import Views
from ssl_runner.models.network import Encoder, Network
from ssl_runner.training.memory_estimate import step_memory

MIB = 2**20


class Wide(nn.Module):
    """One matrix of 1 MiB."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(512, 512, bias=False)
        self.out_features = 512

    def forward(self, images):
        return self.layer(images.flatten(1))


class Plain(Algorithm):
    batch_type = Views

    def __init__(self) -> None:
        super().__init__(Network(Encoder(Wide(), (2, 16, 16), [0.5], [0.3]), nn.Identity()))

    def training_step(self, batch, context):
        return Step(self.network(batch.crops[0][0]).square().mean())


class Peeking(Plain):
    def training_step(self, batch, context):
        loss = super().training_step(batch, context).loss
        return Step(loss * 2 if loss.item() > 0 else loss)


def batch(n: int) -> Views:
    return Views((torch.rand(1, n, 2, 16, 16),), None, torch.arange(n))


def sgd(groups):
    return torch.optim.SGD(groups, lr=0.1)


def adam(groups):
    return torch.optim.Adam(groups, lr=0.1)


def test_weights_gradients_and_optimizer_state_are_counted():
    plain, moments = (step_memory(Plain(), batch(1), kind, 1) for kind in (sgd, adam))
    assert 2 * MIB <= plain < 3 * MIB  # weights and gradient
    assert 4 * MIB <= moments < 8 * MIB  # and two moments, with what the update needs for a moment


def test_activations_grow_with_the_batch():
    one, two, four = (step_memory(Plain(), batch(n), sgd, 1) for n in (1024, 2048, 4096))
    assert four - two == pytest.approx(2 * (two - one), rel=0.05)
    assert two - one >= 1024 * 512 * 4 * 2  # the batch itself and what is made of it


def test_pieces_of_a_batch_need_less():
    assert step_memory(Plain(), batch(4096), sgd, 4) < step_memory(Plain(), batch(4096), sgd, 1) / 2


def test_a_method_that_asks_for_numbers_has_no_estimate():
    assert step_memory(Peeking(), batch(8), sgd, 1) is None


def test_the_algorithm_is_left_as_it_was():
    algorithm = Plain().eval()
    before = copy.deepcopy(algorithm.state_dict())
    step_memory(algorithm, batch(8), adam, 1)
    assert not algorithm.training
    assert all(torch.equal(value, before[name]) for name, value in algorithm.state_dict().items())
    assert all(parameter.grad is None for parameter in algorithm.parameters())
