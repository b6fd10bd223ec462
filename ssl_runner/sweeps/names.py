"""Readable names of a sweep's jobs, ``temperature=0.2,seed=1``: their folders, and TensorBoard's runs."""

import hashlib
import re
from collections.abc import Mapping, Sequence

from ssl_runner.config.labels import key_labels

LONGEST = 100  # bytes; file systems take 255, and TensorBoard and checkpoints add to the path

_UNSAFE = re.compile(r"[^\w.=+-]+")


def job_names(jobs: Sequence[Sequence[str]]) -> list[str]:
    """A name for each job, all different, made of what differs between the jobs.

    Args:
        jobs: The overrides of each.
    """
    parsed = [dict(_pair(word) for word in job) for job in jobs]
    keys = [key for key in dict.fromkeys(key for job in parsed for key in job) if _differs(key, parsed)]
    labels = key_labels(keys)
    found: list[str] = []
    for job in parsed:
        name = _safe(",".join(f"{labels[key]}={_plain(job[key])}" for key in keys if key in job))
        found.append(name or "job")
    return _unique(found)


def trial_name(index: int, texts: Mapping[str, str]) -> str:
    """A name for a trial of a search: ``trial=007,temperature=0.2``.

    Args:
        texts: Its values, by key.
    """
    pairs = dict(_pair(f"{key}={text}") for key, text in texts.items())
    labels = key_labels(list(pairs))
    values = ",".join(f"{labels[key]}={_plain(text)}" for key, text in pairs.items())
    return _safe(f"trial={index:03d},{values}")


def _pair(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key.lstrip("+"), value


def _differs(key: str, jobs: Sequence[dict[str, str]]) -> bool:
    return len({job.get(key) for job in jobs}) > 1


def _plain(value: str) -> str:
    return value.strip("'\"[]").replace(" ", "")


def _safe(name: str) -> str:
    """A folder's name: no separators, quotes or blanks, and not too long."""
    parts = [_UNSAFE.sub("-", part).strip("-") for part in name.split(",")]
    safe = ",".join(part for part in parts if part).lstrip(".")
    if len(safe.encode()) <= LONGEST:
        return safe
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    cut = safe.encode()[: LONGEST - len(digest) - 1].decode(errors="ignore")
    return f"{cut}_{digest}"


def _unique(names: Sequence[str]) -> list[str]:
    """The names, numbered where several are the same (in small letters: some disks do not tell them apart)."""
    taken: set[str] = set()
    found = []
    for name in names:
        number, free = 1, name
        while free.lower() in taken:
            number += 1
            free = f"{name}_{number}"
        taken.add(free.lower())
        found.append(free)
    return found
