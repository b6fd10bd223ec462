"""A trained algorithm out of its run folder, without the data it was trained on."""

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ssl_runner import checkpoint, roles, run_folder
from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.config import ConfigError, build, check_config
from ssl_runner.losses.loss import Loss
from ssl_runner.models import saving
from ssl_runner.models.network import Encoder, Network
from ssl_runner.report import result
from ssl_runner.resuming import read_config, run_around
from ssl_runner.schema import ROOT_KEYS, SUPPLIED

# of a config, what an algorithm is made of
PARTS = ("algorithm", "model.encoder", "model.head", "loss")


def load_algorithm(run: str | Path, device: str = "cpu") -> Algorithm:
    """The whole trained algorithm of a run, in evaluation mode: teacher, head, queue and all, not its encoder alone.

    Its weights are those of the checkpoint that is the product (result.json's ``product``); no dataset is needed.
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
    product = _product(folder)
    metadata = saving.read_metadata(folder / saving.FILE)
    if "n_outputs" not in metadata:
        raise ValueError(
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
    state = checkpoint.product(folder / "checkpoints", product)
    try:
        algorithm.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{folder / 'checkpoints' / product} does not fit {folder / 'config.yaml'}, which may have been changed "
            f"after training ({' '.join(str(error).split())})"
        ) from None
    return algorithm.to(device).eval()


def _product(folder: Path) -> str:
    """Which checkpoint a finished run says is its product."""
    if (run := run_around(folder)) is not None:
        raise ValueError(f"{folder} lies in a run; give the run's folder, {run}")
    path = folder / result.FILE
    if not path.is_file():
        lack = f"has no {result.FILE}, so it is no run folder" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(f"{folder} {lack}; give the folder of a finished run, outputs/NAME/RUN")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        status, product = run_folder.status(folder), content.get("product", {}).get("checkpoint")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); bring back a whole one") from None
    if status != run_folder.FINISHED:
        raise ValueError(
            f"{folder} has the status {status!r}, expected 'finished'; {run_folder.remedy(folder, status)}"
        )
    return product


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
    loss = None if config["loss"] is None else roles.part(config["loss"], "loss", Loss)
    parts = roles.parts_of(roles.method(config["algorithm"]), Network(encoder, head), loss, n_way)
    return roles.part(config["algorithm"], "algorithm", Algorithm, **parts)
