"""timm's encoders, for images of any size and number of channels."""

from typing import Any

import torch
from torch import Tensor, nn

from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.errors import InvalidValue

# Packages whose errors concern a network, the hub or a file, and not an argument.
_CARRIERS = ("huggingface_hub", "httpx", "httpcore", "requests", "urllib", "urllib3", "http", "ssl", "socket")


class Timm(nn.Module):
    """Any model of timm without its classifier.

    A model whose image size is fixed when it is built (timm's ``img_size``) is built for the size of the images.

    Attributes:
        out_features: Width of the features, measured on a blank image; timm's ``num_features`` differs in some models.

    Args:
        in_channels: 1 or 3.
        image_size: Height and width in pixels.
        name: A name from ``timm.list_models()``, such as resnet26d, convnext_atto or vit_tiny_patch16_224, or a model
            of the hub, ``hf-hub:ORGANISATION/MODEL``.
        pretrained: Whether to fetch timm's weights. This needs a network, and the weights were trained with labels.
        arguments: Further arguments of ``timm.create_model``.

    Raises:
        ValueError: timm has no such model, refuses the arguments or cannot fetch the weights; or the model cannot take
            images of this size, or does not return one vector for each.
    """

    def __init__(
        self, in_channels: int, image_size: int, name: str, pretrained: bool, arguments: dict[str, Any]
    ) -> None:
        super().__init__()
        refuse_unknown(name, f"name={name!r}")
        if arguments.get("features_only"):
            raise InvalidValue(
                f"name={name!r}: features_only=true gives a list of maps, expected one vector per image; "
                "remove features_only from arguments"
            )
        self.body: Any = _create(name, pretrained, in_channels, image_size, arguments)
        self.out_features: int = _width(self.body, in_channels, image_size, name, arguments)

    def feature_map(self, images: Tensor) -> Tensor:
        """The result of timm's ``forward_features``: maps, or a transformer's tokens."""
        return self.body.forward_features(images)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, out_features) of normalised images (B, C, H, W)."""
        return self.body(images)


def _create(name: str, pretrained: bool, in_channels: int, image_size: int, arguments: dict[str, Any]) -> nn.Module:
    """The model, built for images of this size if its constructor has an ``img_size``."""
    import timm

    fixed = {"in_chans": in_channels, "num_classes": 0}
    if twice := sorted({*fixed, "pretrained"} & arguments.keys()):
        raise InvalidValue(
            f"name={name!r}, arguments={arguments}: {', '.join(twice)} is set already; remove it from arguments"
        )
    before = torch.get_rng_state()
    try:
        if "img_size" not in arguments:
            try:
                return timm.create_model(name, pretrained, img_size=image_size, **fixed, **arguments)
            except TypeError as error:
                if "img_size" not in str(error):
                    raise
                torch.set_rng_state(before)  # so that the failed attempt does not change the weights
        return timm.create_model(name, pretrained, **fixed, **arguments)
    except Exception as error:  # the constructors of a thousand models raise all kinds of errors
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CARRIERS:
            raise InvalidValue(not_brought(name, error)) from None
        raise InvalidValue(
            f"name={name!r}, arguments={arguments}: timm refuses them for images of {image_size} pixels "
            f"({_first_line(error)}); choose other arguments, another dataset.size or another model"
        ) from error


def _width(body: nn.Module, in_channels: int, image_size: int, name: str, arguments: dict[str, Any]) -> int:
    """Width of the features of a blank image. Mode, buffers and random number generators are left as they were."""
    device = next((parameter.device for parameter in body.parameters()), torch.device("cpu"))
    blank = torch.zeros(2, in_channels, image_size, image_size, device=device)
    buffers = {key: buffer.clone() for key, buffer in body.named_buffers()}
    got = f"name={name!r}, arguments={arguments}"
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            output = torch.func.functional_call(body.eval(), buffers, (blank,))
    except Exception as error:  # failed assertions on sizes, shapes that do not fit, empty windows
        made_for = (getattr(body, "pretrained_cfg", None) or {}).get("input_size", (0, 224))[-1]
        raise InvalidValue(
            f"{got}: the model cannot take images of {image_size} pixels, timm built it for {made_for} "
            f"({_first_line(error)}); set another dataset.size, or choose another model"
        ) from error
    finally:
        body.train()  # as it was created
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = " x ".join(map(str, output.shape[1:])) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise InvalidValue(f"{got}: the model gives {shape} for an image, expected one vector; choose another model")
    return output.shape[1]


def not_brought(name: str, error: Exception, who: str | None = None, instead: str | None = None) -> str:
    """The error message for weights that cannot be fetched: what is missing, where it was looked for and what to do.

    Args:
        name: The model's name.
        error: Why.
        who: The beginning of the message; None for ``name='...'``.
        instead: What else can be done; None for what a config can say.
    """
    import timm
    from huggingface_hub.constants import HF_HUB_CACHE

    who = f"name={name!r}" if who is None else who
    if name.startswith("local-dir:"):
        return f"{who}: timm cannot read that folder ({_first_line(error)}); give one with config.json and weights"
    if ":" in name:
        what, otherwise = f"the model {name.partition(':')[2]}", "give a name of timm.list_models()"
    else:
        config = timm.get_pretrained_cfg(name)
        source = (config and (config.hf_hub_id or config.url)) or name
        wanted = "pretrained=true, but its weights" if instead is None else "its weights"
        what, otherwise = f"{wanted} ({source})", "set model.encoder.pretrained=false"
    return (
        f"{who}: {what} cannot be fetched: looked for in {HF_HUB_CACHE} and on the network "
        f"({_first_line(error)}); run once with a network and copy that folder to here (HF_HOME names its parent), "
        f"or {otherwise if instead is None else instead}"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def refuse_unknown(name: str, who: str) -> None:
    """Raises ValueError, which begins with ``who``, for a name that timm does not know and the hub cannot."""
    import timm  # takes seconds to import

    if ":" not in name and not timm.is_model(name):
        raise InvalidValue(f"{who}: timm {timm.__version__} has no such model{did_you_mean(name, timm.list_models())}")
