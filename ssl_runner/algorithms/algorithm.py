"""The interface of an algorithm: how branches, losses and adaptation relate. The trainer knows nothing else."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.data.batches import Episodes, Views
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings
from ssl_runner.models.network import Encoder, Network
from ssl_runner.runtime.step_context import StepContext

Classifier = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # the signature of `Algorithm.classify`


@dataclass(frozen=True)
class Step:
    """The result of a training step.

    Attributes:
        loss: Scalar to differentiate.
        metrics: Scalars to log, without gradient. If it contains ``loss``, the logs show that in place of a surrogate.
        carry: Tensors that `after_step` needs, with one row for each image or task. With several processes, the trainer
            gathers them in global order.
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    carry: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Map:
    """A picture of what happens inside a task, for a person to look at.

    Attributes:
        values: (rows, columns), at least 0.
        rows: What a row stands for, in words.
        columns: What a column stands for, in words.
    """

    values: Tensor
    rows: str
    columns: str


@dataclass(frozen=True)
class TaskFeatures:
    """What a classifier compares in tasks, at one stage of its adaptation.

    Attributes:
        stage: In words, such as ``after 3 inner steps``; empty for an algorithm whose features do not adapt.
        support: Features of the support (T, S, ...).
        query: Features of the queries (T, Q, ...).
    """

    stage: str
    support: Tensor
    query: Tensor


class Algorithm(nn.Module):
    """Base class of all methods.

    Attributes:
        batch_type: Type of the batches that `training_step` takes.
        provides: Fields of `Embeddings` that the algorithm fills, besides ``online``. ``labels`` come from the data.
        gives_logits: Whether the loss sees class scores instead of embeddings.
        head_classifies: Whether those scores are the head's outputs, so that the head needs one output per class.
        supports_accumulation: Whether a batch may be split for gradient accumulation.
        pieces: Number of pieces of a batch that are encoded, and normalised, separately.
        surrogate: Whether the gradient of the loss is itself the update (Reptile). This requires plain SGD without
            clipping.
        adapts_encoder: Whether training changes copies of the encoder within a task, so that it cannot be frozen.
        begins_from_weights: Whether the method is meant to begin from weights that were trained before.
        choice_tasks: Number of validation tasks on which one of `candidate_rates` is chosen.
        frozen: Whether the encoder stays as it is, see `freeze`.
    """

    batch_type: ClassVar[type[Views] | type[Episodes]]
    provides: ClassVar[frozenset[str]] = frozenset()
    gives_logits: ClassVar[bool] = False
    head_classifies: ClassVar[bool] = False
    supports_accumulation: ClassVar[bool] = True
    surrogate: ClassVar[bool] = False
    adapts_encoder: ClassVar[bool] = False
    begins_from_weights: ClassVar[bool] = False
    pieces: int = 1
    choice_tasks: int = 0
    frozen: bool = False

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def provided(cls, arguments: Mapping[str, Any]) -> frozenset[str]:
        """The fields it provides when it is created with these arguments from its config."""
        return cls.provides | ({"memory_bank"} if arguments.get("queue_size") else frozenset())

    @abstractmethod
    def training_step(self, batch: Any, context: StepContext) -> Step:
        """The loss and metrics of one batch of type `batch_type`."""

    def after_step(self, context: StepContext, carry: dict[str, Tensor]) -> None:
        """Updates moving averages, queues and centers. Called once after the optimizer's step, without gradient."""

    def less_memory(self, accumulate: int) -> str:
        """What to change if a step does not fit into memory, worded for an error message.

        Args:
            accumulate: The current ``accumulate_grad_batches`` of the `Trainer`.
        """
        if self.supports_accumulation:
            return f"split it with trainer.accumulate_grad_batches={2 * accumulate}"
        return f"encode it in pieces with algorithm.encode_chunks={2 * self.pieces}, or lower batching.batch_size"

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups. Biases and normalisation parameters (ndim <= 1) get no weight decay."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def freeze(self) -> None:
        """Keep the encoder, and a teacher's, as it is: without gradient, and in evaluation mode whatever the mode of
        the algorithm, so that batch normalisation uses its running statistics and changes none of them.

        Raises:
            ValueError: Nothing would be left to train, or the method has to change the encoder.
        """
        name = type(self).__name__
        if self.adapts_encoder:
            raise InvalidValue(
                f"init.freeze=true, but {name} adapts the encoder within each task, and normalises by the task; leave "
                "it out, or choose algorithm=r2d2 or another that adapts nothing"
            )
        self.frozen = True
        for encoder in self._encoders():
            encoder.requires_grad_(False).eval()
        if not self.parameter_groups():
            raise InvalidValue(
                f"init.freeze=true, but {name} has nothing else to train; choose a model/head with weights (projector, "
                "linear), or evaluate without training: ssl-eval RUN"
            )

    def train(self, mode: bool = True) -> "Algorithm":
        """Training mode, or evaluation mode; a frozen encoder stays in the latter."""
        super().train(mode)
        if self.frozen:
            for encoder in self._encoders():
                encoder.eval()
        return self

    def _encoders(self) -> list[Encoder]:
        return [part for part in self.modules() if isinstance(part, Encoder)]

    def synchronised(self) -> list[nn.Module]:
        """Modules whose batch normalisation uses the batch of all processes: all but networks that encode pieces."""
        return [self] if self.pieces == 1 else [part for part in self.children() if not isinstance(part, Network)]

    def eval_encoder(self) -> Encoder:
        """The encoder that is evaluated and exported. It maps images to features."""
        return self.network.encoder

    def embedding(self, images: Tensor) -> Tensor:
        """The embeddings (B, E) that the loss compares, from images (B, C, H, W).

        Diagnostics and the collapse warning use them. By default they are the network's outputs, or the features if
        those outputs are class scores.
        """
        return self.eval_encoder()(images) if self.head_classifies else self.network(images)

    def branches(self) -> dict[str, nn.Module]:
        """Networks that map images to embeddings, by name: the student and its teacher, if there is one.

        Diagnostics watch each of them for collapse; without any, only `embedding`.
        """
        return {}

    def compared(self, images: Tensor, embedded: Tensor) -> Embeddings:
        """What the loss sees, without labels, of views (V, B, C, H, W) whose `embedding` is ``embedded`` (V, B, E).

        By default only ``embedded``; an algorithm with a second branch overrides this. Diagnostics call it in
        evaluation mode.
        """
        return Embeddings(embedded)

    def protocol(self) -> dict[str, Any]:
        """What affects its scores besides the evaluator's settings, as plain JSON data."""
        return {}

    def embed(self, features: Tensor) -> Tensor:
        """Maps the encoder's features (B, D) to the (B, E) that `compare` takes. By default it L2-normalises them."""
        return F.normalize(features, dim=-1)

    def compare(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Scores (T, Q, n_way) from the `embed` outputs of the support (T, S, E) and the query (T, Q, E).

        By default the nearest class mean (SimpleShot, Wang et al. 2019, arXiv:1911.04623): minus the squared distance.
        """
        return -torch.cdist(query, class_means(support, support_labels, n_way)).square()

    def classify(self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int) -> Tensor:
        """Scores (T, Q, n_way) of the queries, given the support of each of T tasks.

        An algorithm that encodes each image on its own overrides `embed` and `compare`, so that evaluation encodes each
        image only once. An algorithm that adapts to a task, or attends within it, overrides this method.

        Args:
            support_images: (T, S, C, H, W), uint8 or float in [0, 1].
            support_labels: int64 (T, S) in [0, n_way).
            query_images: (T, Q, C, H, W).
            n_way: Classes in each task.
        """
        support, query = self.embed_task(support_images, query_images)
        return self.compare(support, support_labels, query, n_way)

    def embed_task(self, support_images: Tensor, query_images: Tensor) -> tuple[Tensor, Tensor]:
        """The `embed` outputs (T, S, E) and (T, Q, E) that `classify` compares, if it compares any.

        The arguments are those of `classify`.
        """
        encoder = self.eval_encoder()
        support, query = (
            encode_tasks(lambda flat: self.embed(encoder(flat)), images) for images in (support_images, query_images)
        )
        return support, query

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Names of other ways to `classify`, which few-shot evaluation reports as well. By default there are none.

        An algorithm whose scores depend on how queries are normalised returns ``inductive`` (a prediction does not
        depend on the other queries) and ``transductive``, and explains each of them in `protocol`.
        """
        return ()

    def classify_by_all(
        self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int
    ) -> dict[str, Tensor]:
        """The result of `classify` under the name "", and the scores of each of `classifiers`, from one adaptation."""
        return {"": self.classify(support_images, support_labels, query_images, n_way)}

    @property
    def candidate_rates(self) -> tuple[float, ...]:
        """Learning rates of `classify` of which few-shot evaluation chooses one on validation tasks, for each setting.

        By default there are none. Of equal rates, the first is taken, so list them from the safest on.
        """
        return ()

    def at_rate(self, rate: float) -> AbstractContextManager[None]:
        """Inside, `classify` uses this one of `candidate_rates`."""
        raise NotImplementedError

    def rehearsing(self) -> AbstractContextManager[None]:
        """Inside, `classify` may take fewer steps, since it is called to find mistakes and not for its scores."""
        return nullcontext()

    def maps(self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int) -> dict[str, Map]:
        """Maps of the first task by name, such as attention or memory. By default there are none.

        The arguments are those of `classify`; support and queries are sorted by class.
        """
        return {}

    def trajectory(
        self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int
    ) -> Tensor | None:
        """Scores (steps + 1, T, Q, n_way), from before adaptation to after its last step; the last are `classify`'s.

        None, the default, if the algorithm does not adapt in steps. The arguments are those of `classify`.
        """
        return None

    def task_features(
        self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int
    ) -> list[TaskFeatures]:
        """The features that `classify` works with, for a person to look at: by default one stage, of `embed_task`.

        An algorithm whose features adapt to the task returns those before and after. The arguments are those of
        `classify`.
        """
        return [TaskFeatures("", *self.embed_task(support_images, query_images))]


def encode_tasks(module: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Features (T, M, D) of images (T, M, C, H, W), with all tasks in one forward pass."""
    return module(images.flatten(0, 1)).unflatten(0, images.shape[:2])


def by_domain(batch: Episodes, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Training accuracy of each domain, from scores (T, Q, n_way) and labels (T, Q). Empty if there are no domains."""
    if not batch.domains:
        return {}
    return batch.by_domain((scores.detach().argmax(dim=2) == labels).float().mean(dim=1))


def class_means(features: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Mean feature of each class (T, n_way, D), from features (T, S, D) and labels (T, S)."""
    members = F.one_hot(labels, n_way).to(features.dtype)  # (T, S, n_way)
    return members.transpose(1, 2) @ features / members.sum(dim=1)[..., None]
