"""A teacher that is a moving average of the student: BYOL, MoCo v2 and v3, DINO."""

from typing import Literal

import torch
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import Algorithm, Step
from ssl_runner.algorithms.queue import Queue, refuse_queue
from ssl_runner.algorithms.stop_gradient import Head
from ssl_runner.algorithms.teacher import follow, freeze_prototypes, refuse_freeze, refuse_momentum, teacher_of
from ssl_runner.algorithms.views import Crops, embed_views, refuse_pieces
from ssl_runner.data.batches import Views
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss, gathered
from ssl_runner.models.network import Encoder, Network, out_features
from ssl_runner.optim.schedules import half_cosine
from ssl_runner.runtime.collectives import gather
from ssl_runner.runtime.process_group import rows
from ssl_runner.runtime.step_context import StepContext


class Momentum(Algorithm):
    """Momentum teacher, the arrangement of several methods: with a predictor and BYOL's loss it is BYOL (Grill et al.
    2020, arXiv:2006.07733), with a queue and InfoNCE MoCo v2 (arXiv:1911.05722, arXiv:2003.04297), with a predictor and
    InfoNCE MoCo v3 (arXiv:2104.02057), and with multi-crop and the DINO loss DINO (arXiv:2104.14294).

    The student sees all views, the teacher only the global ones. The teacher normalises with statistics of its own
    batches and keeps its own running statistics: parameters are averaged, buffers are not.

    Args:
        predictor: A head on the student whose input and output have the width of the projection, or null.
        momentum: The teacher's momentum at the first step, in [0, 1].
        final_momentum: The teacher's momentum at the last step; it follows a half cosine in between (BYOL, eq. in sec.
            3.2). Equal to ``momentum`` for a constant one.
        queue_size: Number of the teacher's projections to remember as negatives, 0 for none.
        batch_norm_groups: Pieces of the batch that are normalised separately; 1 for the whole batch. Images are
            reassigned to pieces before the teacher sees them, so that the statistics do not reveal which key belongs to
            which query. This is MoCo's shuffled batch normalisation, with a number of pieces that does not depend on
            the number of processes, but must be a multiple of it.
        freeze_share: Share of the run, from its start, during which the prototypes of the student's head keep their
            initial values, in [0, 1): DINO's frozen last layer (the first epoch in its app. A). 0 for a head without
            prototypes.
        encode_chunks: Pieces of the batch that are encoded one after the other (`Contrastive`). Batch normalisation
            uses the same pieces, with images reassigned before the teacher sees them, so this must equal
            ``batch_norm_groups``, or one of the two must be 1.
        product: ``student`` or ``teacher``: whose encoder is exported and evaluated.
    """

    batch_type = Views
    provides = frozenset({"target"})
    supports_accumulation = False

    def __init__(
        self,
        network: Network,
        loss: Loss,
        predictor: Head | None,
        momentum: float,
        final_momentum: float,
        queue_size: int,
        batch_norm_groups: int,
        freeze_share: float,
        encode_chunks: int,
        product: Literal["student", "teacher"],
    ) -> None:
        super().__init__(network)
        refuse_queue(queue_size)
        refuse_momentum(momentum, final_momentum)
        refuse_pieces("batch_norm_groups", batch_norm_groups)
        refuse_pieces("encode_chunks", encode_chunks)
        if encode_chunks != batch_norm_groups and min(encode_chunks, batch_norm_groups) > 1:
            raise InvalidValue(
                f"encode_chunks={encode_chunks}, batch_norm_groups={batch_norm_groups}; each chunk is normalised "
                "separately, so give the same number twice, or 1 for one of them"
            )
        refuse_freeze(freeze_share, network)
        width = out_features(network)
        self.loss = loss
        self.predictor = None if predictor is None else predictor(width, width)
        self.teacher = teacher_of(network)
        self.momentum, self.final_momentum = momentum, final_momentum
        self.queue = Queue(queue_size, width) if queue_size else None
        self.pieces, self.checkpointed = max(batch_norm_groups, encode_chunks), encode_chunks > 1
        self.freeze_share = freeze_share
        self.product = product

    def training_step(self, batch: Views, context: StepContext) -> Step:
        freeze_prototypes(self.network, self.freeze_share, context)
        online = self._encode(self.network, batch.crops)
        if self.predictor is not None:
            online = self.predictor(online.flatten(0, 1)).unflatten(0, online.shape[:2])
        with torch.no_grad():
            target = self._targets(batch.crops[0], context)
        memory_bank = None if self.queue is None else self.queue.items
        seen = Embeddings(online, target=target, memory_bank=memory_bank, labels=batch.labels, global_views=len(target))
        loss, metrics = self.loss(gathered(seen), context)
        return Step(loss, metrics, carry={"target": target.transpose(0, 1)})

    @torch.no_grad()
    def after_step(self, context: StepContext, carry: dict[str, Tensor]) -> None:
        target = carry["target"].transpose(0, 1)
        follow(self.teacher, self.network, self.momentum_at(context))
        if self.queue is not None:
            self.queue.push(target[-1])
        self.loss.after_step(context, target)

    def momentum_at(self, context: StepContext) -> float:
        """The teacher's momentum after this step: a half cosine from ``momentum`` to ``final_momentum``."""
        return half_cosine(self.momentum, self.final_momentum, context.progress)

    def eval_encoder(self) -> Encoder:
        return (self.teacher if self.product == "teacher" else self.network).encoder

    def embedding(self, images: Tensor) -> Tensor:
        return (self.teacher if self.product == "teacher" else self.network)(images)

    def branches(self) -> dict[str, nn.Module]:
        return {"student": self.network, "teacher": self.teacher}

    def compared(self, images: Tensor, embedded: Tensor) -> Embeddings:
        online, target = (embed_views(network, (images,)) for network in (self.network, self.teacher))
        if self.predictor is not None:
            online = self.predictor(online.flatten(0, 1)).unflatten(0, online.shape[:2])
        return Embeddings(online, target=target, memory_bank=None if self.queue is None else self.queue.items)

    def _targets(self, views: Tensor, context: StepContext) -> Tensor:
        """The teacher's projections (G, B, D) of the global views (G, B, C, H, W)."""
        if self.pieces == 1:
            return self._encode(self.teacher, (views,))
        views = gather(views, 1)  # pieces are cut from the batch of all processes
        n = views.shape[1]
        order = torch.randperm(n, generator=context.generator("shuffle"), device=context.device)
        own = rows(n, "batch_size")
        shuffled = gather(self._encode(self.teacher, (views[:, order[own]],)), 1)
        return shuffled[:, order.argsort()[own]]

    def _encode(self, network: Network, crops: Crops) -> Tensor:
        return embed_views(network, crops, self.pieces, self.checkpointed)
