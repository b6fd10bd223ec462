"""Whether a dataset is one that a run has never seen, and one that its encoder can look at."""

from collections.abc import Sequence

from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.errors import ConfigError


def refuse_seen(judged: Dataset, splits: Splits, where: str) -> None:
    """Raises ConfigError where images of the judged dataset's source may have been trained on, or selected by.

    Args:
        judged: Whose images nothing may have seen.
        splits: What the run learns from.
        where: Dotted key of the evaluator, for the message.
    """
    seen = [part for part in (splits.train, splits.validation) if part is not None]
    same = sorted(set().union(*(_common(judged, part) for part in seen)))
    if same:
        raise ConfigError(
            [
                f"{where}: it judges on {judged.name}, but this run trains on {same[0]}, so its images are not unseen; "
                f"judge on another dataset ({where}.dataset), or leave it out of eval=[...]"
            ]
        )


def sources(dataset: Dataset) -> set[str]:
    """What a dataset was made of, by whatever name: itself, where that is nothing else."""
    return set(dataset.seen) or {dataset.source}


def shares_images(judged: Dataset, trained: Dataset) -> bool:
    """Whether two datasets have a source in common."""
    return bool(_common(judged, trained))


def refuse_shape(judged: Dataset, input_shape: Sequence[int], where: str) -> None:
    """Raises ConfigError where the judged images have not the (C, H, W) that the encoder takes."""
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
    """Sources of the second that the first has too."""
    asked = {_letters(source) for source in sources(judged)}
    return {source for source in sources(trained) if _letters(source) in asked}


def _letters(name: str) -> str:
    """torchvision's ``FashionMNIST`` is our ``fashion_mnist``."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())
