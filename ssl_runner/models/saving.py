"""Saves a trained encoder to one file, and loads it."""

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
REHEARSED = 2**27  # bytes of weights that a rehearsal writes at most, in a tenth of a second


def save_encoder(
    encoder: Encoder,
    node: dict[str, Any],
    n_outputs: int | None,
    n_way: int | None,
    folder: Path,
    metadata: dict[str, str],
) -> None:
    """Writes folder/encoder.safetensors: the weights, and everything besides the config that is needed to rebuild them.

    Weights that are shared within the encoder are written once for each name.

    Args:
        encoder: The trained encoder.
        node: The config node that builds its backbone.
        n_outputs: `Batching.n_outputs`, for which the head was built and which depends on the dataset.
        n_way: `Batching.most_ways`, for which the algorithm was built.
        folder: The run folder.
        metadata: Further metadata to store.
    """
    tensors, described = _contents(encoder, node, n_outputs, n_way, metadata)
    write_atomically(folder / FILE, lambda path: save_file(tensors, path, described))


def rehearse_saving(
    encoder: Encoder, node: dict[str, Any], n_outputs: int | None, n_way: int | None, metadata: dict[str, str]
) -> None:
    """Makes the bytes that `save_encoder` would write, reads them back and discards them.

    If the encoder is larger than 128 MiB, one number of the same type represents each tensor: names, types and metadata
    are rehearsed, but not sizes. The disk is not rehearsed either.

    Raises:
        ValueError: The encoder cannot be saved; the message says why.
    """
    try:
        tensors, described = _contents(encoder, node, n_outputs, n_way, metadata)
        if sum(tensor.nbytes for tensor in tensors.values()) > REHEARSED:
            tensors = {name: tensor.flatten()[:1].clone() for name, tensor in tensors.items()}
        load(save(tensors, described))
    except Exception as error:  # not a tensor, a dtype that the format does not have, text that cannot be encoded
        kind, reason = type(encoder.backbone).__name__, " ".join(str(error).split())
        raise InvalidValue(
            f"the encoder ({kind}) could not be saved as {FILE} after training ({reason}); "
            "make its state_dict() hold only tensors, or choose another model/encoder"
        ) from error


def _contents(
    encoder: Encoder, node: dict[str, Any], n_outputs: int | None, n_way: int | None, metadata: dict[str, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU that share no memory, and metadata as text."""
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
    """The trained encoder of a run, in evaluation mode, with its preprocessing.

    Call it on images (B, C, H, W), uint8 or float in [0, 1]; `Encoder.read` makes such a batch from image files.

    Args:
        run: A run folder, or the encoder.safetensors in it.
        device: The device to load it on.

    Raises:
        FileNotFoundError: There is no encoder.
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
    """The metadata of an encoder.safetensors. Raises the same errors as `load_encoder`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} does not exist; give the folder of a finished run")
    try:
        with safe_open(path, "pt") as file:
            return file.metadata()
    except SafetensorError as error:
        raise InvalidValue(f"{path} is damaged ({error}); restore it from a copy") from None


def bare_encoder(node: dict[str, Any], input_shape: Sequence[int]) -> Encoder:
    """The encoder of a config node for images (C, H, W), to load weights into, which include the pixel statistics."""
    channels, height, _ = input_shape
    if node.get("pretrained"):  # would fetch weights that are overwritten anyway
        node = node | {"pretrained": False}
    blank: list[float] = [0.0] * channels
    return Encoder(build(node, "model.encoder")(channels, height), input_shape, blank, blank)
