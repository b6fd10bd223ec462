"""Scores of embeddings against learned prototypes: SwAV."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import Algorithm, Step
from ssl_runner.algorithms.queue import Queue, refuse_queue
from ssl_runner.algorithms.views import embed_views, refuse_pieces
from ssl_runner.data.batches import Views
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss, gathered
from ssl_runner.models.network import Network, out_features
from ssl_runner.runtime.step_context import StepContext


class Prototypes(Algorithm):
    """SwAV's arrangement (Caron et al. 2020, arXiv:2006.09882): the loss sees cosines of embeddings and prototypes.

    Both are L2-normalised. The prototypes are normalised again after each step, as in the authors' code.

    Args:
        prototypes: Number of prototypes K, at least 2.
        freeze_share: Share of the run, from its start, during which the prototypes keep their first values, in [0, 1).
        queue_size: Number of embeddings of the first view to remember, 0 for none. Their scores are the loss's
            ``memory_bank``.
        queue_share: Share of the run before the queue is used, in [0, 1].
        encode_chunks: Pieces of the batch that are encoded one after the other (`Contrastive`).
    """

    batch_type = Views
    provides = frozenset({"prototypes"})
    supports_accumulation = False

    def __init__(
        self,
        network: Network,
        loss: Loss,
        prototypes: int,
        freeze_share: float,
        queue_size: int,
        queue_share: float,
        encode_chunks: int,
    ) -> None:
        super().__init__(network)
        refuse_queue(queue_size)
        refuse_pieces("encode_chunks", encode_chunks)
        if prototypes < 2:
            raise InvalidValue(f"prototypes={prototypes}; give at least 2")
        if not (0 <= freeze_share < 1 and 0 <= queue_share <= 1):
            raise InvalidValue(
                f"freeze_share={freeze_share}, queue_share={queue_share}; give shares in [0, 1) and in [0, 1]"
            )
        width = out_features(network)
        self.loss = loss
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, width), dim=1))
        self.freeze_share, self.queue_share = freeze_share, queue_share
        self.queue = Queue(queue_size, width) if queue_size else None
        self.pieces = encode_chunks

    def training_step(self, batch: Views, context: StepContext) -> Step:
        embedded = embed_views(self.network, batch.crops, self.pieces, checkpointed=True)
        embedded = F.normalize(embedded, dim=-1)
        # without a gradient the optimizer does not change them, not even by weight decay
        prototypes = self.prototypes if context.reached(self.freeze_share) else self.prototypes.detach()
        memory_bank = None
        if self.queue is not None and context.reached(self.queue_share):
            memory_bank = self.queue.items @ self.prototypes.detach().T
        seen = Embeddings(
            embedded @ prototypes.T, memory_bank=memory_bank, labels=batch.labels, global_views=len(batch.crops[0])
        )
        loss, metrics = self.loss(gathered(seen), context)
        return Step(loss, metrics, carry={"first": embedded[0].detach()})

    @torch.no_grad()
    def after_step(self, context: StepContext, carry: dict[str, Tensor]) -> None:
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
        if self.queue is not None:
            self.queue.push(carry["first"])
