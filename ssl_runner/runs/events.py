"""TensorBoard's event files of a run that goes on: cut back to the checkpoint, so that no point is there twice."""

import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from torch.utils.tensorboard.writer import SummaryWriter

FINAL = ".final"

# TensorBoard reads every file whose name holds "tfevents", also a half-written one that a crash left behind
_TEMPORARY = ".cut_events"


def new_writer(folder: Path) -> SummaryWriter:
    """The writer of a fresh run, with a session log, so that a resumed run's is not the first (`resumed_writer`)."""
    return SummaryWriter(str(folder), purge_step=0)


def resumed_writer(folder: Path, step: int) -> SummaryWriter:
    """Cut back what was logged after ``step`` and return the writer that goes on from there.

    The session log that ``purge_step`` writes is not enough by itself: TensorBoard's Python loader takes the first one
    it meets for the start of the run and purges nothing, and its fast loader does not read it but lets a later point
    replace those of its tag from that step on. It is written all the same (in a fresh run, too, so that the next is not
    the first) for a Python loader that runs meanwhile and holds the old points in memory.

    Args:
        folder: The run folder.
        step: Steps done before; 0 in a fresh run.
    """
    cut_after(folder, step)
    _wait_for_a_later_name(folder)
    return SummaryWriter(str(folder), purge_step=step + 1) if step else new_writer(folder)


def cut_after(folder: Path, step: int) -> None:
    """Drop events of later steps, and a record that a crash has torn, from the event files of a run.

    A file is replaced whole or not at all. With step 0 nothing is kept, and neither are the events of `final_writer`,
    since a run that goes on is evaluated again.

    Args:
        folder: The run folder; it need not exist.
        step: Steps done by the checkpoint that the run goes on from.
    """
    for path in sorted(folder.glob("events.out.tfevents.*")):
        if step == 0 or path.name.endswith(FINAL):
            path.unlink()
            continue
        data = path.read_bytes()
        # without session logs: of two, TensorBoard takes the second in the order of names for a restart, and a clock
        # that was set back would make that the older one
        kept = b"".join(
            record for record, event in _records(data) if event.step <= step and not event.HasField("session_log")
        )
        if kept != data:
            _replace(path, kept)


def _wait_for_a_later_name(folder: Path) -> None:
    """TensorBoard reads files in the order of their names: the second, then the process, as a word (1000 before 999).

    A run that is gone on with within the second of its last file would come before it half of the time.
    """
    seconds = {path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")}
    while f"{int(time.time()):010d}" in seconds:
        time.sleep(0.01)


@contextmanager
def final_writer(folder: Path) -> Iterator[SummaryWriter]:
    """A writer for what a run logs once, after its last step; writing it again replaces what was there.

    Without this, a run killed between its final evaluation and its end would have that evaluation twice.

    Args:
        folder: The run folder.
    """
    for path in folder.glob(f"events.out.tfevents.*{FINAL}"):
        path.unlink()
    with SummaryWriter(str(folder), filename_suffix=FINAL) as writer:
        yield writer


def _records(data: bytes) -> Iterator[tuple[bytes, Event]]:
    """Whole records with their events; after a damaged one nothing can be found.

    A record is its length (8 bytes), the length's checksum (4), the event, and the event's checksum (4).
    """
    start = 0
    while start + 16 <= len(data):
        length, checksum = struct.unpack_from("<QI", data, start)
        end = start + 12 + length + 4
        # the event's own checksum is left alone: in Python it takes a second for a few pictures
        if end > len(data) or checksum != masked_crc32c(data[start : start + 8]):
            return
        try:
            event = Event.FromString(data[start + 12 : end - 4])
        except DecodeError:
            return
        yield data[start:end], event
        start = end


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
