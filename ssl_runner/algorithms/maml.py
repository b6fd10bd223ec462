"""Model-agnostic meta-learning, vectorised over tasks."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from ssl_runner.algorithms.algorithm import Algorithm, Step
from ssl_runner.clock import Clock
from ssl_runner.data.batches import Episodes
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.models.batch_norm import batch_norms, forget_records, normalised_by
from ssl_runner.models.network import Network

Parameters = dict[str, Tensor]


class MAML(Algorithm):
    """MAML (Finn et al. 2017, arXiv:1703.03400, alg. 2): learn the weights from which a few steps adapt.

    All tasks run their inner loops at once under `torch.func.vmap`; every parameter adapts, the affine ones of batch
    normalisation too. Memory grows with the tasks in flight: ``trainer.accumulate`` cuts it without changing the
    gradient. In training, batch normalisation always uses the batch at hand.

    Args:
        network: Its head has one output a class of the task.
        loss: Of the logits, for the inner and the outer loop.
        inner_lr: Rate of the inner gradient descent, above 0.
        inner_steps: Inner steps in training, at least 1.
        eval_inner_steps: Inner steps in `classify`.
        second_order: Differentiate through the inner steps; false is first-order MAML (sec. 5.2).
        statistics: What normalises the queries in `classify`: ``batch`` (all queries of a task together, the paper's,
            transductive), ``support`` (statistics of the support set, inductive) or ``running`` (averages over
            training, inductive).
    """

    batch_type = Episodes
    gives_logits = True
    head_classifies = True

    def __init__(
        self,
        network: Network,
        loss: Loss,
        inner_lr: float,
        inner_steps: int,
        eval_inner_steps: int,
        second_order: bool,
        statistics: Literal["batch", "support", "running"],
    ) -> None:
        super().__init__(network)
        if not inner_lr > 0:
            raise ValueError(f"inner_lr={inner_lr}, but the inner loop descends; give a number above 0, say 0.4")
        if min(inner_steps, eval_inner_steps) < 1:
            raise ValueError(f"inner_steps={inner_steps}, eval_inner_steps={eval_inner_steps}; both must be at least 1")
        if statistics not in ("batch", "support", "running"):
            raise ValueError(f"statistics={statistics!r} is not one of batch, support, running")
        self.loss = loss
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.eval_inner_steps = eval_inner_steps
        self.second_order = second_order
        self.statistics = statistics

    def protocol(self) -> dict[str, Any]:
        transductive = self.statistics == "batch"
        return {"statistics": self.statistics, "transductive": transductive, "inner_steps": self.eval_inner_steps}

    def training_step(self, batch: Episodes, clock: Clock) -> Step:
        parameters = Parameters(self.network.named_parameters())

        def task(support_images: Tensor, support_labels: Tensor, query_images: Tensor, query_labels: Tensor):
            adapted = self.adapt(parameters, support_images, support_labels, self.inner_steps, clock)
            loss, metrics = self.task_loss(adapted, query_images, query_labels, clock)
            return loss, metrics, [layer.recorded for layer in batch_norms(self.network)]

        with normalised_by(self.network, "batch"):
            losses, metrics, records = vmap(task, randomness="different")(
                batch.support_images, batch.support_labels, batch.query_images, batch.query_labels
            )
        forget_records(self.network)
        carry = {}
        for layer, record in enumerate(records):
            assert record is not None, "every layer has seen the queries"
            mean, variance = record  # each (T, channels)
            carry[f"{layer}/mean"], carry[f"{layer}/variance"] = mean.detach(), variance.detach()
        return Step(losses.mean(), {name: value.mean() for name, value in metrics.items()}, carry)

    @torch.no_grad()
    def after_step(self, clock: Clock, carry: dict[str, Tensor]) -> None:
        """Running statistics: one step of momentum towards the tasks' average, as seen by the adapted networks."""
        for index, layer in enumerate(batch_norms(self.network)):
            assert layer.running_mean is not None and layer.running_var is not None and layer.momentum is not None
            layer.running_mean.lerp_(carry[f"{index}/mean"].mean(0), layer.momentum)
            layer.running_var.lerp_(carry[f"{index}/variance"].mean(0), layer.momentum)

    def task_loss(self, parameters: Parameters, images: Tensor, labels: Tensor, clock: Clock):
        """Loss and metrics of one task's images (M, C, H, W) and labels (M,)."""
        logits = functional_call(self.network, parameters, (images,))
        return self.loss(Embeddings(online=logits[None], labels=labels), clock)

    def adapt(self, parameters: Parameters, images: Tensor, labels: Tensor, steps: int, clock: Clock) -> Parameters:
        """theta' after some steps of gradient descent on one task's support set."""
        for _ in range(steps):
            gradients = grad(lambda weights: self.task_loss(weights, images, labels, clock)[0])(parameters)
            if not self.second_order:
                gradients = {name: gradient.detach() for name, gradient in gradients.items()}
            parameters = {name: value - self.inner_lr * gradients[name] for name, value in parameters.items()}
        return parameters

    def classify(self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int) -> Tensor:
        self._check_ways(n_way)
        parameters = {name: value.detach() for name, value in self.network.named_parameters()}
        clock = Clock(step=0, max_steps=1, seed=0, device=query_images.device)

        def task(support_images: Tensor, support_labels: Tensor, query_images: Tensor) -> Tensor:
            adapted = self.adapt(parameters, support_images, support_labels, self.eval_inner_steps, clock)
            if self.statistics != "support":
                return functional_call(self.network, adapted, (query_images,))
            functional_call(self.network, adapted, (support_images,))  # records the support's statistics
            with normalised_by(self.network, "recorded"):
                return functional_call(self.network, adapted, (query_images,))

        with normalised_by(self.network, "running" if self.statistics == "running" else "batch"):
            scores = vmap(task, randomness="different")(support_images, support_labels, query_images)
        forget_records(self.network)
        return scores

    def _check_ways(self, n_way: int) -> None:
        outputs = getattr(self.network.head, "out_features", n_way)
        if outputs != n_way:
            raise ValueError(
                f"the head has {outputs} outputs, so MAML classifies {outputs} ways, got {n_way}; "
                f"evaluate {outputs} ways (eval.few_shot.settings) or set batching.n_way={n_way}"
            )
