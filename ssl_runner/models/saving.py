"""A trained encoder in one file, and back."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

from ssl_runner.config.building import build
from ssl_runner.config.stored import run_around
from ssl_runner.errors import InvalidValue
from ssl_runner.models.network import Encoder
from ssl_runner.runtime.atomic_write import write_atomically

FILE = "encoder.safetensors"
REHEARSED = 2**27  # bytes of weights that are written for a rehearsal, in a tenth of a second


def save_encoder(
    encoder: Encoder,
    node: dict[str, Any],
    n_outputs: int | None,
    n_way: int | None,
    folder: Path,
    metadata: dict[str, str],
) -> None:
    """Write folder/encoder.safetensors: weights, and all that building them again takes beside the config.

    Weights that blocks of the encoder share are written once for each of them.

    Args:
        encoder: Trained.
        node: Of the config, which builds its backbone.
        n_outputs: What the head on it was made for, `Batching.n_outputs`: only the dataset knew.
        n_way: What the algorithm was made for, `Batching.most_ways`.
        folder: The run folder.
        metadata: To stand beside.
    """
    tensors, described = _contents(encoder, node, n_outputs, n_way, metadata)
    write_atomically(folder / FILE, lambda path: save_file(tensors, path, described))


def rehearse_saving(
    encoder: Encoder, node: dict[str, Any], n_outputs: int | None, n_way: int | None, metadata: dict[str, str]
) -> None:
    """Make the bytes that `save_encoder` would write, read them back and throw them away.

    Of an encoder of more than 128 MiB, each tensor is stood in for by one number of its type: names, types and metadata
    are rehearsed, their sizes are not. Neither is the disk.

    Raises:
        ValueError: The encoder cannot be saved, and why.
    """
    try:
        tensors, described = _contents(encoder, node, n_outputs, n_way, metadata)
        if sum(tensor.nbytes for tensor in tensors.values()) > REHEARSED:
            tensors = {name: tensor.flatten()[:1].clone() for name, tensor in tensors.items()}
        load(save(tensors, described))
    except Exception as error:  # what is no tensor, a type that the format has not, text that is no text
        kind, reason = type(encoder.backbone).__name__, " ".join(str(error).split())
        raise InvalidValue(
            f"the encoder ({kind}) could not be saved as {FILE} after training ({reason}); "
            "let its state_dict() hold tensors alone, or choose another model/encoder"
        ) from error


def _contents(
    encoder: Encoder, node: dict[str, Any], n_outputs: int | None, n_way: int | None, metadata: dict[str, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU of which no two share memory, and text."""
    tensors, seen = dict[str, Tensor](), set[int]()
    for name, tensor in encoder.state_dict().items():
        tensors[name] = tensor.detach().cpu().contiguous()
        place = tensors[name].untyped_storage().data_ptr()
        if place in seen:
            tensors[name] = tensors[name].clone()
        seen.add(place)
    described = {"encoder": node, "input_shape": encoder.input_shape, "n_outputs": n_outputs, "n_way": n_way}
    described["decoding"] = encoder.decoding
    return tensors, {name: json.dumps(value) for name, value in described.items()} | metadata


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
    if path.name != FILE and (around := run_around(path)) is not None:
        raise InvalidValue(f"{path} lies in a run; give the run's folder, {around}")
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
        raise InvalidValue(f"{path} is damaged ({error}); bring back a whole one") from None


def bare_encoder(node: dict[str, Any], input_shape: Sequence[int]) -> Encoder:
    """The encoder of a config node for images (C, H, W), to load weights into: pixel statistics are among these."""
    channels, height, _ = input_shape
    if node.get("pretrained"):  # weights that would be fetched, and overwritten
        node = node | {"pretrained": False}
    blank: list[float] = [0.0] * channels
    return Encoder(build(node, "model.encoder")(channels, height), input_shape, blank, blank)
