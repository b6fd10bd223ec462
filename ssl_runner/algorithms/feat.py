"""Prototypes that adapt to one another."""

import torch
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import class_means
from ssl_runner.algorithms.forward_learner import ForwardLearner
from ssl_runner.algorithms.protonet import nearness, refuse_temperature
from ssl_runner.data.batches import Episodes
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.models.attention import Attention, refuse_heads
from ssl_runner.models.network import Network, out_features
from ssl_runner.runtime.step_context import StepContext


class FEAT(ForwardLearner):
    """FEAT (Ye et al. 2020, arXiv:1812.03664, sec. 3): a transformer maps the set of a task's prototypes to
    adapted ones, which queries are compared with by squared distances, as in ProtoNet.

    In training, a second loss keeps classes together: all images of a class, support and queries, are adapted as one
    set, and each image has to be nearest to the mean of its own set, by its embedding before adaptation.
    A prediction depends neither on the order of the support nor on the other queries, and if classes change numbers,
    their scores do. Evaluation uses the running statistics of batch normalisation (inductive).

    Deviations: the encoder is trained from the start (the paper's is pre-trained with a classifier), and dropout is
    only on the output of attention, not on its weights.

    Args:
        network: Encoder and head; prototypes are means of the head's outputs.
        loss: Loss of the scores, also of the second ones.
        heads: Attention heads, which share the width of the embeddings evenly (1 in the paper).
        dropout: Share of the output of attention that is dropped in training, in [0, 1). It is drawn by step and
            process, so that it depends on the number of processes.
        temperature: Divides squared distances, above 0.
        contrast: Weight of the second loss, at least 0 (lambda).
        contrast_temperature: Divides the squared distances of the second loss, above 0.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        heads: int,
        dropout: float,
        temperature: float,
        contrast: float,
        contrast_temperature: float,
    ) -> None:
        super().__init__(network, loss)
        refuse_temperature("temperature", temperature)
        refuse_temperature("contrast_temperature", contrast_temperature)
        if not 0 <= dropout < 1 or not contrast >= 0:
            raise InvalidValue(f"dropout={dropout}, contrast={contrast}; give a share in [0, 1), and at least 0")
        self.set_function = SetFunction(out_features(network), heads, dropout)
        self.temperature, self.contrast, self.contrast_temperature = temperature, contrast, contrast_temperature

    def compare(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        prototypes = self.set_function(class_means(support, support_labels, n_way))
        return nearness(query, prototypes) / self.temperature

    def further_losses(
        self, support: Tensor, query: Tensor, batch: Episodes, context: StepContext
    ) -> dict[str, Tensor]:
        if not self.contrast:
            return {}
        images = torch.cat([support, query], dim=1)
        labels = torch.cat([batch.support_labels, batch.query_labels], dim=1)
        scores = nearness(images, self.centers(images, labels, batch.n_way)) / self.contrast_temperature
        return {"contrast": self.contrast * self.scored(scores, labels, context)[0]}

    def centers(self, images: Tensor, labels: Tensor, n_way: int) -> Tensor:
        """Mean (T, n_way, E) of each class's images, after they were adapted to one another.

        Args:
            images: Embeddings (T, M, E), equally many of each class.
            labels: (T, M) in [0, n_way).
            n_way: Number of classes.
        """
        by_class = labels.argsort(dim=1, stable=True)[..., None].expand_as(images)
        sets = images.gather(1, by_class).unflatten(1, (n_way, -1))  # (T, N, M / N, E)
        return self.set_function(sets.flatten(0, 1)).mean(dim=1).unflatten(0, sets.shape[:2])


class SetFunction(nn.Module):
    """A layer of self-attention without positions: residual, then normalised. Each element's result depends on the set
    of all, not on their order.

    Args:
        width: Width of the elements, a multiple of ``heads``.
        heads: Number of attention heads.
        dropout: Share of the output of attention that is dropped in training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        refuse_heads(width, heads)
        self.attention = Attention(width, width, width, heads)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, elements: Tensor) -> Tensor:
        """Adapted elements (S, N, width) of S sets of N elements each."""
        return self.norm(elements + self.dropout(self.attention(elements, elements, elements)))
