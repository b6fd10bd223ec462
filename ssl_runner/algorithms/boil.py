"""Body Only update in Inner Loop: only the encoder adapts."""

from ssl_runner.algorithms.anil import HEAD
from ssl_runner.algorithms.maml import MAML


class BOIL(MAML):
    """BOIL (Oh et al. 2021, arXiv:2008.08882, sec. 3): MAML whose inner loop updates the encoder and keeps the head.

    The outer loop trains the head together with everything else. The arguments are those of `MAML`.
    """

    def adapts(self, name: str) -> bool:
        return not name.startswith(HEAD)
