"""A trained algorithm out of its run folder, without the data it was trained on."""

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.config.building import build
from ssl_runner.config.checking import check_config
from ssl_runner.config.paths import absolute
from ssl_runner.config.schema import ROOT_KEYS, SUPPLIED
from ssl_runner.config.stored import read_config, run_around
from ssl_runner.data.sources.folder_layout import PART_FOLDERS
from ssl_runner.errors import ConfigError, DataError, InvalidValue, printable
from ssl_runner.evaluation.few_shot_classifier import FewShotClassifier
from ssl_runner.images.decoding import Damage, refuse
from ssl_runner.images.files import LITTER, image_suffixes, scan
from ssl_runner.losses.loss import Loss
from ssl_runner.models import saving
from ssl_runner.models.features import BATCH_SIZE
from ssl_runner.models.network import Encoder, Network
from ssl_runner.runs import result, run_folder
from ssl_runner.training import checkpoint
from ssl_runner.wiring import components

# of a config, what an algorithm is made of
PARTS = ("algorithm", "model.encoder", "model.head", "loss")


def load_algorithm(run: str | Path, device: str = "cpu") -> Algorithm:
    """The whole trained algorithm of a run, in evaluation mode: teacher, head, queue and all, not its encoder alone.

    Its weights are those of the selected checkpoint, which result.json names; no dataset is needed.
    Use it under ``torch.no_grad()``: what adapts to a task turns gradients on by itself.

    Args:
        run: The folder of a finished run.
        device: Where to put it.

    Raises:
        FileNotFoundError: No run is there, or one of its files is missing.
        ValueError: The run is not finished, a file of it is damaged or lacks what older versions did not keep, the
            weights do not fit the config, or the config (ConfigError) names what is not trusted or does not exist.
    """
    folder = Path(run).expanduser().absolute()
    selected = _selected_checkpoint(folder)
    metadata = saving.read_metadata(folder / saving.FILE)
    if "n_outputs" not in metadata:
        raise InvalidValue(
            f"{folder / saving.FILE} does not say for how many classes the head was made: it is of an older version; "
            f"train anew with: ssl-train reproduce={folder}"
        )
    config = _parts(folder / "config.yaml")
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, and overwritten
        made_for = (json.loads(metadata.get(name, "null")) for name in ("n_outputs", "n_way"))
        algorithm = _bare(config, json.loads(metadata["input_shape"]), *made_for)
    for part in algorithm.modules():
        if isinstance(part, Encoder):  # a teacher has one, too
            part.decoding = json.loads(metadata.get("decoding", "{}"))
    state = checkpoint.selected_weights(folder / "checkpoints", selected)
    try:
        algorithm.load_state_dict(state)
    except RuntimeError as error:
        raise InvalidValue(
            f"{folder / 'checkpoints' / selected} does not fit {folder / 'config.yaml'}, which may have been changed "
            f"after training ({' '.join(str(error).split())})"
        ) from None
    return algorithm.to(device).eval()


def _selected_checkpoint(folder: Path) -> str:
    """Name of the checkpoint that a finished run selected."""
    if (run := run_around(folder)) is not None:
        raise InvalidValue(f"{folder} lies in a run; give the run's folder, {run}")
    path = folder / result.FILE
    if not path.is_file():
        lack = f"has no {result.FILE}, so it is no run folder" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(f"{folder} {lack}; give the folder of a finished run, outputs/NAME/RUN")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        status = run_folder.status(folder)
        # version 0.1 called it the product
        selected = content.get("selected_checkpoint", content.get("product", {})).get("checkpoint")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidValue(f"{path} is damaged ({error!r}); bring back a whole one") from None
    if status != run_folder.FINISHED:
        raise InvalidValue(
            f"{folder} has the status {status!r}, expected 'finished'; {run_folder.remedy(folder, status)}"
        )
    return selected


def _parts(path: Path) -> dict[str, Any]:
    """The nodes of a run's config that make its algorithm, checked against their constructors."""
    whole = read_config(path, str(path.parent))
    parts = OmegaConf.masked_copy(whole, [part.partition(".")[0] for part in PARTS])
    assert isinstance(parts, DictConfig)
    try:
        return check_config(parts, {part: ROOT_KEYS[part] for part in PARTS}, SUPPLIED)
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from None


def _bare(config: dict[str, Any], input_shape: list[int], n_outputs: int | None, n_way: int | None) -> Algorithm:
    """The algorithm of a config, to load weights into."""
    encoder = saving.bare_encoder(config["model"]["encoder"], input_shape)
    head = build(config["model"]["head"], "model.head")(encoder.out_features, n_outputs)
    loss = None if config["loss"] is None else components.part(config["loss"], "loss", Loss)
    parts = components.parts_of(components.method(config["algorithm"]), Network(encoder, head), loss, n_way)
    return components.part(config["algorithm"], "algorithm", Algorithm, **parts)


def few_shot_classifier(
    run: str | Path, support: str | Path, invert: bool = False, device: str = "cpu", batch_size: int = BATCH_SIZE
) -> "FewShotClassifier":
    """Classifies new images from a few labelled ones with what a run has learned, whatever its algorithm.

    ``classify = few_shot_classifier(RUN, "my/classes")``, then ``classify(files)`` gives names of classes. The dataset
    of the run is not needed. Classes may be of different sizes, one image is enough; in an algorithm that adapts by a
    loss over the support (MAML), a class of more images weighs more.

    Args:
        run: The folder of a finished run.
        support: A folder of one folder a class, ``support/CLASS/**``, at least two; images of any size and format.
        invert: For ink on paper, where the run learned light on dark (Omniglot); of support and new files alike.
        device: Where to compute.
        batch_size: New images that are classified at once, see `FewShotClassifier`.

    Raises:
        FileNotFoundError: There is no such run, or no such folder.
        ValueError: The run is not finished or damaged (`load_algorithm`), the support (DataError) has less than two
            classes, an empty one or a damaged image, or the algorithm cannot tell so many classes apart (MAML's head
            has one output a class of its training).
    """
    names, files, labels = _labelled_files(absolute(support))
    algorithm = load_algorithm(run, device)
    images = algorithm.eval_encoder().read(files, invert)
    classifier = FewShotClassifier(algorithm, images, torch.tensor(labels), names, invert, batch_size)
    try:
        classifier.scores(images)
    except ValueError as error:
        raise InvalidValue(
            f"{type(algorithm).__name__} of {run} cannot tell the {len(names)} classes of {support} apart: {error}. "
            f"Give folders of at most as many classes as it was trained for, or a run trained for {len(names)}"
        ) from error
    return classifier


def _labelled_files(folder: Path) -> tuple[list[str], list[Path], list[int]]:
    """Names of the classes, all files of their folders, and the label of each."""
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {what}; give a folder of one folder of images a class, PATH/CLASS/*.png")
    shown = (path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in LITTER)
    # a link that leads nowhere may have been to a class
    names = sorted(path.name for path in shown if path.is_dir() or (path.is_symlink() and not path.exists()))
    if len(names) < 2:
        found = ", ".join(map(repr, names)) or "none"
        raise DataError(
            f"{folder} has {len(names)} class folders ({found}), expected at least 2; lay the images out as "
            "PATH/CLASS/*.png"
        )
    if {name.lower() for name in names} <= PART_FOLDERS.keys():
        raise DataError(
            f"{folder} has {', '.join(map(repr, names))}, which are parts of a dataset, expected classes; give "
            f"{folder / names[-1]}"
        )
    loose = sorted(path for path in folder.iterdir() if path.name.lower().endswith(image_suffixes()) and path.is_file())
    if loose:
        raise DataError(f"{loose[0]} lies beside the folders of the classes: of which is it? Move it into one.")
    files, labels, broken = [], [], []
    for label, name in enumerate(names):
        if not (folder / name).exists():
            broken.append((folder / name, Damage("a link that leads nowhere", "mend or delete it")))
            continue
        found = scan(folder / name)
        files += [folder.joinpath(name, *file.path) for file in found.files]
        labels += [label] * len(found.files)
        broken += [(folder.joinpath(name, *path), Damage(why, "mend or delete it")) for path, why in found.broken]
    refuse(broken, len(files) + len(broken), may_skip=False)
    return [printable(name) for name in names], files, labels
