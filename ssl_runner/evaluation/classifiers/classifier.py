"""The interface of a few-shot classifier."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ssl_runner.evaluation.classifiers.encoded import Encoded
from ssl_runner.evaluation.contender import Contender


class TaskClassifier(ABC):
    """Classifies the queries of tasks with any encoder, without meta-learning. It changes no weight of the encoder.

    Attributes:
        transductive: Whether a prediction may depend on the other queries of its task. The keys of its figures say so.
    """

    transductive: ClassVar[bool] = False

    def contender(self, name: str, encoded: Encoded) -> Contender:
        """It with the values that it needs of each image: by default `embed`, with `scores` as the rule.

        Args:
            name: Its dotted key, for messages.
            encoded: The images and their features.
        """
        return Contender.of_rule(name, self.embed(encoded), self.scores)

    def embed(self, encoded: Encoded) -> Tensor:
        """What `scores` gets of each image, (N, D): by default the L2-normalised features."""
        return F.normalize(encoded.features, dim=1)

    @abstractmethod
    def scores(self, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Scores (T, Q, n_way), higher for more likely classes.

        Args:
            support: (T, S, D).
            labels: int64 (T, S) in [0, n_way), each class at least once.
            query: (T, Q, D).
            n_way: Classes in each task.
        """

    @abstractmethod
    def recipe(self) -> str:
        """A description for the protocol, with every value that changes a result."""

    def shortened(self) -> "TaskClassifier":
        """The same with fewer steps, for a check that it can classify: by default itself."""
        return self
