"""Collecting blobs that are objects: their names go to the trash in the transaction that removes their rows, and are deleted later.

No lock keeps pushes away: an object is never another one's successor, so what is recorded while something is collected has another name.
What a push has recorded and not linked yet is young, and the collector lets it settle (`settling`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager

from oci.digest import Digest
from storage.database import Connection, Database
from storage.s3 import S3BlobStore
from storage.sql_collecting import StoredBlob

SETTLING = 900.0
"""Seconds between a blob's record and its first link that no push takes: they are two statements of one request."""
TRASH_SECONDS = 600.0
"""How long an object stays that nothing leads to any more: whoever is reading it may have to ask for its rest."""


class S3Collecting:
    """A `storage.collector.Collected` on an `S3BlobStore`. ``trash_seconds``: how long what was discarded stays."""

    def __init__(
        self,
        store: S3BlobStore,
        database: Database,
        *,
        settling: float = SETTLING,
        trash_seconds: float = TRASH_SECONDS,
    ) -> None:
        self._store = store
        self._clock = database.clock
        self._settling = settling
        self._trash_seconds = trash_seconds

    @property
    def settling(self) -> float:
        return self._settling

    def alone(self) -> AbstractContextManager[None]:
        """Nothing to lock."""
        return contextlib.nullcontext()

    def discard(self, connection: Connection, blobs: Sequence[StoredBlob]) -> None:
        """Rows of the trash."""
        connection.executemany(
            f"INSERT INTO trash (place, since) VALUES (?, {self._clock}) ON CONFLICT DO NOTHING",  # nosec B608: a word of ours
            [(blob.place,) for blob in blobs if blob.place is not None],
        )

    def empty_trash(self) -> None:
        """Delete the objects that have been there for long enough."""
        self._store.empty_trash(self._trash_seconds)

    def cut_publishings(self) -> Sequence[Digest]:
        """None: a blob is recorded in one transaction with its object, and what an upload left is found by its row."""
        return ()

    def forget_publishings(self, digests: Collection[Digest]) -> None:
        """There are none."""

    def expire_uploads(self, older_than: float) -> int:
        """Uploads that nobody goes on with, with all their objects."""
        return self._store.expire_uploads(older_than)
