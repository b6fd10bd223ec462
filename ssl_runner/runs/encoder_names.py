"""The words that name an encoder, checked as far as files show. It needs no torch."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from ssl_runner.config.stored import read_config, run_around
from ssl_runner.config.suggestions import did_you_mean, nearest
from ssl_runner.errors import InvalidValue
from ssl_runner.runs import run_folder
from ssl_runner.runtime.launch_environment import how_to_go_on

RAW_PIXELS = "raw_pixels"
LIBRARIES = ("timm", "torchvision")
ENCODER = "encoder.safetensors"  # in a run folder
WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
WEIGHTS_EXPECTED = (
    "give the folder of a finished run (outputs/NAME/RUN), a file of weights, or timm:NAME, which may have @FILE"
)
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

    @property
    def file(self) -> Path | None:
        """The file of weights: a run's is its encoder."""
        return self.path / ENCODER if self.kind == "run" and self.path is not None else self.path

    @property
    def product(self) -> str | None:
        """Whose encoder a checkpoint in a run is to give, ``student`` or ``teacher``; None outside of runs."""
        run = None if self.path is None else run_around(self.path)
        if run is None:
            return None
        return OmegaConf.select(read_config(run / "config.yaml", self.word), "algorithm.product") or "student"


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


def parse_weights(word: str) -> EncoderName:
    """What ``init=WORD`` names: a run with its trained encoder, a file of weights, or a model of timm.

    Raises:
        ValueError: There is no such thing, or the run has no encoder yet; the message says what can be given.
    """
    if word.partition(":")[0] == "timm":
        return parse(word)
    path = Path(word).expanduser().absolute()
    if path.is_file() and path.suffix in WEIGHT_FILES:
        return EncoderName(word, "file", path=path)
    if path.is_file():
        raise InvalidValue(f"{word} is not a file of weights ({', '.join(WEIGHT_FILES)}); {WEIGHTS_EXPECTED}")
    if (run := run_around(path)) is not None:
        raise InvalidValue(f"{word} is inside a run; give the run's folder, {run}")
    if not path.exists():
        kind, colon, _ = word.partition(":")
        hint = did_you_mean(kind, ["timm"]) if colon else _nearest(path)
        raise InvalidValue(f"{word} does not exist{hint or '; ' + WEIGHTS_EXPECTED}")
    if not (path / "config.yaml").is_file():
        held = sorted(found.parent.name for found in path.glob("*/config.yaml"))
        which = f"it holds runs, the newest {held[-1]}; give {path / held[-1]}" if held else WEIGHTS_EXPECTED
        raise InvalidValue(f"{word} has no config.yaml, so it is not a run folder; {which}")
    if not (path / ENCODER).is_file():
        raise InvalidValue(f"{word} has no {ENCODER}, because that run is not finished; {_go_on(path)}")
    return EncoderName(word, "run", path=path)


def _nearest(path: Path) -> str:
    """``; did you mean ...?`` for a path whose last part that does not exist resembles another."""
    while not path.parent.is_dir():
        path = path.parent
    close = nearest(path.name, [other.name for other in path.parent.iterdir()])
    return "" if close is None else f"; did you mean {path.parent / close}?"


def _go_on(run: Path) -> str:
    """What to do about a run without an encoder."""
    try:
        remedy = run_folder.remedy(run, run_folder.status(run))
    except (OSError, ValueError):  # it was stopped before it could write its status
        remedy = how_to_go_on(run)
    last = run / "checkpoints" / "last.pt"
    return f"{remedy}, or begin from its last checkpoint: init={last}" if last.is_file() else remedy
