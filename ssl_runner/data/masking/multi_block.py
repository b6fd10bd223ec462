"""Blocks to be predicted from a large context."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_runner.data.masking.block import rectangles
from ssl_runner.data.masking.masking import Masking, Masks, check_masks
from ssl_runner.errors import InvalidValue
from ssl_runner.models.patches import Grid

PLACES = 2  # draws of a block: top and left


class MultiBlockMasking(Masking):
    """Several blocks are predicted, each by itself, from a context block without them (I-JEPA, Assran et al. 2023,
    arXiv:2301.08243, sec. 3 and app. A.1).

    All targets of a batch have the same height and width, and so have all contexts, drawn anew at each step; only their
    places differ. The context is then cut to the smallest number of patches that is left in any image of the batch.
    Deviation: what is cut is chosen at random; the authors cut the last patches in reading order.

    Args:
        targets: Blocks to be predicted in each image, at least 1.
        target_scale: Least and greatest share of the patches that a target has, in (0, 1).
        target_aspect: Least and greatest ratio of a target's height and width.
        context_scale: Least and greatest share of the patches that the square context has before targets are taken out,
            in (0, 1].
        least_context: Smallest number of patches of a context. Where fewer are left, others outside the targets are
            added, and targets' own only if there are no others (the authors' code does the same after twenty tries).
        masks: Masks of each view, drawn independently.

    Raises:
        ValueError: An argument is out of range.
    """

    shared = 3
    compares = True

    def __init__(
        self,
        targets: int,
        target_scale: Sequence[float],
        target_aspect: Sequence[float],
        context_scale: Sequence[float],
        least_context: int,
        masks: int,
    ) -> None:
        if targets < 1 or least_context < 1:
            raise InvalidValue(f"targets={targets}, least_context={least_context}; both must be at least 1")
        for name, (low, high) in {"target_scale": target_scale, "context_scale": context_scale}.items():
            if not 0 < low <= high <= 1:
                raise InvalidValue(f"{name}={[low, high]}; give two shares of the patches in (0, 1], the smaller first")
        if not 0 < target_aspect[0] <= target_aspect[1]:
            raise InvalidValue(f"target_aspect={list(target_aspect)}; give two ratios above 0, the smaller first")
        self.targets, self.least_context, self.masks = targets, least_context, check_masks(masks)
        self.target_scale, self.target_aspect, self.context_scale = target_scale, target_aspect, context_scale

    def columns(self, grid: Grid) -> int:
        return PLACES * (self.targets + 1) + grid.patches

    def check(self, grid: Grid) -> None:
        height, width = self._target(torch.ones(2), grid)
        if grid.patches - self.targets * height * width >= self.least_context:
            return
        smallest = self._target(torch.zeros(2), grid)
        if grid.patches - smallest[0] * smallest[1] < self.least_context:
            raise InvalidValue(
                f"masking leaves fewer than least_context={self.least_context} of {grid.patches} patches; "
                "lower masking.least_context or target_scale, or give a smaller patch_size"
            )

    def draw(self, draws: Tensor, shared: Tensor, grid: Grid) -> Masks:
        places = draws[..., : PLACES * (self.targets + 1)].unflatten(-1, (self.targets + 1, PLACES))
        height, width = self._target(shared[:2], grid)
        targets = _placed(places[..., 1:, :], height, width, grid)  # (V, M, B, Q, N)
        side = self._context(shared[2], grid)
        context = _placed(places[..., 0, :], min(side, grid.height), min(side, grid.width), grid)
        context &= ~targets.any(dim=-2)
        context = self._filled(context, targets, draws[..., -grid.patches :])
        kept = int(context.sum(dim=-1).min())
        # visible ones first, in a random order, of which as many stay as the poorest image has
        order = (context.float() + draws[..., -grid.patches :]).argsort(dim=-1, descending=True, stable=True)
        visible = order[..., :kept].sort(dim=-1).values
        hidden = torch.ones_like(context).scatter_(-1, visible, False)
        chosen = targets.byte().argsort(dim=-1, descending=True, stable=True)[..., : height * width]
        weights = torch.full(chosen.shape, 1 / (self.targets * height * width), device=draws.device)
        return Masks(hidden, chosen, weights, visible)

    def _filled(self, context: Tensor, targets: Tensor, order: Tensor) -> Tensor:
        """Contexts of at least ``least_context`` patches: where fewer are left, further ones outside the targets, and
        inside them only if there are no others.
        """
        rating = 2 * context.float() + (~targets.any(dim=-2)).float() + order
        ranks = rating.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        return context | (ranks < self.least_context)

    def _target(self, draws: Tensor, grid: Grid) -> tuple[int, int]:
        """Height and width of a target, from two draws; smaller than the grid."""
        scale = _between(float(draws[0]), self.target_scale)
        aspect = _between(float(draws[1]), self.target_aspect)
        area = scale * grid.patches
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        return max(1, min(height, grid.height - 1)), max(1, min(width, grid.width - 1))

    def _context(self, draw: Tensor, grid: Grid) -> int:
        return max(1, round(math.sqrt(_between(float(draw), self.context_scale) * grid.patches)))


def _between(draw: float, limits: Sequence[float]) -> float:
    return limits[0] + draw * (limits[1] - limits[0])


def _placed(places: Tensor, height: int, width: int, grid: Grid) -> Tensor:
    """Blocks of one size at places (..., 2) in [0, 1), bool (..., N)."""
    top = (places[..., 0] * (grid.height - height + 1)).floor()
    left = (places[..., 1] * (grid.width - width + 1)).floor()
    sides = torch.full_like(top, height), torch.full_like(left, width)
    return rectangles(top, left, *sides, grid).flatten(-2)
