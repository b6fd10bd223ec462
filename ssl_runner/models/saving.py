"""The product of a run: an encoder in one file, and back."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ssl_runner.checkpoint import write_atomically
from ssl_runner.config import build
from ssl_runner.models.network import Encoder

FILE = "encoder.safetensors"


def save_encoder(encoder: Encoder, node: dict[str, Any], folder: Path, metadata: dict[str, str]) -> None:
    """Write folder/encoder.safetensors: weights, the config node that builds them, the input and the metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    described = {"encoder": json.dumps(node), "input_shape": json.dumps(encoder.input_shape), **metadata}
    write_atomically(folder / FILE, lambda path: save_file(tensors, path, described))


def load_encoder(run: str | Path, device: str = "cpu") -> Encoder:
    """The trained encoder of a run, in evaluation mode, with its preprocessing inside.

    Call it on images (B, C, H, W), uint8 or float in [0, 1]; `Encoder.read` makes such a batch of image files.

    Args:
        run: A run folder, or the encoder.safetensors in it.
        device: Where to put it.

    Raises:
        FileNotFoundError: No encoder is there.
    """
    path = Path(run)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} does not exist; give the folder of a finished run")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    channels, height, width = json.loads(metadata["input_shape"])
    backbone = build(json.loads(metadata["encoder"]), "model.encoder")(channels, height)
    blank: list[float] = [0.0] * channels  # the statistics stand among the weights
    encoder = Encoder(backbone, (channels, height, width), blank, blank)
    encoder.load_state_dict(load_file(path))
    return encoder.to(device).eval().requires_grad_(False)
