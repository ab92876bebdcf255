"""A file system of its own for the measurements: ext4 on a loop device, and memory for what the clients read and write.

An ext4 that lives long is no fair ground: creating files shortly after many were deleted costs ten times as much. So the file system
is made anew before each group of rows. The loop device uses direct I/O on a file whose blocks were all written once; through the
page cache of the file below, or into holes, each sync would measure the loop device.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.memory import keep_touched

GIB = 1 << 30
BLOCK = 16 << 20
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
"""There where a tmpfs can have huge pages, which make the blocks that are touched lie together."""


class BenchError(Exception):
    """The measurement cannot be made; the text says what to do."""


def run(*command: str) -> str:
    """Run a system tool; its output, or BenchError with what it said."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise BenchError(
            f"{' '.join(command)} failed ({result.returncode}): {(result.stderr or result.stdout).strip()}"
        )
    return result.stdout.strip()


def forget(root: Path) -> None:
    """Drop large files below a directory from the page cache, where they are written out, so that uploads do not fill the memory."""
    for folder, _, names in os.walk(root):
        for name in names:
            with contextlib.suppress(FileNotFoundError), open(os.path.join(folder, name), "rb") as file:
                if os.fstat(file.fileno()).st_size > BLOCK:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class LoopFilesystem:
    """``path`` is a fresh ext4 after :meth:`renew`; ``memory`` a tmpfs. Both go when :meth:`close` is called.

    ``work`` is a directory on an ordinary disk with ``size`` bytes free.
    """

    def __init__(self, work: Path, size: int, progress: Callable[[str], None]) -> None:
        if os.geteuid() != 0:
            raise BenchError("the benchmark mounts a file system of its own and so must run as root: sudo make bench")
        free = shutil.disk_usage(work).free
        if free < size + GIB:
            raise BenchError(
                f"{work} has {free / GIB:.1f} GiB free and the file system needs {size / GIB:.0f} GiB: "
                "make room, or give another directory with --work"
            )
        self.path = work / "disk"
        self.memory = work / "memory"
        self._image = work / "disk.img"
        self._device = ""
        self._is_mounted = False
        self._has_memory = False
        self.path.mkdir()
        self.memory.mkdir()
        try:
            self._write_image(size, progress)
            self._device = run("losetup", "--find", "--show", "--direct-io=on", str(self._image))
            self._mount_memory(progress)
        except BaseException:
            self.close()
            raise

    def renew(self) -> Path:
        """Make the file system anew and mount it with ext4's defaults; the empty directory."""
        if self._is_mounted:
            run("umount", str(self.path))
            self._is_mounted = False
        options = "nodiscard,lazy_itable_init=0,lazy_journal_init=0"
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", options, self._device)
        run("mount", "-t", "ext4", self._device, str(self.path))
        self._is_mounted = True
        return self.path

    def settle(self) -> None:
        """Write out what earlier work left dirty, so that no row pays for another."""
        os.sync()

    def close(self) -> None:
        """Unmount, even under something that was interrupted and still holds a file open, and give everything back."""
        if self._is_mounted:
            run("umount", "--lazy", str(self.path))
            self._is_mounted = False
        if self._has_memory:
            run("umount", "--lazy", str(self.memory))
            self._has_memory = False
        if self._device:
            run("losetup", "--detach", self._device)
            self._device = ""
        self._image.unlink(missing_ok=True)

    def _mount_memory(self, progress: Callable[[str], None]) -> None:
        huge = HUGE_PAGES.exists()
        options = "size=90%,mode=0700" + (",huge=always" if huge else "")
        run("mount", "-t", "tmpfs", "-o", options, "portside-bench", str(self.memory))
        self._has_memory = True
        keep_touched(self.memory / "touched", progress)
        run("mount", "-o", "remount,size=8g" + (",huge=never" if huge else ""), str(self.memory))

    def _write_image(self, size: int, progress: Callable[[str], None]) -> None:
        block = bytes(BLOCK)
        with self._image.open("wb", buffering=0) as image:
            os.posix_fallocate(image.fileno(), 0, size)
            written = 0
            while written < size:
                written += image.write(block)
                if written % GIB == 0:
                    os.fdatasync(image.fileno())
                    os.posix_fadvise(image.fileno(), 0, written, os.POSIX_FADV_DONTNEED)
                    if written % (8 * GIB) == 0:
                        progress(f"writing the disk: {written // GIB} of {size // GIB} GiB")
