"""Body only update in the inner loop."""

from ssl_runner.algorithms.anil import HEAD
from ssl_runner.algorithms.maml import MAML


class BOIL(MAML):
    """BOIL (Oh et al. 2021, arXiv:2008.08882, sec. 3): MAML whose inner loop changes the encoder and keeps the head.

    The head is learned in the outer loop like everything else. Arguments are MAML's.
    """

    def adapts(self, name: str) -> bool:
        return not name.startswith(HEAD)
