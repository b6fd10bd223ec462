"""Images of a store that look like the tensor of all of them, and are decoded when they are asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ssl_runner.data.stores.inspection import mean_and_std, same
from ssl_runner.data.stores.pending import NO_JPEG, REFUSED, Finish, Left, OnDevice, Pending
from ssl_runner.data.stores.store import ImageStore
from ssl_runner.data.stores.threads import decoding_threads, pool
from ssl_runner.images.cutting import Box, Cut, cut, fit
from ssl_runner.images.decoding import Decoding
from ssl_runner.images.nvjpeg import jpeg

ON_A_THREAD = 4  # images at most that a thread decodes before the next thread's turn; two views fit into its cache


class StoredImages:
    """Some images of a store, as uint8 (N, C, H, W): indexing decodes, so it returns a tensor in memory.

    An image is resized and cut from the middle, to exactly the pixels that the same file has in memory. `begin` cuts
    boxes out of the original pixels instead.

    Args:
        store: All images.
        rows: The numbers of these, int64 (N,).
        decoding: Its size is the height and width.
        left: Where to note what nvJPEG leaves to Pillow; None if Pillow decodes everything. Evaluation and images that
            are cut from the middle are Pillow's in any case.
    """

    device, dtype = torch.device("cpu"), torch.uint8
    nbytes = 0  # nothing is held

    def __init__(self, store: ImageStore, rows: np.ndarray, decoding: Decoding, left: Left | None = None) -> None:
        assert decoding.size is not None
        self.left = left
        self.store, self.rows, self.decoding, self.size = store, rows, decoding, decoding.size

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), self.decoding.channels, self.size, self.size))

    def stride(self, dim: int) -> int:
        """As of a contiguous tensor; 0 would mean blank images."""
        return int(np.prod(self.shape[dim + 1 :]))

    def at(self, places: Tensor | slice) -> "StoredImages":
        """The images at these places, not yet decoded."""
        chosen = places if isinstance(places, slice) else places.cpu().numpy()
        return StoredImages(self.store, self.rows[chosen], self.decoding, self.left)

    def converted(self, channels: Literal[1, 3], size: int) -> "StoredImages":
        """The same images in gray (1) or color (3), of another height and width."""
        return StoredImages(self.store, self.rows, replace(self.decoding, channels=channels, size=size), self.left)

    def all_alike(self) -> bool:
        """Whether these are at least two, and all equal."""
        return same(self.store.index.records["digest"][self.rows])

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel in [0, 1], of the original pixels; nothing is decoded."""
        return mean_and_std(self.store.index.records[self.rows], self.decoding.channels)

    def __getitem__(self, places: Tensor | slice | int) -> Tensor:
        if isinstance(places, int):
            return self._fitted(self.rows[[places]])[0]
        if isinstance(places, slice):
            return self._fitted(self.rows[places])
        rows = self.rows[places.cpu().numpy()]
        return self._fitted(rows.ravel()).unflatten(0, rows.shape)

    def index_select(self, dim: int, places: Tensor) -> Tensor:
        """As torch's, along the first dimension."""
        assert dim == 0
        return self[places]

    def split(self, size: int) -> Iterator[Tensor]:
        """The images in batches of a size; the next one is decoded while the last one is used."""
        starts = range(0, len(self), size)
        ahead = self._fitting(self.rows[:size]) if starts else None
        for start in starts:
            batch = ahead
            more = self.rows[start + size : start + 2 * size]
            ahead = self._fitting(more) if len(more) else None
            assert batch is not None
            yield batch.wait()[0][0]

    def heights_and_widths(self, places: Tensor) -> Tensor:
        """Of the original, upright images at these places, int64 (M, 2)."""
        records = self.store.index.records[self.rows[places.numpy()]]
        return torch.from_numpy(np.stack([records["height"], records["width"]], axis=1).astype(np.int64))

    def begin(
        self,
        places: Tensor,
        boxes: Sequence[Tensor | None],
        sizes: Sequence[int],
        finish: Finish | None = None,
        made: list[Tensor] | None = None,
        device: torch.device | None = None,
    ) -> Pending:
        """Let threads decode images and cut boxes out of them; each image is decoded once.

        Args:
            places: int64 (M,), at least one.
            boxes: For each kind of cut: top, left, height and width, int64 (V, M, 4) for V cuts of each image; or
                None for the image resized and cut from the middle.
            sizes: Height and width of each kind's cuts; unused without boxes.
            finish: What the threads make of the pixels, see `Pending`.
            made: Where they put it; None without ``finish``.
            device: Where boxes are cut out of JPEGs, which are decoded there; None for Pillow and threads.

        Returns:
            What becomes ``made``, or one tensor per kind, uint8 (V, M, C, size, size), where V is 1 without boxes; on
            the device, if one is given.
        """
        rows, channels = self.rows[places.numpy()], self.decoding.channels
        if made is None:
            shapes = [
                (1, len(rows), *self.shape[1:]) if box is None else (len(box), len(rows), channels, size, size)
                for box, size in zip(boxes, sizes, strict=True)
            ]
            made = [torch.empty(shape, dtype=torch.uint8) for shape in shapes]
        lists = [None if box is None else box.tolist() for box in boxes]
        step = max(1, min(ON_A_THREAD, len(rows) // (2 * decoding_threads())))
        if device is None:
            pending = Pending(made, finish)
            task = partial(self._cut, rows, lists, sizes, pending)
        else:
            refused = partial(self._refused, rows, lists, sizes)
            pending = OnDevice(made, partial(_wanted, lists, sizes), refused, channels, device)
            task = partial(self._read, rows, lists, sizes, pending)
        pending.futures += [pool().submit(task, start, start + step) for start in range(0, len(rows), step)]
        return pending

    def _fitted(self, rows: np.ndarray) -> Tensor:
        """Images resized and cut from the middle, uint8 (M, C, H, W)."""
        return self._fitting(rows).wait()[0][0] if len(rows) else torch.empty(0, *self.shape[1:], dtype=torch.uint8)

    def _fitting(self, rows: np.ndarray) -> Pending:
        images = StoredImages(self.store, rows, self.decoding)
        return images.begin(torch.arange(len(rows)), [None], [self.size])

    def _cut(self, rows: np.ndarray, boxes: list, sizes: Sequence[int], pending: Pending, start: int, end: int) -> None:
        cuts = [self._cuts_of(rows, boxes, sizes, place) for place in range(start, min(end, len(rows)))]
        for kind in range(len(boxes)):
            pending.put(kind, torch.stack([cut[kind] for cut in cuts], dim=1), start)

    def _read(
        self, rows: np.ndarray, boxes: list, sizes: Sequence[int], pending: OnDevice, start: int, end: int
    ) -> None:
        """Like `_cut`, but JPEGs with boxes are left to the device."""
        assert self.left is not None
        for place in range(start, min(end, len(rows))):
            row = int(rows[place])
            data = self.store.encoded(row)
            found = None if self.left.why[row] else jpeg(data, self._shape(row), self.decoding)
            if found is None:
                self.left.why[row] = self.left.why[row] or NO_JPEG
                for kind, part in enumerate(self._cuts_of(rows, boxes, sizes, place)):
                    pending.put(kind, part[:, None], place)
                continue
            pending.leave(place, found)
            for kind in [kind for kind, box in enumerate(boxes) if box is None]:
                middle = torch.from_numpy(fit(data, self.decoding, partial(self.store.name, row)))
                pending.put(kind, middle[None, None], place)

    def _refused(self, rows: np.ndarray, boxes: list, sizes: Sequence[int], place: int) -> list[Tensor]:
        """The cuts of a JPEG that the device has refused."""
        assert self.left is not None
        self.left.why[rows[place]] = REFUSED
        return self._cuts_of(rows, boxes, sizes, place)

    def _cuts_of(self, rows: np.ndarray, boxes: list, sizes: Sequence[int], place: int) -> list[Tensor]:
        """The cuts of an image by kind, uint8 (V, C, size, size)."""
        row = int(rows[place])
        data, name = self.store.encoded(row), partial(self.store.name, row)
        wanted = [one for kind in _wanted(boxes, sizes, place) for one in kind]
        parts = iter(cut(data, self._shape(row), wanted, self.decoding, name) if wanted else ())
        if None in boxes:
            middle = torch.from_numpy(fit(data, self.decoding, name))[None]
        return [middle if box is None else torch.stack([next(parts) for _ in box]) for box in boxes]

    def _shape(self, row: int) -> tuple[int, int]:
        """Height and width of the upright image."""
        record = self.store.index.records[row]
        return int(record["height"]), int(record["width"])


def _wanted(boxes: list, sizes: Sequence[int], place: int) -> list[list[Cut]]:
    """The cuts of an image out of its original pixels, by kind."""
    return [
        [Cut(Box(*view[place]), size) for view in (() if box is None else box)]
        for box, size in zip(boxes, sizes, strict=True)
    ]
