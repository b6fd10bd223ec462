"""Views of a batch through one network, compared by a loss."""

from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm, Step
from ssl_runner.clock import Clock
from ssl_runner.data.batches import Views
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.models.network import Network


class Contrastive(Algorithm):
    """SimCLR's arrangement (Chen et al. 2020, arXiv:2002.05709): one encoder and head for all views.

    All views go through in one forward pass, so that batch normalisation sees them together and cannot tell the loss
    which view an image came from.
    """

    batch_type = Views
    divisible = False  # every image is a negative of the others

    def __init__(self, network: Network, loss: Loss) -> None:
        super().__init__(network)
        self.loss = loss

    def training_step(self, batch: Views, clock: Clock) -> Step:
        (crops,) = batch.crops
        embedded: Tensor = self.network(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
        loss, metrics = self.loss(Embeddings(online=embedded, labels=batch.labels), clock)
        return Step(loss, metrics)
