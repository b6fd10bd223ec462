"""A small network, tasks for it, and meta-learning in a loop over tasks, to compare the vectorised version with."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.algorithms.inner_loop import InnerLoop
from ssl_runner.data.batches import Episodes
from ssl_runner.models.batch_norm import normalised_by
from ssl_runner.models.conv4 import Conv4
from ssl_runner.models.heads import Linear
from ssl_runner.models.network import Encoder, Network
from ssl_runner.runtime.step_context import StepContext

WAYS = 3


def context(step: int = 0, max_steps: int = 1) -> StepContext:
    return StepContext(step, max_steps, seed=0, device=torch.device("cpu"))


def network(smooth: bool = False) -> Network:
    torch.manual_seed(0)
    backbone = Conv4(1, 12, width=4, downsample="stride" if smooth else "max_pool", grid=None)
    if smooth:  # a kink within a finite difference would be an error of the difference, not of the gradient
        for block in backbone.blocks:
            block[2] = nn.Softplus()
    made = Network(Encoder(backbone, (1, 12, 12), [0.4], [0.3]), Linear(backbone.out_features, WAYS)).double()
    for parameter in made.parameters():  # biases and scales at their initial 0 and 1 would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def episodes(tasks: int = 4, shots: int = 2, queries: int = 3) -> Episodes:
    torch.manual_seed(1)
    labels = [torch.arange(WAYS).repeat_interleave(n).expand(tasks, -1) for n in (shots, queries)]
    images = [torch.rand(tasks, WAYS * n, 1, 12, 12, dtype=torch.float64) for n in (shots, queries)]
    return Episodes(images[0], labels[0], images[1], labels[1], n_way=WAYS)


def inputs(batch: Episodes) -> tuple[Tensor, Tensor, Tensor, int]:
    """The arguments of `classify`."""
    return batch.support_images, batch.support_labels, batch.query_images, batch.n_way


def adapted(
    model: Network,
    images: Tensor,
    labels: Tensor,
    weights: dict[str, Tensor],
    rate: Callable[[str, int], Tensor | float],
    steps: int,
    second_order: bool = True,
    fixed: Callable[[int], dict[str, Tensor]] = lambda step: {},
) -> list[dict[str, Tensor]]:
    """The weights after 0, 1, ... inner steps on one task, through torch.autograd; a rate of 0 adapts nothing.

    ``fixed`` returns the values that replace some weights in the forward pass, given the number of steps done.
    """
    path = [weights]
    for step in range(steps):
        loss = F.cross_entropy(functional_call(model, path[-1] | fixed(step), (images,)), labels)
        moving = [name for name in weights if not (isinstance(r := rate(name, step), float) and r == 0)]
        gradients = torch.autograd.grad(loss, [path[-1][name] for name in moving], create_graph=second_order)
        moved = {
            name: path[-1][name] - rate(name, step) * gradient for name, gradient in zip(moving, gradients, strict=True)
        }
        path.append(path[-1] | moved)
    return path


def meta_loss_by_loop(
    model: Network,
    batch: Episodes,
    rate: Callable[[str, int], Tensor | float],
    steps: int,
    second_order: bool = True,
    emphasis: Sequence[float] | None = None,
    fixed: Callable[[int], dict[str, Tensor]] = lambda step: {},
) -> Tensor:
    """Mean query loss of the adapted weights in a loop over tasks, with torch's own normalisation in training mode."""
    weighing = [0.0] * steps + [1.0] if emphasis is None else emphasis
    total = torch.zeros((), dtype=torch.float64)
    for task in range(len(batch)):
        start = {name: value for name, value in model.named_parameters() if name not in fixed(0)}
        support = batch.support_images[task], batch.support_labels[task]
        path = adapted(model, *support, start, rate, steps, second_order, fixed)
        for step, weight in enumerate(weighing):
            if weight:
                logits = functional_call(model, path[step] | fixed(step), (batch.query_images[task],))
                total = total + weight * F.cross_entropy(logits, batch.query_labels[task])
    return total / len(batch)


def inner_step(algorithm: InnerLoop, batch: Episodes) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights that adapt, before and after one inner step on the first task."""
    with normalised_by(algorithm.network, "batch"):
        task = batch.support_images[0], batch.support_labels[0]
        (before, _), (after, _) = algorithm.descend(algorithm.initial(), *task, 1, context())
    return before, after


def gradients(algorithm: Algorithm, batch: Episodes, at: StepContext) -> dict[str, Tensor]:
    """The gradients of all parameters that take part in a training step."""
    algorithm.zero_grad()
    algorithm.train().training_step(batch, at).loss.backward()
    return {name: value.grad for name, value in algorithm.named_parameters() if value.grad is not None}


def assert_gradients(found: dict[str, Tensor], loss: Tensor, parameters: dict[str, Tensor]) -> None:
    """Assert that the gradients found are those of the loss, each to 1e-10."""
    expected = torch.autograd.grad(loss, list(parameters.values()))
    assert found.keys() == parameters.keys()
    for name, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(
            found[name], value, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )
