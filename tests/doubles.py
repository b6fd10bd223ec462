"""Five small methods of different kinds, built on the existing interfaces."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import Algorithm, Step, encode_tasks
from ssl_runner.data.batches import Episodes, Views
from ssl_runner.data.batching.batching import Batching
from ssl_runner.data.batching.view_batching import ViewBatching
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.models.network import Network
from ssl_runner.runtime import randomness
from ssl_runner.runtime.step_context import StepContext


class MomentumQueue(Algorithm):
    """A momentum teacher whose embeddings fill a queue of negatives."""

    batch_type = Views
    provides = frozenset({"target", "memory_bank"})
    supports_accumulation = False

    def __init__(self, network: Network, loss: Loss, momentum: float, size: int) -> None:
        super().__init__(network)
        self.loss = loss
        self.momentum = momentum
        self.teacher = copy.deepcopy(network).requires_grad_(False)
        width = network.head[-1].out_features  # type: ignore[index]
        self.register_buffer("queue", torch.zeros(size, width))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def training_step(self, batch: Views, context: StepContext) -> Step:
        first, second = batch.crops[0]
        with torch.no_grad():
            target = self.teacher(second)
        memory_bank = self.queue[: int(self.filled)]
        loss, metrics = self.loss(
            Embeddings(self.network(first)[None], target=target[None], memory_bank=memory_bank), context
        )
        return Step(loss, metrics, carry={"keys": target})

    @torch.no_grad()
    def after_step(self, context: StepContext, carry: dict[str, Tensor]) -> None:
        for mean, online in zip(self.teacher.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(online, 1 - self.momentum)
        places = (self.pointer + torch.arange(len(carry["keys"]), device=self.queue.device)) % len(self.queue)
        self.queue[places] = carry["keys"]
        self.pointer.copy_((places[-1] + 1) % len(self.queue))
        self.filled.add_(len(places)).clamp_(max=len(self.queue))

    def eval_encoder(self):
        return self.teacher.encoder


class QueueLoss(Loss):
    """InfoNCE of each online embedding against its target and the memory."""

    needs = frozenset({"target", "memory_bank"})

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        assert embeddings.target is not None
        assert embeddings.memory_bank is not None
        online, target = F.normalize(embeddings.online[0], dim=-1), F.normalize(embeddings.target[0], dim=-1)
        positive = (online * target).sum(-1, keepdim=True)
        logits = torch.cat([positive, online @ F.normalize(embeddings.memory_bank, dim=-1).T], dim=1) / 0.2
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))
        return loss, {"negatives": torch.tensor(float(len(embeddings.memory_bank)))}


class MultiCropBatching(Batching):
    """Two global views and some local ones at half the size."""

    batch_type = Views
    n_views = 2

    def __init__(self, augmentation, batch_size: int, local_views: int) -> None:
        self.whole = ViewBatching(augmentation, batch_size, views=2)
        self.local_views = local_views
        self.images_per_step = batch_size * (2 + local_views)

    def bind(self, dataset, seed, device) -> None:
        self.whole.bind(dataset, seed, device)
        self.seed, self.steps_per_epoch = seed, self.whole.steps_per_epoch

    def batch(self, step: int) -> Views:
        batch = self.whole.batch(step)
        side = batch.crops[0].shape[-1]
        corner = (
            torch.from_numpy(randomness.uniforms(self.seed, "local", step, self.local_views, 2)) * side / 2
        ).long()
        half = side // 2
        local = torch.stack([batch.crops[0][0, ..., y : y + half, x : x + half] for y, x in corner.tolist()])
        return Views((*batch.crops, local), batch.labels, batch.indices)


class MultiCrop(Algorithm):
    """Passes all resolutions through one network, one pass each."""

    batch_type = Views
    supports_accumulation = False

    def __init__(self, network: Network, loss: Loss) -> None:
        super().__init__(network)
        self.loss = loss

    def training_step(self, batch: Views, context: StepContext) -> Step:
        embedded = [self.network(crops.flatten(0, 1)).unflatten(0, crops.shape[:2]) for crops in batch.crops]
        return Step(*self.loss(Embeddings(torch.cat(embedded)), context))


class LocalToGlobal(Loss):
    """Every view agrees with the global ones, which come first."""

    views = 2

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        online = F.normalize(embeddings.online, dim=-1)
        agreement = torch.einsum("gbd,vbd->gv", online[:2].detach(), online) / online.shape[1]
        spread = online.flatten(0, 1).std(dim=0).mean()
        return -agreement.mean() - spread, {"views": torch.tensor(float(len(online)))}


class Reptile(Algorithm):
    """theta += eps * mean(phi - theta), as the gradient of a surrogate."""

    batch_type = Episodes
    gives_logits = True
    head_classifies = True
    surrogate = True

    def __init__(self, network: Network, loss: Loss, inner_lr: float, inner_steps: int) -> None:
        super().__init__(network)
        self.loss = loss
        self.inner_lr, self.inner_steps = inner_lr, inner_steps

    def training_step(self, batch: Episodes, context: StepContext) -> Step:
        parameters = list(self.network.parameters())
        moves = [torch.zeros_like(parameter) for parameter in parameters]
        losses = []
        for images, labels in zip(batch.support_images, batch.support_labels, strict=True):
            clone = copy.deepcopy(self.network)
            descent = torch.optim.SGD(clone.parameters(), lr=self.inner_lr)
            for _ in range(self.inner_steps):
                loss, _ = self.loss(Embeddings(clone(images)[None], labels=labels), context)
                descent.zero_grad()
                loss.backward()
                descent.step()
            losses.append(loss.detach())
            for move, before, after in zip(moves, parameters, clone.parameters(), strict=True):
                move += (before - after).detach() / len(batch)
        surrogate = sum((parameter * move).sum() for parameter, move in zip(parameters, moves, strict=True))
        return Step(surrogate, {"loss": torch.stack(losses).mean()})


class Sequence(Algorithm):
    """A transformer over labelled support tokens and one unlabelled query; it adapts in one forward pass."""

    batch_type = Episodes
    gives_logits = True

    def __init__(self, network: Network, loss: Loss, n_way: int, width: int) -> None:
        super().__init__(network)
        self.loss = loss
        self.n_way = n_way
        self.token = nn.Linear(network.encoder.out_features + n_way + 1, width)
        self.attend = nn.TransformerEncoderLayer(width, 2, width, dropout=0.0, batch_first=True)
        self.out = nn.Linear(width, n_way)

    def training_step(self, batch: Episodes, context: StepContext) -> Step:
        scores = self.classify(batch.support_images, batch.support_labels, batch.query_images, batch.n_way)
        return Step(*self.loss(Embeddings(scores.flatten(0, 1)[None], labels=batch.query_labels.flatten()), context))

    def classify(self, support_images, support_labels, query_images, n_way):
        support = encode_tasks(self.network.encoder, support_images)
        query = encode_tasks(self.network.encoder, query_images)
        tasks, queries = query.shape[:2]
        unknown = torch.full((tasks, queries), self.n_way, device=query.device)
        support = self.token(torch.cat([support, F.one_hot(support_labels, self.n_way + 1)], dim=-1))
        query = self.token(torch.cat([query, F.one_hot(unknown, self.n_way + 1)], dim=-1))
        # one sequence per query, so that queries cannot see each other
        context = support[:, None].expand(-1, queries, -1, -1)
        tokens = torch.cat([context, query[:, :, None]], dim=2).flatten(0, 1)
        return self.out(self.attend(tokens)[:, -1]).unflatten(0, (tasks, queries))


class FittedInClassify(Algorithm):
    """Fits a separate linear classifier to each task, with gradients, which evaluation had turned off."""

    batch_type = Views
    gives_logits = True
    head_classifies = True

    def __init__(self, network: Network, loss: Loss, steps: int) -> None:
        super().__init__(network)
        self.loss = loss
        self.steps = steps

    def training_step(self, batch: Views, context: StepContext) -> Step:
        return Step(*self.loss(Embeddings(self.network(batch.crops[0][0])[None], labels=batch.labels), context))

    def classify(self, support_images, support_labels, query_images, n_way):
        support = F.normalize(encode_tasks(self.network.encoder, support_images), dim=-1)
        query = F.normalize(encode_tasks(self.network.encoder, query_images), dim=-1)
        weights = torch.zeros(len(support), support.shape[-1], n_way, device=support.device)
        with torch.enable_grad():
            for _ in range(self.steps):
                weights.requires_grad_()
                logits = (support @ weights).flatten(0, 1)
                loss = F.cross_entropy(logits, support_labels.flatten(), reduction="sum")
                weights = (weights - 0.5 * torch.autograd.grad(loss, weights)[0]).detach()
        return query @ weights
