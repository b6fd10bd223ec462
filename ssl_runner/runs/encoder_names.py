"""The words that name an encoder, checked as far as files show. It needs no torch."""

from dataclasses import dataclass
from pathlib import Path

from ssl_runner.config.stored import run_around
from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.errors import InvalidValue

RAW_PIXELS = "raw_pixels"
LIBRARIES = ("timm", "torchvision")
EXPECTED = (
    "give a run folder (outputs/NAME/RUN), timm:NAME, torchvision:NAME, either with @FILE of weights, a .safetensors "
    f"file that a run has written, or {RAW_PIXELS}"
)


@dataclass(frozen=True)
class EncoderName:
    """A parsed word.

    Attributes:
        word: As it was given.
        kind: ``run``, ``file``, ``timm``, ``torchvision`` or ``raw_pixels``.
        model: Name of a library's model; else empty.
        path: Of the run folder or the file; None without one.
    """

    word: str
    kind: str
    model: str = ""
    path: Path | None = None


def parse(word: str) -> EncoderName:
    """What a word names.

    Raises:
        ValueError: There is no such thing; the message says what can be given.
    """
    kind, colon, rest = word.partition(":")
    if colon and kind in LIBRARIES:
        model, at, given = rest.partition("@")
        file = Path(given).expanduser().absolute() if at else None
        if file is not None and not file.is_file():
            raise InvalidValue(f"{word}: {file} does not exist; give a file of weights")
        return EncoderName(word, kind, model, file)
    if word == RAW_PIXELS:
        return EncoderName(word, RAW_PIXELS)
    path = Path(word).expanduser().absolute()
    if path.suffix == ".safetensors" and path.is_file():
        return EncoderName(word, "file", path=path)
    if (run := run_around(path)) is not None:
        raise InvalidValue(f"{word} is inside a run; give the run's folder, {run}")
    if not path.exists():
        hint = did_you_mean(kind, LIBRARIES) if colon else did_you_mean(word, [RAW_PIXELS])
        raise InvalidValue(f"{word} does not exist{hint or '; ' + EXPECTED}")
    if not (path / "config.yaml").is_file():
        lack = "has no config.yaml, so it is not a run folder" if path.is_dir() else "is not an encoder"
        raise InvalidValue(f"{word} {lack}; {EXPECTED}")
    return EncoderName(word, "run", path=path)
