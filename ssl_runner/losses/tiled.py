"""Compares many rows with one another tile by tile, without ever holding the whole matrix of their cosines."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Rows of a tile. On a CPU three float32 tiles should fit into a core's cache; on a GPU one tile should fill the device.
EDGE = 512
EDGE_ON_GPU = 4096

# Up to this scale, e^scale, its inverse, sums of 10^6 of them and gradients divided by such a sum are well within the
# range of float32. Above it, each row needs its own exponent, and every pair two exponentials instead of one.
STEEP = 40.0

BELOW = -2.0  # replaces a cosine that does not count


class Comparison(NamedTuple):
    """Comparison of each of M rows with the others. Only ``log_sums`` has a gradient.

    Attributes:
        log_sums: (K, M), log of the sum of e^(scale cosine) over the others, for K scales.
        nearest: (M,), the largest cosine with the others.
        nearest_of_another_class: (M,), the largest cosine with rows of other classes; -2 if there are none.
        weighted: (M,), mean of the cosines weighted by e^(first scale * cosine); None unless requested.
    """

    log_sums: Tensor
    nearest: Tensor
    nearest_of_another_class: Tensor
    weighted: Tensor | None


def tiled_comparison(
    rows: Tensor, scales: tuple[float, ...], apart: int | None, classes: Tensor | None, weigh: bool
) -> Comparison:
    """Compares all rows with all others in memory proportional to M, one tile of cosines and exponentials at a time.

    The matrix is symmetric, so each pair of blocks is multiplied once and used for the rows of both. The backward pass
    multiplies again instead of keeping results. Gradients are exact; autograd refuses a second derivative.

    Args:
        rows: (M, D), of length 1.
        scales: K factors of the cosines, 0 or more.
        apart: Rows i and i + apart are views of one image and are not compared with each other, just as a row is not
            compared with itself. None if only the row itself is left out.
        classes: (M,), a number for the class of each row, or None.
        weigh: Whether to compute ``weighted``.
    """
    logs, nearest, of_another_class, weighted = _TiledComparison.apply(rows, scales, apart, classes, weigh)  # type: ignore[misc]
    return Comparison(logs, nearest, nearest if classes is None else of_another_class, weighted if weigh else None)


class _TiledComparison(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, scales: tuple[float, ...], apart: int | None, classes: Tensor | None, weigh: bool
    ) -> tuple[Tensor, ...]:
        rows = rows.contiguous()
        nearest, of_another_class = rows.new_full((2, len(rows)), BELOW)
        sums, weighted = rows.new_zeros(len(scales), len(rows)), torch.zeros_like(nearest)
        shift = _nearest(rows, apart) if max(scales) > STEEP else None
        buffer = _buffer(rows)
        for tile in _tiles(rows, apart):
            sides = tile.sides[:1] if tile.a == tile.b else tile.sides
            _raise(nearest, tile.cosine, sides)
            for k, scale in enumerate(scales):
                powers = tile.powers(scale, None if shift is None else scale * shift, buffer)
                # a tile on the diagonal has only one side, and its second power repeats the first
                for (block, dim), power in zip(sides, powers, strict=False):
                    sums[k, block] += power.sum(dim)
                    if weigh and k == 0:
                        weighted[block] += (power * tile.cosine).sum(dim)
            if classes is not None:
                same = classes[tile.a, None] == classes[None, tile.b]
                _raise(of_another_class, tile.cosine.masked_fill_(same, BELOW), sides)
        logs = sums.log()
        if shift is not None:
            logs += _times(shift.expand_as(logs), scales)
        ctx.save_for_backward(rows, logs)
        ctx.scales, ctx.apart = scales, apart
        weighted /= sums[0]
        ctx.mark_non_differentiable(nearest, of_another_class, weighted)
        return logs, nearest, of_another_class, weighted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        rows, logs = ctx.saved_tensors
        steep = max(ctx.scales) > STEEP
        weight = _times(gradient, ctx.scales)
        if not steep:
            weight = weight * (-logs).exp()
        result, buffer, other_buffer = torch.zeros_like(rows), _buffer(rows), _buffer(rows)
        for tile in _tiles(rows, ctx.apart):
            pull = _part(other_buffer, *tile.cosine.shape).zero_()  # the pull of each pair on both of its rows
            for k, scale in enumerate(ctx.scales):
                powers = tile.powers(scale, logs[k] if steep else None, buffer)
                for (block, dim), power in zip(tile.sides, powers, strict=True):
                    pull.addcmul_(power, weight[k, block].unsqueeze(dim))
            result[tile.a].addmm_(pull, rows[tile.b])
            if tile.a != tile.b:
                result[tile.b].addmm_(pull.T, rows[tile.a])
        return result, None, None, None, None


class _Tile(NamedTuple):
    """Cosines of a block of rows with the same block or a later one.

    Attributes:
        cosine: (rows of a, rows of b), -2 where a pair is left out.
        a: Rows of the first block.
        b: Rows of the second block.
        left_out: Diagonals of ``cosine`` whose pairs are left out.
    """

    cosine: Tensor
    a: slice
    b: slice
    left_out: list[int]

    @property
    def sides(self) -> tuple[tuple[slice, int], tuple[slice, int]]:
        """Each block, with the dimension of ``cosine`` along which its rows are compared."""
        return (self.a, 1), (self.b, 0)

    def powers(self, scale: float, shift: Tensor | None, buffer: Tensor) -> Iterator[Tensor]:
        """Yields e^(scale cosine - shift of the row), 0 where a pair is left out, for the first side and then the
        second.

        Without a shift (M,) both are the same. The second overwrites the first.
        """
        power = _part(buffer, *self.cosine.shape)
        for block, dim in self.sides:
            if shift is not None or dim == 1:
                # a power of 2, because exp takes three times as long on a CPU
                torch.mul(self.cosine, scale * math.log2(math.e), out=power)
                if shift is not None:
                    power.sub_(shift[block].unsqueeze(dim), alpha=math.log2(math.e))
                power.exp2_()
                for diagonal in self.left_out:
                    power.diagonal(diagonal).zero_()
            yield power


def _tiles(rows: Tensor, apart: int | None) -> Iterator[_Tile]:
    """Yields each pair of blocks once. The cosines of a tile overwrite those of the previous one."""
    edge = _edge(rows)
    blocks = [slice(start, min(start + edge, len(rows))) for start in range(0, len(rows), edge)]
    buffer = _buffer(rows)
    for number, a in enumerate(blocks):
        for b in blocks[number:]:
            cosine = _part(buffer, a.stop - a.start, b.stop - b.start)
            torch.mm(rows[a], rows[b].T, out=cosine)
            distances = (0,) if apart is None else (0, apart, -apart)
            diagonals = [distance + a.start - b.start for distance in distances]
            left_out = [d for d in diagonals if -len(cosine) < d < cosine.shape[1]]
            for diagonal in left_out:
                cosine.diagonal(diagonal).fill_(BELOW)
            yield _Tile(cosine, a, b, left_out)


def _nearest(rows: Tensor, apart: int | None) -> Tensor:
    """The largest cosine of each row with the others, (M,)."""
    nearest = rows.new_full((len(rows),), BELOW)
    for tile in _tiles(rows, apart):
        _raise(nearest, tile.cosine, tile.sides)
    return nearest


def _raise(greatest: Tensor, cosine: Tensor, sides: tuple[tuple[slice, int], ...]) -> None:
    """Updates the largest values (M,) found so far with those of a tile."""
    for block, dim in sides:
        torch.maximum(greatest[block], cosine.amax(dim), out=greatest[block])


def _times(values: Tensor, scales: tuple[float, ...]) -> Tensor:
    """Each of the K rows (K, M) multiplied by its factor, without copying the factors to a device."""
    return torch.stack([scale * row for scale, row in zip(scales, values, strict=True)])


def _edge(rows: Tensor) -> int:
    return min(len(rows), EDGE_ON_GPU if rows.device.type == "cuda" else EDGE)


def _buffer(rows: Tensor) -> Tensor:
    """Memory for a tile."""
    return rows.new_empty(_edge(rows) ** 2)


def _part(buffer: Tensor, height: int, width: int) -> Tensor:
    """The beginning of a buffer, as a tile of this size."""
    return buffer[: height * width].view(height, width)
