"""The common part of evaluators that learn from labelled images of a dataset and are scored on others."""

from collections.abc import Sequence
from typing import Any

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.dataset import Splits
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.gallery import GalleryIndices, describe, gallery_indices
from ssl_runner.evaluation.reading import OWN, Reading
from ssl_runner.evaluation.unseen import refuse_shape, shares_images


class Labelled:
    """The dataset that an evaluator uses: the run's, or its own.

    With its own dataset, it measures transfer from one dataset to another, even if the first has no labels. Its keys
    then begin with that dataset's name, and its option is called ``EVALUATOR_DATASET``.

    Attributes:
        name: Name of its scores, such as ``linear_probe_1pct``.
        option: Its key below ``eval``.
        labels: Share of the gallery's labels that it learns from.
        target: The test split of its own dataset, or None.

    Args:
        name: See above.
        dataset: A dataset other than the run's, with images of the same shape, or None.
        labels: See above.
        reading: The features that it uses.
    """

    def __init__(self, name: str, dataset: Splits | None, labels: float = 1.0, reading: Reading = OWN) -> None:
        self.name, self.labels, self.reading = name, labels, reading
        self.own = dataset
        self.target = None if dataset is None else dataset.test
        self.option = name if self.target is None else f"{name}_{self.target.source}"

    def judged(self, splits: Splits) -> Splits:
        """The evaluator's own dataset, or else the run's."""
        return splits if self.own is None else self.own

    def key(self, score: str) -> str:
        """The key of a score: ``knn/top1``, or for its own dataset ``cifar10/knn/top1``."""
        return f"{self.name}/{score}" if self.target is None else f"{self.target.source}/{self.name}/{score}"

    def checked(self, algorithm: Algorithm | None, splits: Splits) -> GalleryIndices:
        """Gallery and queries of the dataset that the evaluator uses.

        Raises:
            ValueError: It has no labels or only one class, its images do not have the shape that the encoder takes, or
                the encoder does not have the features.
        """
        if algorithm is not None and (refusal := self.reading.refusal(algorithm.eval_encoder())) is not None:
            raise InvalidValue(f"eval.{self.option}.{refusal}")
        judged = self.judged(splits)
        if self.target is not None:
            shape = splits.train.images.shape[1:] if algorithm is None else algorithm.eval_encoder().input_shape
            refuse_shape(self.target, shape, f"eval.{self.option}")
        found = gallery_indices(judged, self.labels)
        for labels, where in ((found.gallery_labels, judged.train.name), (found.query_labels, judged.test.name)):
            present = labels.unique().tolist()
            if len(present) < 2:
                raise InvalidValue(_one_class(where, [judged.test.class_names[label] for label in present]))
        return found

    def described(self, splits: Splits) -> dict[str, Any]:
        """`describe` of the dataset that the evaluator uses, with its name if it is not the run's.

        Its classes count as seen if the run was trained on any of its images.
        """
        if self.own is None or self.target is None:
            return self.reading.described() | describe(splits, self.labels)
        trained = shares_images(self.target, splits.train)
        named = {"dataset": self.target.source, "fingerprint": self.target.fingerprint}
        named |= {note.key: note.value for note in self.own.notes}
        return (
            self.reading.described()
            | named
            | describe(self.own, self.labels)
            | {"classes": "seen" if trained else "unseen"}
        )


def _one_class(where: str, names: Sequence[str]) -> str:
    has = f"one class ({names[0]!r})" if names else "no images"
    return (
        f"{where} has {has}, expected at least two classes; give a dataset with more "
        "(an image folder's root is the folder above the class folders), or run with eval=[]"
    )
