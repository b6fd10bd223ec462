"""TensorBoard's embedding projector: image features, shown as thumbnails and colored by class."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor
from torch.nn import functional
from torch.utils.tensorboard.writer import SummaryWriter

from ssl_runner.errors import InvalidValue
from ssl_runner.runtime.atomic_write import write_atomically

FOLDER = "projector"
SPRITE_SIDE = 8192  # side of the largest sheet of thumbnails that TensorBoard can show, in pixels
THUMBNAIL = 64  # largest side of a thumbnail


def log_projector(
    writer: SummaryWriter, features: Tensor, images: Tensor, class_names: Sequence[str] | None, step: int
) -> None:
    """Write features, thumbnails and class names to folder/projector, and folder/projector_config.pbtxt.

    Torch's add_embedding creates a folder for each step and writes value by value; here a resumed run replaces the
    files. Paths are relative, so that the run folder may be moved. The writer's event file is not used.

    Args:
        writer: The writer of the run's folder.
        features: (N, D).
        images: uint8 (N, C, H, W); thumbnails are reduced to 64 pixels, or less if the sheet gets too large.
        class_names: The name of each image's class, N of them, or None.
        step: Number of steps done, part of the name.

    Raises:
        ValueError: The arguments have different lengths, or are empty.
    """
    counts = [len(features), len(images), len(images) if class_names is None else len(class_names)]
    if len(set(counts)) > 1 or not counts[0]:
        raise InvalidValue(f"{counts[0]} features, {counts[1]} images and {counts[2]} class names; give one of each")
    folder = Path(writer.get_logdir())
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    config = ProjectorConfig()
    embedding = config.embeddings.add(tensor_name=f"features_step_{step}", tensor_path=f"{FOLDER}/features.tsv")
    values = features.detach().float().cpu().numpy()
    write_atomically(folder / embedding.tensor_path, lambda path: _write_table(path, values))
    if class_names is not None:
        embedding.metadata_path = f"{FOLDER}/classes.tsv"
        lines = "".join(f"{' '.join(name.split()) or '(none)'}\n" for name in class_names)
        write_atomically(folder / embedding.metadata_path, lambda path: path.write_text(lines, encoding="utf-8"))
    thumbnails = _thumbnails(images)
    embedding.sprite.image_path = f"{FOLDER}/thumbnails.png"
    embedding.sprite.single_image_dim.extend([thumbnails.shape[3], thumbnails.shape[2]])  # width, height
    sheet = _sheet(thumbnails)
    write_atomically(folder / embedding.sprite.image_path, lambda path: path.write_bytes(sheet))
    text = text_format.MessageToString(config)
    write_atomically(folder / "projector_config.pbtxt", lambda path: path.write_text(text, encoding="utf-8"))


def _write_table(path: Path, values: np.ndarray) -> None:
    with path.open("w", encoding="utf-8") as file:  # given a path, numpy would look up the working folder
        np.savetxt(file, values, fmt="%.6g", delimiter="\t")


def _thumbnails(images: Tensor) -> Tensor:
    """Thumbnails uint8 (N, 3, h, w), small enough that a square sheet of them stays within the limit."""
    largest = max(1, min(THUMBNAIL, SPRITE_SIDE // math.ceil(math.sqrt(len(images)))))
    height, width = images.shape[2:]
    share = min(1.0, largest / max(height, width))
    size = (max(1, round(height * share)), max(1, round(width * share)))
    parts = [functional.interpolate(part.float(), size=size, mode="area") for part in images.cpu().split(1024)]
    small = torch.cat([part.round().byte() for part in parts])
    if small.shape[1] != 3:
        small = small.float().mean(dim=1, keepdim=True).round().byte().expand(-1, 3, -1, -1)
    return small


def _sheet(thumbnails: Tensor) -> bytes:
    """Thumbnails row by row on a square grid, as PNG; unused cells are black."""
    n, channels, height, width = thumbnails.shape
    side = math.ceil(math.sqrt(n))
    cells = torch.zeros(side * side, channels, height, width, dtype=torch.uint8)
    cells[:n] = thumbnails
    sheet = cells.unflatten(0, (side, side)).permute(0, 3, 1, 4, 2).reshape(side * height, side * width, channels)
    buffer = io.BytesIO()
    Image.fromarray(sheet.numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
