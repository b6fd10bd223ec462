"""What learners that adapt to a task by gradient descent answer: classes, and what the network sees on the way."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ssl_runner.algorithms.algorithm import Algorithm, TaskFeatures
from ssl_runner.data.batches import Episodes
from ssl_runner.errors import InvalidValue
from ssl_runner.models.batch_norm import BatchNorm2d, forget_records, normalised_by
from ssl_runner.models.network import Network
from ssl_runner.runtime.step_context import StepContext

Parameters = dict[str, Tensor]
Statistics = Literal["batch", "support", "running"]
Read = Callable[[Parameters, Tensor, int], Tensor]  # the signature of `InnerClassifier.scores`
Records = list[tuple[Tensor, Tensor]]  # mean and variance of each batch normalisation, in the network's order

STATISTICS = ("batch", "support", "running")
ENCODER = "encoder."  # of the names of its parameters in the network


class InnerClassifier(Algorithm):
    """Base class of algorithms that classify a task's queries with weights adapted to its support set, step by step.

    A subclass defines which parameters adapt (`adapts`) and how they descend (`descend`). All tasks are adapted at once
    under `torch.func.vmap`.

    Args:
        network: Network whose head has one output for each class of a task.
        eval_inner_steps: Inner steps in `classify`, at least 1.
        statistics: Statistics that normalise the queries in `classify`: ``batch`` (all queries of a task together, as
            in the paper; transductive), ``support`` (those of the support set; inductive) or ``running`` (averages over
            training; inductive). In `classifiers`, ``transductive`` means ``batch``, and ``inductive`` means
            ``support``, or ``running`` if that is configured.
    """

    batch_type = Episodes
    gives_logits = True
    head_classifies = True
    adapts_encoder = True

    def __init__(self, network: Network, eval_inner_steps: int, statistics: Statistics) -> None:
        super().__init__(network)
        if statistics not in STATISTICS:
            raise InvalidValue(f"statistics={statistics!r} is not one of {', '.join(STATISTICS)}")
        refuse_normalisation(network)
        self.eval_inner_steps = eval_inner_steps
        self.statistics: Statistics = statistics

    def adapts(self, name: str) -> bool:
        """Whether the inner loop updates this parameter of the network."""
        return True

    @abstractmethod
    def descend(
        self, start: Parameters, support: Tensor, labels: Tensor, steps: int, context: StepContext
    ) -> Iterator[tuple[Parameters, Records]]:
        """Yields the adapted parameters after 0, 1, ..., ``steps`` inner steps on one task, from ``start`` on.

        With them come the statistics of the support set that batch normalisation recorded in the last step.
        """

    def begin(self, images: Tensor) -> Tensor:
        """The part of the forward pass that the inner loop does not change: (M, ...) from images (M, C, H, W)."""
        return images

    def scores(self, weights: Parameters, begun: Tensor, step: int) -> Tensor:
        """Logits (M, n_way) from the adapted parameters after ``step`` inner steps and the result of `begin`."""
        return functional_call(self.network, weights, (begun,))

    def features(self, weights: Parameters, begun: Tensor, step: int) -> Tensor:
        """What the head sees (M, D); the arguments are those of `scores`."""
        of_encoder = {name.removeprefix(ENCODER): value for name, value in weights.items() if name.startswith(ENCODER)}
        return functional_call(self.network.encoder, of_encoder, (begun,))

    def initial(self) -> Parameters:
        """The parameters that adapt, as they are at the start of each task."""
        return {name: value for name, value in self.network.named_parameters() if self.adapts(name)}

    def start(self, support: Tensor, labels: Tensor, n_way: int) -> Parameters:
        """What adapts, as it is before the first inner step on a task. By default it is the same for all tasks."""
        return self.initial()

    def protocol(self) -> dict[str, Any]:
        return {
            "statistics": self.statistics,
            "transductive": self.statistics == "batch",
            "inner_steps": self.eval_inner_steps,
            "classifiers": self._named_statistics,
        }

    def classify(self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int) -> Tensor:
        """See `Algorithm.classify`.

        If a task has fewer classes than the head has outputs, its labels are the first n_way outputs. The inner loop
        uses all outputs, as in training, and the scores of the others are dropped.
        """
        own: list[Statistics] = [self.statistics]
        last = [self.eval_inner_steps]
        return self._scores_after(last, own, support_images, support_labels, query_images, n_way)[self.statistics][0]

    @property
    def classifiers(self) -> tuple[str, ...]:
        return tuple(self._named_statistics)

    def classify_by_all(
        self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int
    ) -> dict[str, Tensor]:
        named: dict[str, Statistics] = {"": self.statistics, **self._named_statistics}
        different, last = list(dict.fromkeys(named.values())), [self.eval_inner_steps]
        scores = self._scores_after(last, different, support_images, support_labels, query_images, n_way)
        return {name: scores[statistics][0] for name, statistics in named.items()}

    def trajectory(self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int) -> Tensor:
        """Scores (steps + 1, T, Q, n_way) of the queries, from before adaptation to after the last inner step."""
        steps = range(self.eval_inner_steps + 1)
        own: list[Statistics] = [self.statistics]
        return self._scores_after(steps, own, support_images, support_labels, query_images, n_way)[self.statistics]

    def task_features(
        self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int
    ) -> list[TaskFeatures]:
        """What the head sees before the first and after the last inner step; one stage if the encoder does not adapt.

        Queries are normalised as in `classify`, and so is the support, as queries of its own.
        """
        own: list[Statistics] = [self.statistics]
        steps = [0, self.eval_inner_steps]
        plural = "s" if self.eval_inner_steps > 1 else ""
        stages = ["before adaptation", f"after {self.eval_inner_steps} inner step{plural}"]
        if not any(name.startswith(ENCODER) for name in self.initial()):
            steps, stages = steps[1:], [""]
        support, query = (
            self._after(self.features, steps, own, support_images, support_labels, images, n_way)[self.statistics]
            for images in (support_images, query_images)
        )
        return [TaskFeatures(*stage) for stage in zip(stages, support, query, strict=True)]

    @property
    def _named_statistics(self) -> dict[str, Statistics]:
        """The statistics that each of `classifiers` uses; the configured ones appear under the name they fit."""
        return {"inductive": "support" if self.statistics == "batch" else self.statistics, "transductive": "batch"}

    def _scores_after(
        self,
        steps: Sequence[int],
        statistics: Sequence[Statistics],
        support_images: Tensor,
        support_labels: Tensor,
        query_images: Tensor,
        n_way: int,
    ) -> dict[Statistics, Tensor]:
        """Scores (len(steps), T, Q, n_way) of the queries, for each of the given statistics."""
        self._check_ways(n_way)
        found = self._after(self.scores, steps, statistics, support_images, support_labels, query_images, n_way)
        return {one: scores[..., :n_way] for one, scores in found.items()}

    def _after(
        self,
        read: Read,
        steps: Sequence[int],
        statistics: Sequence[Statistics],
        support_images: Tensor,
        support_labels: Tensor,
        query_images: Tensor,
        n_way: int,
    ) -> dict[Statistics, Tensor]:
        """What is read (len(steps), T, Q, ...) of the queries after inner steps, for each of the given statistics.

        ``batch`` and ``support`` share one descent; ``running`` needs its own.
        """
        context = StepContext(step=0, max_steps=1, seed=0, device=query_images.device)
        found: dict[Statistics, Tensor] = {}
        descents: dict[Literal["batch", "running"], list[Statistics]] = {
            "batch": [one for one in statistics if one != "running"],
            "running": [one for one in statistics if one == "running"],
        }
        for descending, these in descents.items():
            if not these:
                continue

            def task(
                support_images: Tensor, support_labels: Tensor, query_images: Tensor, these: list[Statistics] = these
            ) -> dict[Statistics, Tensor]:
                support, values = self.begin(support_images), {one: [] for one in these}
                start = self.start(support, support_labels, n_way)
                descent = self.descend(start, support, support_labels, max(steps), context)
                for step, (weights, _) in enumerate(descent):
                    for one in these if step in steps else []:
                        values[one].append(self._of_queries(read, weights, support_images, query_images, step, one))
                return {one: torch.stack(values[one]) for one in these}

            with normalised_by(self.network, descending):
                found |= vmap(task, out_dims=1, randomness="different")(support_images, support_labels, query_images)
            forget_records(self.network)
        return {one: values.detach() for one, values in found.items()}

    def _of_queries(
        self,
        read: Read,
        weights: Parameters,
        support_images: Tensor,
        query_images: Tensor,
        step: int,
        statistics: Statistics,
    ) -> Tensor:
        if statistics != "support":
            return read(weights, self.begin(query_images), step)
        read(weights, self.begin(support_images), step)  # records the support's statistics
        with normalised_by(self.network, "recorded"):
            return read(weights, self.begin(query_images), step)

    def _check_ways(self, n_way: int) -> None:
        outputs = getattr(self.network.head, "out_features", n_way) if self.head_classifies else n_way
        if outputs < n_way:
            raise InvalidValue(
                f"the head has {outputs} outputs, so {type(self).__name__} classifies at most {outputs} ways, got "
                f"{n_way}; evaluate {outputs} ways (eval.few_shot.settings) or set batching.n_way={n_way}"
            )


def refuse_normalisation(network: Network) -> None:
    """Raises ValueError for layers whose second-order gradients are silently wrong under `torch.func.vmap`.

    In float64, after one inner step, the meta-gradient is off by 1% with torch's batch normalisation, 0.3% with
    instance and 2% with layer normalisation (torch 2.15). Group normalisation is exact, and so is the project's
    `BatchNorm2d`.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, _BatchNorm | _InstanceNorm | nn.LayerNorm) and not isinstance(layer, BatchNorm2d):
            raise InvalidValue(
                f"{name} is a {type(layer).__name__}, whose second-order gradients are wrong under torch.func.vmap; "
                "choose an encoder without it: model/encoder=conv4, resnet12, resnet18, resnet34 or resnet50"
            )
