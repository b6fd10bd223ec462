"""The interface of an augmentation: a function of a batch of images and a table of uniform draws, nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue

# Bytes of images as floats that fit into a CPU's cache through all transforms. At 224 pixels, SimCLR's jitter takes
# 2.9 ms an image in eights, and 5.4 ms in 32s, whose every pass goes through memory.
CACHED = 5 * 2**20
LARGE = 2**15  # numbers in an image that is copied by itself


class Transform(ABC):
    """A random change of images whose randomness comes only from the draws, one row per sample.

    The result of a sample depends only on its own image and its own row, not on the other samples of the batch. A rank
    that holds half of a batch therefore makes the same views that a single process would have made.

    Parameters are computed on the device of the draws. With draws on the CPU, the rows to change are known, and only
    those are computed. With draws on a GPU, all rows are computed and the chosen ones taken: nothing waits for the GPU,
    and every batch has the same shapes, so that the compiler can join the transforms into a few kernels.

    Attributes:
        columns: Number of uniform draws it uses from a sample's row.
    """

    columns: int

    @abstractmethod
    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Changed images (B, C, H', W') in [0, 1]. It never writes to its arguments, but may return the images
        themselves.

        Args:
            images: float (B, C, H, W) in [0, 1].
            draws: float (B, columns) in [0, 1).
        """


class RowTransform(Transform):
    """A transform of some images of a batch, chosen by their draws, which keeps their shape."""

    @abstractmethod
    def parameters(self, draws: Tensor, height: int, width: int) -> Tensor | tuple[Tensor, ...]:
        """Which images to change, bool (B,), alone or with further parameters, each (B, ...)."""

    @abstractmethod
    def change(self, images: Tensor, *parameters: Tensor) -> Tensor:
        """The chosen images, changed by their further parameters."""

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        chosen, parameters = self._chosen(images, draws)
        return change_rows(images, chosen, self.change, *parameters)

    def overwrite(self, images: Tensor, draws: Tensor) -> Tensor:
        """Like a call, but it may write to the images, and the result can be written to."""
        chosen, parameters = self._chosen(images, draws)
        return change_rows(images, chosen, self.change, *parameters, overwrite=True)

    def _chosen(self, images: Tensor, draws: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        found = self.parameters(draws, *images.shape[-2:])
        return (found, ()) if isinstance(found, Tensor) else (found[0], found[1:])


class Augmentation(Transform):
    """A sequence of transforms.

    Args:
        transforms: Transforms by name, in the order of application; a null is left out.

    Raises:
        ValueError: If an entry is not a transform.
    """

    def __init__(self, transforms: Mapping[str, Transform | None]) -> None:
        self.transforms = {name: transform for name, transform in transforms.items() if transform is not None}
        for name, transform in self.transforms.items():
            if not isinstance(transform, Transform):
                raise InvalidValue(
                    f"augmentation.transforms.{name} is a {type(transform).__name__}, expected a Transform of "
                    "ssl_runner.data.augmentation or null; give it a _target_."
                )
        self.columns = sum(transform.columns for transform in self.transforms.values())

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augmented images, float (B, C, H', W') in [0, 1].

        Args:
            images: (B, C, H, W), uint8 or float in [0, 1].
            draws: float32 (B, columns) in [0, 1), on the CPU or on the images' device.

        Raises:
            ValueError: If the draws have another shape.
        """
        self._check(images, draws)
        return self._apply(list(self.transforms.values()), images, draws)

    @property
    def first(self) -> Transform | None:
        """The first transform, which may be applied beforehand while an image is decoded."""
        return next(iter(self.transforms.values()), None)

    def rest(self, images: Tensor, draws: Tensor) -> Tensor:
        """Like a call, for images to which the first transform was applied already. The draws are the same."""
        self._check(images, draws)
        first, *others = self.transforms.values()
        return self._apply(others, images, draws[:, first.columns :])

    def _check(self, images: Tensor, draws: Tensor) -> None:
        if draws.shape != (len(images), self.columns):
            raise InvalidValue(
                f"draws have shape {tuple(draws.shape)}, expected {(len(images), self.columns)}: one row per image and "
                "Augmentation.columns uniform numbers in each."
            )

    @classmethod
    def _apply(cls, transforms: Sequence[Transform], images: Tensor, draws: Tensor) -> Tensor:
        several = max(1, CACHED // max(1, 4 * images[0].numel())) if len(images) else 1
        if images.device.type == "cpu" and several < len(images):
            pieces = -(-len(images) // several)
            parts = zip(images.chunk(pieces), draws.chunk(pieces), strict=True)
            return torch.cat([cls._apply(transforms, *part) for part in parts])
        own = images.dtype == torch.uint8  # whether the images are nobody else's
        if own:
            images = images.to(torch.float32).div_(255)
        start = 0
        for transform in transforms:
            part = draws[:, start : start + transform.columns]
            if own and isinstance(transform, RowTransform):
                images = transform.overwrite(images, part)  # half the time of a change in a copy
            else:
                images = transform(images, part)
            start += transform.columns
        return images


def to_device(parameters: Tensor, device: torch.device) -> Tensor:
    """Moves parameters to the images' device without waiting for a GPU."""
    if device.type != "cuda" or parameters.is_cuda:
        return parameters.to(device)
    # from pageable memory, CUDA may wait for the stream; pinned memory is kept until the copy is done, then used again
    return parameters.pin_memory().to(device, non_blocking=True)


def change_rows(
    images: Tensor, chosen: Tensor, change: Callable[..., Tensor], *parameters: Tensor, overwrite: bool = False
) -> Tensor:
    """The images (B, ...), with the chosen ones replaced by ``change(images, *parameters)``.

    Only the chosen rows are computed, unless their choice is on a GPU.

    Args:
        chosen: bool (B,).
        change: A function that keeps the images' shape.
        parameters: Each (B, ...).
        overwrite: Whether the images may be written to; the result then can be, too.
    """
    if _unknown(chosen):
        return torch.where(chosen.view(-1, *[1] * (images.ndim - 1)), change(images, *parameters), images)
    rows = chosen.nonzero().squeeze(1)
    if len(rows) == 0:
        return images
    moved = [to_device(parameter, images.device) for parameter in parameters]
    if len(rows) == len(images):
        changed = change(images, *moved)
        return changed.contiguous() if overwrite else changed  # an expanded one cannot be written to
    rows = to_device(rows, images.device)
    changed = change(images.index_select(0, rows), *(parameter.index_select(0, rows) for parameter in moved))
    if not overwrite:
        return images.index_copy(0, rows, changed)
    if images[0].numel() < LARGE:
        return images.index_copy_(0, rows, changed)
    for row, part in zip(rows.tolist(), changed, strict=True):  # a fifth of the time of index_copy_
        images[row].copy_(part)
    return images


def _unknown(chosen: Tensor) -> bool:
    """Whether the program would have to wait for a GPU to know which rows are chosen."""
    return chosen.is_cuda


def between(draws: Tensor, low: float, high: float) -> Tensor:
    """Maps draws in [0, 1) to uniform numbers in [low, high]."""
    return torch.lerp(torch.full_like(draws, low), torch.full_like(draws, high), draws)


def per_image(parameters: Tensor) -> Tensor:
    """Reshapes (B,) to (B, 1, 1, 1)."""
    return parameters[:, None, None, None]
