"""The product of a run: an encoder in one file, and back."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ssl_runner.checkpoint import write_atomically
from ssl_runner.config import build
from ssl_runner.models.network import Encoder

FILE = "encoder.safetensors"


def save_encoder(
    encoder: Encoder,
    node: dict[str, Any],
    n_outputs: int | None,
    n_way: int | None,
    folder: Path,
    metadata: dict[str, str],
) -> None:
    """Write folder/encoder.safetensors: weights, and all that building them again takes beside the config.

    Args:
        encoder: Trained.
        node: Of the config, which builds its backbone.
        n_outputs: What the head on it was made for, `Batching.n_outputs`: only the dataset knew.
        n_way: What the algorithm was made for, `Batching.most_ways`.
        folder: The run folder.
        metadata: To stand beside.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    described = {"encoder": node, "input_shape": encoder.input_shape, "n_outputs": n_outputs, "n_way": n_way}
    described["decoding"] = encoder.decoding
    described = {name: json.dumps(value) for name, value in described.items()} | metadata
    write_atomically(folder / FILE, lambda path: save_file(tensors, path, described))


def load_encoder(run: str | Path, device: str = "cpu") -> Encoder:
    """The trained encoder of a run, in evaluation mode, with its preprocessing inside.

    Call it on images (B, C, H, W), uint8 or float in [0, 1]; `Encoder.read` makes such a batch of image files.

    Args:
        run: A run folder, or the encoder.safetensors in it.
        device: Where to put it.

    Raises:
        FileNotFoundError: No encoder is there.
        ValueError: The file is damaged.
    """
    path = Path(run)
    path = path / FILE if path.is_dir() else path
    metadata = read_metadata(path)
    encoder = bare_encoder(json.loads(metadata["encoder"]), json.loads(metadata["input_shape"]))
    encoder.decoding = json.loads(metadata.get("decoding", "{}"))  # earlier versions had none
    encoder.load_state_dict(load_file(path))
    return encoder.to(device).eval().requires_grad_(False)


def read_metadata(path: Path) -> dict[str, str]:
    """What stands in an encoder.safetensors beside the weights; raises as `load_encoder` does."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} does not exist; give the folder of a finished run")
    try:
        with safe_open(path, "pt") as file:
            return file.metadata()
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); bring back a whole one") from None


def bare_encoder(node: dict[str, Any], input_shape: Sequence[int]) -> Encoder:
    """The encoder of a config node for images (C, H, W), to load weights into: pixel statistics are among these."""
    channels, height, _ = input_shape
    blank: list[float] = [0.0] * channels
    return Encoder(build(node, "model.encoder")(channels, height), input_shape, blank, blank)
