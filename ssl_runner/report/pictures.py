"""Pictures of the network's input: the augmented views of a batch, a task with its predictions, rows of images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ssl_runner.data.batches import Episodes, Views
from ssl_runner.errors import InvalidValue

CELL, GAP, BORDER, TEXT = 64, 4, 3, 14  # pixels; TEXT is the height of letters
PAPER, INK, RIGHT, WRONG = (255, 255, 255), (32, 32, 32), (0, 160, 70), (215, 25, 30)
GRAY = 128  # of 255: what is not there
NAME_LENGTH = 16


def views_picture(batch: Views, most: int = 8) -> Tensor:
    """One row per view, one column per image; smaller crops are centered in a cell of the same size.

    Args:
        batch: Views whose crops are (V, B, C, H, W) in [0, 1].
        most: Largest number of columns.

    Returns:
        uint8 (3, H, W). Pixels are repeated until the largest crop is at least 64 pixels high or wide.
    """
    largest = max(max(crops.shape[-2:]) for crops in batch.crops)
    scale = scale_of(largest)
    rows = [[image_of(crop, scale) for crop in view[:most]] for crops in batch.crops for view in crops]
    cell, pitch = largest * scale, largest * scale + GAP
    paper = Image.new("RGB", (len(rows[0]) * pitch + GAP, len(rows) * pitch + GAP), PAPER)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            left, top = GAP + column * pitch, GAP + row * pitch
            paper.paste(image, (left + (cell - image.width) // 2, top + (cell - image.height) // 2))
    return tensor_of(paper)


def episode_picture(
    episode: Episodes, scores: Tensor, class_names: Sequence[str] | None = None, most: int = 8
) -> Tensor:
    """The first task: one row per class, with its support images and, after a gap, its queries and their predictions.

    A query has a green border if its class has the highest score. Otherwise the border is red, and the number of the
    predicted class is written below. Many classes are arranged in several columns.

    Args:
        episode: The tasks.
        scores: (1 or T, Q, n_way); the class with the highest score is the prediction.
        class_names: Names of the first task's classes, or None.
        most: Largest number of support images, and of queries, per class.

    Returns:
        uint8 (3, H, W).

    Raises:
        ValueError: Scores or names do not fit the episode.
    """
    expected = (episode.query_labels.shape[1], episode.n_way)
    if scores.dim() != 3 or tuple(scores.shape[1:]) != expected or len(scores) not in (1, len(episode)):
        raise InvalidValue(
            f"scores are {tuple(scores.shape)}; give (1 or {len(episode)}, {expected[0]}, {expected[1]})"
        )
    if class_names is not None and len(class_names) != episode.n_way:
        raise InvalidValue(f"{len(class_names)} class names for {episode.n_way} classes; give one per class")
    predictions, labels = scores[0].argmax(dim=-1).cpu(), episode.query_labels[0].cpu()
    names = [f"{number}" for number in range(episode.n_way)]
    if class_names is not None:
        names = [f"{number}  {shortened(name)}" for number, name in enumerate(class_names)]
    rows = [
        _Row(number, name, *_class_images(episode, number, most), predictions[labels == number][:most].tolist())
        for number, name in enumerate(names)
    ]
    right = int((predictions == labels).sum())
    return tensor_of(_Sheet(rows, f"queries: {right} of {len(labels)} correct").draw())


def gallery(rows: Mapping[str, Tensor]) -> Tensor:
    """One row per name, which stands at its left, one column per image.

    Args:
        rows: Images (N, C, H, W) in [0, 1] by name, all of one size.

    Returns:
        uint8 (3, H, W). Pixels are repeated until an image is at least 64 pixels high or wide.
    """
    font, drawn = ImageFont.load_default(TEXT), {}
    for name, images in rows.items():
        scale = scale_of(max(images.shape[-2:]))
        drawn[name] = [image_of(image, scale) for image in images]
    first = next(iter(drawn.values()))
    wide, high = first[0].size
    left = max(math.ceil(font.getlength(name)) for name in drawn) + 3 * GAP
    paper = Image.new("RGB", (left + len(first) * (wide + GAP), len(drawn) * (high + GAP) + GAP), PAPER)
    pen = ImageDraw.Draw(paper)
    for row, (name, images) in enumerate(drawn.items()):
        top = GAP + row * (high + GAP)
        pen.text((GAP, top + high // 2), name, INK, font, anchor="lm")
        for column, image in enumerate(images):
            paper.paste(image, (left + column * (wide + GAP), top))
    return tensor_of(paper)


@dataclass(frozen=True)
class _Row:
    """A class: its number, the name before its images, its images, and the predictions for its queries."""

    number: int
    name: str
    support: list[Image.Image]
    queries: list[Image.Image]
    predictions: list[int]


class _Sheet:
    """The picture of a task and its layout."""

    def __init__(self, rows: list[_Row], heading: str) -> None:
        self.rows, self.heading = rows, heading
        self.font = ImageFont.load_default(TEXT)
        images = [image for row in rows for image in row.support + row.queries]
        self.width = max(image.width for image in images) + 2 * BORDER + GAP
        self.height = max(image.height for image in images) + 2 * BORDER + TEXT + 2 * GAP  # room for a prediction
        self.names = max(math.ceil(self.font.getlength(row.name)) for row in rows) + 3 * GAP
        self.queries = self.names + max(len(row.support) for row in rows) * self.width + CELL // 2  # left edge
        content = self.queries + max(len(row.queries) for row in rows) * self.width
        self.column = max(content, self.queries + math.ceil(self.font.getlength(heading))) + CELL // 2
        self.top = TEXT + 3 * GAP
        columns = max(1, round(math.sqrt(len(rows) * self.height / self.column)))  # close to square
        self.per_column = math.ceil(len(rows) / columns)
        self.columns = math.ceil(len(rows) / self.per_column)

    def draw(self) -> Image.Image:
        size = (self.columns * self.column, self.top + self.per_column * self.height)
        paper = Image.new("RGB", size, PAPER)
        pen = ImageDraw.Draw(paper)
        for column in range(self.columns):
            left = column * self.column + GAP
            pen.text((left + self.names, GAP), "support", INK, self.font)
            pen.text((left + self.queries, GAP), self.heading if column == 0 else "queries", INK, self.font)
            rows = self.rows[column * self.per_column : (column + 1) * self.per_column]
            for place, row in enumerate(rows):
                self._draw_row(paper, pen, row, left, self.top + place * self.height)
        return paper

    def _draw_row(self, paper: Image.Image, pen: ImageDraw.ImageDraw, row: _Row, left: int, top: int) -> None:
        middle = top + BORDER + (self.height - 2 * BORDER - TEXT - 2 * GAP) // 2
        pen.text((left, middle), row.name, INK, self.font, anchor="lm")
        for place, image in enumerate(row.support):
            paper.paste(image, (left + self.names + place * self.width + BORDER, top + BORDER))
        for place, (image, prediction) in enumerate(zip(row.queries, row.predictions, strict=True)):
            x, wide, high = left + self.queries + place * self.width, *image.size
            color = RIGHT if prediction == row.number else WRONG
            pen.rectangle((x, top, x + wide + 2 * BORDER - 1, top + high + 2 * BORDER - 1), fill=color)
            paper.paste(image, (x + BORDER, top + BORDER))
            if prediction != row.number:
                below = (x + BORDER + wide // 2, top + high + 2 * BORDER + 1)
                pen.text(below, str(prediction), WRONG, self.font, anchor="ma")


def _class_images(episode: Episodes, number: int, most: int) -> tuple[list[Image.Image], list[Image.Image]]:
    """Support images and queries of one class of the first task."""
    support = episode.support_images[0][episode.support_labels[0] == number][:most]
    queries = episode.query_images[0][episode.query_labels[0] == number][:most]
    scale = scale_of(max(episode.support_images.shape[-2:]))
    return [image_of(image, scale) for image in support], [image_of(image, scale) for image in queries]


def scale_of(size: int) -> int:
    """How many times each pixel is repeated in an image of ``size`` pixels."""
    return max(1, math.ceil(CELL / size))


def image_of(image: Tensor, scale: int) -> Image.Image:
    """A float image (C, H, W) in [0, 1], enlarged ``scale`` times; gray unless it has three channels."""
    levels = (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    colors = levels if len(levels) == 3 else levels.float().mean(dim=0, keepdim=True).byte().expand(3, -1, -1)
    picture = Image.fromarray(colors.permute(1, 2, 0).contiguous().numpy())
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def tensor_of(picture: Image.Image) -> Tensor:
    """The picture as uint8 (3, H, W)."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def shortened(name: str) -> str:
    """A class name short enough for a row."""
    # keep beginning and end, since Omniglot's names differ in both
    return name if len(name) <= NAME_LENGTH else f"{name[:8]}...{name[11 - NAME_LENGTH :]}"
