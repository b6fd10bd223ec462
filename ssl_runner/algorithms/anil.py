"""Almost no inner loop: only the head adapts."""

from torch import Tensor
from torch.func import functional_call

from ssl_runner.algorithms.inner_classifier import Parameters
from ssl_runner.algorithms.maml import MAML

HEAD = "head."


class ANIL(MAML):
    """ANIL (Raghu et al. 2020, arXiv:1909.09157, sec. 4): MAML whose inner loop updates only the head.

    The encoder processes the support and the queries of a task once each, whatever the number of inner steps. The
    arguments are those of `MAML`.
    """

    def adapts(self, name: str) -> bool:
        return name.startswith(HEAD)

    def begin(self, images: Tensor) -> Tensor:
        """Features (M, D)."""
        return self.network.encoder(images)

    def scores(self, weights: Parameters, begun: Tensor, step: int) -> Tensor:
        of_head = {name.removeprefix(HEAD): value for name, value in weights.items()}
        return functional_call(self.network.head, of_head, (begun,))

    def features(self, weights: Parameters, begun: Tensor, step: int) -> Tensor:
        return begun
