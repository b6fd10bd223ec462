"""Images that are being decoded: by threads, or by threads and a device."""

from collections.abc import Callable, Iterator, Sequence, Sized
from concurrent.futures import Future

import numpy as np
import torch
from torch import Tensor

from ssl_runner.errors import DataError
from ssl_runner.images import nvjpeg
from ssl_runner.images.cutting import Cut
from ssl_runner.images.nvjpeg import Decoder, Jpeg
from ssl_runner.runtime import process_group
from ssl_runner.runtime.console import Console

Finish = Callable[[int, Tensor, int], Tensor]

PIXELS = 2**26  # of whole images that a device holds at once: 200 MB in color

NO_JPEG, REFUSED = 1, 2


class Pending:
    """Images that threads are decoding.

    Args:
        made: Filled by the threads, one tensor (V, M, ...) per kind of cut.
        finish: Makes the result of some images from their pixels: `finish(kind, pixels (V', m, C, H, W), start)` gives
            (V, m, ...), where the images are those from place ``start`` on. None keeps the pixels.
    """

    def __init__(self, made: list[Tensor], finish: Finish | None) -> None:
        self.made, self.finish = made, finish
        self.futures: list[Future[None]] = []

    def put(self, kind: int, pixels: Tensor, start: int) -> None:
        """Take some images of a kind, uint8 (V', m, C, H, W), from place ``start`` on."""
        part = pixels if self.finish is None else self.finish(kind, pixels, start)
        self.made[kind][:, start : start + part.shape[1]] = part

    def wait(self) -> list[Tensor]:
        """The images by kind, once all are decoded.

        Raises:
            DataError: One of them is damaged; the message names it.
        """
        for future in self.futures:
            future.result()
        return self.made

    def drop(self) -> None:
        """Forget what has not begun."""
        for future in self.futures:
            future.cancel()


class Left:
    """Which images of a store are left to Pillow, although nvJPEG is to decode them.

    A process knows it of those that it has used since it began.

    Args:
        n: Number of images in the store.

    Attributes:
        why: uint8 (n,): 0, `NO_JPEG` or `REFUSED`.
    """

    def __init__(self, n: int) -> None:
        self.why = np.zeros(n, np.uint8)
        self.told = False

    def counts(self) -> dict[str, int]:
        """Numbers of images by reason."""
        return {"no_jpeg": int((self.why == NO_JPEG).sum()), "refused": int((self.why == REFUSED).sum())}

    def __str__(self) -> str:
        no_jpeg, refused = self.counts().values()
        return (
            f"Pillow decoded {no_jpeg:,} images that are no JPEGs in RGB or gray, and {refused:,} that nvJPEG refused"
        )

    def tell(self) -> None:
        """Print how many there are so far, the first time that there are some."""
        if not self.told and self.why.any():
            self.told = True
            if process_group.rank() == 0:
                Console(stderr=True).tell("nvJPEG", f"{self}, so far; all are counted at the end")


def left_by(decoder: Decoder, store: Sized) -> Left | None:
    """Where a store notes what nvJPEG leaves to Pillow; None for ``pillow``.

    Raises:
        DataError: There is no such decoder.
    """
    if decoder not in ("pillow", "nvjpeg"):
        raise DataError(f"dataset.decoder={decoder!r}: expected 'pillow' or 'nvjpeg'.")
    return Left(len(store)) if decoder == "nvjpeg" else None


class OnDevice(Pending):
    """Images whose JPEGs a device decodes when they are waited for; threads read them, and decode all others.

    Decoding does not begin earlier, because a step may be recorded as a CUDA graph meanwhile, and only in the thread
    that trains is it known when. It makes the next batch while the device works on a step (`training.ahead`).

    Args:
        made: As `Pending`'s.
        wanted: The cuts of the image at a place by kind; none of a kind that threads make of all images.
        otherwise: Makes the cuts of the image at a place by kind with Pillow, each uint8 (V, C, size, size), and notes
            that it was refused.
        channels: 1 or 3.
        device: Decodes and cuts.
    """

    def __init__(
        self,
        made: list[Tensor],
        wanted: Callable[[int], list[list[Cut]]],
        otherwise: Callable[[int], list[Tensor]],
        channels: int,
        device: torch.device,
    ) -> None:
        super().__init__(made, None)
        self.wanted, self.otherwise, self.channels, self.device = wanted, otherwise, channels, device
        self.jpegs: dict[int, Jpeg] = {}
        self.others = [dict[int, Tensor]() if cuts else None for cuts in wanted(0)]

    def leave(self, place: int, jpeg: Jpeg) -> None:
        """Leave an image to the device."""
        self.jpegs[place] = jpeg

    def put(self, kind: int, pixels: Tensor, start: int) -> None:
        others = self.others[kind]
        if others is None:
            super().put(kind, pixels, start)
        else:
            others.update(enumerate(pixels.unbind(1), start))

    def wait(self) -> list[Tensor]:
        made = [
            # of a kind that the device makes, only the shape is used
            part.to(self.device) if others is None else torch.empty_like(part, device=self.device)
            for part, others in zip(super().wait(), self.others, strict=True)
        ]
        for places in self._groups():
            files = [self.jpegs[place].data for place in places]
            for place, pixels in zip(places, nvjpeg.decode(files, self.channels, self.device), strict=True):
                self._cut(made, place, pixels)
        for part, others in zip(made, self.others, strict=True):
            if others:
                part[:, torch.tensor(list(others))] = torch.stack(list(others.values()), dim=1).to(self.device)
        self.made, self.futures, self.jpegs, self.others = made, [], {}, [None] * len(made)
        return made

    def _cut(self, made: list[Tensor], place: int, pixels: Tensor | None) -> None:
        jpeg = self.jpegs[place]
        upright = None if pixels is None else nvjpeg.upright(pixels, jpeg.orientation)
        if upright is None or upright.shape[1:] != jpeg.shape:
            for kind, part in enumerate(self.otherwise(place)):
                self.put(kind, part[:, None], place)
            return
        for part, cuts in zip(made, self.wanted(place), strict=True):
            for view, one in enumerate(cuts):
                part[view, place] = nvjpeg.cut(upright, one)

    def _groups(self) -> Iterator[Sequence[int]]:
        """Places of JPEGs to be decoded at once."""
        group, total = list[int](), 0
        for place in sorted(self.jpegs):
            height, width = self.jpegs[place].shape
            if group and total + height * width > PIXELS:
                yield group
                group, total = [], 0
            group.append(place)
            total += height * width
        if group:
            yield group
