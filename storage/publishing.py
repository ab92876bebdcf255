"""The guard between a blob's name and the first link to it.

A push renames its upload to the blob's name and then records that a repository holds it. In between there are bytes that no fact knows: a
collector must not take them for what a crash left. So a push shares a lock for as long as that takes, and a collector takes it alone. A
marker file, made before the rename and removed after the record, is what a crash in between leaves behind: whoever has the lock alone knows
that every marker is such a trace.

Nothing is synced for the marker: a journal keeps the order, so the sync of the directory that makes the rename durable makes the older
marker durable, too. Were it lost on a filesystem without one, the bytes would wait for the scrub, which reads all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator

from oci.digest import Digest, InvalidDigest
from storage.paths import PRIVATE_MODE, Paths


class Guard:
    """The lock and the markers of one root. The lock comes before the database's, for whoever takes both."""

    def __init__(self, paths: Paths) -> None:
        self._directory = str(paths.publishing)

    @contextlib.contextmanager
    def publishing(self, digest: Digest) -> Iterator[None]:
        """Held from before a blob gets its name until it is linked; any number at once. After a failure the marker stays.

        The turnstile is passed by all and held by a collector that waits: pushes that overlap would keep it out for ever, since the
        kernel gives a shared lock to whoever asks while somebody waits for the exclusive one (man 2 flock).
        """
        turnstile = self._lock("turnstile", fcntl.LOCK_SH)
        try:
            lock = self._lock("lock", fcntl.LOCK_SH)
        finally:
            os.close(turnstile)
        try:
            marker = f"{self._directory}/{digest.algorithm}-{digest.hex}.{uuid.uuid4().hex}"
            os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE))
            yield
            os.unlink(marker)
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody is publishing meanwhile, in any process. Pushes wait: for short steps only."""
        turnstile = self._lock("turnstile", fcntl.LOCK_EX)
        try:
            lock = self._lock("lock", fcntl.LOCK_EX)
            try:
                yield
            finally:
                os.close(lock)
        finally:
            os.close(turnstile)

    def markers(self) -> list[tuple[Digest, str]]:
        """Every marker with its path: the pushes under way and, while `alone` is held, nothing but those that were cut."""
        found: list[tuple[Digest, str]] = []
        for name in os.listdir(self._directory):
            try:
                digest = Digest.parse(name.partition(".")[0].replace("-", ":", 1))
            except InvalidDigest:
                continue
            found.append((digest, f"{self._directory}/{name}"))
        return found

    def _lock(self, name: str, how: int) -> int:
        """Each holder has a descriptor of its own: a lock belongs to what was opened, not to the thread."""
        fd = os.open(f"{self._directory}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            fcntl.flock(fd, how)
        except BaseException:
            os.close(fd)
            raise
        return fd
