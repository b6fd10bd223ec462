"""How deep in an encoder each of its parameters lies."""

from typing import Any

from ssl_runner.errors import InvalidValue
from ssl_runner.models.network import Encoder


def depths(encoder: Encoder) -> tuple[dict[str, int], int]:
    """The depth of each parameter by name, from 0 for the stem, and the depth of a classifier on the features.

    Transformers count blocks, as BEiT (arXiv:2106.08254) and MAE (arXiv:2111.06377); timm's models are counted as timm
    groups them, which puts a last layer norm with the last block. ResNet counts stages, Conv4 blocks.

    Raises:
        ValueError: The encoder does not say which layers it has.
    """
    backbone: Any = encoder.backbone
    if hasattr(backbone, "depths"):
        found = backbone.depths()
    elif hasattr(getattr(backbone, "body", None), "group_matcher"):
        from timm.models import group_parameters

        grouped = group_parameters(backbone.body, backbone.body.group_matcher(coarse=False), reverse=True)
        found = {f"body.{name}": depth for name, depth in dict[str, int](grouped).items()}
    else:
        raise InvalidValue(f"{type(backbone).__name__} does not say which layers it has; set layer_decay=1")
    return {f"backbone.{name}": depth for name, depth in found.items()}, 1 + max(found.values())
