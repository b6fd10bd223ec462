"""Which of an encoder's features represent an image: its own, or those of a vision transformer's tokens."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_runner.errors import InvalidValue
from ssl_runner.models.vit import Pool, words

_NAMES = {"cls": "cls", "mean": "patches", "cls_mean": "cls_patches"}


@dataclass(frozen=True)
class Reading:
    """What represents an image.

    Attributes:
        features: ``cls`` (a vision transformer's class token), ``mean`` (of its patches' tokens), ``cls_mean`` (both,
            one after the other), or None for the encoder's own features.
        layers: Last blocks whose tokens are taken, one after the other, each normalised by the last layer norm; None
            for the last one.

    Raises:
        ValueError: There are no such features, or no features for the layers.
    """

    features: Pool | None = None
    layers: int | None = None

    def __post_init__(self) -> None:
        if self.features not in (None, *_NAMES):
            raise InvalidValue(f"features={self.features!r} is not one of cls, mean, cls_mean; null for the encoder's")
        if self.layers is not None and (self.layers < 1 or self.features is None):
            raise InvalidValue(
                f"layers={self.layers}, features={self.features}; give at least 1 block, and features=cls, mean or "
                "cls_mean"
            )

    @property
    def name(self) -> str:
        """What it adds to the name of a score: ``_patches``, ``_cls_4_layers``; nothing for the encoder's own."""
        layers = "" if self.layers in (None, 1) else f"_{self.layers}_layers"
        return "" if self.features is None else f"_{_NAMES[self.features]}{layers}"

    def described(self) -> dict[str, Any]:
        """What a protocol says of it; nothing of the encoder's own features."""
        if self.features is None:
            return {}
        return {"represented_by": words(self.features, self.layers or 1)}

    def fits(self, encoder: nn.Module) -> bool:
        """Whether an encoder has such features."""
        return self.refusal(encoder) is None

    def of(self, encoder: nn.Module) -> nn.Module:
        """A module with the encoder's weights that maps images (B, C, H, W) to these features (B, out_features).

        Raises:
            ValueError: The encoder has no such features.
        """
        if (refusal := self.refusal(encoder)) is not None:
            raise InvalidValue(refusal)
        return encoder if self.features is None else _Tokens(encoder, self.features, self.layers or 1)

    def refusal(self, encoder: nn.Module) -> str | None:
        """Why it is not for this encoder, or None."""
        if self.features is None:
            return None
        body, kind = transformer_in(encoder), type(getattr(encoder, "backbone", encoder)).__name__
        if body is None:
            return (
                f"features={self.features} is for vision transformers, but the encoder is a {kind}; set features=null"
            )
        if self.features != "mean" and getattr(body, "cls_token", None) is None:
            return f"features={self.features}, but this transformer has no class token; set features=mean"
        if (self.layers or 1) > len(body.blocks):
            return f"layers={self.layers}, but the transformer has {len(body.blocks)} blocks; give at most that"
        return None


OWN = Reading()


class _Tokens(nn.Module):
    """Other features of an encoder that has timm's vision transformer in it."""

    def __init__(self, encoder: nn.Module, features: Pool, layers: int) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.features, self.layers = features, layers
        self.out_features = transformer_in(encoder).embed_dim * layers * (2 if features == "cls_mean" else 1)

    def forward(self, images: Tensor) -> Tensor:
        body = transformer_in(self.encoder)
        found = body.forward_intermediates(
            self.encoder.prepare(images),
            self.layers,
            return_prefix_tokens=True,
            norm=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return torch.cat([self._pooled(layer) for layer in found], dim=1)

    def _pooled(self, layer: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Features of one block: of its patches' tokens (B, N, D), and of those before them (B, P, D) if there are."""
        patches, prefix = (layer, None) if isinstance(layer, Tensor) else layer
        parts = [] if prefix is None or self.features == "mean" else [prefix[:, 0]]
        parts += [] if self.features == "cls" else [patches.mean(dim=1)]
        return torch.cat(parts, dim=1)


def transformer_in(encoder: nn.Module) -> Any:
    """timm's vision transformer in an encoder, or None if it is another network."""
    body = getattr(getattr(encoder, "backbone", None), "body", None)
    parts = ("blocks", "num_prefix_tokens", "embed_dim", "forward_intermediates")
    return body if all(hasattr(body, part) for part in parts) else None
