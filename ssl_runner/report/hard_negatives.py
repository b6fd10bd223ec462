"""Pictures of an algorithm's hardest negatives: anchors with their negatives, and how similar they are."""

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.evaluation.diagnostics import Diagnostics
from ssl_runner.evaluation.negatives import kinship
from ssl_runner.losses.negatives import Negatives
from ssl_runner.report import pictures
from ssl_runner.report.pictures import BORDER, CELL, GAP, INK, PAPER, TEXT, WRONG

ANCHORS, HARDEST = 8, 6


def log_negatives(
    writer: SummaryWriter, diagnostics: Diagnostics, algorithm: Algorithm, class_names: Sequence[str], step: int
) -> Negatives | None:
    """Log a picture of some of the diagnostics' anchors, and histograms of the similarity of all positives and
    negatives.

    The anchors are the same at every step, so that changes of their negatives are visible. If no negative is an image,
    as in a queue, there is no picture.

    Returns:
        The negatives shown, or None if the algorithm's loss does not return its negatives; then nothing is logged.
    """
    found = diagnostics.negatives(algorithm)
    if found is None:
        return None
    pictured = found.pictured()
    if pictured.weight.shape[1]:
        images = torch.stack([diagnostics.first, diagnostics.second])
        if not images.is_floating_point():
            images = images.float() / 255
        writer.add_image("hard_negatives", negatives_picture(images, pictured, diagnostics.labels, class_names), step)
    writer.add_histogram("similarity/positive", found.positive, step)
    negative = found.similarity[found.weight > 0]
    if len(negative):
        writer.add_histogram("similarity/negative", negative, step)
    return found


def negatives_picture(
    images: Tensor, found: Negatives, labels: Tensor | None, class_names: Sequence[str] | None = None
) -> Tensor:
    """One row per anchor: its image, its positive, and the negatives with the largest weight, in descending order.

    The text below the positive is its similarity to the anchor. The text below a negative is its similarity and its
    share of the weight. A negative of the anchor's own class, a false negative, has a red frame.

    Args:
        images: (V, B, C, H, W), V at least 2, in [0, 1]; view v of image b is row and column v B + b of ``found``.
        found: The negatives, all of them among these images (`Negatives.pictured`). Anchors are spread evenly over the
            first view, which may be sorted by class; the second view shows their positives.
        labels: int64 (B,), or None for no frames.
        class_names: Names of the labels, shown before the anchors, or None.

    Returns:
        uint8 (3, H, W).
    """
    flat, n_images = images.flatten(0, 1), images.shape[1]
    false = torch.zeros_like(found.weight, dtype=torch.bool) if labels is None else kinship(found, labels)[0]
    anchors = [place * n_images // min(ANCHORS, n_images) for place in range(min(ANCHORS, n_images))]
    names = [""] * len(anchors)
    if labels is not None and class_names is not None:
        names = [pictures.shortened(class_names[int(labels[anchor])]) for anchor in anchors]
    sheet = _Sheet(images.shape[-2:], names, framed=labels is not None)
    for row, anchor in enumerate(anchors):
        sheet.put(row, 0, flat[anchor], "")
        sheet.put(row, 1, flat[n_images + anchor], f"{float(found.positive[anchor]):.2f}")
        if not found.weight[anchor].any():
            sheet.remark(row, "no negatives")
        for column, place in enumerate(hardest(found, anchor), start=2):
            text = f"{float(found.similarity[anchor, place]):.2f}  {_percent(float(found.weight[anchor, place]))}"
            sheet.put(row, column, flat[place], text, WRONG if false[anchor, place] else INK)
    return pictures.tensor_of(sheet.paper)


def hardest(found: Negatives, row: int) -> list[int]:
    """Columns of an anchor's negatives with the largest weight, at most HARDEST; ties put the most similar first."""
    nearest = found.similarity[row].argsort(descending=True)
    order = nearest[found.weight[row, nearest].argsort(descending=True, stable=True)][:HARDEST]
    return order[found.weight[row, order] > 0].tolist()


class _Sheet:
    """The picture and its layout."""

    def __init__(self, size: Sequence[int], names: Sequence[str], framed: bool) -> None:
        self.font = ImageFont.load_default(TEXT)
        self.scale = pictures.scale_of(max(size))
        self.high, wide = (side * self.scale for side in size)
        self.width = max(wide, math.ceil(self.font.getlength("-0.00  0.0%"))) + 2 * BORDER + 2 * GAP
        self.height = self.high + 2 * BORDER + TEXT + 3 * GAP
        self.names = max(math.ceil(self.font.getlength(name)) for name in names)
        self.left, self.top = self.names + 3 * GAP, TEXT + 4 * GAP
        width = self._left(1 + HARDEST) + self.width
        self.paper = Image.new("RGB", (width, self.top + len(names) * self.height), PAPER)
        self.pen = ImageDraw.Draw(self.paper)
        heading = "hardest negatives: similarity, share of the weight"
        for column, words in enumerate(("anchor", "positive", heading)):
            self.pen.text((self._left(column) + GAP, GAP), words, INK, self.font)
        if framed:
            self.pen.text((width - GAP, GAP), "framed: its own class", WRONG, self.font, anchor="ra")
        for row, name in enumerate(names):
            middle = self.top + row * self.height + BORDER + self.high // 2
            self.pen.text((GAP, middle), name, INK, self.font, anchor="lm")

    def _left(self, column: int) -> int:
        return self.left + column * self.width + (CELL // 4 if column > 1 else 0)  # a gap before the negatives

    def remark(self, row: int, text: str) -> None:
        """Write a text in place of the negatives."""
        middle = self.top + row * self.height + BORDER + self.high // 2
        self.pen.text((self._left(2) + 2 * GAP, middle), text, INK, self.font, anchor="lm")

    def put(self, row: int, column: int, image: Tensor, text: str, color: tuple[int, int, int] = INK) -> None:
        """Paste an image (C, H, W) with its text below; any color other than INK also draws a frame."""
        picture = pictures.image_of(image, self.scale)
        x = self._left(column) + (self.width - picture.width) // 2
        y = self.top + row * self.height + BORDER
        if color != INK:
            corners = (x - BORDER, y - BORDER, x + picture.width + BORDER - 1, y + picture.height + BORDER - 1)
            self.pen.rectangle(corners, fill=color)
        self.paper.paste(picture, (x, y))
        below = (x + picture.width // 2, y + picture.height + BORDER + 1)
        self.pen.text(below, text, color, self.font, anchor="ma")


def _percent(share: float) -> str:
    """A share in per cent, with one decimal below 10%."""
    return f"{share:.1%}" if share < 0.0995 else f"{share:.0%}"
