"""Views of a batch through one network, compared by a loss."""

import torch
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import Algorithm, Step
from ssl_runner.clock import Clock
from ssl_runner.data.batches import Views
from ssl_runner.distributed import gathered
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.models.network import Network


class Contrastive(Algorithm):
    """SimCLR's arrangement (Chen et al. 2020, arXiv:2002.05709): one encoder and head for all views.

    All views of a resolution go through in one forward pass, so that batch normalisation sees them together and cannot
    tell the loss which view an image came from.
    """

    batch_type = Views
    divisible = False  # every image is a negative of the others

    def __init__(self, network: Network, loss: Loss) -> None:
        super().__init__(network)
        self.loss = loss

    def training_step(self, batch: Views, clock: Clock) -> Step:
        online = embed_views(self.network, batch.crops)
        seen = Embeddings(online=online, labels=batch.labels, global_views=len(batch.crops[0]))
        return Step(*self.loss(gathered(seen), clock))


def embed_views(module: nn.Module, crops: tuple[Tensor, ...]) -> Tensor:
    """(V, B, D) of one (v, B, C, H, W) a resolution: one forward pass for each."""
    parts = [module(part.flatten(0, 1)).unflatten(0, part.shape[:2]) for part in crops]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
