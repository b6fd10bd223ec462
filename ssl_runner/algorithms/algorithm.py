"""What an algorithm is: how branches, losses and adaptation relate. The trainer knows no more than this."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.data.batches import Episodes, Views
from ssl_runner.losses.loss import Embeddings
from ssl_runner.models.network import Encoder, Network
from ssl_runner.runtime.step_context import StepContext

Classifier = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # as `Algorithm.classify`


@dataclass(frozen=True)
class Step:
    """What a training step gives back.

    Attributes:
        loss: Scalar to differentiate.
        metrics: Scalars to log, without gradient; ``loss`` in it replaces a surrogate in the logs.
        carry: Tensors that `after_step` needs, a row an image or task; with several processes, the trainer gathers
            them in global order.
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    carry: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Map:
    """What goes on inside a task, to be looked at.

    Attributes:
        values: (rows, columns), at least 0.
        rows: What a row is, in words.
        columns: What a column is.
    """

    values: Tensor
    rows: str
    columns: str


class Algorithm(nn.Module):
    """Base of all methods.

    Attributes:
        batch_type: What `training_step` takes.
        provides: The fields of `Embeddings` that it fills beyond ``online``; ``labels`` come from the data.
        gives_logits: Whether its loss sees scores of classes, not embeddings.
        head_classifies: Whether those are the outputs of the head, which then needs one a class.
        supports_accumulation: Whether a batch may be cut for gradient accumulation.
        pieces: Pieces of a batch that go through the network apart, and are normalised apart.
        surrogate: Whether the loss's gradient is an update in itself (Reptile): plain SGD, no clipping.
    """

    batch_type: ClassVar[type[Views] | type[Episodes]]
    provides: ClassVar[frozenset[str]] = frozenset()
    gives_logits: ClassVar[bool] = False
    head_classifies: ClassVar[bool] = False
    supports_accumulation: ClassVar[bool] = True
    surrogate: ClassVar[bool] = False
    pieces: int = 1

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def provided(cls, arguments: Mapping[str, Any]) -> frozenset[str]:
        """What it provides when made with these arguments of its config."""
        return cls.provides | ({"memory_bank"} if arguments.get("queue_size") else frozenset())

    @abstractmethod
    def training_step(self, batch: Any, context: StepContext) -> Step:
        """Loss and metrics of one batch of `batch_type`."""

    def after_step(self, context: StepContext, carry: dict[str, Tensor]) -> None:
        """Moving averages, queues, centers: called once after the optimizer's step, without gradient."""

    def less_memory(self, accumulate: int) -> str:
        """What to change where a step does not fit into memory, for a message.

        Args:
            accumulate_grad_batches: Pieces that a batch is cut into by now, `Trainer`'s.
        """
        if self.supports_accumulation:
            return f"cut it with trainer.accumulate_grad_batches={2 * accumulate}"
        return f"encode it in pieces with algorithm.encode_chunks={2 * self.pieces}, or lower batching.batch_size"

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups: biases and normalisation (ndim <= 1) take no weight decay."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def synchronised(self) -> list[nn.Module]:
        """Parts whose batch normalisation sees the batch of all processes: everything but networks that see pieces."""
        return [self] if self.pieces == 1 else [part for part in self.children() if not isinstance(part, Network)]

    def eval_encoder(self) -> Encoder:
        """The branch that is the product: images to features."""
        return self.network.encoder

    def embedding(self, images: Tensor) -> Tensor:
        """What the loss compares, (B, E) of images (B, C, H, W): diagnostics and the warning of a collapse judge it.

        By default the network's output, or the features where that is a score of classes.
        """
        return self.eval_encoder()(images) if self.head_classifies else self.network(images)

    def compared(self, images: Tensor, embedded: Tensor) -> Embeddings:
        """What the loss sees of views (V, B, C, H, W), of which `embedding` made ``embedded`` (V, B, E), but labels.

        By default just that; an algorithm with a second branch overrides it. Diagnostics ask, in evaluation mode.
        """
        return Embeddings(embedded)

    def protocol(self) -> dict[str, Any]:
        """What explains its scores beyond the evaluator's settings, as plain JSON data."""
        return {}

    def embed(self, features: Tensor) -> Tensor:
        """Where `compare` measures: (B, E) of the encoder's features (B, D); by default L2-normalised."""
        return F.normalize(features, dim=-1)

    def compare(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Scores (T, Q, n_way) from what `embed` made of support (T, S, E) and query (T, Q, E).

        By default the nearest class mean (SimpleShot, Wang et al. 2019, arXiv:1911.04623): minus the squared distance.
        """
        return -torch.cdist(query, class_means(support, support_labels, n_way)).square()

    def classify(self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int) -> Tensor:
        """Scores (T, Q, n_way) of the queries, given the support of each of T tasks.

        Whoever looks at one image at a time overrides `embed` and `compare`, and evaluation encodes each image once;
        whoever adapts to a task or attends within it overrides this.

        Args:
            support_images: (T, S, C, H, W), uint8 or float in [0, 1].
            support_labels: int64 (T, S) in [0, n_way).
            query_images: (T, Q, C, H, W).
            n_way: Classes in each task.
        """
        encoder = self.eval_encoder()
        support, query = (
            encode_tasks(lambda flat: self.embed(encoder(flat)), images) for images in (support_images, query_images)
        )
        return self.compare(support, support_labels, query, n_way)

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Names of further ways to `classify`, which few-shot evaluation reports beside it; by default none.

        Whose scores hang on how queries are normalised gives ``inductive`` (a prediction does not depend on the other
        queries) and ``transductive``, and says in `protocol` what each means.
        """
        return ()

    def classify_by_all(
        self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int
    ) -> dict[str, Tensor]:
        """What `classify` gives, under the name "", and the scores of each of `classifiers`, from one adaptation."""
        return {"": self.classify(support_images, support_labels, query_images, n_way)}

    def maps(self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int) -> dict[str, Map]:
        """What goes on inside the first task, by name: attention, memory; by default nothing. Arguments as `classify`.

        Support and queries come class after class.
        """
        return {}

    def trajectory(
        self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int
    ) -> Tensor | None:
        """Scores (steps + 1, T, Q, n_way) from before adaptation to after its last step, which are those of `classify`.

        None, the default, for whoever does not adapt in steps. Arguments are those of `classify`.
        """
        return None


def encode_tasks(module: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Features (T, M, D) of images (T, M, C, H, W), all tasks in one forward pass."""
    return module(images.flatten(0, 1)).unflatten(0, images.shape[:2])


def by_domain(batch: Episodes, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Training accuracy of each domain to log, of scores (T, Q, n_way) and labels (T, Q); nothing without domains."""
    if not batch.domains:
        return {}
    return batch.by_domain((scores.detach().argmax(dim=2) == labels).float().mean(dim=1))


def class_means(features: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Mean feature of each class, (T, n_way, D), of features (T, S, D) and labels (T, S)."""
    members = F.one_hot(labels, n_way).to(features.dtype)  # (T, S, n_way)
    return members.transpose(1, 2) @ features / members.sum(dim=1)[..., None]
