"""Collecting blobs that are files: out of reach by a rename, while nobody publishes, and unlinked later.

A rename takes microseconds, whatever the file's size; unlinking a large one takes the filesystem milliseconds. A transaction that fails
after its renames has taken bytes that no repository held: nothing is missed, and the rows that stay go with the next collection.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager

from oci.digest import Digest
from storage.database import Connection
from storage.filesystem import FilesystemBlobStore
from storage.sql_collecting import StoredBlob


class FileCollecting:
    """A `storage.collector.Collected` on a `FilesystemBlobStore`."""

    settling = 0.0
    """The guard is a lock: nothing has to wait for a clock."""

    def __init__(self, store: FilesystemBlobStore) -> None:
        self._store = store

    def alone(self) -> AbstractContextManager[None]:
        """The guard, exclusively."""
        return self._store.guard.alone()

    def discard(self, connection: Connection, blobs: Sequence[StoredBlob]) -> None:
        """Rename the files into ``trash/``; one that is not there is gone already."""
        for blob in blobs:
            digest = Digest.parse(blob.digest)
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._store.paths.blob(digest), self._store.paths.trash / f"{digest.algorithm}-{digest.hex}")

    def empty_trash(self) -> None:
        """Unlink the files."""
        for name in os.listdir(self._store.paths.trash):
            with contextlib.suppress(FileNotFoundError):  # another collector was faster
                os.unlink(self._store.paths.trash / name)

    def cut_publishings(self) -> list[Digest]:
        """What the guard's notes say."""
        return [note.digest for note in self._store.guard.notes()]

    def forget_publishings(self, digests: Collection[Digest]) -> None:
        """Clear the notes."""
        guard = self._store.guard
        guard.forget([note for note in guard.notes() if note.digest in digests])

    def expire_uploads(self, older_than: float) -> int:
        """Uploads that nobody goes on with."""
        return self._store.expire_uploads(older_than)
