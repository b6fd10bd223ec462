"""What a run leaves behind while it runs: TensorBoard scalars, metrics.jsonl and a progress bar."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard.writer import SummaryWriter


class Tracker:
    """Scalars to TensorBoard and to metrics.jsonl, one line a logged step, and the console's progress.

    Args:
        folder: The run folder.
        start_step: Steps done before; what was logged later than that is cut away, so that a resumed run leaves no
            point twice.
        max_steps: For the progress bar.
        progress: Whether to draw it.
    """

    def __init__(self, folder: Path, start_step: int, max_steps: int, progress: bool) -> None:
        self.path = folder / "metrics.jsonl"
        cut_after(self.path, start_step)
        self.writer = SummaryWriter(str(folder), purge_step=start_step + 1 if start_step else None)
        self.file = self.path.open("a", encoding="utf-8")
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
            disable=not progress,
        )
        self.task = self.progress.add_task("training", total=max_steps, completed=start_step, figures="")

    def __enter__(self) -> "Tracker":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        self.file.close()
        self.writer.close()

    def advance(self, step: int) -> None:
        """Move the bar to so many steps done."""
        self.progress.update(self.task, completed=step)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One point of every tag after so many steps."""
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        self.progress.update(self.task, figures=_figures(values))

    def flush(self) -> None:
        """Before a checkpoint: what was logged up to it must be on disk."""
        self.writer.flush()


def log_evaluation(folder: Path, step: int, metrics: dict[str, float]) -> None:
    """The final evaluation as TensorBoard scalars, ``eval/...``, at the run's last step."""
    with SummaryWriter(str(folder)) as writer:
        for name, value in metrics.items():
            writer.add_scalar(f"eval/{name}", value, step)


class Meter:
    """Rates between two logged steps.

    Args:
        images_per_step: Images that a step sends through the network.
    """

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step
        self.began, self.steps, self.waited = time.perf_counter(), 0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, the loop waits for data."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    def lap(self, steps: int) -> dict[str, float]:
        """Figures since the last lap, given the steps done by now."""
        now = time.perf_counter()
        seconds = max(now - self.began, 1e-9)
        rate = (steps - self.steps) * self.images_per_step / seconds
        share = self.waited / seconds
        self.began, self.steps, self.waited = now, steps, 0.0
        return {"time/images_per_second": rate, "time/data_share": share}


def cut_after(path: Path, step: int) -> None:
    """Drop lines of later steps, and a line that a crash has torn."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue
    path.write_text("".join(kept), encoding="utf-8")


def _figures(values: dict[str, float]) -> str:
    shown = {tag.removeprefix("train/"): value for tag, value in values.items() if tag in ("train/loss",)}
    rate = values.get("time/images_per_second")
    text = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
    return text if rate is None else f"{text}  {rate:,.0f} images/s"
