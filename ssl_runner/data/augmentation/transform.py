"""What an augmentation is: functions of a batch of images and a table of uniform draws, and nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue


class Transform(ABC):
    """A random change of images whose randomness all comes from the draws, one row a sample.

    A sample's result depends on its own image and its own row only: not on the others in the batch, so that a rank
    that holds half of a batch makes the very views that one process would have made.

    Parameters are computed where the draws are. Draws on the CPU with images on a GPU is the intended use: which
    rows are changed is then known without asking the GPU, and nothing here waits for it.

    Attributes:
        columns: How many uniforms it takes of a sample's row.
    """

    columns: int

    @abstractmethod
    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Changed images (B, C, H', W') in [0, 1]; never writes to its arguments, but may return the images.

        Args:
            images: float (B, C, H, W) in [0, 1].
            draws: float (B, columns) in [0, 1).
        """


class Augmentation(Transform):
    """Transforms one after the other.

    Args:
        transforms: In order of application, by name; a null is left out.

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
            draws: float32 (B, columns) in [0, 1), best on the CPU wherever the images are.

        Raises:
            ValueError: If the draws have another shape.
        """
        if draws.shape != (len(images), self.columns):
            raise InvalidValue(
                f"draws have shape {tuple(draws.shape)}, expected {(len(images), self.columns)}: one row an image and "
                "one column a uniform; draw Augmentation.columns of them."
            )
        if images.dtype == torch.uint8:
            images = images.to(torch.float32).div_(255)
        start = 0
        for transform in self.transforms.values():
            images = transform(images, draws[:, start : start + transform.columns])
            start += transform.columns
        return images


def to_device(parameters: Tensor, device: torch.device) -> Tensor:
    """Parameters where the images are, without waiting for a GPU."""
    # from pageable memory CUDA stages the bytes before it returns, so the source may die; MPS does not promise that
    return parameters.to(device, non_blocking=device.type == "cuda")


def change_rows(images: Tensor, chosen: Tensor, change: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """The images (B, ...), with ``change(images, *parameters)`` in place of the chosen ones.

    Only the chosen rows are computed.

    Args:
        chosen: bool (B,).
        change: Keeps the images' shape.
        parameters: Each (B, ...).
    """
    rows = chosen.nonzero().squeeze(1)  # on the CPU, as draws are: on a GPU this would wait for it
    if len(rows) == 0:
        return images
    moved = [to_device(parameter, images.device) for parameter in parameters]
    if len(rows) == len(images):
        return change(images, *moved)
    rows = to_device(rows, images.device)
    changed = change(images.index_select(0, rows), *(parameter.index_select(0, rows) for parameter in moved))
    return images.index_copy(0, rows, changed)


def between(draws: Tensor, low: float, high: float) -> Tensor:
    """Uniform in [low, high], of draws in [0, 1)."""
    return torch.lerp(torch.full_like(draws, low), torch.full_like(draws, high), draws)


def per_image(parameters: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1)."""
    return parameters[:, None, None, None]
