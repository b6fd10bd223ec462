"""The allocator: half the time of a step on a CPU is page faults unless freed pages are kept."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_pages() -> bool:
    """Make glibc keep what the process frees, instead of giving it back and faulting it in again every step.

    Measured with conv4 at batch 256: 854 images/s before, 1,656 after. Peak memory grows by about a fifth. Elsewhere
    than on glibc nothing happens.

    Returns:
        Whether the allocator took it.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    return all(mallopt(option, value) for option, value in settings)
