"""A counter that tells every process of a root whether the metadata, or the people, have changed since it looked.

Eight bytes in a file, mapped by all. A writer, who holds the root's lock, makes it odd before its transaction and even after it. What was
read while it was even, and is still the same, is what a new look-up would find. A writer that dies in between leaves it odd: then nobody
keeps what is read, until the next who takes the lock, for whatever write, settles it.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from storage.paths import PRIVATE_MODE

_SIZE = 8


class Generation:
    """One counter of a root."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            if os.fstat(fd).st_size < _SIZE:
                os.ftruncate(fd, _SIZE)
            self._map = mmap.mmap(fd, _SIZE)
        finally:
            os.close(fd)
        self._value = memoryview(self._map).cast("Q")

    def read(self) -> int:
        """The number now; a fraction of a microsecond."""
        return self._value[0]

    def begin(self) -> None:
        """A write begins: to the next odd number."""
        self._value[0] += 1

    def end(self) -> None:
        """The write has ended, one way or the other."""
        self._value[0] += 1

    def settle(self) -> None:
        """Nobody is writing, whoever calls holds the lock: to the next even number where a writer that died left it odd."""
        if self._value[0] & 1:
            self._value[0] += 1

    def close(self) -> None:
        """Let go of the file."""
        self._value.release()
        self._map.close()
