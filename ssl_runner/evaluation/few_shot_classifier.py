"""A trained algorithm put to use: new images, told apart by a few labelled ones."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.decoding import Damage, refuse
from ssl_runner.data.files import LITTER, image_suffixes, printable, scan
from ssl_runner.data.folder_layout import PART_FOLDERS
from ssl_runner.data.roots import DataError, absolute
from ssl_runner.evaluation.features import BATCH_SIZE, evaluating
from ssl_runner.loading import load_algorithm

Images = Tensor | Iterable[str | Path]


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
        raise ValueError(
            f"{type(algorithm).__name__} of {run} cannot tell the {len(names)} classes of {support} apart: {error}. "
            f"Give folders of at most as many classes as it was trained for, or a run trained for {len(names)}"
        ) from error
    return classifier


class FewShotClassifier:
    """`Algorithm.classify` with one support set, for any number of new images.

    Images go in batches of equal size, each beside the whole support. Where the algorithm's normalisation is
    transductive (MAML with ``statistics=batch``, which result.json's ``protocols`` tells), a prediction depends on the
    other images of its batch: it was scored on batches with images of every class, and one image alone may be told
    less well. A run with ``algorithm.statistics=support`` or ``running`` predicts each image by itself.

    Args:
        algorithm: Trained.
        support_images: (S, C, H, W), uint8 or float in [0, 1].
        support_labels: int64 (S,) in [0, n_way), each at least once.
        class_names: n_way, in the order of the labels.
        invert: Whether new files are ink on paper, to become light on dark; tensors are taken as they are.
        batch_size: Most new images that are classified at once, at least 1.

    Attributes:
        class_names: Of the columns of `scores`.
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
            raise ValueError(f"batch_size={batch_size}; give at least 1, say {BATCH_SIZE}")
        self.algorithm, self.encoder = algorithm, algorithm.eval_encoder()
        self.support_images = self._floats(support_images)[None]
        self.support_labels = support_labels.to(self.support_images.device)[None]
        self.class_names = tuple(class_names)
        self.invert, self.batch_size = invert, batch_size

    def __call__(self, images: Images) -> list[str]:
        """The name of the most likely class of each image; takes what `scores` takes."""
        return [self.class_names[label] for label in self.scores(images).argmax(dim=1).tolist()]

    def scores(self, images: Images) -> Tensor:
        """Scores float32 (B, n_way) on the CPU: the higher, the likelier; columns are ``class_names``.

        They are what the algorithm compares by, not probabilities. ``scores.softmax(dim=1)`` is what ProtoNet and MAML
        were trained to give as such; from a contrastive encoder it is nearly flat, for its scores lie in [-4, 0] (minus
        squared distances on the unit sphere), and their order and differences are what counts.

        Args:
            images: Image files in any format, or a batch (B, C, H, W), uint8 or float in [0, 1], of the encoder's size.

        Raises:
            ValueError: A tensor of another shape or range, or (DataError) a damaged file; names it.
        """
        if isinstance(images, str | Path):
            raise ValueError(f"got the path {str(images)!r}, expected a list of files; give [{str(images)!r}]")
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
        """Floats in [0, 1] on the encoder's device: an algorithm may look at support and queries together."""
        shape, mean = self.encoder.input_shape, self.encoder.mean
        if images.shape[1:] != shape:
            got, expected = tuple(images.shape), ", ".join(map(str, shape))
            raise ValueError(f"images are {got}, expected (B, {expected}); resize them, or give files")
        if images.dtype == torch.uint8:
            return images.to(mean.device, mean.dtype) / 255
        if not images.is_floating_point():
            raise ValueError(f"images are {images.dtype}, expected uint8, or float in [0, 1]; convert them")
        if len(images) and not 0 <= images.min() <= images.max() <= 1:
            raise ValueError(
                f"images are floats in [{images.min():g}, {images.max():g}], expected [0, 1]; divide by 255, and leave "
                "normalisation to the encoder"
            )
        return images.to(mean.device, mean.dtype)


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
