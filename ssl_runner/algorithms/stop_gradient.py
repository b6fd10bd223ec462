"""A predictor on one branch, no gradient on the other: SimSiam, and NNCLR with a queue."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import Algorithm, Step
from ssl_runner.algorithms.queue import Queue, refuse_queue
from ssl_runner.algorithms.views import embed_views, refuse_pieces
from ssl_runner.data.batches import Views
from ssl_runner.losses.loss import Embeddings, Loss, gathered
from ssl_runner.models.network import Network, out_features
from ssl_runner.runtime.step_context import StepContext

Head = Callable[[int, int | None], nn.Module]


class StopGradient(Algorithm):
    """SimSiam's arrangement (Chen and He 2021, arXiv:2011.10566, alg. 1): one view's projection predicts another's,
    which gets no gradient.

    The loss sees the predictions as ``online`` and the projections as ``target``. With a queue of projections of the
    first view as ``memory_bank``, and with the loss ``nnclr``, it is NNCLR (Dwibedi et al. 2021, arXiv:2104.14548).

    Args:
        predictor: A head whose input and output have the width of the projection.
        constant_predictor_lr: Whether the schedule leaves the predictor's learning rate constant (SimSiam, app. B).
        queue_size: Number of projections to remember, 0 for none.
        encode_chunks: Pieces of the batch that are encoded one after the other (`Contrastive`).
    """

    batch_type = Views
    provides = frozenset({"target"})
    supports_accumulation = False

    def __init__(
        self,
        network: Network,
        loss: Loss,
        predictor: Head,
        constant_predictor_lr: bool,
        queue_size: int,
        encode_chunks: int,
    ) -> None:
        super().__init__(network)
        refuse_queue(queue_size)
        refuse_pieces("encode_chunks", encode_chunks)
        width = out_features(network)
        self.loss = loss
        self.predictor = predictor(width, width)
        self.constant_predictor_lr = constant_predictor_lr
        self.queue = Queue(queue_size, width) if queue_size else None
        self.pieces = encode_chunks

    def training_step(self, batch: Views, context: StepContext) -> Step:
        projected = embed_views(self.network, batch.crops, self.pieces, checkpointed=True)
        n_global = len(batch.crops[0])
        online = self.predictor(projected.flatten(0, 1)).unflatten(0, projected.shape[:2])
        target = projected[:n_global].detach()
        memory_bank = None if self.queue is None else self.queue.items
        seen = Embeddings(online, target=target, memory_bank=memory_bank, labels=batch.labels, global_views=n_global)
        loss, metrics = self.loss(gathered(seen), context)
        return Step(loss, metrics, carry={"target": target.transpose(0, 1)})

    def compared(self, images: Tensor, embedded: Tensor) -> Embeddings:
        online = self.predictor(embedded.flatten(0, 1)).unflatten(0, embedded.shape[:2])
        return Embeddings(online, target=embedded, memory_bank=None if self.queue is None else self.queue.items)

    def after_step(self, context: StepContext, carry: dict[str, Tensor]) -> None:
        target = carry["target"].transpose(0, 1)
        if self.queue is not None:
            self.queue.push(target[0])
        self.loss.after_step(context, target)

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = super().parameter_groups()
        if not self.constant_predictor_lr:
            return groups
        own = {id(parameter) for parameter in self.predictor.parameters()}
        split = [
            {**group, "params": [parameter for parameter in group["params"] if (id(parameter) in own) == constant]}
            | ({"constant_lr": True} if constant else {})
            for group in groups
            for constant in (False, True)
        ]
        return [group for group in split if group["params"]]
