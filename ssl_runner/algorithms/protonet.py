"""Prototypical networks."""

from typing import Any

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm, Step, by_domain, class_means, encode_tasks
from ssl_runner.clock import Clock
from ssl_runner.data.batches import Episodes
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.models.network import Network


class ProtoNet(Algorithm):
    """ProtoNet (Snell et al. 2017, arXiv:1703.05175, eq. 2): softmax over minus the squared distances to class means.

    Training sees support and query in one forward pass, as the authors' code does; evaluation uses the running
    statistics of batch normalisation, so a prediction does not depend on the other queries (inductive).
    """

    batch_type = Episodes
    gives_logits = True

    def __init__(self, network: Network, loss: Loss) -> None:
        super().__init__(network)
        self.loss = loss

    def protocol(self) -> dict[str, Any]:
        return {"statistics": "running", "transductive": False}

    def training_step(self, batch: Episodes, clock: Clock) -> Step:
        images = torch.cat([batch.support_images, batch.query_images], dim=1)
        embedded = encode_tasks(self.network, images)
        support, query = embedded.split([batch.support_labels.shape[1], batch.query_labels.shape[1]], dim=1)
        logits = self.compare(support, batch.support_labels, query, batch.n_way)
        loss, metrics = self.loss(
            Embeddings(online=logits.flatten(0, 1)[None], labels=batch.query_labels.flatten()), clock
        )
        return Step(loss, metrics | by_domain(batch, logits))

    def embed(self, features: Tensor) -> Tensor:
        return self.network.head(features)

    def compare(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        means = class_means(support, support_labels, n_way)
        # expanded by hand: the gradient of cdist's root is infinite at 0
        cross = query @ means.transpose(1, 2)
        return 2 * cross - query.square().sum(-1)[..., None] - means.square().sum(-1)[:, None, :]
