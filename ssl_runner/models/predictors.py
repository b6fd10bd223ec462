"""Predictors: from the tokens that a student has computed to what is hidden. They are left out of the product.

A predictor is a factory of (width, out_features, grid): the width of the tokens, the numbers that are predicted for a
patch, and the grid of the patches.
"""

from abc import abstractmethod
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssl_runner.errors import InvalidValue
from ssl_runner.models.patches import Grid, sincos, take
from ssl_runner.models.vit import Tokens

NOISE = 0.01  # standard deviation, data2vec 2.0's code


class Predictor(nn.Module):
    """Predicts patches.

    Attributes:
        reads_hidden: Whether it reads the tokens at hidden places, which the student must then compute.
    """

    reads_hidden: ClassVar[bool] = False

    @abstractmethod
    def forward(self, tokens: Tokens, visible: Tensor | None, targets: Tensor) -> Tensor:
        """Predictions (R, Q, P, out_features) of the patches ``targets`` int64 (R, Q, P).

        Args:
            tokens: The student's, R rows.
            visible: int64 (R, S), the patches whose tokens there are; None for all of them.
        """


class LinearPredictor(Predictor):
    """One linear layer on the hidden patch's own token (SimMIM, Xie et al. 2021, arXiv:2111.09886, sec. 3.3)."""

    reads_hidden = True

    def __init__(self, width: int, out_features: int, grid: Grid) -> None:
        super().__init__()
        self.layer = nn.Linear(width, out_features)

    def forward(self, tokens: Tokens, visible: Tensor | None, targets: Tensor) -> Tensor:
        assert visible is None
        return self.layer(take(tokens.patches, targets.flatten(1))).unflatten(1, targets.shape[1:])


class TransformerPredictor(Predictor):
    """A narrow transformer over the student's tokens and a mask token at each place to be predicted: MAE's decoder (He
    et al. 2021, arXiv:2111.06377, sec. 3) and I-JEPA's predictor (Assran et al. 2023, arXiv:2301.08243, sec. 3).

    Each group of targets is predicted by itself. Positions are fixed sines and cosines.

    Args:
        predictor_width: Width of its tokens, a multiple of 4 and of ``heads``.
        depth: Blocks, at least 1.
        heads: Heads of attention.

    Raises:
        ValueError: A number is out of range.
    """

    positions: Tensor

    def __init__(self, width: int, out_features: int, grid: Grid, predictor_width: int, depth: int, heads: int) -> None:
        super().__init__()
        if min(depth, heads, predictor_width) < 1 or predictor_width % heads:
            raise InvalidValue(
                f"predictor_width={predictor_width}, depth={depth}, heads={heads}; give at least 1 block, and a width "
                "that the heads divide"
            )
        from timm.models.vision_transformer import Block  # takes seconds to import

        self.embed = nn.Linear(width, predictor_width)
        self.mask_token = nn.Parameter(torch.empty(predictor_width).normal_(std=0.02))
        self.register_buffer("positions", sincos(grid, predictor_width), persistent=False)
        self.blocks = nn.Sequential(*(Block(predictor_width, heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(predictor_width, eps=1e-6)
        self.out = nn.Linear(predictor_width, out_features)
        self.apply(_first_weights)

    def forward(self, tokens: Tokens, visible: Tensor | None, targets: Tensor) -> Tensor:
        groups, asked = targets.shape[1:]
        seen = self.positions if visible is None else self.positions[visible]
        context = torch.cat([self.embed(tokens.prefix), self.embed(tokens.patches) + seen], dim=1)
        queries = (self.mask_token + self.positions[targets]).flatten(0, 1)  # (R * Q, P, width)
        if groups > 1:
            context = context.repeat_interleave(groups, dim=0)
        sequence = self.blocks(torch.cat([context, queries.to(context.dtype)], dim=1))
        return self.out(self.norm(sequence[:, -asked:])).unflatten(0, (-1, groups))


class ConvolutionalPredictor(Predictor):
    """data2vec 2.0's decoder (Baevski et al. 2022, arXiv:2212.07525, sec. 3.2): grouped convolutions over the grid, in
    which noise stands at the hidden places.

    Each layer is a convolution, a layer norm over channels without scale and shift, and a GELU, with a residual
    connection where the number of channels stays the same, as in the authors' code. The noise is drawn like dropout: by
    step and process, so that it depends on the number of processes.

    Args:
        predictor_width: Channels.
        depth: Layers, at least 1 (the authors' ViT-B: 6).
        kernel_size: Odd, in patches (3).
        groups: Of each convolution (16); they divide the channels.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(
        self, width: int, out_features: int, grid: Grid, predictor_width: int, depth: int, kernel_size: int, groups: int
    ) -> None:
        super().__init__()
        sizes = depth, kernel_size, predictor_width, groups
        if min(sizes) < 1 or kernel_size % 2 == 0 or predictor_width % groups or width % groups:
            raise InvalidValue(
                f"depth={depth}, kernel_size={kernel_size}, predictor_width={predictor_width}, groups={groups}; give "
                f"at least 1 layer, an odd kernel, and groups that divide the width and the {width} of the tokens"
            )
        self.grid = grid
        widths = [width, *[predictor_width] * depth]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size, padding="same", groups=groups) for before, after in pairwise(widths)
        )
        self.out = nn.Linear(predictor_width, out_features)

    def forward(self, tokens: Tokens, visible: Tensor | None, targets: Tensor) -> Tensor:
        rows, _, width = tokens.patches.shape
        if visible is None:
            whole = tokens.patches
        else:
            noise = torch.randn(rows, self.grid.patches, width, device=targets.device).to(tokens.patches.dtype) * NOISE
            whole = noise.scatter(1, visible[..., None].expand_as(tokens.patches), tokens.patches)
        maps = whole.transpose(1, 2).unflatten(2, self.grid)
        for layer in self.layers:
            made = layer(maps).movedim(1, 3)
            made = nn.functional.gelu(nn.functional.layer_norm(made, made.shape[3:])).movedim(3, 1)
            maps = made + maps if made.shape == maps.shape else made
        read = take(maps.flatten(2).transpose(1, 2), targets.flatten(1))
        return self.out(read).unflatten(1, targets.shape[1:])


def _first_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):  # as in MAE's code
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
