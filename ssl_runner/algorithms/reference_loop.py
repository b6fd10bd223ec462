"""MAML as a plain loop over tasks: the reference that the vectorised form is tested and timed against."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ssl_runner.data.batches import Episodes


class InnerLoop(Protocol):
    """The attributes that the loop needs of an algorithm."""

    @property
    def network(self) -> nn.Module: ...
    @property
    def inner_lr(self) -> float: ...
    @property
    def inner_steps(self) -> int: ...
    @property
    def second_order(self) -> bool: ...


def adapted_by_loop(
    network: nn.Module, images: Tensor, labels: Tensor, inner_lr: float, inner_steps: int, second_order: bool
) -> dict[str, Tensor]:
    """The network's parameters after gradient descent on one task (Finn et al. 2017, arXiv:1703.03400, eq. 1).

    It uses torch.autograd and the cross-entropy, with the same rate for every parameter. Batch normalisation is torch's
    own in training mode and does not change the running averages.

    Args:
        network: Network from images to logits, in training mode.
        images: Support images (M, C, H, W).
        labels: int64 (M,).
        inner_lr: Learning rate of the descent.
        inner_steps: Number of steps, at least 0.
        second_order: Whether the result can be differentiated through the steps.
    """
    adapted: dict[str, Tensor] = dict(network.named_parameters())
    for _ in range(inner_steps):
        loss = F.cross_entropy(_logits(network, adapted, images), labels)
        gradients = torch.autograd.grad(loss, list(adapted.values()), create_graph=second_order)
        steps = zip(adapted.items(), gradients, strict=True)
        adapted = {name: value - inner_lr * gradient for (name, value), gradient in steps}
    return adapted


def meta_loss_by_loop(algorithm: InnerLoop, batch: Episodes) -> Tensor:
    """Mean over tasks of the cross-entropy of the queries after adaptation (alg. 2), a scalar to differentiate.

    Args:
        algorithm: MAML, with one rate for all parameters.
        batch: T tasks, each adapted separately.
    """
    losses = []
    for task in range(len(batch)):
        adapted = adapted_by_loop(
            algorithm.network,
            batch.support_images[task],
            batch.support_labels[task],
            algorithm.inner_lr,
            algorithm.inner_steps,
            algorithm.second_order,
        )
        logits = _logits(algorithm.network, adapted, batch.query_images[task])
        losses.append(F.cross_entropy(logits, batch.query_labels[task]))
    return torch.stack(losses).mean()


def _logits(network: nn.Module, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
    copies = {name: buffer.clone() for name, buffer in network.named_buffers()}  # these receive the running averages
    return functional_call(network, {**copies, **parameters}, (images,))
