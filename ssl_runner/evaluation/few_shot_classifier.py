"""Applies a trained algorithm: classifies new images from a few labelled ones."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.errors import InvalidValue
from ssl_runner.models.features import BATCH_SIZE, evaluating

Images = Tensor | Iterable[str | Path]


class FewShotClassifier:
    """`Algorithm.classify` with one support set, for any number of new images.

    Images are classified in batches of equal size, each with the whole support. If the algorithm's normalisation is
    transductive (MAML with ``statistics=batch``, see ``protocols`` in result.json), a prediction depends on the other
    images in its batch. It was scored on batches with images of every class, so it may be less accurate on a single
    image. A run with ``algorithm.statistics=support`` or ``running`` classifies each image independently.

    Args:
        algorithm: A trained algorithm.
        support_images: (S, C, H, W), uint8 or float in [0, 1].
        support_labels: int64 (S,) in [0, n_way), each at least once.
        class_names: The n_way names, in the order of the labels.
        invert: Whether new files are ink on paper and must become light on dark; tensors are not inverted.
        batch_size: Largest number of new images that are classified at once, at least 1.

    Attributes:
        class_names: Names of the columns of `scores`.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        support_images: Tensor,
        support_labels: Tensor,
        class_names: Sequence[str],
        invert: bool,
        batch_size: int,
    ) -> None:
        if batch_size < 1:
            raise InvalidValue(f"batch_size={batch_size}; give at least 1, say {BATCH_SIZE}")
        self.algorithm, self.encoder = algorithm, algorithm.eval_encoder()
        self.support_images = self._floats(support_images)[None]
        self.support_labels = support_labels.to(self.support_images.device)[None]
        self.class_names = tuple(class_names)
        self.invert, self.batch_size = invert, batch_size

    def __call__(self, images: Images) -> list[str]:
        """The name of the most likely class of each image; takes the same images as `scores`."""
        return [self.class_names[label] for label in self.scores(images).argmax(dim=1).tolist()]

    def scores(self, images: Images) -> Tensor:
        """Scores float32 (B, n_way) on the CPU; higher means more likely. Columns are ``class_names``.

        The scores are not probabilities. ProtoNet and MAML were trained so that ``scores.softmax(dim=1)`` gives
        probabilities. For a contrastive encoder the softmax is nearly flat, since its scores are in [-4, 0] (minus
        squared distances on the unit sphere); use their order and differences.

        Args:
            images: Image files in any format, or a batch (B, C, H, W), uint8 or float in [0, 1], of the encoder's size.

        Raises:
            ValueError: A tensor has the wrong shape or range, or (DataError) a file is damaged; the message names it.
        """
        if isinstance(images, str | Path):
            raise InvalidValue(f"got the path {str(images)!r}, expected a list of files; give [{str(images)!r}]")
        images = images if isinstance(images, Tensor) else list(images)
        n = len(images)
        pieces = -(-n // self.batch_size)
        bounds = [n * piece // pieces for piece in range(pieces)] + [n]
        parts = [torch.empty(0, len(self.class_names))]
        with evaluating(self.algorithm):
            parts += [self._classify(images[start:stop]) for start, stop in itertools.pairwise(bounds)]
        return torch.cat(parts)

    def _classify(self, images: Tensor | Sequence[str | Path]) -> Tensor:
        query = self._floats(images if isinstance(images, Tensor) else self.encoder.read(images, self.invert))
        scores = self.algorithm.classify(self.support_images, self.support_labels, query[None], len(self.class_names))
        return scores[0].float().cpu()

    def _floats(self, images: Tensor) -> Tensor:
        """Images as floats in [0, 1] on the encoder's device: an algorithm may concatenate support and queries."""
        shape, mean = self.encoder.input_shape, self.encoder.mean
        if images.shape[1:] != shape:
            got, expected = tuple(images.shape), ", ".join(map(str, shape))
            raise InvalidValue(f"images are {got}, expected (B, {expected}); resize them, or give files")
        if images.dtype == torch.uint8:
            return images.to(mean.device, mean.dtype) / 255
        if not images.is_floating_point():
            raise InvalidValue(f"images are {images.dtype}, expected uint8, or float in [0, 1]; convert them")
        if len(images) and not 0 <= images.min() <= images.max() <= 1:
            raise InvalidValue(
                f"images are floats in [{images.min():g}, {images.max():g}], expected [0, 1]; divide by 255, and leave "
                "normalisation to the encoder"
            )
        return images.to(mean.device, mean.dtype)
