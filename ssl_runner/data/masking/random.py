"""Patches hidden at random."""

from torch import Tensor

from ssl_runner.data.masking.masking import Masking, Masks, check_masks, check_share, count_of, of_hidden
from ssl_runner.errors import InvalidValue
from ssl_runner.models.patches import Grid


class RandomMasking(Masking):
    """Hides a fixed share of an image's squares, every choice of so many as likely (MAE, He et al. 2021,
    arXiv:2111.06377, sec. 3).

    Args:
        share: Of the squares, in (0, 1); rounded to whole squares, of which at least one stays.
        unit: Height and width of a square, in patches: SimMIM (arXiv:2111.09886, sec. 3.2) hides squares of 32 pixels.
        masks: Masks of each view, drawn independently (data2vec 2.0, arXiv:2212.07525, sec. 3.2: several).

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, share: float, unit: int, masks: int) -> None:
        self.share, self.masks = check_share("share", share), check_masks(masks)
        if unit < 1:
            raise InvalidValue(f"unit={unit}; it is the side of a square in patches, so give at least 1")
        self.unit = unit

    def columns(self, grid: Grid) -> int:
        return self._squares(grid).patches

    def check(self, grid: Grid) -> None:
        if grid.height % self.unit or grid.width % self.unit or self._squares(grid).patches < 2:
            raise InvalidValue(
                f"masking.unit={self.unit} does not cut {grid.height} x {grid.width} patches into several equal "
                "squares; give a divisor, or 1"
            )

    def draw(self, draws: Tensor, shared: Tensor, grid: Grid) -> Masks:
        squares = self._squares(grid)
        count = count_of(self.share, squares.patches)
        ranks = draws.argsort(dim=-1, stable=True).argsort(dim=-1)
        hidden = (ranks < count).unflatten(-1, squares)
        hidden = hidden.repeat_interleave(self.unit, -1).repeat_interleave(self.unit, -2).flatten(-2)
        patches = count * self.unit**2
        return of_hidden(hidden, patches, grid.patches - patches)

    def _squares(self, grid: Grid) -> Grid:
        return Grid(grid.height // self.unit, grid.width // self.unit)
