"""Keep freed memory in the process instead of handing it back to the kernel after every call.

With glibc's defaults every large tensor is mapped and unmapped again: 4,500 page faults and 10 to 25 % of the time
of a call of a small potential were lost to it (PaiNN, 8 cells of 64 atoms). Called once by the command line and by
the processes it starts; importing the library changes nothing.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt(3)


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for reuse; return whether there was a glibc to tell."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 32 << 20)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
