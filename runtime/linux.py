"""The system calls that Python 3.11 does not have, and small files read safely. Nothing here knows about containers."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

MS_RDONLY, MS_NOSUID, MS_NODEV = 0x1, 0x2, 0x4
MNT_DETACH = 2
RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 0x02, 0x10
_PR_SET_CHILD_SUBREAPER = 36
_OPENAT2 = 437
"""The same number on every architecture: it came after they were unified."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str | bytes | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2); OSError names the target. The options must fit a page."""
    data = os.fsencode(options)
    if len(data) >= 4096:
        raise OSError(errno.E2BIG, "mount options longer than a page", target)
    pointers = (os.fsencode(source), os.fsencode(target), kind.encode("ascii"))
    _check(_libc.mount(*pointers, ctypes.c_ulong(flags), data or None), target)


def unmount(target: str) -> bool:
    """umount2(2) with MNT_DETACH: at once, also where something inside is still open; whether anything was mounted there."""
    try:
        _check(_libc.umount2(os.fsencode(target), MNT_DETACH), target)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return False
        raise
    return True


def syncfs(fd: int) -> None:
    """syncfs(2): everything written to the filesystem of an open file is on disk when this returns."""
    _check(_libc.syncfs(fd))


def become_subreaper() -> None:
    """prctl(2): orphans below this process become its children, so that their end can be waited for without an init."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def open_in_root(root: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """openat2(2) with RESOLVE_IN_ROOT: ``path`` as a process whose root directory is ``root`` would see it.

    No symbolic link and no ``..`` leads out, whoever changes the tree meanwhile. OSError as open(2).
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    name = os.fsencode(path)
    if b"\0" in name:
        raise OSError(errno.EINVAL, "a NUL in a path", path)
    while True:
        result = _libc.syscall(
            ctypes.c_long(_OPENAT2), ctypes.c_int(root), ctypes.c_char_p(name), how, ctypes.c_size_t(len(how))
        )
        # EAGAIN: a rename somewhere raced with the walk (man 2 openat2); the answer may be another one now.
        if result >= 0 or ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            return _check(result, path)


def read_in_root(root: int, path: str, limit: int) -> bytes | None:
    """A regular file of at most ``limit`` bytes below ``root``; None where there is none. OSError(EFBIG) where it is larger."""
    try:
        # O_NONBLOCK: a fifo of that name must not hold us up.
        fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            return None
        raise
    try:
        info = os.fstat(fd)
        if (info.st_mode & 0o170000) != 0o100000:
            return None
        pieces: list[bytes] = []
        while limit >= 0 and (piece := os.read(fd, min(limit + 1, 1 << 20))):
            pieces.append(piece)
            limit -= len(piece)
        if limit < 0:
            raise OSError(errno.EFBIG, "the file is larger than anything we read there", path)
        return b"".join(pieces)
    finally:
        os.close(fd)


def make_directories(root: int, path: str, mode: int = 0o755) -> None:
    """``mkdir -p`` below ``root``: links on the way are followed inside it. OSError where a part is no directory."""
    at = ""
    for name in path.split("/"):
        if name in ("", "."):
            continue
        parent = open_in_root(root, at or "/", os.O_PATH | os.O_DIRECTORY)
        try:
            if name != "..":
                try:
                    os.mkdir(name, mode, dir_fd=parent)
                except FileExistsError:
                    pass
                else:
                    os.chown(name, 0, 0, dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)
        at = f"{at}/{name}"
    os.close(open_in_root(root, at or "/", os.O_PATH | os.O_DIRECTORY))


def machine() -> str:
    """What ``uname -m`` says."""
    return platform.machine()
