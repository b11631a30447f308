"""Memory of batches: let the C library keep freed pages for the next batch instead of giving them back.

A batch is tens of megabytes. The defaults of glibc give that much memory back to the kernel when a batch is freed, and
the next one takes it again page by page, each page cleared first. That costs more processor time than parsing and
decoding together.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache

MIB = 1 << 20
# Parameters of mallopt(3), from <malloc.h>.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
# More than 32 MiB for M_MMAP_THRESHOLD is refused by some versions. With a pad of 64 MiB, the size of a heap of an
# arena, no heap is unmapped when it is empty. Few arenas, because each keeps pages of its own while its threads rest;
# not one alone, because threads wait for the lock of their arena.
SETTINGS = (
    (M_MMAP_THRESHOLD, 32 * MIB),
    (M_TRIM_THRESHOLD, 1024 * MIB),
    (M_TOP_PAD, 64 * MIB),
    (M_ARENA_MAX, max(2, (os.cpu_count() or 1) // 4)),
)
ENVIRONMENT = ("MALLOC_", "GLIBC_TUNABLES")


@lru_cache(maxsize=1)
def keep_pages() -> bool:
    """Tell glibc to keep freed memory in the process; the first call counts, later ones do nothing.

    The setting is of the whole process and cannot be undone, but the memory can: `malloc_trim(0)` of the C library
    gives back what is free. The process stays as large as its largest moment, so a step that needs much memory once
    is not made up for later. Blocks over 32 MiB are still given back at once.

    Nothing is changed outside Linux, with another C library, or where the environment tunes malloc already
    (`MALLOC_...` or `GLIBC_TUNABLES`): who wrote that knows better, and it is the way to switch this off.

    Returns:
        True if glibc took every setting.
    """
    if any(name.startswith(ENVIRONMENT) for name in os.environ) or not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(parameter, value) == 1 for parameter, value in SETTINGS])


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # no such function, name or value: another system
        return False
