"""The encoders that ``ssl-eval`` can be given, as algorithms: runs, files, timm's, torchvision's, the raw pixels."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssl_runner.algorithms.algorithm import Algorithm, Step
from ssl_runner.data.batches import Views
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.data.sources.source import convert, resize
from ssl_runner.data.stores.stored_images import StoredImages
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.raw_pixels import RawPixels
from ssl_runner.models import saving
from ssl_runner.models.foreign import Foreign, timm_encoder, torchvision_encoder
from ssl_runner.models.network import Encoder, Network
from ssl_runner.runs import encoder_names, evaluations, run_folder
from ssl_runner.runs.encoder_names import EncoderName
from ssl_runner.runtime.step_context import StepContext
from ssl_runner.wiring.loading import load_algorithm

MAKERS = {"timm": timm_encoder, "torchvision": torchvision_encoder}


class Frozen(Algorithm):
    """An encoder that was trained elsewhere; it classifies few-shot tasks by the nearest class mean."""

    batch_type = Views

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(Network(encoder, nn.Identity()))

    def training_step(self, batch: Any, context: StepContext) -> Step:
        """Raises TypeError: it is not trained here."""
        raise TypeError("a frozen encoder is evaluated without training")


@dataclass
class Subject:
    """An encoder to be evaluated.

    Attributes:
        name: As it was given.
        kind: ``run``, ``file``, ``timm``, ``torchvision`` or ``raw_pixels``.
        algorithm: In evaluation mode on the CPU; None for the raw pixels, which depend on the images.
        home: The folder for its evaluations.
        digest: SHA-256 of its weights; None without any.
        sources: Names of the datasets that it was trained on; None if that is not known.
        trained_on: Fingerprint of the data that a run was trained on, which its protocols call its own; else None.
        facts: What a result says of it.
        begun: What a run's result says of the weights that it began from; None for random ones.
    """

    name: str
    kind: str
    algorithm: Algorithm | None
    home: Path
    digest: str | None
    sources: list[str] | None
    trained_on: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    begun: dict[str, Any] | None = None

    def fitted(self, splits: Splits) -> tuple[Algorithm, Splits, dict[str, Any]]:
        """The algorithm, a dataset as it can take it, and what is done to the images, as plain data.

        The images of datasets are converted for encoders of ours; an encoder of others does that itself, since its
        images are often too large for memory.
        """
        shape = tuple(splits.test.images.shape[1:])
        if self.algorithm is None:
            return RawPixels(shape), splits, {"images": list(shape), "encoder": list(shape), "resized": None}
        encoder = self.algorithm.eval_encoder()
        if isinstance(encoder, Foreign):
            return self.algorithm, splits, encoder.take(shape)
        wanted = encoder.input_shape
        done = {"images": list(shape), "encoder": list(wanted), "resized": None}
        if shape == wanted:
            return self.algorithm, splits, done
        if wanted[1] != wanted[2]:
            sizes = " x ".join(map(str, wanted))
            raise InvalidValue(
                f"{self.name} takes images of {sizes}, to which others cannot be resized; give a dataset of that shape"
            )
        if shape[1:] != wanted[1:]:
            done["resized"] = "shorter side, bicubic, center cropped"
        return self.algorithm, _converted(splits, wanted), done


def _converted(splits: Splits, shape: Sequence[int]) -> Splits:
    """The same images in another shape; name, labels and fingerprint stay, and with them tasks and their hashes."""

    def part(dataset: Dataset) -> Dataset:
        images = dataset.images
        if isinstance(images, StoredImages):
            return replace(dataset, images=images.converted(3 if shape[0] == 3 else 1, shape[1]))
        return replace(dataset, images=resize(convert(images, shape[0]), shape[1]))

    validation = None if splits.validation is None else part(splits.validation)
    return replace(splits, train=part(splits.train), validation=validation, test=part(splits.test))


def load_subject(word: str) -> Subject:
    """The encoder that a word of the command line names.

    Raises:
        ValueError: There is no such encoder, or it cannot be loaded; the message says what to do.
    """
    name = encoder_names.parse(word)
    if name.kind in MAKERS:
        return _foreign(name)
    if name.path is None:
        facts = {"name": word, "kind": name.kind}
        return Subject(word, name.kind, None, evaluations.folder_of(word, None), None, [], None, facts)
    return _from_file(name.path, word) if name.kind == "file" else _run(name.path, word)


def _run(folder: Path, name: str) -> Subject:
    try:
        algorithm = load_algorithm(folder)
        encoder = saving.read_metadata(folder / saving.FILE)
        result = json.loads((folder / run_folder.RESULT).read_text(encoding="utf-8"))
        digest = _digest(folder / "checkpoints" / _selected(result))
    except FileNotFoundError as error:
        raise InvalidValue(f"{name}: {_missing(error)}") from None
    facts = _facts("run", name, algorithm.eval_encoder(), digest) | {"run": str(folder)}
    facts |= {"config_hash": result.get("config_hash"), "seed": result.get("seed")}
    trained = result.get("dataset", {}).get("fingerprint")
    home = evaluations.folder_beside(folder)
    return Subject(name, "run", algorithm, home, digest, _sources(encoder), trained, facts, result.get("init"))


def _selected(result: dict[str, Any]) -> str:
    return result.get("selected_checkpoint", result.get("product", {})).get("checkpoint", "last.pt")


def _missing(error: FileNotFoundError) -> str:
    return str(error) if error.filename is None else f"{error.filename} is missing; the run did not finish, or lost it"


def _from_file(path: Path, name: str) -> Subject:
    try:
        metadata = saving.read_metadata(path)
        if not metadata or "input_shape" not in metadata:
            raise InvalidValue(
                f"{name} does not say what it is: no run has written it; for others' weights give timm:NAME@{name}"
            )
        encoder = saving.load_encoder(path)
    except (KeyError, RuntimeError) as error:
        raise InvalidValue(f"{name} cannot be loaded ({' '.join(str(error).split())})") from None
    digest = _digest(path)
    home = evaluations.folder_of(path.stem, digest)
    facts = _facts("file", name, encoder, digest) | {"file": str(path), "config_hash": metadata.get("config_hash")}
    return Subject(name, "file", Frozen(encoder).eval(), home, digest, _sources(metadata), None, facts)


def _foreign(name: EncoderName) -> Subject:
    encoder = MAKERS[name.kind](name.model, name.path)
    digest = _digest_of(encoder) if name.path is None else _digest(name.path)
    facts = _facts(name.kind, name.word, encoder, digest) | encoder.origin
    home = evaluations.folder_of(f"{name.kind}_{name.model}", digest)
    return Subject(name.word, name.kind, Frozen(encoder.requires_grad_(False)).eval(), home, digest, None, None, facts)


def _facts(kind: str, name: str, encoder: Encoder, digest: str) -> dict[str, Any]:
    shape = list(encoder.input_shape)
    facts = {"name": name, "kind": kind, "input_shape": shape, "features": encoder.out_features}
    return facts | {"represented_by": encoder.represented_by, "sha256": digest}


def _sources(metadata: dict[str, str]) -> list[str] | None:
    """The datasets that an encoder was trained on; versions before 0.2 stored only the name of one."""
    if "sources" in metadata:
        return json.loads(metadata["sources"])
    return [metadata["dataset"].rpartition("/")[0]] if "dataset" in metadata else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(encoder: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(encoder.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
