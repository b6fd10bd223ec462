"""timm's encoders, for images of any size and number of channels."""

from typing import Any, Literal

from torch import Tensor, nn

from ssl_runner.spelling import did_you_mean


class Timm(nn.Module):
    """Any model of timm without its classifier.

    Args:
        in_channels: 1 or 3.
        image_size: Height and width in pixels.
        name: ``timm.list_models()`` has them: resnet26d, convnext_atto, vit_tiny_patch16_224 ...
        pretrained: Whether to fetch timm's weights: needs a network, and they have seen labels.
        arguments: Further ones of ``timm.create_model``.

    Raises:
        ValueError: timm has no such model, or it refuses the arguments.
    """

    def __init__(
        self, in_channels: int, image_size: int, name: str, pretrained: bool, arguments: dict[str, Any]
    ) -> None:
        super().__init__()
        import timm  # takes seconds to import

        if not timm.is_model(name):
            hint = did_you_mean(name, timm.list_models())
            raise ValueError(f"name={name!r}: timm {timm.__version__} has no such model{hint}")
        try:
            self.body: Any = timm.create_model(name, pretrained, in_chans=in_channels, num_classes=0, **arguments)
        except (TypeError, RuntimeError, AssertionError) as error:
            raise ValueError(f"name={name!r}, arguments={arguments}: timm refuses them ({error})") from error
        self.out_features: int = self.body.num_features

    def feature_map(self, images: Tensor) -> Tensor:
        """What timm calls ``forward_features``: maps, or tokens of a transformer."""
        return self.body.forward_features(images)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W), normalised, to (B, out_features)."""
        return self.body(images)


class ViT(Timm):
    """Vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929) in DeiT's sizes; the class token is the feature.

    Args:
        in_channels: 1 or 3.
        image_size: Height and width in pixels; a multiple of the patch's.
        size: ``tiny`` (192 wide, 3 heads) or ``small`` (384 wide, 6 heads); 12 blocks.
        patch_size: Height and width of a patch: 4 for images of 32 pixels.

    Raises:
        ValueError: The image is not made of whole patches.
    """

    def __init__(self, in_channels: int, image_size: int, size: Literal["tiny", "small"], patch_size: int) -> None:
        if patch_size < 1 or image_size % patch_size:
            fitting = [side for side in range(2, image_size) if image_size % side == 0]
            raise ValueError(
                f"patch_size={patch_size} does not divide images of {image_size} pixels; "
                f"give one of {', '.join(map(str, fitting))}"
            )
        # sizes of local crops differ from the global ones': positions are interpolated
        arguments = {"img_size": image_size, "patch_size": patch_size, "dynamic_img_size": True}
        super().__init__(in_channels, image_size, f"vit_{size}_patch16_224", pretrained=False, arguments=arguments)
