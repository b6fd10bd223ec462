"""Batch normalisation with sums in blocks equals torch's own but is exact: values, gradients, state, and all other
cases.
"""

import copy

import pytest
import torch
from torch import Tensor, nn

from ssl_runner.models.batch_norm import BatchNorm2d, normalised_by
from ssl_runner.models.blocked_sums import Blocked, Blocked1d, Blocked2d, BlockedPlain2d, sum_in_blocks
from ssl_runner.models.synchronised import synchronise

SHAPES = [(64, 8, 28, 28), (31, 64, 7, 7), (16, 512, 4, 4), (129, 3, 5, 3), (300, 40), (8, 1, 16, 16)]


def layer(shape: tuple[int, ...], **arguments) -> nn.Module:
    """A layer with weights other than the initial ones, and sums in blocks."""
    made = (nn.BatchNorm1d if len(shape) == 2 else BatchNorm2d)(shape[1], **arguments)
    if made.affine:
        generator = torch.Generator().manual_seed(1)
        made.weight.data.copy_(torch.rand(shape[1], generator=generator) + 0.5)
        made.bias.data.copy_(torch.rand(shape[1], generator=generator) - 0.5)
    sum_in_blocks(made)
    assert isinstance(made, Blocked)
    return made


def inputs(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Values with a mean of two standard deviations, and gradients that depend on them."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator) * 0.5 + 1
    gradient = 0.1 * torch.randn(shape, generator=generator) + 0.02 * values + 0.03
    if len(shape) == 4:
        values, gradient = (each.contiguous(memory_format=torch.channels_last) for each in (values, gradient))
    return values, gradient


def taken(module: nn.Module, values: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Everything that a step in training returns."""
    values = values.detach().clone().requires_grad_()
    result = module.train()(values)
    result.backward(gradient)
    found = {"result": result.detach(), "input": values.grad, **dict(module.named_buffers())}
    return found | {name: parameter.grad for name, parameter in module.named_parameters()}


def naive(module: nn.BatchNorm2d, values: Tensor, gradient: Tensor, before: nn.Module) -> dict[str, Tensor]:
    """The same in float64, with a loop over channels, from the definition."""
    values, gradient = values.double(), gradient.double()
    found: dict[str, list[Tensor]] = {}
    for channel in range(values.shape[1]):
        x, up = values[:, channel], gradient[:, channel]
        n, mean = x.numel(), x.mean()
        variance = ((x - mean) ** 2).mean()
        inverse = (variance + module.eps) ** -0.5
        unit = (x - mean) * inverse
        weight, bias = (module.weight[channel], module.bias[channel]) if module.affine else (1.0, 0.0)
        parts = {
            "result": unit * weight + bias,
            "input": weight * inverse * (up - up.mean() - unit * (up * unit).mean()),
            "running_mean": 0.7 * before.running_mean[channel] + 0.3 * mean,
            "running_var": 0.7 * before.running_var[channel] + 0.3 * variance * n / (n - 1),
        }
        if module.affine:
            parts |= {"weight": (up * unit).sum(), "bias": up.sum()}
        for name, value in parts.items():
            found.setdefault(name, []).append(value.detach())
    return {name: torch.stack(each, dim=1 if each[0].ndim else 0) for name, each in found.items()}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_gradients_and_running_statistics_equal_those_of_a_loop_in_float64(shape, affine):
    module, (values, gradient) = layer(shape, affine=affine, momentum=0.3), inputs(shape)
    before = copy.deepcopy(module)
    found, expected = taken(module, values, gradient), naive(module, values, gradient, before)
    assert found.pop("num_batches_tracked") == 1
    assert found.keys() == expected.keys()
    size = {name: value.abs().max() for name, value in expected.items()}
    if affine:  # the sums almost cancel, so the rounding error is that of the summands
        rows = values.numel() / shape[1]
        size |= {"weight": 0.1 * rows, "bias": 0.1 * rows}
    errors = {name: float((found[name] - value).abs().max() / size[name]) for name, value in expected.items()}
    assert max(errors.values()) < 1e-6, errors


def test_many_rows_are_as_exact_in_channels_last_as_channel_by_channel():
    """Torch's own sums are a hundred times less exact."""
    shape = (128, 8, 28, 28)
    (values, gradient), module = inputs(shape), layer(shape)
    last = taken(copy.deepcopy(module), values, gradient)
    first = taken(copy.deepcopy(module), values.contiguous(), gradient.contiguous())
    for name in ("result", "input", "running_mean", "running_var", "bias"):
        torch.testing.assert_close(last[name], first[name], rtol=0, atol=5e-7 * float(first[name].abs().max()))


def test_the_order_of_images_only_changes_the_last_digit():
    shape = (64, 8, 28, 28)
    (values, gradient), module = inputs(shape), layer(shape)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(3))
    one, other = (taken(copy.deepcopy(module), values[at], gradient[at]) for at in (slice(None), order))
    torch.testing.assert_close(other["input"], one["input"][order], rtol=0, atol=1e-6 * float(one["input"].abs().max()))
    torch.testing.assert_close(other["bias"], one["bias"], rtol=1e-6, atol=0)


def test_a_gradient_in_another_memory_format_is_accepted():
    shape = (64, 8, 12, 12)
    (values, gradient), module = inputs(shape), layer(shape)
    one = taken(copy.deepcopy(module), values, gradient)
    other = taken(copy.deepcopy(module), values, gradient.contiguous())
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    flat = taken(copy.deepcopy(module), values, torch.ones(()).expand(shape))
    assert float(flat["input"].abs().max()) < 1e-5  # a shift of all values is removed again


def test_second_derivatives_equal_those_in_float64():
    shape = (16, 4, 6, 6)
    values, gradient = inputs(shape)
    found = []
    for module, kind in ((layer(shape), torch.float32), (layer(shape).double(), torch.float64)):
        x, up = values.to(kind).requires_grad_(), gradient.to(kind).requires_grad_()
        first = torch.autograd.grad(module(x), (x, module.weight), up, create_graph=True)
        penalty = sum(each.square().sum() for each in first)
        found.append(torch.autograd.grad(penalty, (x, up, module.weight)))
    for mine, exact in zip(*found, strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))


def test_an_average_without_momentum_counts_batches():
    shape = (16, 4, 6, 6)
    module, values = layer(shape, momentum=None), inputs(shape)[0]
    for factor in (1.0, 2.0, 6.0):
        module(factor * values)
    torch.testing.assert_close(module.running_mean, 3 * values.mean(dim=(0, 2, 3)))


def test_the_result_may_be_changed_in_place():
    shape = (16, 4, 6, 6)
    module, (values, gradient) = layer(shape), inputs(shape)
    one = taken(nn.Sequential(copy.deepcopy(module), nn.ReLU(inplace=True)), values, gradient)
    other = taken(nn.Sequential(copy.deepcopy(module), nn.ReLU()), values, gradient)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


OTHERS = {
    "evaluation": lambda module, x: (module.eval(), x),
    "float64": lambda module, x: (module.double(), x.double()),
    "bfloat16 of autocast": lambda module, x: (module, x.bfloat16()),
    "channel by channel": lambda module, x: (module, x.contiguous()),
    "few rows": lambda module, x: (module, x[:2]),
    "no running statistics, evaluation": lambda module, x: (layer((1, 4, 1, 1), track_running_stats=False).eval(), x),
}


@pytest.mark.parametrize("case", OTHERS)
def test_everything_else_equals_torch_bitwise(case):
    shape = (16, 4, 6, 6)
    module, values = OTHERS[case](layer(shape), inputs(shape)[0])
    plain = copy.deepcopy(module)
    plain.__class__ = BatchNorm2d
    assert torch.equal(module(values), plain(values))
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in module.state_dict().items())


def test_meta_tensors_pass_and_inner_loops_keep_their_own_formula():
    shape = (16, 4, 6, 6)
    assert layer(shape).to("meta")(torch.empty(shape, device="meta")).shape == shape
    module, values = layer(shape), inputs(shape)[0]
    plain = copy.deepcopy(module)
    plain.__class__ = BatchNorm2d
    results = []
    for each in (module, plain):
        with normalised_by(each, "batch"):
            results.append(torch.func.vmap(each)(values.view(2, 8, *shape[1:])))
    assert torch.equal(*results)
    assert module.num_batches_tracked == 0


def test_names_and_state_stay_and_layers_that_do_more_are_left_alone():
    class Special(nn.BatchNorm2d):
        pass

    network = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm2d(3), BatchNorm2d(3), Special(3), nn.Linear(3, 3))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    parameters = list(network.parameters())
    for _ in range(2):
        sum_in_blocks(network)
    assert [type(part) for part in network[:4]] == [Blocked1d, BlockedPlain2d, Blocked2d, Special]
    assert all(new is old for new, old in zip(network.parameters(), parameters, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    synchronise(network[:3])
    assert all(isinstance(part, Blocked) for part in network[:3])
    assert isinstance(network[2], BatchNorm2d)
