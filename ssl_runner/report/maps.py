"""Pictures of what happens inside an algorithm in a task: attention of queries to the support, a memory as it fills."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ssl_runner.algorithms.algorithm import Map
from ssl_runner.report.pictures import GAP, GRAY, INK, PAPER, TEXT, tensor_of

SIDE = 480  # approximate size of a map's larger side, in pixels
DARK, BRIGHT = (13, 8, 60), (253, 231, 90)  # colors of 0 and of the largest value


def map_picture(shown: Map) -> Tensor:
    """One cell per value, from dark (0) to bright (the largest value, which is written below), rows downwards.

    Args:
        shown: The map to draw, with finite values.

    Returns:
        uint8 (3, H, W).
    """
    values = shown.values.detach().float().cpu()
    greatest = float(values.max())
    rows, columns = values.shape
    notes = [f"down: {rows} {shown.rows}", f"across: {columns} {shown.columns}", f"brightest: {greatest:.2g}"]
    return heat_picture(values / max(greatest, 1e-12), notes)


def heat_picture(shares: Tensor, notes: Sequence[str]) -> Tensor:
    """One cell per share, rows downwards, with notes below.

    Args:
        shares: (rows, columns) on the CPU, clamped to [0, 1]; gray where there is none (nan).
        notes: A line each.

    Returns:
        uint8 (3, H, W).
    """
    rows, columns = shares.shape
    cell = max(2, SIDE // max(rows, columns))
    colors = (heat(shares) * 255).round().byte()
    image = Image.fromarray(colors.numpy()).resize((columns * cell, rows * cell), Image.Resampling.NEAREST)
    font = ImageFont.load_default(TEXT)
    width = max(image.width, *(round(font.getlength(note)) + 1 for note in notes)) + 2 * GAP
    paper = Image.new("RGB", (width, image.height + len(notes) * (TEXT + GAP) + 3 * GAP), PAPER)
    paper.paste(image, (GAP, GAP))
    pen = ImageDraw.Draw(paper)
    for number, note in enumerate(notes):
        pen.text((GAP, image.height + 2 * GAP + number * (TEXT + GAP)), note, INK, font)
    return tensor_of(paper)


def heat(shares: Tensor) -> Tensor:
    """Colors (..., 3) in [0, 1], from dark at 0 to bright at 1, of shares (...) on the CPU; gray for nan."""
    dark, bright, gray = (torch.tensor(color) / 255 for color in (DARK, BRIGHT, (GRAY, GRAY, GRAY)))
    shares = shares[..., None]
    return torch.where(shares.isnan(), gray, torch.lerp(dark, bright, shares.nan_to_num().clamp(0, 1)))
