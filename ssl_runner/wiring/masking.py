"""Brings masking, batches and a method that predicts patches together, and refuses what does not fit."""

import torch

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.algorithms.masked import Masked
from ssl_runner.config.schema import Config
from ssl_runner.config.targets import locate
from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.batching.batching import Batching
from ssl_runner.data.dataset import Splits
from ssl_runner.data.masking import Masking
from ssl_runner.errors import ConfigError
from ssl_runner.losses.loss import Loss
from ssl_runner.models.vit import ViT, without_patches


def refuse_unmaskable(method: type[Algorithm], masking: Masking | None, config: Config) -> None:
    """Refuse what can be told before an algorithm is built, so that all of it is told at once.

    Raises:
        ConfigError: Nothing is hidden, or nothing predicts it, or the encoder has no patches.
    """
    if not issubclass(method, Masked):
        if masking is not None:
            raise ConfigError([f"masking hides patches, but {method.__name__} predicts none; set masking=none"])
        return
    problems, encoder = [], locate(config["model"]["encoder"]["_target_"])
    if isinstance(encoder, type) and not issubclass(encoder, ViT):
        problems.append(without_patches(encoder))
    if masking is None and config["algorithm"].get("image_loss") is None:
        problems.append("masking=none leaves nothing to predict; choose masking=random, block or multi_block")
    if problems:
        raise ConfigError(problems)


def mask(
    batching: Batching, masking: Masking | None, algorithm: Algorithm, augmentation: Augmentation, splits: Splits
) -> None:
    """Let the batching hide patches for an algorithm that predicts them.

    Raises:
        ConfigError: Masking, batching and algorithm do not fit.
    """
    if not isinstance(algorithm, Masked):
        return
    problems = _image_loss(algorithm, batching, splits) + _feature_loss(algorithm, batching)
    if masking is not None:
        problems += _patches(algorithm, masking, augmentation, splits)
    if problems:
        raise ConfigError(problems)
    if masking is not None:
        masking.check(algorithm.encoder.grid)
        batching.masking, batching.grid = masking, algorithm.encoder.grid


def _patches(algorithm: Masked, masking: Masking, augmentation: Augmentation, splits: Splits) -> list[str]:
    """Problems with the patches of an image."""
    problems, grid, side = [], algorithm.encoder.grid, algorithm.encoder.patch_size
    view = augmentation(splits.train.images[:1], torch.zeros(1, augmentation.columns))
    if view.shape[-2:] != (grid.height * side, grid.width * side):
        problems.append(
            f"views have {view.shape[-2]} x {view.shape[-1]} pixels, but the transformer is built for "
            f"{grid.height * side} x {grid.width * side}, whose patches are hidden; give the crop of the augmentation "
            "the size of the dataset's images"
        )
    if algorithm.image_loss is not None and masking.masks > 1:
        problems.append(
            f"masking.masks={masking.masks}, but a loss between views takes one mask of each; set masking.masks=1 or "
            "algorithm.image_loss=null"
        )
    if algorithm.hidden == "dropped" and not masking.constant(grid):
        problems.append(
            "hidden=dropped needs as many visible patches in every image; give masking.share=[0.4,0.4] and "
            "masking.probability=1, or set algorithm.hidden=replaced"
        )
    return problems


def _image_loss(algorithm: Masked, batching: Batching, splits: Splits) -> list[str]:
    loss = algorithm.image_loss
    if loss is None:
        return []
    problems = _misfits("image_loss", "dino", loss, frozenset({"target", "labels"}), batching.n_views)
    if "labels" in loss.needs and splits.train.labels is None:
        problems.append(f"algorithm.image_loss={type(loss).__name__} needs labels, but {splits.train.name} has none")
    return problems


def _feature_loss(algorithm: Masked, batching: Batching) -> list[str]:
    if algorithm.feature_loss is None:
        return []
    n_global = batching.n_views - getattr(batching, "local_views", 0)
    return _misfits("feature_loss", "koleo", algorithm.feature_loss, frozenset(), n_global)


def _misfits(name: str, option: str, loss: Loss, given: frozenset[str], views: int) -> list[str]:
    """Problems of a further loss with what it is given, and with the number of views."""
    who, another = f"algorithm.{name}={type(loss).__name__}", f"choose loss@algorithm.{name}={option}"
    if lacking := sorted(loss.needs - given):
        return [f"{who} needs {', '.join(lacking)}, which it does not get here; {another}"]
    if loss.of_logits:
        return [f"{who} takes scores of classes, which it does not get here; {another}"]
    if views < loss.views:
        return [f"{who} compares {loss.views} views, but it gets {views}; choose batching=two_view"]
    if loss.most_views is not None and views > loss.most_views:
        return [f"{who} compares {loss.most_views} views, but it gets {views}; choose batching=two_view"]
    return []
