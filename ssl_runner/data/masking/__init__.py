"""What is hidden of an image's patches, drawn for every image and step."""

from ssl_runner.data.masking.block import BlockMasking
from ssl_runner.data.masking.masking import Masking, Masks
from ssl_runner.data.masking.multi_block import MultiBlockMasking
from ssl_runner.data.masking.random import RandomMasking

__all__ = ["BlockMasking", "Masking", "Masks", "MultiBlockMasking", "RandomMasking"]
