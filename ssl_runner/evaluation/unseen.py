"""Checks that a run has never seen a dataset, and that its encoder can take the dataset's images."""

from collections.abc import Sequence

from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.errors import ConfigError


def refuse_seen(judged: Dataset, splits: Splits, where: str) -> None:
    """Raises ConfigError if images from the judged dataset's source may have been used for training or selection.

    Args:
        judged: The dataset whose images must be unseen.
        splits: The data that the run learns from.
        where: Dotted key of the evaluator, for the message.
    """
    seen = [part for part in (splits.train, splits.validation) if part is not None]
    same = sorted(set().union(*(_common(judged, part) for part in seen)))
    if same:
        raise ConfigError(
            [
                f"{where}: it evaluates on {judged.name}, but this run trains on {same[0]}, so the images are not "
                f"unseen; evaluate on another dataset ({where}.dataset), or leave it out of eval=[...]"
            ]
        )


def sources(dataset: Dataset) -> set[str]:
    """The sources that a dataset was made from, or its own source if it was made from no other."""
    return set(dataset.seen) or {dataset.source}


def shares_images(judged: Dataset, trained: Dataset) -> bool:
    """Whether two datasets have a source in common."""
    return bool(_common(judged, trained))


def refuse_shape(judged: Dataset, input_shape: Sequence[int], where: str) -> None:
    """Raises ConfigError if the judged images do not have the shape (C, H, W) that the encoder takes."""
    shape = tuple(judged.images.shape[1:])
    if shape != tuple(input_shape):
        got, expected = (" x ".join(map(str, one)) for one in (shape, input_shape))
        channels, size, _ = input_shape
        raise ConfigError(
            [
                f"{where}.dataset makes images of {got}, but the encoder takes {expected}; "
                f"set {where}.dataset.size={size} {where}.dataset.channels={channels}"
            ]
        )


def _common(judged: Dataset, trained: Dataset) -> set[str]:
    """The sources of the second dataset that the first has too."""
    names = {_letters(source) for source in sources(judged)}
    return {source for source in sources(trained) if _letters(source) in names}


def _letters(name: str) -> str:
    """A name without case and punctuation, since torchvision's ``FashionMNIST`` is our ``fashion_mnist``."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())
