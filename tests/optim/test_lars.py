"""LARS compared with its formula, step by step."""

import pytest
import torch
from torch import nn

from ssl_runner.optim.lars import LARS


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2, bias=False)).double()


def naive(values, gradients, buffers, lr, momentum, decay, trust):
    for value, gradient, buffer in zip(values, gradients, buffers, strict=True):
        change = gradient + decay * value
        if value.ndim > 1:
            change = change * trust * value.norm() / change.norm()
        buffer.mul_(momentum).add_(change)
        value.sub_(lr * buffer)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_three_steps_equal_the_formula(decay):
    model = network()
    optimizer = LARS(model.parameters(), lr=0.5, momentum=0.9, weight_decay=decay, trust=0.02)
    values = [parameter.detach().clone() for parameter in model.parameters()]
    buffers = [torch.zeros_like(value) for value in values]
    for step in range(3):
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(8, 4, dtype=torch.float64)).square().sum().backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        naive(values, gradients, buffers, 0.5, 0.9, decay, 0.02)
        optimizer.step()
        for value, parameter in zip(values, model.parameters(), strict=True):
            assert torch.allclose(value, parameter, rtol=1e-12, atol=1e-14)


def test_the_adaptation_also_applies_without_decay():
    """A gradient a thousand times larger moves a matrix equally far, and a bias a thousand times farther."""
    moved = []
    for factor in (1.0, 1000.0):
        model = network()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer = LARS(model.parameters(), lr=0.1, momentum=0.0, weight_decay=0.0, trust=0.01)
        torch.manual_seed(1)
        (factor * model(torch.randn(8, 4, dtype=torch.float64)).square().sum()).backward()
        optimizer.step()
        moved.append([(b - p).norm() for b, p in zip(before, model.parameters(), strict=True)])
    for small, large, parameter in zip(*moved, network().parameters(), strict=True):
        assert large.item() == pytest.approx(small.item() * (1 if parameter.ndim > 1 else 1000), rel=1e-6)


def test_a_weight_of_zeros_can_be_trained():
    weight = nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.ones(2, 2)
    LARS([weight], lr=0.1, momentum=0.9, weight_decay=0.0).step()
    assert torch.allclose(weight, torch.full((2, 2), -0.1))


@pytest.mark.parametrize("change", [{"lr": 0}, {"momentum": 1}, {"weight_decay": -1}, {"trust": 0}])
def test_impossible_values_are_refused(change):
    with pytest.raises(ValueError, match="give a rate"):
        LARS(
            [nn.Parameter(torch.ones(1))], **({"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "trust": 0.1} | change)
        )
