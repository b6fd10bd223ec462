"""A profile of some steps: a trace to look at, the most expensive operations, and the share of each part of a step."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from ssl_runner.runtime import spans
from ssl_runner.training.trainer import Trainer

WARM, STEPS, LISTED = 20, 10, 10
FOLDER = "profile"
PARTS = ("data", "forward", "loss", "backward", "optimizer", "logging")


class Profile:
    """Profiles ten steps after the first twenty of a session, and writes them into ``profile/`` of the run folder.

    ``step.pt.trace.json.gz`` opens in https://ui.perfetto.dev and in TensorBoard's profile plugin; ``summary.txt`` is
    for reading.

    Args:
        folder: The run folder.
        trainer: Its device is profiled beside the CPU.
        tell: Called with the shares, once.
    """

    def __init__(self, folder: Path, trainer: Trainer, tell: Callable[[str], None]) -> None:
        self.folder, self.tell = folder / FOLDER, tell
        self.cuda = trainer.device if trainer.device.type == "cuda" else None
        self.first: int | None = None
        self.inside = ExitStack()
        self.profiler: Any = None
        self.began, self.done = 0.0, False

    def advance(self, step: int) -> None:
        """Call before each step; the profile begins and ends here."""
        self.first = step if self.first is None else self.first
        if step == self.first + WARM:
            os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # errors about GPUs that are not there
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda is not None else [])]
            self._settle()
            self.profiler = self.inside.enter_context(torch.profiler.profile(activities=activities))
            self.inside.enter_context(spans.profiled())
            self.began = time.perf_counter()
        if step == self.first + WARM + STEPS:
            self.done = True
            self._settle()
            seconds = time.perf_counter() - self.began
            self.inside.close()
            self._write(seconds)

    def end(self) -> None:
        """Call after the last step: a session that was too short for a profile says so."""
        self.inside.close()
        if not self.done:
            self.tell(f"none: it looks at {STEPS} steps after the first {WARM} of a session, which ended before")

    def _settle(self) -> None:
        if self.cuda is not None:
            torch.cuda.synchronize(self.cuda)

    def _write(self, seconds: float) -> None:
        self.folder.mkdir(exist_ok=True)
        self.profiler.export_chrome_trace(str(self.folder / "step.pt.trace.json.gz"))
        averages = self.profiler.key_averages()
        key = "self_cpu_time_total" if self.cuda is None else "self_device_time_total"
        shares = self._shares(averages, seconds)
        averages[:] = [event for event in averages if event.key not in PARTS]  # a part is no operation
        table = averages.table(sort_by=key, row_limit=LISTED, max_name_column_width=60)
        text = f"{STEPS} steps, {1000 * seconds / STEPS:.2f} ms each; {shares}"
        (self.folder / "summary.txt").write_text(f"{text}\n\n{table}\n", encoding="utf-8")
        self.tell(f"{text}; {self.folder / 'summary.txt'} has the {LISTED} most expensive operations")

    def _shares(self, averages: Any, seconds: float) -> str:
        """The share of the CPU's time in each part of a step, and how long the device was busy."""
        spent = {event.key: event.cpu_time_total / 1e6 for event in averages if event.key in PARTS}
        spent["forward"] = spent.get("forward", 0.0) - spent.get("loss", 0.0)
        parts = ", ".join(f"{name} {spent[name] / seconds:.0%}" for name in PARTS if spent.get(name, 0.0) > 0)
        if self.cuda is None:
            return parts
        busy = sum(event.self_device_time_total for event in averages if event.key not in PARTS) / 1e6
        return f"the processor's time: {parts}; the device was busy {busy / seconds:.0%} of the time"
