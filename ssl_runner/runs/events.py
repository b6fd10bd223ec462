"""TensorBoard's event files of a resumed run, cut back to the checkpoint so that no point appears twice."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from ssl_runner.runs.logged import records

FINAL = ".final"

# TensorBoard reads every file whose name contains "tfevents", even a half-written one that a crash left behind
_TEMPORARY = ".cut_events"


def new_writer(folder: Path) -> SummaryWriter:
    """The writer of a new run. It writes a session log, so that the one of a resumed run is not the first."""
    return SummaryWriter(str(folder), purge_step=0)


def resumed_writer(folder: Path, step: int) -> SummaryWriter:
    """Remove everything that was logged after ``step``, and return a writer that continues from there.

    The session log that ``purge_step`` writes is not enough by itself. TensorBoard's Python loader takes the first one
    for the start of the run and purges nothing. Its fast loader ignores it, but lets a later point replace the points
    of its tag from that step on. It is written all the same, for a Python loader that is running and holds the old
    points in memory; new runs write one too, so that the next one is not the first.

    Args:
        folder: The run folder.
        step: Steps done before; 0 in a new run.
    """
    cut_after(folder, step)
    _wait_for_a_later_name(folder)
    return SummaryWriter(str(folder), purge_step=step + 1) if step else new_writer(folder)


def cut_after(folder: Path, step: int) -> None:
    """Remove events of later steps, and a record cut short by a crash, from the event files of a run.

    A file is replaced completely or not at all. With step 0 nothing is kept. The events of `final_writer` are never
    kept, since a resumed run is evaluated again.

    Args:
        folder: The run folder; it need not exist.
        step: Number of steps done at the checkpoint from which the run resumes.
    """
    for path in sorted(folder.glob("events.out.tfevents.*")):
        if step == 0 or path.name.endswith(FINAL):
            path.unlink()
            continue
        data = path.read_bytes()
        # without session logs: if there are two, TensorBoard takes the second by name for a restart, and if the clock
        # was set back, that would be the older one
        kept = b"".join(
            record for record, event in records(data) if event.step <= step and not event.HasField("session_log")
        )
        if kept != data:
            _replace(path, kept)


def _wait_for_a_later_name(folder: Path) -> None:
    """Wait until a new event file would sort after the existing ones.

    TensorBoard reads files in the order of their names: by second, then by process number and a counter, as text
    (1000 before 999). A file of the same second would sort before the last one half of the time.
    """
    seconds = {path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")}
    while f"{int(time.time()):010d}" in seconds:
        time.sleep(0.01)


@contextmanager
def final_writer(folder: Path) -> Iterator[SummaryWriter]:
    """A writer for values that a run logs once, after its last step; writing them again replaces the earlier ones.

    Without this, a run that was killed between its final evaluation and its end would log that evaluation twice.

    Args:
        folder: The run folder.
    """
    for path in folder.glob(f"events.out.tfevents.*{FINAL}"):
        path.unlink()
    _wait_for_a_later_name(folder)  # the session log of a run that was resumed in this second would purge these values
    with SummaryWriter(str(folder), filename_suffix=FINAL) as writer:
        yield writer


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(_TEMPORARY)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
