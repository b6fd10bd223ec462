"""Loads a trained algorithm from its run folder, without the data it was trained on."""

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

# the config nodes from which an algorithm is built
PARTS = ("algorithm", "model.encoder", "model.head", "loss")


def load_algorithm(run: str | Path, device: str = "cpu") -> Algorithm:
    """The complete trained algorithm of a run, in evaluation mode: not only the encoder but also teacher, head, queue.

    Its weights are those of the selected checkpoint, which result.json names. No dataset is needed.
    Use it under ``torch.no_grad()``: algorithms that adapt to a task enable gradients themselves.

    Args:
        run: The folder of a finished run.
        device: The device to load it on.

    Raises:
        FileNotFoundError: There is no such run, or one of its files is missing.
        ValueError: The run is not finished, one of its files is damaged or lacks data that older versions did not
            store, the weights do not fit the config, or the config (ConfigError) names a target that is not trusted or
            does not exist.
    """
    folder = Path(run).expanduser().absolute()
    selected = _selected_checkpoint(folder)
    metadata = saving.read_metadata(folder / saving.FILE)
    if "n_outputs" not in metadata:
        raise InvalidValue(
            f"{folder / saving.FILE} does not say how many classes the head has, since an older version wrote it; "
            f"train again with: ssl-train reproduce={folder}"
        )
    config = _parts(folder / "config.yaml")
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, then overwritten
        made_for = (json.loads(metadata.get(name, "null")) for name in ("n_outputs", "n_way"))
        algorithm = _bare(config, json.loads(metadata["input_shape"]), *made_for)
    for part in algorithm.modules():
        if isinstance(part, Encoder):  # a teacher has one too
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
    """The name of the checkpoint that a finished run selected."""
    if (run := run_around(folder)) is not None:
        raise InvalidValue(f"{folder} is inside a run; give the run's folder, {run}")
    path = folder / result.FILE
    if not path.is_file():
        lack = f"has no {result.FILE}, so it is not a run folder" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(f"{folder} {lack}; give the folder of a finished run, outputs/NAME/RUN")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        status = run_folder.status(folder)
        # version 0.1 called it the product
        selected = content.get("selected_checkpoint", content.get("product", {})).get("checkpoint")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidValue(f"{path} is damaged ({error!r}); restore an intact copy") from None
    if status != run_folder.FINISHED:
        raise InvalidValue(
            f"{folder} has the status {status!r}, expected 'finished'; {run_folder.remedy(folder, status)}"
        )
    return selected


def _parts(path: Path) -> dict[str, Any]:
    """The nodes of a run's config that build its algorithm, checked against their constructors."""
    whole = read_config(path, str(path.parent))
    parts = OmegaConf.masked_copy(whole, [part.partition(".")[0] for part in PARTS])
    assert isinstance(parts, DictConfig)
    try:
        return check_config(parts, {part: ROOT_KEYS[part] for part in PARTS}, SUPPLIED)
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from None


def _bare(config: dict[str, Any], input_shape: list[int], n_outputs: int | None, n_way: int | None) -> Algorithm:
    """The algorithm of a config, with weights still to be loaded."""
    encoder = saving.bare_encoder(config["model"]["encoder"], input_shape)
    head = build(config["model"]["head"], "model.head")(encoder.out_features, n_outputs)
    loss = None if config["loss"] is None else components.part(config["loss"], "loss", Loss)
    parts = components.parts_of(components.method(config["algorithm"]), Network(encoder, head), loss, n_way)
    return components.part(config["algorithm"], "algorithm", Algorithm, **parts)


def few_shot_classifier(
    run: str | Path, support: str | Path, invert: bool = False, device: str = "cpu", batch_size: int = BATCH_SIZE
) -> "FewShotClassifier":
    """A classifier of new images from a few labelled ones, based on a trained run of any algorithm.

    After ``classify = few_shot_classifier(RUN, "my/classes")``, ``classify(files)`` returns class names. The run's
    dataset is not needed. Classes may differ in size, and one image is enough. If the algorithm adapts by a loss over
    the support (MAML), a class with more images has more weight.

    Args:
        run: The folder of a finished run.
        support: A folder with one folder per class, ``support/CLASS/**``, at least two; images of any size and format.
        invert: For ink on paper if the run learned light on dark (Omniglot); applies to the support and to new files.
        device: The device to compute on.
        batch_size: Number of new images that are classified at once, see `FewShotClassifier`.

    Raises:
        FileNotFoundError: There is no such run, or no such folder.
        ValueError: The run is not finished or damaged (`load_algorithm`), the support (DataError) has fewer than two
            classes, an empty class or a damaged image, or the algorithm cannot distinguish so many classes (MAML's head
            has one output per class of a training task).
    """
    names, files, labels = _labelled_files(absolute(support))
    algorithm = load_algorithm(run, device)
    images = algorithm.eval_encoder().read(files, invert)
    classifier = FewShotClassifier(algorithm, images, torch.tensor(labels), names, invert, batch_size)
    try:
        classifier.scores(images)
    except ValueError as error:
        raise InvalidValue(
            f"{type(algorithm).__name__} of {run} cannot distinguish the {len(names)} classes of {support}: {error}. "
            f"Give at most as many class folders as it was trained for, or a run trained for {len(names)}"
        ) from error
    return classifier


def _labelled_files(folder: Path) -> tuple[list[str], list[Path], list[int]]:
    """The class names, all files in the class folders, and the label of each file."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {what}; give a folder with one folder of images per class, PATH/CLASS/*.png")
    shown = (path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in LITTER)
    # a broken link may have pointed to a class
    names = sorted(path.name for path in shown if path.is_dir() or (path.is_symlink() and not path.exists()))
    if len(names) < 2:
        found = ", ".join(map(repr, names)) or "none"
        raise DataError(
            f"{folder} has {len(names)} class folders ({found}), expected at least 2; lay the images out as "
            "PATH/CLASS/*.png"
        )
    if {name.lower() for name in names} <= PART_FOLDERS.keys():
        raise DataError(
            f"{folder} has the folders {', '.join(map(repr, names))}, which are parts of a dataset, expected classes; "
            f"give {folder / names[-1]}"
        )
    loose = sorted(path for path in folder.iterdir() if path.name.lower().endswith(image_suffixes()) and path.is_file())
    if loose:
        raise DataError(f"{loose[0]} is outside the class folders; move it into the folder of its class")
    files, labels, broken = [], [], []
    for label, name in enumerate(names):
        if not (folder / name).exists():
            broken.append((folder / name, Damage("a link that leads nowhere", "repair or delete it")))
            continue
        found = scan(folder / name)
        files += [folder.joinpath(name, *file.path) for file in found.files]
        labels += [label] * len(found.files)
        broken += [(folder.joinpath(name, *path), Damage(why, "repair or delete it")) for path, why in found.broken]
    refuse(broken, len(files) + len(broken), may_skip=False)
    return [printable(name) for name in names], files, labels
