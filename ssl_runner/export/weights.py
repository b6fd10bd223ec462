"""timm and torchvision: weights under the names of their models. Images are normalised by the caller."""

import inspect
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ssl_runner.export.programs import about
from ssl_runner.export.source import Trained
from ssl_runner.models.resnet import ResNet
from ssl_runner.models.timm_encoder import Timm
from ssl_runner.models.vit import ViT

# parts of `ResNet.body`, by their position
_PARTS = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def preprocessing(source: Trained) -> str:
    """What the caller has to do to images."""
    channels, height, width = source.encoder.input_shape
    kind = "gray (ITU-R 601)" if channels == 1 else "RGB"
    return (
        "outside the file, since it holds weights only; the last line scales and normalises. Before it: center crop "
        f"to a square, resizing to {height} x {width} (Lanczos), {kind}; images are uint8 (B, {channels}, {height}, "
        f"{width})"
    )


def not_of_timm(source: Trained) -> str | None:
    """Why timm cannot load the encoder, or None if it can."""
    backbone = source.encoder.backbone
    if not isinstance(backbone, Timm):
        return f"{source.architecture} is not a model of timm"
    if isinstance(backbone, ViT) and backbone.n_layers > 1:
        return f"layers={backbone.n_layers}: a model of timm gives the features of its last block"
    if isinstance(backbone, ViT) and backbone.features == "cls_mean":
        return "features=cls_mean: a model of timm gives the class token or the mean of the patches"
    return None


def write_timm(source: Trained, path: Path) -> None:
    """Write weights that ``timm.create_model(NAME, checkpoint_path=...)`` loads."""
    backbone = source.encoder.backbone
    assert isinstance(backbone, Timm)
    _save(backbone.body.state_dict(), source, path)


def timm_lines(source: Trained, path: Path) -> list[str]:
    name, arguments = _timm_model(source)
    words = "".join(f", {key}={value!r}" for key, value in arguments.items() if key.isidentifier())
    return [
        "import timm, torch",
        f"encoder = timm.create_model({name!r}, checkpoint_path={str(path)!r}{words}).eval()",
        _features_line(source),
    ]


def _timm_model(source: Trained) -> tuple[str, dict[str, Any]]:
    """Name and arguments of ``timm.create_model``."""
    channels, size, _ = source.encoder.input_shape
    node, fixed = source.node, {"num_classes": 0, "in_chans": channels}
    if isinstance(backbone := source.encoder.backbone, ViT):
        own = dict(backbone.arguments)
        if backbone.features == "mean":  # the same layer norm as before the class token, and before the mean
            own |= {"global_pool": "avg", "fc_norm": False}
        return f"vit_{node['size']}_patch16_224", fixed | own
    arguments = dict(node.get("arguments") or {})
    return node["name"], fixed | _image_size(node["name"], size, arguments) | arguments


def _image_size(name: str, size: int, arguments: dict[str, Any]) -> dict[str, int]:
    """``img_size``, if the model takes it, as `Timm` passes it."""
    import timm

    if "img_size" in arguments:
        return {}
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            timm.create_model(name, img_size=size, num_classes=0, **arguments)
        return {"img_size": size}
    except TypeError as error:
        return {} if "img_size" in str(error) else {"img_size": size}
    except Exception:  # some models cannot be built without memory; those of this family are found by their signature
        return {"img_size": size} if "img_size" in inspect.signature(timm.model_entrypoint(name)).parameters else {}


def not_of_torchvision(source: Trained) -> str | None:
    """Why torchvision cannot load the encoder, or None if it can."""
    if isinstance(source.encoder.backbone, ResNet):
        return None
    return f"{source.architecture} is not a network of torchvision"


def write_torchvision(source: Trained, path: Path) -> None:
    """Write weights under the names of ``torchvision.models.resnet18``, 34 or 50, without the classifier."""
    state = source.encoder.backbone.state_dict()
    renamed = {re.sub(r"^body\.(\d)", lambda found: _PARTS[found[1]], name): value for name, value in state.items()}
    _save(renamed, source, path)


def torchvision_lines(source: Trained, path: Path) -> list[str]:
    """A network for small or gray images has another first layer than torchvision's, which one more line replaces."""
    stem: Any = source.encoder.backbone.get_submodule("body.0")
    replaced = []
    if stem.kernel_size != (7, 7):
        first = f"torch.nn.Conv2d({stem.in_channels}, 64, 3, padding=1, bias=False)"
        replaced = [f"encoder.conv1, encoder.maxpool = {first}, torch.nn.Identity()  # for small images"]
    elif stem.in_channels != 3:
        first = f"torch.nn.Conv2d({stem.in_channels}, 64, 7, stride=2, padding=3, bias=False)"
        replaced = [f"encoder.conv1 = {first}  # for gray images"]
    return [
        "import safetensors.torch, torch, torchvision",
        f"encoder = torchvision.models.resnet{int(source.node['depth'])}().eval()",
        *["encoder.fc = torch.nn.Identity()", *replaced],
        f"encoder.load_state_dict(safetensors.torch.load_file({str(path)!r}))",
        _features_line(source),
    ]


def _features_line(source: Trained) -> str:
    mean, std = (_numbers(values) for values in (source.encoder.mean, source.encoder.std))
    return f"features = encoder((images / 255 - {mean}) / {std})"


def _numbers(values: Tensor) -> str:
    # as float32 prints them: 0.3, not 0.30000001192092896
    numbers = [float(str(value)) for value in values.flatten().cpu().numpy()]
    return repr(numbers[0]) if len(numbers) == 1 else f"torch.tensor({numbers}).view(3, 1, 1)"


def _save(state: dict[str, Tensor], source: Trained, path: Path) -> None:
    stored = about(source) | {"preprocessing": preprocessing(source), "format": "pt"}
    write_tensors(state, stored, path)


def write_tensors(state: dict[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    """Write a safetensors file that others may read: safetensors' own writer makes one for the owner only."""
    path.write_bytes(save({name: value.detach().cpu().clone().contiguous() for name, value in state.items()}, metadata))
