"""Vision transformers whose patches can be left out or replaced, and whose tokens can be read."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ssl_runner.errors import InvalidValue
from ssl_runner.models.patches import Grid, sincos, take
from ssl_runner.models.timm_encoder import Timm

Pool = Literal["cls", "mean", "cls_mean"]
_WORDS = {"cls": "class token", "mean": "mean of the patches' tokens"}
_WORDS["cls_mean"] = f"{_WORDS['cls']} and {_WORDS['mean']}, one after the other"


class Tokens(NamedTuple):
    """What a transformer makes of images.

    Attributes:
        prefix: (R, 1 + registers, D), the class token first.
        patches: (R, S, D), of all patches or of the visible ones.
        layers: (R, S, D) of each of the last blocks that were asked for, the last one last, not normalised.
    """

    prefix: Tensor
    patches: Tensor
    layers: tuple[Tensor, ...] = ()


def words(features: str, layers: int) -> str:
    """What these features of so many last blocks are."""
    return f"{_WORDS[features]}, of the last {'block' if layers == 1 else f'{layers} blocks'}"


class ViT(Timm):
    """Vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929) in DeiT's sizes, built by timm.

    Attributes:
        arguments: Of ``timm.create_model``, besides channels and classes.

    Args:
        in_channels: 1 or 3.
        image_size: Height and width in pixels, a multiple of ``patch_size``. Positions are interpolated for images of
            other sizes.
        size: ``tiny`` (192 wide, 3 heads), ``small`` (384 wide, 6 heads), ``base`` (768 wide, 12 heads), all with 12
            blocks, or ``large`` (1,024 wide, 16 heads, 24 blocks).
        patch_size: Height and width of a patch, for example 4 for images of 32 pixels.
        features: What represents an image: ``cls`` (the class token), ``mean`` (of the patches) or ``cls_mean`` (both,
            one after the other).
        layers: Last blocks whose features are taken, one after the other, each normalised by the last layer norm.
        positions: ``learned``, or ``sincos`` for fixed sines and cosines (MAE, arXiv:2111.06377, app. A.1).
        registers: Further tokens that belong to no patch (Darcet et al. 2023, arXiv:2309.16588).
        drop_path: Largest probability of leaving out a block for an image (arXiv:1603.09382), rising from 0 with depth.

    Raises:
        ValueError: The image size is not a multiple of the patch size, or a number is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        size: Literal["tiny", "small", "base", "large"],
        patch_size: int,
        features: Pool = "cls",
        layers: int = 1,
        positions: Literal["learned", "sincos"] = "learned",
        registers: int = 0,
        drop_path: float = 0.0,
    ) -> None:
        if patch_size < 1 or image_size % patch_size:
            fitting = [side for side in range(2, image_size) if image_size % side == 0]
            raise InvalidValue(
                f"patch_size={patch_size} does not divide images of {image_size} pixels; "
                f"give one of {', '.join(map(str, fitting))}"
            )
        if features not in ("cls", "mean", "cls_mean"):
            raise InvalidValue(f"features={features!r} is not one of cls, mean, cls_mean")
        if positions not in ("learned", "sincos"):
            raise InvalidValue(f"positions={positions!r} is not one of learned, sincos")
        if registers < 0 or not 0 <= drop_path < 1:
            raise InvalidValue(f"registers={registers}, drop_path={drop_path}; give at least 0, and a share in [0, 1)")
        # local crops differ in size from global ones, so position embeddings are interpolated
        arguments: dict[str, Any] = {"img_size": image_size, "patch_size": patch_size, "dynamic_img_size": True}
        if registers:
            arguments |= {"reg_tokens": registers, "no_embed_class": True}  # as in timm's DINOv2 with registers
        if drop_path:
            arguments["drop_path_rate"] = drop_path
        super().__init__(in_channels, image_size, f"vit_{size}_patch16_224", pretrained=False, arguments=arguments)
        self.arguments = arguments
        self.patch_size, self.width = patch_size, self.out_features
        self.grid = Grid(image_size // patch_size, image_size // patch_size)
        if not 1 <= layers <= len(self.body.blocks):
            raise InvalidValue(f"layers={layers}; this transformer has {len(self.body.blocks)} blocks")
        self.features, self.n_layers = features, layers
        self.out_features = self.width * layers * (2 if features == "cls_mean" else 1)
        self.positions = positions
        self.fix_positions()

    @property
    def represented_by(self) -> str:
        return words(self.features, self.n_layers)

    def tokens(
        self,
        images: Tensor,
        visible: Tensor | None = None,
        hidden: Tensor | None = None,
        mask_token: Tensor | None = None,
        layers: int = 0,
    ) -> Tokens:
        """The tokens of normalised images (R, C, H, W), after the last layer norm.

        Args:
            visible: int64 (R, S), the only patches that are computed; None for all.
            hidden: bool (R, N), patches whose embedding is replaced by ``mask_token`` (D,) before positions are added.
            layers: How many of the last blocks' outputs are kept, too.

        Raises:
            ValueError: The images cannot be cut into patches.
        """
        self._refuse(images)
        embedded = self.body.patch_embed(images)  # (R, h, w, D)
        if hidden is not None:
            assert mask_token is not None
            embedded = torch.where(hidden.view(*embedded.shape[:3], 1), mask_token.to(embedded.dtype), embedded)
        sequence = self.body._pos_embed(embedded)  # timm has no other function that adds prefix and positions
        n_prefix = self.body.num_prefix_tokens
        if visible is not None:
            prefix, patches = sequence[:, :n_prefix], sequence[:, n_prefix:]
            sequence = torch.cat([prefix, take(patches, visible)], dim=1)
        sequence = self.body.norm_pre(sequence)
        kept, first = [], len(self.body.blocks) - layers
        for number, block in enumerate(self.body.blocks):
            sequence = block(sequence)
            if number >= first:
                kept.append(sequence[:, n_prefix:])
        sequence = self.body.norm(sequence)
        return Tokens(sequence[:, :n_prefix], sequence[:, n_prefix:], tuple(kept))

    def feature_map(self, images: Tensor) -> Tensor:
        """The patches' tokens (R, D, h, w) after the last layer norm."""
        size = self.body.patch_embed.dynamic_feat_size(images.shape[-2:])
        return self.tokens(images).patches.transpose(1, 2).unflatten(2, size)

    def forward(self, images: Tensor) -> Tensor:
        """Features (R, out_features) of normalised images (R, C, H, W).

        Raises:
            ValueError: They cannot be cut into patches.
        """
        self._refuse(images)
        if self.n_layers == 1:
            return self.pooled(self.body.forward_features(images))
        found = self.body.forward_intermediates(
            images, self.n_layers, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
        )
        return torch.cat([self.pooled(torch.cat([prefix, patches], dim=1)) for patches, prefix in found], dim=1)

    def pooled(self, sequence: Tensor) -> Tensor:
        """Features of tokens (R, 1 + registers + N, D)."""
        cls, mean = sequence[:, 0], sequence[:, self.body.num_prefix_tokens :].mean(dim=1)
        return {"cls": cls, "mean": mean, "cls_mean": torch.cat([cls, mean], dim=1)}[self.features]

    def attention(self, images: Tensor) -> Tensor:
        """How much the class token attends to each patch in the last block, (R, heads, h, w), without the prefix."""
        size = self.body.patch_embed.dynamic_feat_size(images.shape[-2:])
        sequence = self.body.norm_pre(self.body._pos_embed(self.body.patch_embed(images)))
        for block in self.body.blocks[:-1]:
            sequence = block(sequence)
        last = self.body.blocks[-1]
        query, key, _ = last.attn.qkv(last.norm1(sequence)).unflatten(2, (3, last.attn.num_heads, -1)).unbind(2)
        query, key = last.attn.q_norm(query[:, 0]), last.attn.k_norm(key)
        scores = torch.einsum("rhd,rnhd->rhn", query, key) * query.shape[-1] ** -0.5
        return scores.softmax(dim=-1)[..., self.body.num_prefix_tokens :].unflatten(2, size)

    def _refuse(self, images: Tensor) -> None:
        """Raises ValueError for images whose sides are no multiple of a patch's, such as local views may be."""
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise InvalidValue(
                f"images of {height} x {width} pixels cannot be cut into patches of {self.patch_size}; give multiples"
            )

    def fix_positions(self) -> None:
        """Write sines and cosines into fixed positions: when it is built, and after weights are drawn anew."""
        if self.positions == "learned":
            return
        positions = self.body.pos_embed
        fixed = sincos(self.grid, self.width)
        prefix = positions.shape[1] - len(fixed)
        positions.data = torch.cat([torch.zeros(prefix, self.width), fixed])[None].to(positions)
        positions.requires_grad_(False)


def vit_of(backbone: nn.Module) -> ViT:
    """The backbone, if it is a transformer whose patches can be hidden.

    Raises:
        ValueError: It is another one.
    """
    if isinstance(backbone, ViT):
        return backbone
    raise InvalidValue(without_patches(type(backbone)))


def without_patches(backbone: type) -> str:
    """Why a class of backbones cannot be used where patches are hidden."""
    return f"{backbone.__name__} has no patches that could be hidden; choose model/encoder=vit_tiny or vit_small"
