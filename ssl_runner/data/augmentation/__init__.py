"""Augmentation, batched on tensors: views are made from a batch of images and a table of draws."""

from ssl_runner.data.augmentation.affine import Affine
from ssl_runner.data.augmentation.blur import GaussianBlur
from ssl_runner.data.augmentation.erasing import RandomErasing
from ssl_runner.data.augmentation.geometry import HorizontalFlip, PadCrop, RandomResizedCrop
from ssl_runner.data.augmentation.jitter import ColorJitter, RandomGrayscale, Solarize
from ssl_runner.data.augmentation.transform import Augmentation, Transform

__all__ = [
    "Affine",
    "Augmentation",
    "ColorJitter",
    "GaussianBlur",
    "HorizontalFlip",
    "PadCrop",
    "RandomErasing",
    "RandomGrayscale",
    "RandomResizedCrop",
    "Solarize",
    "Transform",
]
