"""Small filesystems of their own, for a disk that is full. Mounting needs root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.servers import run
from tests.tools import tool

MIB = 1024 * 1024


@contextlib.contextmanager
def small_filesystem(kind: str, directory: Path, size: int) -> Iterator[Path]:
    """A mounted ``tmpfs`` or (by a loop device) ``ext4`` of ``size`` bytes below a directory; its mount point."""
    assert os.geteuid() == 0, "mounting a small filesystem needs root"
    point = directory / "mnt"
    point.mkdir()
    if kind == "tmpfs":
        run([str(tool("mount")), "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(point)])
    else:
        image = directory / "image"
        with image.open("wb") as file:
            file.truncate(size)
        run([str(tool("mkfs.ext4")), "-q", "-m", "0", str(image)])
        run([str(tool("mount")), "-o", "loop", str(image), str(point)])
    try:
        yield point
    finally:
        run([str(tool("umount")), str(point)])


def fill(path: Path, leave: int = 0) -> int:
    """Write a file until the filesystem is full but for ``leave`` bytes; its size."""
    free = os.statvfs(path.parent)
    with path.open("wb") as file:
        size = max(free.f_bavail * free.f_frsize - leave, 0)
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError:  # the filesystem keeps some of it for itself: to the last block, then
            file.truncate(0)
        if leave:
            return file.tell()
        with contextlib.suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(MIB))
        with contextlib.suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(512))
    return path.stat().st_size
