"""Bytes on their way to the disk before anybody asks for it."""

from __future__ import annotations

import ctypes

_SYNC_FILE_RANGE_WRITE = 2


def _load_sync_file_range() -> ctypes._NamedFuncPointer | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function


_sync_file_range = _load_sync_file_range()


def begin_write_back(fd: int, offset: int, size: int) -> None:
    """Ask the kernel to begin writing a range out (man 2 sync_file_range). A hint: the sync at the end is what counts."""
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, size, _SYNC_FILE_RANGE_WRITE)
