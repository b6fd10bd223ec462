"""The encoder that is exported or embeds images, with what its run says about it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ssl_runner.config.stored import run_around
from ssl_runner.errors import InvalidValue
from ssl_runner.models import saving
from ssl_runner.models.network import Encoder
from ssl_runner.runs import run_folder


@dataclass(frozen=True)
class Trained:
    """A trained encoder.

    Attributes:
        encoder: In evaluation mode.
        file: Its encoder.safetensors.
        node: The config node that builds its backbone.
        folder: Its run folder, or None if the file stands alone.
        result: The run's result.json; empty without a run.
    """

    encoder: Encoder
    file: Path
    node: dict[str, Any]
    folder: Path | None = None
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """Class of the backbone, with its arguments: ``Conv4(width=64)``."""
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.node.items() if not key.startswith("_"))
        return f"{self.node['_target_'].rpartition('.')[2]}({arguments})"


def trained(run: str | Path, device: str = "cpu") -> Trained:
    """The encoder of a finished run.

    Args:
        run: A run folder, or an encoder.safetensors, in a run or alone.
        device: The device to load it on.

    Raises:
        ValueError: This is no run, the run is not finished, or a file is damaged.
    """
    path = Path(run).expanduser().absolute()
    file = path / saving.FILE if path.is_dir() else path
    folder = file.parent if path.is_dir() or (file.parent / run_folder.RESULT).is_file() else None
    if not path.exists():
        raise InvalidValue(f"{path} does not exist; give the folder of a finished run, outputs/NAME/RUN")
    result = {} if folder is None else _result(folder)
    if not file.is_file():
        raise InvalidValue(f"{file} is missing; restore it, or train again with: ssl-train reproduce={folder}")
    try:
        metadata = saving.read_metadata(file)
        if not metadata or "encoder" not in metadata or "input_shape" not in metadata:
            raise InvalidValue(f"{file} was not written by ssl_runner; give a run folder, or its {saving.FILE}")
        shape = json.loads(metadata["input_shape"])
        # lines of Python are made with them, and executed
        if not (isinstance(shape, list) and len(shape) == 3 and all(type(side) is int for side in shape)):
            raise InvalidValue(f"{file}: input_shape is {shape!r}, expected channels, height and width; it is damaged")
        return Trained(_loaded(file, device), file, json.loads(metadata["encoder"]), folder, result)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise InvalidValue(f"{file} is damaged ({error}); restore it from a copy") from None


def _loaded(file: Path, device: str) -> Encoder:
    try:
        return saving.load_encoder(file, device)
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise
        raise InvalidValue(
            f"{file}: its weights do not fit the encoder that it names ({' '.join(str(error).split())})"
        ) from None


def _result(folder: Path) -> dict[str, Any]:
    """The result.json of a finished run."""
    path = folder / run_folder.RESULT
    if not path.is_file():
        if (around := run_around(folder)) is not None:
            raise InvalidValue(f"{folder} is inside a run; give the run's folder, {around}")
        raise InvalidValue(
            f"{folder} has no {run_folder.RESULT}, so it is not a run folder; give the folder of a finished run, "
            "outputs/NAME/RUN"
        )
    try:
        content, status = json.loads(path.read_text(encoding="utf-8")), run_folder.status(folder)
    except (ValueError, AttributeError) as error:
        raise InvalidValue(f"{path} is damaged ({error}); restore an intact copy") from None
    if status != run_folder.FINISHED:
        raise InvalidValue(
            f"{folder} has the status {status!r}, expected 'finished'; {run_folder.remedy(folder, status)}"
        )
    return content
