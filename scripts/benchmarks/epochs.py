"""Memory of packed images at 224 pixels, epoch by epoch: what `packed` measures, over three passes of 50,000 images.

Memory is the resident set less that of a process that has imported torch alone.
"""

from collections.abc import Iterator

from .measure import apart, resident
from .packed import images, ours
from .row import Goal, Row, Settings


def torch_alone() -> dict[str, float]:
    """Resident memory of a process with torch alone."""
    import torch

    torch.mm(torch.rand(9, 9), torch.rand(9, 9))
    return {"mb": resident()}


def rows(settings: Settings) -> Iterator[Row]:
    """Memory after each epoch beside that after the first."""
    epochs = 1 if settings.quick else 3
    with images(settings) as (folder, test, batch):
        alone = apart(settings, torch_alone)["mb"]
        held = apart(settings, ours, folder, test, batch, 0, epochs)
    after = [held[f"mb_after_epoch_{epoch + 1}"] - alone for epoch in range(epochs)]
    for epoch, mb in enumerate(after):
        what, ratio = f"memory after epoch {epoch + 1} / after the first", mb / after[0]
        yield Row(what, mb, "MB", "the first", after[0], ratio, Goal(most=1.1))
