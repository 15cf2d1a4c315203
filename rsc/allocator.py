"""How the C library keeps memory that tensors gave back.

Training makes and drops tensors of many MB in every step. By default glibc returns each to the system at
once, and the system clears every page of the next one: a sixth of the time of a convolutional network.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Have the allocator of this process keep what is freed and hand it out again.

    The resident size of the process no longer shrinks, and it cannot be undone: for a process that trains or
    attacks, not for a library to do at import. Call it before large tensors are made. The command `rsc` does.

    Returns:
        whether the C library has such settings (glibc has).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28))
    return sum(mallopt(*setting) for setting in settings) == len(settings)  # 1 each if it took it
