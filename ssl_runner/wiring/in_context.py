"""A few-shot classifier that another run has learned on the same frozen encoder."""

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.config.signatures import PathText
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.classifiers.classifier import TaskClassifier
from ssl_runner.evaluation.classifiers.encoded import Encoded
from ssl_runner.evaluation.contender import Contender
from ssl_runner.models.network import Encoder
from ssl_runner.wiring.loading import load_algorithm

HOW = "give the folder of a run of algorithm=caml that was trained on this frozen encoder"


class InContext(TaskClassifier):
    """In-context classification from frozen features (CAML, Fifty et al. 2024, arXiv:2310.10971).

    The classifier is that of a finished run, whose algorithm compares features in a way that it has learned, such as
    ``algorithm=caml``. It is of use only with the very encoder that it was learned on. A run of such an algorithm
    classifies with it anyway; this is for its encoder, in ``ssl-eval``, beside other classifiers.

    Args:
        run: The folder of that run, or null, as long as this classifier is not chosen.
    """

    def __init__(self, run: PathText | None) -> None:
        self.run = run

    def contender(self, name: str, encoded: Encoded) -> Contender:
        """It with the features as the learned comparison takes them.

        Raises:
            ValueError: There is no run, it has no comparison of its own, or it was trained on another encoder.
        """
        given = f"{name}.run={self.run or 'null'}"
        if self.run is None:
            raise InvalidValue(f"{given}, but it needs a trained run; {HOW}")
        try:
            algorithm = load_algorithm(self.run).to(encoded.device)
        except FileNotFoundError as error:
            raise InvalidValue(f"{given}: {error}") from None
        kind = type(algorithm)
        if kind.compare is Algorithm.compare or kind.classify is not Algorithm.classify:
            raise InvalidValue(f"{given}: {kind.__name__} has not learned to compare features; {HOW}")
        if not _same(algorithm.eval_encoder(), encoded.encoder):
            raise InvalidValue(f"{given} was trained on another encoder than the one evaluated; {HOW}")
        return Contender.of_rule(name, algorithm.embed(encoded.features), algorithm.compare)

    def scores(self, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Raises TypeError: it needs the run's algorithm, see `contender`."""
        raise TypeError("without its run, it cannot classify; use contender()")

    def recipe(self) -> str:
        """In a sentence."""
        return f"the classifier that {self.run} has learned on frozen features"


def _same(one: Encoder, other: Encoder) -> bool:
    """Whether two encoders have the same weights."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(value.cpu(), second[name].cpu()) for name, value in first.items()
    )
