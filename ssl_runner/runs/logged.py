"""What a run has logged, read without torch: the lines of metrics.jsonl and the records of event files."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics.jsonl, ``step`` and tags, except one cut short by a crash; none if there is no file."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def records(data: bytes) -> Iterator[tuple[bytes, Event]]:
    """Complete records of an event file with their events, up to the first damaged one.

    A record consists of its length (8 bytes), the length's checksum (4), the event, and the event's checksum (4).
    """
    start = 0
    while start + 16 <= len(data):
        length, checksum = struct.unpack_from("<QI", data, start)
        end = start + 12 + length + 4
        # the event's own checksum is not verified, since in Python that takes a second for a few pictures
        if end > len(data) or checksum != masked_crc32c(data[start : start + 8]):
            return
        try:
            event = Event.FromString(data[start + 12 : end - 4])
        except DecodeError:
            return
        yield data[start:end], event
        start = end
