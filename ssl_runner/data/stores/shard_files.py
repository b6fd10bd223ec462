"""Where tar shards are: on this machine, or behind any URL that fsspec opens, with a local cache of bounded size."""

import contextlib
import glob
import itertools
import os
import re
import threading
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple

from ssl_runner.data.stores.store import LocalFiles
from ssl_runner.errors import DataError, printable

# what the file systems of fsspec call a file's version or time
VERSIONS = ("ETag", "etag", "mtime", "LastModified", "created")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Shard(NamedTuple):
    """One shard.

    Attributes:
        url: A path, or a URL with ``://``.
        size: Size in bytes.
        changed: The time of its last change, or what else its server says of its version.
    """

    url: str
    size: int
    changed: str


def is_remote(url: str) -> bool:
    return "://" in url


def expanded(patterns: Sequence[str]) -> list[str]:
    """Paths and URLs of patterns such as ``train-{000..146}.tar`` (as in a shell) and ``train-*.tar``, in order.

    Raises:
        DataError: A pattern with a star fits no file.
    """
    found = []
    for pattern in patterns:
        parts = _RANGE.split(pattern)
        spans = [
            [f"{number:0{len(low)}d}" for number in range(int(low), int(high) + 1)]
            for low, high in zip(parts[1::3], parts[2::3], strict=True)
        ]
        for numbers in itertools.product(*spans):
            name = "".join(itertools.chain(*itertools.zip_longest(parts[::3], numbers, fillvalue="")))
            found += _starred(name) if "*" in name else [name]
    return found


def _starred(pattern: str) -> list[str]:
    if is_remote(pattern):
        system, path = _system(pattern)
        names = sorted(system.unstrip_protocol(name) for name in system.glob(path))
    else:
        names = sorted(glob.glob(pattern))
    if not names:
        raise DataError(f"no shard fits {printable(pattern)}; check the path, or name the shards one by one.")
    return names


def described(url: str) -> Shard:
    """A shard with its size and version.

    Raises:
        DataError: It does not exist, or cannot be reached.
    """
    try:
        if not is_remote(url):
            status = os.stat(url)
            return Shard(url, status.st_size, str(status.st_mtime_ns))
        system, path = _system(url)
        info = system.info(path)
        version = next(
            (str(info[key]) for key in ("ETag", "etag", "mtime", "LastModified", "created") if key in info), ""
        )
        return Shard(url, int(info["size"]), version)
    except DataError:
        raise
    except Exception as error:  # every file system of fsspec has errors of its own
        reason = printable(" ".join(str(error).split()) or type(error).__name__)
        raise DataError(f"the shard {printable(url)} cannot be opened ({reason}); check dataset.shards.") from None


def opened(shard: Shard) -> IO[bytes]:
    """The shard as a file that can be sought in."""
    if not is_remote(shard.url):
        return open(shard.url, "rb")
    system, path = _system(shard.url)
    return system.open(path, "rb", block_size=2**24)


class ShardFiles:
    """Reads parts of shards, from any number of threads.

    A remote shard is copied whole into the cache when it is first read, as long as the cache has room. Parts of further
    shards are read over the network each time: nothing is ever dropped from the cache, since shuffled reading would
    fetch it again at once.

    Args:
        shards: The shards.
        cache: Folder of copies.
        limit: Largest size of all copies together, in bytes.
    """

    def __init__(self, shards: Sequence[Shard], cache: Path, limit: float) -> None:
        self.shards, self.cache, self.limit = shards, cache, limit
        self.copies = [self._copy_of(shard) for shard in shards]
        self._local = LocalFiles(self.copies)
        self._locks = [threading.Lock() for _ in shards]
        self._room = threading.Lock()
        self._used: int | None = None

    def __call__(self, file: int, offset: int, length: int) -> bytes:
        shard = self.shards[file]
        if not is_remote(shard.url) or self._is_copied(file):
            return self._local(file, offset, length)
        system, path = _system(shard.url)
        try:
            return system.cat_file(path, start=offset, end=offset + length)
        except Exception as error:  # every file system of fsspec has errors of its own
            raise OSError(f"{type(error).__name__}: {error}") from error

    def _copy_of(self, shard: Shard) -> Path:
        if not is_remote(shard.url):
            return Path(shard.url)
        return self.cache / f"{sha256(repr(shard).encode()).hexdigest()[:24]}.tar"

    def _is_copied(self, file: int) -> bool:
        copy, shard = self.copies[file], self.shards[file]
        if copy.exists():
            return True
        with self._locks[file]:
            if copy.exists():
                return True
            if not self._reserved(shard.size):
                return False
            system, path = _system(shard.url)
            unfinished = copy.with_suffix(f".{os.getpid()}")
            try:
                system.get_file(path, str(unfinished))
                unfinished.replace(copy)
                return True
            except Exception:  # a full disk, or a network that fails: parts can still be read one by one
                self._release(shard.size)
                return False
            finally:
                with contextlib.suppress(OSError):
                    unfinished.unlink()

    def _reserved(self, size: int) -> bool:
        with self._room:
            if self._used is None:
                self.cache.mkdir(parents=True, exist_ok=True)
                self._used = sum(path.stat().st_size for path in self.cache.glob("*.tar"))
            if self._used + size > self.limit:
                return False
            self._used += size
            return True

    def _release(self, size: int) -> None:
        with self._room:
            assert self._used is not None
            self._used -= size


def _system(url: str) -> tuple[Any, str]:
    """The file system of fsspec for a URL, and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise DataError(f"{printable(url)} needs fsspec; pip install 'ssl-runner[remote]'.") from None
    return url_to_fs(url)
