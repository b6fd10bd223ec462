"""The formats: what each can hold, how it is written, and the lines of Python that load it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.errors import InvalidValue
from ssl_runner.export import hugging_face, programs, weights
from ssl_runner.export.source import Trained

Lines = Callable[[Trained, Path], list[str]]


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        title: For people.
        file: Name of the file or folder, beside the run's encoder.safetensors unless another is given.
        write: Writes a trained encoder to a path.
        lines: Lines of Python that load what is at a path and leave the ``features`` of ``images`` in variables.
        preprocessing: Sentences on what the caller has to do to images.
        refusal: Why the format cannot hold an encoder, or None if it can.
        array: Whether the lines take images as a NumPy array instead of a tensor.
        rgb: Whether images are RGB of any size, instead of channels and size that the encoder was built for.
    """

    title: str
    file: str
    write: Callable[[Trained, Path], None]
    lines: Lines
    preprocessing: Callable[[Trained], str]
    refusal: Callable[[Trained], str | None]
    array: bool = False
    rgb: bool = False


def _holds_all(_: Trained) -> None:
    return None


FORMATS = {
    "onnx": Format(
        "ONNX",
        "encoder.onnx",
        programs.write_onnx,
        programs.onnx_lines,
        programs.preprocessing,
        _holds_all,
        array=True,
        rgb=True,
    ),
    "torch": Format(
        "torch.export",
        "encoder.pt2",
        programs.write_torch,
        programs.torch_lines,
        programs.preprocessing,
        _holds_all,
        rgb=True,
    ),
    "timm": Format(
        "timm",
        "encoder_timm.safetensors",
        weights.write_timm,
        weights.timm_lines,
        weights.preprocessing,
        weights.not_of_timm,
    ),
    "torchvision": Format(
        "torchvision",
        "encoder_torchvision.safetensors",
        weights.write_torchvision,
        weights.torchvision_lines,
        weights.preprocessing,
        weights.not_of_torchvision,
    ),
    "huggingface": Format(
        "Hugging Face",
        "huggingface",
        hugging_face.write,
        hugging_face.lines,
        hugging_face.preprocessing,
        _holds_all,
    ),
}


def format_for(name: str, source: Trained) -> Format:
    """The format of this name.

    Raises:
        ValueError: There is no such format, or it cannot hold this encoder.
    """
    known(name)
    if (reason := FORMATS[name].refusal(source)) is not None:
        able = [other for other, kind in FORMATS.items() if kind.refusal(source) is None]
        raise InvalidValue(f"--to {name}: {reason}; give --to {_either(able)}")
    return FORMATS[name]


def known(name: str) -> None:
    """Raises InvalidValue, with a suggestion, if there is no format of this name."""
    if name not in FORMATS:
        hint = did_you_mean(name, FORMATS) or f"; give {_either(list(FORMATS))}"
        raise InvalidValue(f"--to {name}: there is no such format{hint}")


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
