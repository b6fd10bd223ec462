"""Encoders of timm and torchvision with their published weights, or with weights from a file."""

import contextlib
import os
import socket
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.errors import InvalidValue
from ssl_runner.models.network import Encoder
from ssl_runner.models.timm_encoder import not_brought, refuse_unknown

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601
_MODES = ("bicubic", "bilinear")


class Foreign(Encoder):
    """An encoder that was made for images of another shape: it resizes and converts those that it is given.

    Images are resized as a whole, so that nothing is cropped away (the published evaluation on ImageNet crops 12%),
    and normalised as in the encoder's own training.

    Attributes:
        input_shape: The (C, H, W) of the images that it is given now; see `take`.
        made_for: The (C, H, W) that the backbone sees.
        interpolation: ``bicubic`` or ``bilinear``, with antialiasing.
        origin: What it is and where its weights are from, as plain data.
    """

    def __init__(
        self,
        backbone: nn.Module,
        made_for: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: str,
        origin: Mapping[str, Any],
    ) -> None:
        super().__init__(backbone, made_for, mean, std)
        self.made_for = tuple(made_for)
        self.interpolation = interpolation if interpolation in _MODES else "bicubic"
        self.origin = dict(origin)

    def take(self, shape: Sequence[int]) -> dict[str, Any]:
        """Take images (C, H, W) from now on; returns what is done to them, as plain data."""
        self.input_shape = tuple(shape)
        return {
            "images": list(shape),
            "encoder": list(self.made_for),
            "resized": None if tuple(shape[1:]) == self.made_for[1:] else f"whole image, {self.interpolation}",
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
        }

    def prepare(self, images: Tensor) -> Tensor:
        """Normalised floats (B, *made_for) from images (B, C, H, W), uint8 or float in [0, 1]."""
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            raise InvalidValue(f"got images of shape {tuple(images.shape)}, expected (B, C, H, W) with C = 1 or 3")
        if images.shape[-2:] != self.made_for[1:]:
            images = F.interpolate(images, self.made_for[1:], mode=self.interpolation, antialias=True)
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        if images.shape[1] == 3 and self.made_for[0] == 1:
            images = (images * images.new_tensor(_LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)
        return (images.clamp(0, 1) - self.mean) / self.std  # gray images are repeated by the channels of the mean


class _Body(nn.Module):
    """A network without its classifier."""

    def __init__(self, body: nn.Module, made_for: Sequence[int], name: str) -> None:
        super().__init__()
        self.body = body
        with torch.no_grad():
            blank = body.eval()(torch.zeros(1, *made_for))
        if not isinstance(blank, Tensor) or blank.flatten(1).shape[1] != blank.numel():
            raise InvalidValue(f"{name}: the model does not give one vector for an image; choose another")
        self.out_features = blank.numel()

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images).flatten(1)


def timm_encoder(name: str, file: Path | None) -> Foreign:
    """``timm:NAME``, with its published weights or those of a file, and timm's data config.

    Raises:
        ValueError: There is no such model, its weights cannot be fetched, or the file does not fit.
    """
    import timm
    from timm.data import resolve_model_data_config
    from timm.models import load_state_dict

    who = f"timm:{name}"
    refuse_unknown(name, who)
    with torch.random.fork_rng(devices=[]), quiet_hub():
        try:
            model: Any = timm.create_model(name, pretrained=file is None, num_classes=0)
        except Exception as error:  # errors of a network, a hub and a thousand constructors
            raise InvalidValue(not_brought(name, error, who, f"give a file of weights: {who}@FILE")) from None
    config, known = resolve_model_data_config(model), model.pretrained_cfg or {}
    if file is not None:
        heads = known.get("classifier") or ()
        _load(model, lambda: load_state_dict(str(file)), file, who, (heads,) if isinstance(heads, str) else heads)
    origin = {"timm": timm.__version__, "weights": _origin(file, known.get("hf_hub_id") or known.get("url"))}
    body = _Body(model, config["input_size"], who)
    return Foreign(body, config["input_size"], config["mean"], config["std"], config["interpolation"], origin)


def torchvision_encoder(name: str, file: Path | None) -> Foreign:
    """``torchvision:NAME``, a classifier of images without its last layer; see `timm_encoder`."""
    import torchvision
    from torchvision import models

    who, known = f"torchvision:{name}", models.list_models(module=models)
    if name not in known:
        version = torchvision.__version__
        raise InvalidValue(f"{who}: torchvision {version} has no such model{did_you_mean(name, known)}")
    weights: Any = models.get_model_weights(name)
    weights = weights.DEFAULT
    with torch.random.fork_rng(devices=[]):
        try:
            model = models.get_model(name, weights=weights if file is None else None)
        except Exception as error:  # URLError, a checksum's RuntimeError, a full disk
            reason = " ".join(str(error).split())
            raise InvalidValue(
                f"{who}: its weights ({weights.url}) cannot be fetched: looked for in {torch.hub.get_dir()}/checkpoints"
                f" and on the network ({reason}); copy the file to there, or give it: {who}@FILE"
            ) from None
    last = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not last:
        raise InvalidValue(f"{who}: the model has no linear classifier to leave out; choose another")
    if file is not None:
        _load(model, lambda: _tensors(file), file, who, ())
    parent, _, child = last[-1].rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    transforms = weights.transforms()
    made_for = (3, *(2 * transforms.crop_size)[:2])
    origin = {"torchvision": torchvision.__version__, "weights": _origin(file, weights.url)}
    body = _Body(model, made_for, who)
    return Foreign(body, made_for, transforms.mean, transforms.std, transforms.interpolation.value, origin)


def _origin(file: Path | None, published: str | None) -> str | None:
    return published if file is None else str(file)


def _load(model: nn.Module, read: Any, file: Path, who: str, heads: Sequence[str]) -> None:
    """Load weights from a file, of which a classifier is left out."""
    try:
        state = read()
        state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{head}." for head in heads))}
        missing, unexpected = model.load_state_dict(state, strict=False)
    except Exception as error:  # whatever a file that is no file of weights raises
        raise InvalidValue(
            f"{who}: {file} cannot be read as its weights ({' '.join(str(error).split())[:300]})"
        ) from None
    if missing or unexpected:
        which = [f"lacks {missing[0]}"] if missing else []
        which += [f"has {unexpected[0]}, which the model has not"] if unexpected else []
        raise InvalidValue(f"{who}: {file} is not of this model: it {' and '.join(which)}; give another name or file")


def _tensors(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Inside, without a network, Hugging Face's hub looks only on this machine; else it would try for a minute."""
    from huggingface_hub import constants, logging

    before, verbosity = constants.HF_HUB_OFFLINE, logging.get_verbosity()
    logging.set_verbosity_error()
    constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.set_verbosity(verbosity)


def _reachable(address: str) -> bool:
    if any(name in os.environ for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(address).hostname, 443)
        return True
    except OSError:
        return False
