"""Pictures of what happens inside an algorithm in a task: attention of queries to the support, a memory as it fills."""

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ssl_runner.algorithms.algorithm import Map
from ssl_runner.report.pictures import GAP, INK, PAPER, TEXT, tensor_of

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
    rows, columns = values.shape
    greatest = float(values.max())
    cell = max(2, SIDE // max(rows, columns))
    shares = (values / max(greatest, 1e-12)).clamp(0, 1)[..., None]
    colors = torch.lerp(torch.tensor(DARK).float(), torch.tensor(BRIGHT).float(), shares).round().byte()
    image = Image.fromarray(colors.numpy()).resize((columns * cell, rows * cell), Image.Resampling.NEAREST)
    font = ImageFont.load_default(TEXT)
    notes = [f"down: {rows} {shown.rows}", f"across: {columns} {shown.columns}", f"brightest: {greatest:.2g}"]
    width = max(image.width, *(round(font.getlength(note)) + 1 for note in notes)) + 2 * GAP
    paper = Image.new("RGB", (width, image.height + 3 * (TEXT + GAP) + 3 * GAP), PAPER)
    paper.paste(image, (GAP, GAP))
    pen = ImageDraw.Draw(paper)
    for number, note in enumerate(notes):
        pen.text((GAP, image.height + 2 * GAP + number * (TEXT + GAP)), note, INK, font)
    return tensor_of(paper)
