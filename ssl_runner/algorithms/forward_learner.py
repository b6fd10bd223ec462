"""Meta-learners that solve a task in one forward pass: the shared part of metric-based and model-based ones."""

from typing import Any

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm, Map, Step, by_domain, encode_tasks
from ssl_runner.data.batches import Episodes
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.models.network import Network
from ssl_runner.runtime.step_context import StepContext

SUPPORT, QUERIES = "support images, class by class", "queries, class by class"  # of a `Map`


class ForwardLearner(Algorithm):
    """Base class of learners that adapt in `compare`, which scores the queries given the support's embeddings.

    In training, support and query go through the network, and are normalised, in one forward pass. Evaluation uses the
    running statistics of batch normalisation, so a prediction does not depend on the other queries (inductive).

    Args:
        network: Encoder and head; `compare` sees the head's outputs.
        loss: Loss of the scores.
    """

    batch_type = Episodes
    gives_logits = True

    def __init__(self, network: Network, loss: Loss) -> None:
        super().__init__(network)
        self.loss = loss

    def protocol(self) -> dict[str, Any]:
        return {"statistics": "running", "transductive": False}

    def training_step(self, batch: Episodes, context: StepContext) -> Step:
        images = torch.cat([batch.support_images, batch.query_images], dim=1)
        embedded = encode_tasks(self.represent, images)
        support, query = embedded.split([batch.support_labels.shape[1], batch.query_labels.shape[1]], dim=1)
        scores = self.compare(*self.arranged(support, batch.support_labels, context), query, batch.n_way)
        loss, metrics = self.scored(scores, batch.query_labels, context)
        further = self.further_losses(support, query, batch, context)
        metrics = metrics | by_domain(batch, scores, batch.query_labels) | self.figures()
        logged = {name: value.detach() for name, value in further.items()}
        return Step(sum(further.values(), loss), metrics | logged)

    def scored(self, scores: Tensor, labels: Tensor, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and metrics of scores (T, Q, n_way) and labels (T, Q)."""
        return self.loss(Embeddings(online=scores.flatten(0, 1)[None], labels=labels.flatten()), context)

    def further_losses(
        self, support: Tensor, query: Tensor, batch: Episodes, context: StepContext
    ) -> dict[str, Tensor]:
        """Losses that are added in training, by the names under which they are logged. By default there are none.

        Args:
            support: Embeddings (T, S, E) of the support, in the order of ``batch``.
            query: Embeddings (T, Q, E) of the queries.
        """
        return {}

    def represent(self, images: Tensor) -> Tensor:
        """The embeddings of images (B, C, H, W) that `compare` sees. By default the network's outputs (B, E)."""
        return self.network(images)

    def arranged(self, support: Tensor, labels: Tensor, context: StepContext) -> tuple[Tensor, Tensor]:
        """Support (T, S, E) and labels (T, S) in the order used in training. By default the order is unchanged."""
        return support, labels

    def figures(self) -> dict[str, Tensor]:
        """Scalars to log about what is learned besides the network, such as a temperature."""
        return {}

    def looks(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> dict[str, Map]:
        """The `maps` of given embeddings. The arguments are those of `compare`. By default there are none."""
        return {}

    def maps(self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int) -> dict[str, Map]:
        support, query = self.embed_task(support_images, query_images)
        return self.looks(support, support_labels, query, n_way)

    def embed(self, features: Tensor) -> Tensor:
        return self.network.head(features)

    def embed_task(self, support_images: Tensor, query_images: Tensor) -> tuple[Tensor, Tensor]:
        return encode_tasks(self.represent, support_images), encode_tasks(self.represent, query_images)
