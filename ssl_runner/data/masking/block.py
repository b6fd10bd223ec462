"""Patches hidden in blocks."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_runner.data.augmentation.checks import check_probability
from ssl_runner.data.masking.masking import Masking, Masks, check_masks, count_of, of_hidden
from ssl_runner.errors import InvalidValue
from ssl_runner.models.patches import Grid

BLOCKS = 10  # that are tried for an image; what then is missing is chosen patch by patch
DRAWS = 4  # of a block: area, aspect, top, left


class BlockMasking(Masking):
    """Hides rectangles of random size, shape and place, until a share of the patches is hidden (BEiT, Bao et al. 2021,
    arXiv:2106.08254, algorithm 1; iBOT, arXiv:2111.07832, app. E; DINOv2).

    A block's area is uniform between ``smallest`` patches and what is still to be hidden. A block that would hide more
    than that is left out. Deviation: after `BLOCKS` blocks, single patches fill up what is missing, so that exactly the
    share that was drawn is hidden; in the authors' code it may be less.

    Args:
        share: Least and greatest hidden share of the patches, within (0, 1); each mask draws its own, uniformly.
        probability: Share of the masks that hide anything (iBOT, DINOv2: 0.5).
        aspect: Smallest ratio of a block's height and width, in (0, 1]; the largest is its inverse.
        smallest: Smallest area of a block, in patches (BEiT: 16 of 196; iBOT, DINOv2: 4).
        inverse: Whether blocks are what stays visible (data2vec 2.0, arXiv:2212.07525, sec. 3.2).
        masks: Masks of each view, drawn independently.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        share: Sequence[float],
        probability: float,
        aspect: float,
        smallest: int,
        inverse: bool,
        masks: int,
    ) -> None:
        if len(share) != 2 or not 0 < share[0] <= share[1] < 1:
            raise InvalidValue(f"share={list(share)}; give the least and greatest hidden share, two numbers in (0, 1)")
        if not 0 < aspect <= 1:
            raise InvalidValue(f"aspect={aspect}; it is the smallest ratio of the sides, so give a number in (0, 1]")
        if smallest < 1:
            raise InvalidValue(f"smallest={smallest}; it is an area in patches, so give at least 1")
        self.share, self.masks = (share[0], share[1]), check_masks(masks)
        self.probability = check_probability("BlockMasking.probability", probability)
        self.aspect, self.smallest, self.inverse = aspect, smallest, inverse

    def columns(self, grid: Grid) -> int:
        return 2 + BLOCKS * DRAWS + grid.patches

    def check(self, grid: Grid) -> None:
        if grid.patches < 2:
            raise InvalidValue(
                f"masking needs several patches, got {grid.height} x {grid.width}; give a smaller patch_size"
            )
        low, high = (count_of(share, grid.patches) for share in self.share)
        most = grid.patches - low if self.inverse else high
        if self.smallest > most:
            what = "left visible" if self.inverse else "hidden"
            raise InvalidValue(
                f"masking.smallest={self.smallest}, but at most {most} of {grid.patches} patches are {what}, so no "
                f"block fits; give at most {most}"
            )

    def constant(self, grid: Grid) -> bool:
        low, high = (count_of(share, grid.patches) for share in self.share)
        return low == high and self.probability == 1

    def draw(self, draws: Tensor, shared: Tensor, grid: Grid) -> Masks:
        low, high = (count_of(share, grid.patches) for share in self.share)
        wanted = low + (draws[..., 0] * (high - low + 1)).long()
        wanted = torch.where(draws[..., 1] < self.probability, wanted, 0)
        if self.inverse:
            wanted = grid.patches - wanted
        blocks = draws[..., 2 : 2 + BLOCKS * DRAWS].unflatten(-1, (BLOCKS, DRAWS))
        chosen = torch.zeros(*draws.shape[:-1], *grid, dtype=torch.bool, device=draws.device)
        for block in blocks.unbind(-2):
            chosen = self._with_block(chosen, block, wanted, grid)
        # patches of blocks first, then single ones in a random order
        order = chosen.flatten(-2).float() + draws[..., -grid.patches :]
        chosen = order.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1) < wanted[..., None]
        hidden = ~chosen if self.inverse else chosen
        return of_hidden(hidden, high, grid.patches - high if self.constant(grid) else None)

    def _with_block(self, chosen: Tensor, block: Tensor, wanted: Tensor, grid: Grid) -> Tensor:
        """The chosen patches (..., H, W) and those of a block from draws (..., 4), unless that would be too many."""
        missing = wanted - chosen.sum(dim=(-2, -1))
        area = self.smallest + block[..., 0] * (missing - self.smallest).clamp_min(0)
        aspect = ((2 * block[..., 1] - 1) * -math.log(self.aspect)).exp()
        height = (area * aspect).sqrt().round().clamp(1, grid.height)
        width = (area / aspect).sqrt().round().clamp(1, grid.width)
        top = (block[..., 2] * (grid.height - height + 1)).floor()
        left = (block[..., 3] * (grid.width - width + 1)).floor()
        larger = chosen | rectangles(top, left, height, width, grid)
        fits = larger.sum(dim=(-2, -1)) <= wanted
        return torch.where(fits[..., None, None], larger, chosen)


def rectangles(top: Tensor, left: Tensor, height: Tensor, width: Tensor, grid: Grid) -> Tensor:
    """The patches of boxes, bool (..., H, W); sides and places are (...), in patches."""
    rows = torch.arange(grid.height, device=top.device)
    columns = torch.arange(grid.width, device=top.device)
    inside = (rows >= top[..., None]) & (rows < (top + height)[..., None])
    across = (columns >= left[..., None]) & (columns < (left + width)[..., None])
    return inside[..., :, None] & across[..., None, :]
