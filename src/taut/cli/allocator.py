"""Let the C library keep the memory of freed tensors for the next ones.

glibc gives every large block its own mapping and hands it back to the kernel when it is
freed. A bound pass allocates and frees tensors of megabytes at a high rate, and each of them
then costs a system call and one page fault for every 4 KiB, for memory that had just been
there. With the settings below large blocks come from the heap and stay in it. The price is
that the process keeps the most memory it ever needed until it ends, which suits a command
that does one thing; the library itself leaves the allocator alone.
"""

from __future__ import annotations

import ctypes
import sys

# From malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_KEEP = 1 << 30
"""Bytes at the end of the heap that are kept when they are freed."""


def keep_pages() -> bool:
    """Make glibc reuse the pages of freed tensors; return whether it did.

    ``mallopt(M_MMAP_MAX, 0)`` stops blocks from getting mappings of their own, whatever their
    size (``M_MMAP_THRESHOLD`` ends at 32 MiB), and ``mallopt(M_TRIM_THRESHOLD, 1 GiB)`` keeps
    the freed end of the heap. Does nothing, and returns False, where the C library is not
    glibc or refuses.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    mallopt = library.mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _KEEP))
