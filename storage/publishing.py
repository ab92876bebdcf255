"""The guard between a blob's name and the first link to it.

A push renames its upload to the blob's name and then records that a repository holds it. In between there are bytes that no fact knows: a
collector must not take them for what a crash left. So a push shares a lock for as long as that takes, and a collector takes it alone.

What a crash in between leaves behind is a note, written before the rename and cleared after the record: whoever has the lock alone knows
that every note is of a push that was cut. Each process has a file of notes (making and unlinking a file for each push would cost a sixth of
it), and a lock on that file says that the process lives. Nothing is synced: a process that is killed leaves its notes to the kernel, and
where a power cut takes one, its bytes wait for the scrub, which reads all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
import uuid
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from oci.digest import Digest, InvalidDigest
from storage.paths import PRIVATE_MODE, Paths

NOTE_SIZE = 160
"""Bytes of a note: a digest, and zeros. All zeros where none is."""

_NOTES = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True, slots=True)
class Note:
    """That a push of a blob is under way, or was cut: the file, and where in it."""

    digest: Digest
    path: str
    offset: int


class Guard:
    """The lock and the notes of one root. The lock comes before the database's, for whoever takes both."""

    def __init__(self, paths: Paths) -> None:
        self._directory = str(paths.publishing)
        self._mutex = threading.Lock()
        self._file = -1
        self._free: list[int] = []
        self._end = 0

    @contextlib.contextmanager
    def publishing(self, digest: Digest) -> Iterator[None]:
        """Held from before a blob gets its name until it is linked; any number at once. After a failure the note stays.

        The turnstile is passed by all and held by a collector that waits: pushes that overlap would keep it out for ever, since the
        kernel gives a shared lock to whoever asks while somebody waits for the exclusive one (man 2 flock).
        """
        turnstile = self._lock("turnstile", fcntl.LOCK_SH)
        try:
            lock = self._lock("lock", fcntl.LOCK_SH)
        finally:
            os.close(turnstile)
        try:
            offset = self._write(digest)
            yield
            os.pwrite(self._file, bytes(NOTE_SIZE), offset)
            self._free.append(offset)
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody is publishing meanwhile, in any process. Pushes wait: for short steps only."""
        turnstile = self._lock("turnstile", fcntl.LOCK_EX)
        try:
            lock = self._lock("lock", fcntl.LOCK_EX)
            try:
                self._sweep()
                yield
            finally:
                os.close(lock)
        finally:
            os.close(turnstile)

    def notes(self) -> list[Note]:
        """The pushes that are under way and, while `alone` is held, nothing but those that were cut."""
        return [note for path in self._files() for note in _read(path)]

    def forget(self, notes: Sequence[Note]) -> None:
        """Clear notes of pushes that were cut. `alone` is held."""
        for note in notes:
            fd = os.open(note.path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(fd, bytes(NOTE_SIZE), note.offset)
            finally:
                os.close(fd)

    def _write(self, digest: Digest) -> int:
        """Note a push in this process's file, which is made for the first one: while the lock is held, so that nobody sweeps it away."""
        with self._mutex:
            if self._file < 0:
                self._file = self._lock(uuid.uuid4().hex, fcntl.LOCK_EX)
                weakref.finalize(self, os.close, self._file).atexit = False  # a thread may be publishing still
            if self._free:
                offset = self._free.pop()
            else:
                offset, self._end = self._end, self._end + NOTE_SIZE
        os.pwrite(self._file, str(digest).encode("ascii").ljust(NOTE_SIZE, b"\0"), offset)
        return offset

    def _sweep(self) -> None:
        """Remove the files of processes that have ended and left no note."""
        for path in self._files():
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _read(path):
                    os.unlink(path)
            except BlockingIOError:
                continue
            finally:
                os.close(fd)

    def _files(self) -> list[str]:
        return [f"{self._directory}/{name}" for name in os.listdir(self._directory) if _NOTES.match(name)]

    def _lock(self, name: str, how: int) -> int:
        """Each holder has a descriptor of its own: a lock belongs to what was opened, not to the thread."""
        fd = os.open(f"{self._directory}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            fcntl.flock(fd, how)
        except BaseException:
            os.close(fd)
            raise
        return fd


def _read(path: str) -> list[Note]:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:  # swept away meanwhile
        return []
    found: list[Note] = []
    for offset in range(0, len(data), NOTE_SIZE):
        text = data[offset : offset + NOTE_SIZE].rstrip(b"\0").decode("ascii", "replace")
        with contextlib.suppress(InvalidDigest):  # a power cut may have left anything
            found.append(Note(Digest.parse(text), path, offset))
    return found
