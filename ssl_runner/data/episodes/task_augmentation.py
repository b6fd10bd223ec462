"""Augmentation of whole tasks, so that classes cannot be memorised."""

import torch
from torch import Tensor

from ssl_runner.data.augmentation.checks import check_probability
from ssl_runner.data.augmentation.color import luma
from ssl_runner.data.augmentation.transform import change_rows
from ssl_runner.data.dataset import Dataset
from ssl_runner.errors import InvalidValue

KINDS = ("rotation", "inversion", "colorization", "projection")
COLORS = 6  # two of three channels


class TaskAugmentation:
    """Random changes of a task that are the same for support and queries, each with its own probability, in this order.

    ``rotation`` turns each class by its own multiple of 90 degrees. If rotated characters are already classes
    (``dataset.rotations`` of Omniglot), two classes could become equal, so leave it off. ``inversion`` is 1 - x.
    ``colorization`` maps black to one random color, white to another, and gray values to what lies between: an affine
    map from the gray value to the channels, for RGB only.

    ``projection`` is a random linear map of the pixels, as in general-purpose in-context learning (Kirsch et al. 2022,
    arXiv:2212.04458), which uses matrices of normal numbers from all pixels to all pixels. Deviation: it is a Kronecker
    product, X' = A (X - 1/2) B^T with random orthogonal A (H, H) and B (W, W), the same for all channels. That only
    costs two small products, keeps the image's shape and loses no information. A logistic function with slope 1 in its
    middle then maps it to [0, 1].

    Args:
        rotation: Probability of a rotation.
        inversion: Probability of an inversion.
        colorization: Probability of a colorization.
        projection: Probability of a projection.
    """

    def __init__(self, rotation: float, inversion: float, colorization: float, projection: float) -> None:
        given = (rotation, inversion, colorization, projection)
        self.probabilities = {name: check_probability(name, value) for name, value in zip(KINDS, given, strict=True)}

    def check(self, dataset: Dataset) -> None:
        """Raises ValueError for images to which a change cannot be applied."""
        channels, height, width = dataset.images.shape[1:]
        impossible = {
            "rotation": ("are not square", "dataset.size") if height != width else None,
            "colorization": ("are gray", "dataset.channels=3") if channels != 3 else None,
        }
        for kind, problem in impossible.items():
            if self.probabilities[kind] and problem is not None:
                key = f"task_augmentation.{kind}"
                raise InvalidValue(
                    f"{key}={self.probabilities[kind]}, but images of {dataset.name} {problem[0]}; "
                    f"set batching.{key}=0 or {problem[1]}"
                )

    def columns(self, n_way: int, height: int, width: int) -> int:
        """Number of uniform draws that one task uses."""
        return len(KINDS) + n_way + COLORS + (height**2 + width**2 if self.probabilities["projection"] else 0)

    def __call__(self, images: Tensor, labels: Tensor, n_way: int, draws: Tensor) -> Tensor:
        """Changed images, float (T, M, C, H, W) in [0, 1].

        Args:
            images: float (T, M, C, H, W) in [0, 1], support and queries of T tasks.
            labels: int64 (T, M) in [0, n_way), on the device of the draws.
            n_way: Classes in a task.
            draws: float32 (T, columns) in [0, 1), preferably on the CPU, wherever the images are; see `Transform`.
        """
        height, width = images.shape[-2:]
        sizes = [len(KINDS), n_way, COLORS, *((height**2, width**2) if self.probabilities["projection"] else ())]
        gates, turns, colors, *matrices = draws.split(sizes, dim=1)
        chosen = {kind: gates[:, place] < self.probabilities[kind] for place, kind in enumerate(KINDS)}
        turns = (turns * 4).long().clamp(max=3) * chosen["rotation"][:, None]
        images = _turned(images, turns.gather(1, labels))
        images = change_rows(images, chosen["inversion"], lambda images: 1 - images)
        images = change_rows(images, chosen["colorization"], _colored, colors.unflatten(1, (2, 3)))
        if matrices:
            left, right = matrices[0].unflatten(1, (height, height)), matrices[1].unflatten(1, (width, width))
            images = change_rows(images, chosen["projection"], _projected, left, right)
        return images


def _turned(images: Tensor, turns: Tensor) -> Tensor:
    """Images (T, M, C, H, H), each rotated counter-clockwise by its number (T, M) of right angles."""
    flat = images.flatten(0, 1)
    for number in (1, 2, 3):
        flat = change_rows(flat, turns.flatten() == number, lambda rows, number=number: rows.rot90(number, (2, 3)))
    return flat.unflatten(0, images.shape[:2])


def _colored(images: Tensor, colors: Tensor) -> Tensor:
    """Images (T, M, 3, H, W) in two colors (T, 2, 3), one for black and one for white."""
    gray = luma(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    black, white = (color[:, None, :, None, None] for color in colors.unbind(1))
    return torch.lerp(black, white, gray)


def _projected(images: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Images (T, M, C, H, W), projected by the matrices made from uniform draws (T, H, H) and (T, W, W)."""
    shape = images.shape[1:]
    centered = (images - 0.5).flatten(1, 3) @ orthogonal(right).mT  # (T, M C H, W)
    turned = centered.unflatten(1, shape[:3]).mT.flatten(1, 3) @ orthogonal(left).mT  # (T, M C W, H)
    return torch.sigmoid(4 * turned.unflatten(1, (*shape[:2], shape[3])).mT)


def orthogonal(uniforms: Tensor) -> Tensor:
    """Orthogonal matrices (T, n, n), uniformly distributed, from uniform draws (T, n, n) in [0, 1).

    It is the QR decomposition of normal numbers, with R's diagonal made positive (Mezzadri 2007,
    arXiv:math-ph/0609050).
    """
    normals = torch.special.ndtri(uniforms.double() + 2**-25)  # the middle of each float32 step: never 0 or 1
    q, r = torch.linalg.qr(normals)
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    return (q * torch.ones_like(diagonal).copysign(diagonal)[:, None]).to(uniforms.dtype)
