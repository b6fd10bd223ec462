"""A dataset: images and labels, nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from torch import Tensor

from ssl_runner.data.stores.stored_images import StoredImages
from ssl_runner.errors import DataError, InvalidValue

# in memory or memory-mapped, or decoded when they are asked for; indexing returns a tensor of either
Images = Tensor | StoredImages


def every(images: Images, step: int) -> Images:
    """One of every ``step`` images, from the first on. Those of a store are not decoded."""
    return images.at(slice(None, None, step)) if isinstance(images, StoredImages) else images[::step]


def held(images: Images, who: str) -> Tensor:
    """The images, which must be in memory.

    Raises:
        DataError: They are in a store; ``who`` needs all of them at once.
    """
    if isinstance(images, StoredImages):
        raise DataError(f"{who} needs all images in memory at once, but these are packed; set storage=memory for them.")
    return images


@dataclass(frozen=True)
class Dataset:
    """One split of a dataset, in memory, memory-mapped, or in a store from which images are decoded as they are needed.

    Attributes:
        name: The name in messages, such as ``mnist/train``.
        images: uint8 (N, C, H, W), where C is 1 or 3.
        labels: int64 (N,) in [0, len(class_names)), or None.
        class_names: One name per class; empty without labels.
        class_groups: One group per class, such as its alphabet, or None. Groups do not restrict anything.
        fingerprint: Hash of the content.
        class_domains: One domain per class if the set joins several datasets, or several partitions of one: a task only
            has classes of one domain. None if a task may have any classes.
        seen: Names of the datasets it was made from: those of a mixture, the one whose images are clustered, and those
            that the encoder behind the clusters was trained on. Empty for an ordinary dataset.
        domain_shares: The share of tasks that each of `domains` gets, in their order, with sum 1; None: all the same.
    """

    name: str
    images: Images
    labels: Tensor | None
    class_names: tuple[str, ...]
    class_groups: tuple[str, ...] | None
    fingerprint: str
    class_domains: tuple[str, ...] | None = None
    seen: tuple[str, ...] = ()
    domain_shares: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def source(self) -> str:
        """The name without that of the split, such as ``mnist``."""
        return self.name.rpartition("/")[0] or self.name

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, each once, in the order of the classes; empty if there are none."""
        return tuple(dict.fromkeys(self.class_domains or ()))


class Note(NamedTuple):
    """Something that a reader of the result should know about how a dataset was made.

    Attributes:
        key: Key in result.json, under ``dataset``.
        value: Plain JSON data.
        text: A sentence for the console, without its full stop.
        warning: Whether it casts doubt on the results.
    """

    key: str
    value: Any
    text: str
    warning: bool = False


@dataclass(frozen=True)
class Splits:
    """Train, validation and test split of one dataset.

    ``by`` says what separates them: ``images`` (the same classes everywhere) or ``classes`` (disjoint classes, with
    labels that count from 0 in each split). ``notes`` say what was left out or is doubtful. ``decoding`` describes how
    a user's own files were decoded: keyword arguments of `ssl_runner.images.decoding.Decoding`.
    """

    train: Dataset
    validation: Dataset | None
    test: Dataset
    by: Literal["images", "classes"]
    notes: tuple[Note, ...] = ()
    decoding: Mapping[str, Any] = field(default_factory=dict)

    def for_selection(self) -> "Splits":
        """The splits used to select a model: validation takes the place of test, and test is out of reach."""
        if self.validation is None:
            raise InvalidValue(
                f"{self.train.name} has no validation split, so no model can be selected; set dataset.validation."
            )
        return replace(self, validation=None, test=self.validation)
