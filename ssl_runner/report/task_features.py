"""Pictures of what a classifier compares in a task: the features of its images in a plane, at each stage."""

import colorsys
import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from ssl_runner.algorithms.algorithm import Algorithm, TaskFeatures
from ssl_runner.data.batches import Episodes
from ssl_runner.models.features import evaluating
from ssl_runner.report.pictures import GAP, INK, PAPER, TEXT, shortened, tensor_of

SIDE = 320  # of a panel, in pixels
SUPPORT, QUERY, MIDDLE = 7, 5, 2  # half the side of a square, radii of a dot and of its middle
LINE = TEXT + GAP

Color = tuple[int, int, int]


def log_task_features(
    writer: SummaryWriter,
    tag: str,
    algorithm: Algorithm,
    episode: Episodes,
    scores: Tensor,
    class_names: Sequence[str] | None,
    device: torch.device,
    step: int,
) -> None:
    """Log the features of the first task, unless they have diverged; see `features_picture`."""
    there = episode.to(device)
    with evaluating(algorithm):
        stages = algorithm.task_features(there.support_images, there.support_labels, there.query_images, there.n_way)
    if all(part.isfinite().all() for stage in stages for part in (stage.support, stage.query)):
        writer.add_image(tag, features_picture(stages, episode, scores, class_names), step)


def features_picture(
    stages: Sequence[TaskFeatures], episode: Episodes, scores: Tensor, class_names: Sequence[str] | None = None
) -> Tensor:
    """The first task: a panel per stage, in which near images have similar features, and the classes' colors below.

    Squares are the support. Dots are the queries: the rim has the color of a query's class, the middle that of the
    predicted one, so dots of one color are right. Each panel is the `plane` of its own stage.

    Args:
        stages: Features of the tasks, finite.
        episode: The tasks.
        scores: (1 or T, Q, n_way); the class with the highest score is the prediction.
        class_names: Names of the first task's classes, or None.

    Returns:
        uint8 (3, H, W).
    """
    colors, predictions = class_colors(episode.n_way), scores[0].argmax(dim=-1).tolist()
    labels = [part[0].tolist() for part in (episode.support_labels, episode.query_labels)]
    right = sum(one == other for one, other in zip(labels[1], predictions, strict=True))
    names = [shortened(name) for name in class_names or map(str, range(episode.n_way))]
    legend = _Legend(names, colors, len(stages) * (SIDE + GAP) - GAP)
    notes = [f"squares: support; dots: queries, {right} of {len(predictions)} right (rim: class, middle: prediction)"]
    font = ImageFont.load_default(TEXT)
    width = max(legend.width, *(math.ceil(font.getlength(note)) for note in notes)) + 2 * GAP
    top = LINE + GAP
    paper = Image.new("RGB", (width, top + SIDE + LINE + legend.height + len(notes) * LINE + 3 * GAP), PAPER)
    pen = ImageDraw.Draw(paper)
    for number, stage in enumerate(stages):
        left, n_support = GAP + number * (SIDE + GAP), stage.support.shape[1]
        points, share = plane(torch.cat([stage.support[0].flatten(1), stage.query[0].flatten(1)]))
        pen.text((left, GAP), stage.stage or "features", INK, font)
        pen.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), outline=INK)
        pen.text((left, top + SIDE + GAP), f"{share:.0%} of the variance is in this plane", INK, font)
        places = [(left + x, top + y) for x, y in places_in_panel(points)]
        for place, label in zip(places[:n_support], labels[0], strict=True):
            pen.rectangle(_around(place, SUPPORT), colors[label], INK)
        for place, label, prediction in zip(places[n_support:], labels[1], predictions, strict=True):
            pen.ellipse(_around(place, QUERY), colors[label])
            pen.ellipse(_around(place, MIDDLE), colors[prediction])
    below = top + SIDE + LINE + 2 * GAP
    legend.draw(pen, below)
    for number, note in enumerate(notes):
        pen.text((GAP, below + legend.height + number * LINE), note, INK, font)
    return tensor_of(paper)


def plane(features: Tensor) -> tuple[Tensor, float]:
    """The first two principal components (N, 2) of features (N, D), and their share of the variance.

    They are computed in float64. The largest weight of a component is positive, so that the picture does not depend on
    the decomposition. Without a second component, or variance, there are zeros.
    """
    rows = features.detach().double().cpu()
    rows = rows - rows.mean(dim=0)
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    directions = directions[:2]
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    points = rows @ (directions * largest.sign()).T
    found = torch.zeros(len(rows), 2, dtype=torch.float64)
    found[:, : points.shape[1]] = points
    variances = values.square()
    return found, float(variances[:2].sum() / variances.sum().clamp_min(1e-300))


def places_in_panel(points: Tensor) -> list[tuple[int, int]]:
    """Pixels (x, y) of points (N, 2) in a square panel, upwards, with the same scale in both directions."""
    low, high = points.amin(dim=0), points.amax(dim=0)
    inside = SIDE - 4 * SUPPORT
    shares = (points - (low + high) / 2) / (high - low).amax().clamp_min(1e-12)  # in [-1/2, 1/2]
    pixels = ((shares * torch.tensor([1, -1]) + 0.5) * (inside - 1) + 2 * SUPPORT).round().int()
    return [(x, y) for x, y in pixels.tolist()]


def class_colors(n: int) -> list[Color]:
    """Colors for n classes, around the circle of hues, alternately bright and dark."""
    found = [colorsys.hsv_to_rgb(number / n, 0.8, 0.55 if number % 2 else 0.95) for number in range(n)]
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in found]


def _around(place: tuple[int, int], radius: int) -> tuple[int, int, int, int]:
    x, y = place
    return x - radius, y - radius, x + radius, y + radius


class _Legend:
    """The classes with their colors, in as many columns as fit."""

    def __init__(self, names: Sequence[str], colors: Sequence[Color], width: int) -> None:
        self.names, self.colors = names, colors
        self.font = ImageFont.load_default(TEXT)
        self.column = max(math.ceil(self.font.getlength(name)) for name in names) + 2 * SUPPORT + 4 * GAP
        self.columns = max(1, width // self.column)
        self.width = max(width, self.column)
        self.height = -(-len(names) // self.columns) * LINE

    def draw(self, pen: ImageDraw.ImageDraw, top: int) -> None:
        for number, (name, color) in enumerate(zip(self.names, self.colors, strict=True)):
            row, column = divmod(number, self.columns)
            left, middle = GAP + column * self.column, top + row * LINE + TEXT // 2
            pen.rectangle(_around((left + SUPPORT, middle), TEXT // 2 - 1), color, INK)
            pen.text((left + 2 * SUPPORT + GAP, middle), name, INK, self.font, anchor="lm")
