"""timm's encoders, for images of any size and number of channels."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.errors import InvalidValue

# Packages whose errors tell of a network, of the hub or of a file, and not of an argument.
_CARRIERS = ("huggingface_hub", "httpx", "httpcore", "requests", "urllib", "urllib3", "http", "ssl", "socket")


class Timm(nn.Module):
    """Any model of timm without its classifier.

    A model whose size is fixed when it is built (timm's ``img_size``) is built for the size of the images.

    Attributes:
        out_features: Width of what it gives of a blank image; timm's ``num_features`` is another one in some models.

    Args:
        in_channels: 1 or 3.
        image_size: Height and width in pixels.
        name: ``timm.list_models()`` has them: resnet26d, convnext_atto, vit_tiny_patch16_224 ... or one of the hub,
            ``hf-hub:ORGANISATION/MODEL``.
        pretrained: Whether to fetch timm's weights: needs a network, and they have seen labels.
        arguments: Further ones of ``timm.create_model``.

    Raises:
        ValueError: timm has no such model, refuses the arguments or cannot bring the weights; or the model cannot take
            images of this size, or does not give one vector for each.
    """

    def __init__(
        self, in_channels: int, image_size: int, name: str, pretrained: bool, arguments: dict[str, Any]
    ) -> None:
        super().__init__()
        import timm  # takes seconds to import

        if ":" not in name and not timm.is_model(name):
            hint = did_you_mean(name, timm.list_models())
            raise InvalidValue(f"name={name!r}: timm {timm.__version__} has no such model{hint}")
        if arguments.get("features_only"):
            raise InvalidValue(
                f"name={name!r}: features_only=true gives a list of maps, expected one vector an image; "
                "take features_only out of arguments"
            )
        self.body: Any = _create(name, pretrained, in_channels, image_size, arguments)
        self.out_features: int = _width(self.body, in_channels, image_size, name, arguments)

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
            raise InvalidValue(
                f"patch_size={patch_size} does not divide images of {image_size} pixels; "
                f"give one of {', '.join(map(str, fitting))}"
            )
        # sizes of local crops differ from the global ones': positions are interpolated
        arguments = {"img_size": image_size, "patch_size": patch_size, "dynamic_img_size": True}
        super().__init__(in_channels, image_size, f"vit_{size}_patch16_224", pretrained=False, arguments=arguments)


def _create(name: str, pretrained: bool, in_channels: int, image_size: int, arguments: dict[str, Any]) -> nn.Module:
    """The model, built for images of this size where its constructor has an ``img_size``."""
    import timm

    fixed = {"in_chans": in_channels, "num_classes": 0}
    if twice := sorted({*fixed, "pretrained"} & arguments.keys()):
        raise InvalidValue(f"name={name!r}, arguments={arguments}: {', '.join(twice)} is given already; take it out")
    before = torch.get_rng_state()
    try:
        if "img_size" not in arguments:
            try:
                return timm.create_model(name, pretrained, img_size=image_size, **fixed, **arguments)
            except TypeError as error:
                if "img_size" not in str(error):
                    raise
                torch.set_rng_state(before)  # the weights are those that they were without the attempt
        return timm.create_model(name, pretrained, **fixed, **arguments)
    except Exception as error:  # constructors of a thousand models refuse in a dozen ways
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CARRIERS:
            raise InvalidValue(_not_brought(name, error)) from None
        raise InvalidValue(
            f"name={name!r}, arguments={arguments}: timm refuses them for images of {image_size} pixels "
            f"({_first_line(error)}); take other arguments, another dataset.size or another model"
        ) from error


def _width(body: nn.Module, in_channels: int, image_size: int, name: str, arguments: dict[str, Any]) -> int:
    """Features of a blank image; the pass leaves mode, buffers and the generators of random numbers as they were."""
    device = next((parameter.device for parameter in body.parameters()), torch.device("cpu"))
    blank = torch.zeros(2, in_channels, image_size, image_size, device=device)
    buffers = {key: buffer.clone() for key, buffer in body.named_buffers()}
    got = f"name={name!r}, arguments={arguments}"
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            found = torch.func.functional_call(body.eval(), buffers, (blank,))
    except Exception as error:  # assertions of sizes, shapes that do not fit, windows without a pixel
        made_for = (getattr(body, "pretrained_cfg", None) or {}).get("input_size", (0, 224))[-1]
        raise InvalidValue(
            f"{got}: the model cannot take images of {image_size} pixels, timm made it for {made_for} "
            f"({_first_line(error)}); set another dataset.size, or choose another model"
        ) from error
    finally:
        body.train()  # as it was made
    if not isinstance(found, Tensor) or found.ndim != 2:
        shape = " x ".join(map(str, found.shape[1:])) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise InvalidValue(f"{got}: the model gives {shape} for an image, expected one vector; choose another model")
    return found.shape[1]


def _not_brought(name: str, error: Exception) -> str:
    """What is missing, where it was looked for and how to bring it."""
    import timm
    from huggingface_hub.constants import HF_HUB_CACHE

    if name.startswith("local-dir:"):
        return (
            f"name={name!r}: timm cannot read that folder ({_first_line(error)}); name one with config.json and weights"
        )
    if ":" in name:
        what, otherwise = f"the model {name.partition(':')[2]}", "give a name of timm.list_models()"
    else:
        config = timm.get_pretrained_cfg(name)
        source = (config and (config.hf_hub_id or config.url)) or name
        what, otherwise = f"pretrained=true, but its weights ({source})", "set model.encoder.pretrained=false"
    return (
        f"name={name!r}: {what} cannot be had: looked for in {HF_HUB_CACHE} and on the network "
        f"({_first_line(error)}); run once where there is network and copy that folder to here (HF_HOME names the one "
        f"above it), or {otherwise}"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
