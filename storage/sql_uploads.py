"""What an object store knows of its blobs and uploads, in SQL: which object is a blob's, how far an upload is, who has it, what is trash.

A *name* here is the name of an object (`storage.s3_names`), which nothing here looks into. Whoever takes an upload up gets a *holder*, a
word that no other has; every later statement about the upload has it in its WHERE. So one that was paused for longer than its lease, while
another took over, changes nothing any more. Leases are taken and ended by the database's clock.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from oci.digest import Digest
from storage.database import Connection, Database, repeatable, retried
from storage.errors import UploadBusy, UploadNotFound

ANNOUNCED = 86400.0
"""Seconds in which a pointer that was announced is published, or never."""
LEASE = 10.0
"""Seconds that an upload belongs to whoever took it up and was not heard of again."""
BATCH = 500


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a multipart upload that the object store has acknowledged. ``checksum``: its CRC-32 as the store writes it."""

    number: int
    size: int
    etag: str
    checksum: str


@dataclass(frozen=True, slots=True)
class Progress:
    """What is kept of an upload.

    ``place``: the name of the object that its bytes are in, or become when ``multipart`` is completed; empty before there is one.
    ``tail``: the name of the object with the bytes after the last part, empty where there are none. ``size``: of all that is kept.
    ``hash_state``: as `storage.resumable` saves it, of the first bytes or of all.
    """

    place: str = ""
    multipart: str = ""
    parts: tuple[Part, ...] = ()
    tail: str = ""
    size: int = 0
    hash_state: bytes | None = None

    @property
    def in_parts(self) -> int:
        """Bytes in acknowledged parts."""
        return sum(part.size for part in self.parts)


@dataclass(frozen=True, slots=True)
class Taken:
    """An upload that was taken up. ``is_bereft``: whoever had it never let go, so that there may be objects that ``progress`` omits."""

    id: str
    holder: str
    progress: Progress
    is_bereft: bool


class SQLUploads:
    """The facts of one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        take = self._in_sql("UPDATE uploads SET holder = ?, held_until = CLOCK + ? WHERE id = ? AND held_until < CLOCK")
        kept = " RETURNING place, multipart, parts, size, hash_state"
        self._take = take + kept
        self._take_untouched = take + self._in_sql(" AND touched_at <= CLOCK - ?") + kept
        self._renew = self._in_sql("UPDATE uploads SET held_until = CLOCK + ? WHERE id = ? AND holder = ?")
        self._save = self._in_sql(
            "UPDATE uploads SET place = ?, multipart = ?, parts = ?, size = ?, hash_state = ?, touched_at = CLOCK,"
            " holder = ?, held_until = CLOCK + ? WHERE id = ? AND holder = ?"
        )
        self._discard = self._in_sql("INSERT INTO trash (place, since) VALUES (?, CLOCK) ON CONFLICT DO NOTHING")
        self._publish = self._in_sql(
            "INSERT INTO blobs (digest, size, created_at, place, published_at) VALUES (?, ?, CLOCK, ?, CLOCK)"
            " ON CONFLICT (digest) DO UPDATE SET size = excluded.size, published_at = excluded.published_at RETURNING id, place"
        )

    # -- blobs

    def find(self, digest: Digest) -> str | None:
        """The name of a blob's object, None where there is none."""
        row = self.database.row("SELECT place FROM blobs WHERE digest = ?", (str(digest),))
        return None if row is None or row[0] is None else str(row[0])

    def digests(self) -> Iterator[Digest]:
        """Every blob that has an object, in the order of their rows."""
        query = "SELECT id, digest FROM blobs WHERE place IS NOT NULL AND id > ? ORDER BY id LIMIT ?"
        return (Digest.parse(str(text)) for _, text in self.database.scan(query))

    @retried
    def remove(self, digest: Digest) -> str | None:
        """Take a blob's object from it and put it into the trash; its name, None where there was none."""
        with self.database.transaction() as connection:
            row = connection.execute("SELECT place FROM blobs WHERE digest = ?", (str(digest),)).fetchone()
            if row is None or row[0] is None:
                return None
            place = str(row[0])
            query = "UPDATE blobs SET place = NULL WHERE digest = ? AND place = ?"
            if connection.execute(query, (str(digest), place)).rowcount != 1:
                return None  # a push has replaced it just now
            connection.execute(self._discard, (place,))
            return place

    @repeatable
    def restore(self, found: Sequence[tuple[Digest, int, str, str]]) -> int:
        """Record blobs by (digest, size, name of the object, id of its upload), as the object store was found to have them; how many.

        An upload that is still under way publishes by itself, and what is trash stays trash.
        """
        restored = 0
        with self.database.transaction() as connection:
            for digest, size, place, upload_id in found:
                if connection.execute("SELECT 1 FROM uploads WHERE id = ?", (upload_id,)).fetchone():
                    continue
                if connection.execute("SELECT 1 FROM trash WHERE place = ?", (place,)).fetchone():
                    continue
                self._point(connection, digest, size, place)
                restored += 1
        return restored

    # -- uploads

    @retried
    def add(self, upload_id: str, scope: str) -> Taken:
        """Record a new upload, taken up by the caller."""
        taken = Taken(upload_id, uuid.uuid4().hex, Progress(), is_bereft=False)
        query = self._in_sql(
            "INSERT INTO uploads (id, scope, place, multipart, parts, size, holder, held_until, touched_at)"
            " VALUES (?, ?, '', '', '[]', 0, ?, CLOCK + ?, CLOCK)"
        )
        with self.database.transaction() as connection:
            connection.execute(query, (upload_id, scope, taken.holder, LEASE))
        return taken

    def size(self, upload_id: str) -> int:
        """How many bytes of an upload are kept; UploadNotFound."""
        row = self.database.row("SELECT size FROM uploads WHERE id = ?", (upload_id,))
        if row is None:
            raise UploadNotFound(upload_id)
        return int(row[0])

    @retried
    def take(self, upload_id: str, untouched_for: float | None = None) -> Taken:
        """Take an upload up that nobody holds, and nobody touched for so many seconds; UploadNotFound, UploadBusy."""
        holder = uuid.uuid4().hex
        values = (holder, LEASE, upload_id)
        with self.database.transaction() as connection:
            former = connection.execute("SELECT holder FROM uploads WHERE id = ?", (upload_id,)).fetchone()
            if untouched_for is None:
                row = connection.execute(self._take, values).fetchone()
            else:
                row = connection.execute(self._take_untouched, (*values, untouched_for)).fetchone()
        if former is None:
            raise UploadNotFound(upload_id)
        if row is None:
            raise UploadBusy(upload_id)
        place, multipart, written, size, hash_state = row
        parts, tail = _read_parts(str(written))
        state = None if hash_state is None else bytes(hash_state)
        return Taken(
            upload_id, holder, Progress(str(place), str(multipart), parts, tail, int(size), state), former[0] != ""
        )

    @repeatable
    def renew(self, held: Sequence[tuple[str, str]]) -> list[bool]:
        """Prolong the leases of uploads by (id, holder); which of them were still held."""
        with self.database.transaction() as connection:
            return [
                connection.execute(self._renew, (LEASE, upload_id, holder)).rowcount == 1 for upload_id, holder in held
            ]

    @retried
    def save(
        self,
        taken: Taken,
        progress: Progress,
        *,
        release: bool = False,
        is_clean: bool = True,
        stale: Sequence[str] = (),
    ) -> None:
        """Write down how far an upload is, and let go of it; UploadBusy where another has it. ``stale`` objects become trash.

        ``is_clean``: there are no objects but those that ``progress`` names. Else the next who takes it up finds it bereft.
        """
        written = _write_parts(progress)
        values = (progress.place, progress.multipart, written, progress.size, progress.hash_state)
        # Let go of, it was held until just before now: the next may take it at once.
        kept = ("" if is_clean else taken.holder, -1.0) if release else (taken.holder, LEASE)
        with self.database.transaction() as connection:
            if connection.execute(self._save, (*values, *kept, taken.id, taken.holder)).rowcount != 1:
                raise UploadBusy(taken.id)
            connection.executemany(self._discard, [(name,) for name in stale])

    @repeatable
    def disown(self, upload_id: str, name: str) -> None:
        """An object was written for an upload that another has meanwhile: it becomes trash, unless the upload's row leads to it."""
        with self.database.transaction() as connection:
            row = connection.execute("SELECT parts FROM uploads WHERE id = ?", (upload_id,)).fetchone()
            if row is not None and name not in str(row[0]):
                connection.execute(self._discard, (name,))

    @repeatable
    def announce(self, name: str) -> None:
        """A pointer is about to be written, that nothing else leads to. Where `publish` does not follow, it is trash in a day."""
        query = self._in_sql("INSERT INTO trash (place, since) VALUES (?, CLOCK + ?) ON CONFLICT DO NOTHING")
        with self.database.transaction() as connection:
            connection.execute(query, (name, ANNOUNCED))

    @repeatable
    def publish(self, taken: Taken, digest: Digest, size: int, place: str, stale: Sequence[str] = ()) -> None:
        """End an upload: its object is the blob's from now on, and another one that was becomes trash. UploadBusy where another has it.

        Doing it twice is doing it once: where the answer to the first was lost, the second finds it done.
        """
        with self.database.transaction() as connection:
            if not self._end(connection, taken):
                row = connection.execute("SELECT place FROM blobs WHERE digest = ?", (str(digest),)).fetchone()
                if row is None or row[0] != place:
                    raise UploadBusy(taken.id)
                return
            self._point(connection, digest, size, place)
            connection.execute("DELETE FROM trash WHERE place = ?", (place,))
            connection.executemany(self._discard, [(name,) for name in stale])

    @repeatable
    def drop(self, taken: Taken) -> None:
        """Forget an upload whose objects are gone."""
        with self.database.transaction() as connection:
            self._end(connection, taken)

    def untouched(self, seconds: float) -> list[str]:
        """The ids of some uploads that nobody holds and nobody touched for so long."""
        query = self._in_sql(
            "SELECT id FROM uploads WHERE touched_at <= CLOCK - ? AND held_until < CLOCK ORDER BY touched_at LIMIT ?"
        )
        return [str(upload_id) for (upload_id,) in self.database.rows(query, (seconds, BATCH))]

    # -- trash

    def trash(self, older_than: float) -> list[str]:
        """The names of some objects that are trash for so many seconds."""
        query = self._in_sql("SELECT place FROM trash WHERE since <= CLOCK - ? ORDER BY since LIMIT ?")
        return [str(name) for (name,) in self.database.rows(query, (older_than, BATCH))]

    @repeatable
    def forget_trash(self, names: Sequence[str]) -> None:
        """These objects are gone."""
        with self.database.transaction() as connection:
            connection.executemany("DELETE FROM trash WHERE place = ?", [(name,) for name in names])

    # -- in a transaction

    def _point(self, connection: Connection, digest: Digest, size: int, place: str) -> None:
        """Have a blob's row name an object; the one that it named becomes trash.

        The insert comes first: it locks the row, so that of two that publish one digest at once the second sees the first's.
        """
        row_id, former = connection.execute(self._publish, (str(digest), size, place)).fetchone()
        if former != place:
            connection.execute("UPDATE blobs SET place = ? WHERE id = ?", (place, row_id))
            if former is not None:
                connection.execute(self._discard, (former,))

    @staticmethod
    def _end(connection: Connection, taken: Taken) -> bool:
        query = "DELETE FROM uploads WHERE id = ? AND holder = ?"
        return connection.execute(query, (taken.id, taken.holder)).rowcount == 1

    def _in_sql(self, query: str) -> str:
        return query.replace("CLOCK", self.database.clock)


def _write_parts(progress: Progress) -> str:
    """The parts, and the tail's name after them where there is one."""
    parts: list[object] = [[part.number, part.size, part.etag, part.checksum] for part in progress.parts]
    return json.dumps([*parts, progress.tail] if progress.tail else parts)


def _read_parts(written: str) -> tuple[tuple[Part, ...], str]:
    items = json.loads(written)
    tail = str(items.pop()) if items and isinstance(items[-1], str) else ""
    return tuple(Part(*item) for item in items), tail
