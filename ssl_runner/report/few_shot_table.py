"""A picture of few-shot accuracy by dataset or domain, ways and shots."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from ssl_runner.config.schema import BASELINES
from ssl_runner.report.maps import heat
from ssl_runner.report.pictures import GAP, INK, PAPER, TEXT, tensor_of

TAG = "few_shot"
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
KEY = re.compile(r"(?:(.+)/)?few_shot/((\d+)w(\d+)s(?:(\d+)q)?)/top1")
OWN = "test"  # the run's own dataset, whose keys have no name
WIDTH, HEIGHT = 92, 2 * TEXT + 4 * GAP  # of a cell
NOTE = "accuracy in %; dark: chance, bright: all right"


@dataclass(frozen=True)
class Cell:
    """The accuracy of a setting on a dataset.

    Attributes:
        n_way: Classes in a task.
        accuracy: In [0, 1].
        interval: Half its 95% interval, or None.
    """

    n_way: int
    accuracy: float
    interval: float | None

    @property
    def above_chance(self) -> float:
        """0 at chance or below, 1 if all is right."""
        chance = 1 / self.n_way
        return max(0.0, (self.accuracy - chance) / (1 - chance)) if self.n_way > 1 else 1.0


def log_few_shot(writer: SummaryWriter, metrics: Mapping[str, float], step: int) -> None:
    """Log the picture of a run's few-shot accuracies, if there are at least two; one alone is a scalar."""
    found = cells(metrics)
    if len(found) > 1:
        writer.add_image(TAG, table_picture(found), step)


def cells(metrics: Mapping[str, float]) -> dict[tuple[str, str], Cell]:
    """The trained algorithm's accuracies by dataset (or domain) and setting: columns by ways, then shots and queries.

    Args:
        metrics: Keys of `FewShot` and `Verdict`, among others. Baselines and further ways to classify are left out.
    """
    found = []
    for name, accuracy in metrics.items():
        match = KEY.fullmatch(name)
        if match is None or (match[1] or "").partition("/")[0] in BASELINES:
            continue
        interval = metrics.get(f"{name.removesuffix('top1')}ci95")
        sizes = tuple(int(number or 0) for number in match.groups()[2:])
        found.append((sizes, (match[1] or OWN, match[2]), Cell(sizes[0], accuracy, interval)))
    return {key: cell for _, key, cell in sorted(found, key=lambda one: one[0])}


def table_picture(found: Mapping[tuple[str, str], Cell]) -> Tensor:
    """One row per dataset, one column per setting; a cell is as bright as its accuracy is above chance.

    Args:
        found: Cells by dataset and setting, at least one; where there is none, the paper stays white.

    Returns:
        uint8 (3, H, W).
    """
    font = ImageFont.load_default(TEXT)
    rows, columns = (list(dict.fromkeys(key[place] for key in found)) for place in (0, 1))
    left = max(math.ceil(font.getlength(name)) for name in rows) + 3 * GAP
    top, width = TEXT + 2 * GAP, len(columns) * (WIDTH + GAP)
    width = max(left + width, math.ceil(font.getlength(NOTE)) + 2 * GAP)
    paper = Image.new("RGB", (width, top + len(rows) * (HEIGHT + GAP) + TEXT + 2 * GAP), PAPER)
    pen = ImageDraw.Draw(paper)
    for column, name in enumerate(columns):
        pen.text((left + column * (WIDTH + GAP) + WIDTH // 2, GAP), name, INK, font, anchor="ma")
    for row, name in enumerate(rows):
        pen.text((GAP, top + row * (HEIGHT + GAP) + HEIGHT // 2), name, INK, font, anchor="lm")
    for (dataset, setting), cell in found.items():
        x, y = left + columns.index(setting) * (WIDTH + GAP), top + rows.index(dataset) * (HEIGHT + GAP)
        _draw(pen, cell, x, y, font)
    pen.text((GAP, paper.height - TEXT - GAP), NOTE, INK, font)
    return tensor_of(paper)


def _draw(pen: ImageDraw.ImageDraw, cell: Cell, x: int, y: int, font: Font) -> None:
    red, green, blue = (heat(torch.tensor(cell.above_chance)) * 255).round().int().tolist()
    pen.rectangle((x, y, x + WIDTH - 1, y + HEIGHT - 1), fill=(red, green, blue))
    ink = INK if cell.above_chance > 0.5 else PAPER
    lines = [f"{100 * cell.accuracy:.1f}"] + ([] if cell.interval is None else [f"± {100 * cell.interval:.1f}"])
    first = y + (HEIGHT - len(lines) * (TEXT + GAP)) // 2
    for number, line in enumerate(lines):
        pen.text((x + WIDTH // 2, first + number * (TEXT + GAP)), line, ink, font, anchor="ma")
