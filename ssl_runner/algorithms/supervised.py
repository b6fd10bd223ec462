"""A classifier trained on labels: the baseline for self-supervised methods."""

from ssl_runner.algorithms.algorithm import Algorithm, Step
from ssl_runner.data.batches import Views
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.models.network import Network
from ssl_runner.runtime.step_context import StepContext


class Supervised(Algorithm):
    """An encoder and a linear head, with a loss on the logits of every view."""

    batch_type = Views
    gives_logits = True
    head_classifies = True

    def __init__(self, network: Network, loss: Loss) -> None:
        super().__init__(network)
        self.loss = loss

    def training_step(self, batch: Views, context: StepContext) -> Step:
        (crops,) = batch.crops
        logits = self.network(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
        loss, metrics = self.loss(Embeddings(online=logits, labels=batch.labels), context)
        return Step(loss, metrics)
