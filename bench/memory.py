"""Memory that stays the machine's own while it is free, so that no row pays for where its pages come from.

A virtual machine gives free memory back to its host, in blocks of some size (free page reporting, in Linux 128 KiB or more), and the
first write to such a block then costs ten times what the write itself does: an upload of 1 GiB took between 0.6 and 3.9 s here, by
chance. So a good part of the memory is touched once at the start and freed again but for one page in each 128 KiB. What lies between
can be had by everybody, is too small to be given back, and is what the kernel takes first.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

BLOCK = 128 << 10
"""A block that is given back, in bytes: the smallest there is."""
PAGE = os.sysconf("SC_PAGE_SIZE")
HUGE = 2 << 20
SHARE = 0.5
"""Of the memory that is available, what is touched."""

_KEEP_SIZE, _PUNCH_HOLE = 1, 2


def keep_touched(path: Path, progress: Callable[[str], None]) -> None:
    """Touch half of the available memory by a new file in a tmpfs, and free all of it but a page in each block; OSError."""
    size = int(_available() * SHARE) // HUGE * HUGE
    progress(f"touching {size >> 30} GiB of memory")
    block = bytes(HUGE)
    with path.open("xb", buffering=0) as file:
        for _ in range(0, size, HUGE):
            file.write(block)
        for offset in range(0, size, BLOCK):
            _punch(file.fileno(), offset + PAGE, BLOCK - PAGE)


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")


_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _punch(fd: int, offset: int, size: int) -> None:
    if _libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, offset, size) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"a hole could not be punched: {os.strerror(number)}")
