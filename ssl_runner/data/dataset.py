"""What a dataset is: images and labels, nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from torch import Tensor

from ssl_runner.errors import InvalidValue


@dataclass(frozen=True)
class Dataset:
    """One split of a dataset, in memory or memory-mapped.

    Attributes:
        name: For messages: ``mnist/train``.
        images: uint8 (N, C, H, W), C is 1 or 3.
        labels: int64 (N,) in [0, len(class_names)), or None.
        class_names: One a class; empty without labels.
        class_groups: One a class (alphabet), or None; it restricts nothing.
        fingerprint: Hash of the content.
        class_domains: One a class where the set joins several datasets, or several partitions of one: a task has
            classes of one domain only. None where a task may have any classes.
        seen: Names of the datasets that it was made of: a mixture's, the one whose images are clustered, and those that
            the encoder behind the clusters was trained on. Empty for one that is its own.
    """

    name: str
    images: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]
    class_groups: tuple[str, ...] | None
    fingerprint: str
    class_domains: tuple[str, ...] | None = None
    seen: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def source(self) -> str:
        """The name without that of the split: ``mnist``."""
        return self.name.rpartition("/")[0] or self.name

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, each once, in the order of the classes; empty without any."""
        return tuple(dict.fromkeys(self.class_domains or ()))


class Note(NamedTuple):
    """What a reader of the result should know of how a dataset came to be.

    Attributes:
        key: In result.json, under ``dataset``.
        value: Plain JSON data.
        text: A sentence for the console, without its full stop.
        warning: Whether it throws doubt on the figures.
    """

    key: str
    value: Any
    text: str
    warning: bool = False


@dataclass(frozen=True)
class Splits:
    """Train, validation and test of one dataset.

    ``by`` says what separates them: ``images`` (the same classes everywhere) or ``classes`` (disjoint classes, and
    labels count from 0 within each split). ``notes`` tell what was left out or is doubtful. ``decoding`` says by what
    rules a user's own files became pixels: keys of `ssl_runner.images.decoding.Decoding`.
    """

    train: Dataset
    validation: Dataset | None
    test: Dataset
    by: Literal["images", "classes"]
    notes: tuple[Note, ...] = ()
    decoding: Mapping[str, Any] = field(default_factory=dict)

    def for_selection(self) -> "Splits":
        """The splits on which a model may be selected: validation stands as test, and test is out of reach."""
        if self.validation is None:
            raise InvalidValue(f"{self.train.name} has no validation split; without one nothing may be selected.")
        return replace(self, validation=None, test=self.validation)
