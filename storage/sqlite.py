"""Metadata in SQLite, for one machine.

Look-ups run where they are asked for: a point query takes 5 to 10 µs, a hop to another thread 100. Writes run one at a time under a lock
file, of whatever process: with `BEGIN IMMEDIATE` alone, waiting writers are served in no order and starve (2 s seen), and SQLite before
3.51.3 can lose a commit when two connections write and checkpoint at the same instant.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from oci.descriptor import Descriptor
from oci.digest import Digest
from oci.manifest import Manifest
from storage.errors import StoreFull, StoreTooNew, StoreUnusable
from storage.generation import Generation
from storage.metadata import Event, Page, ReferrersPage, StoredManifest
from storage.paths import PRIVATE_MODE, Paths, prepare

logger = logging.getLogger("portside.storage")

VERSIONS = ("0001",)
"""Every version of the schema that this Portside knows, the newest last."""
FIXED_WAL = (3, 51, 3)
"""The SQLite that lost no commits any more (its WAL-reset bug is in 3.7.0 to 3.51.2)."""
OUTBOX_KEPT = 100_000
OUTBOX_TRIM = 1000
"""Events that are kept, and after how many new ones the oldest are dropped."""
BATCH = 1000
ROOM_TO_OPEN = 256 * 1024
"""Bytes that SQLite needs on the disk to open a database that was closed: its log and the log's index."""

_FIND_BY_TAG = """
SELECT m.digest, h.media_type, m.body FROM repositories r
JOIN tags t ON t.repository_id = r.id JOIN manifests m ON m.id = t.manifest_id
JOIN repository_manifests h ON h.repository_id = r.id AND h.manifest_id = t.manifest_id
WHERE r.name = ? AND t.name = ?"""
_FIND_BY_DIGEST = """
SELECT m.digest, h.media_type, m.body FROM repositories r JOIN manifests m
JOIN repository_manifests h ON h.repository_id = r.id AND h.manifest_id = m.id
WHERE r.name = ? AND m.digest = ?"""
_FIND_BLOB = """
SELECT b.size FROM repositories r JOIN blobs b JOIN repository_blobs l ON l.repository_id = r.id AND l.blob_id = b.id
WHERE r.name = ? AND b.digest = ?"""
_LIST_TAGS = "SELECT name FROM tags WHERE repository_id = ? AND name > ? ORDER BY name LIMIT ?"
_LIST_REPOSITORIES = "SELECT name FROM repositories WHERE name > ? ORDER BY name LIMIT ?"
_LIST_REFERRERS = """
SELECT h.media_type, m.digest, m.size, m.artifact_type, m.annotations FROM repositories r
JOIN referrers f ON f.repository_id = r.id JOIN manifests m ON m.id = f.manifest_id
JOIN repository_manifests h ON h.repository_id = r.id AND h.manifest_id = f.manifest_id
WHERE r.name = ? AND f.subject = ? AND f.digest > ? ORDER BY f.digest LIMIT ?"""
_LIST_REFERRERS_OF_TYPE = _LIST_REFERRERS.replace("f.subject = ?", "f.subject = ? AND f.artifact_type = ?")


class SQLiteMetadata:
    """`storage.metadata.Facts` and `Changes` of one root. Safe for threads and, with others of its kind, for processes."""

    def __init__(self, root: Path) -> None:
        """Open a root, making or migrating its database. StoreUnusable, StoreTooNew."""
        self.paths = prepare(root)
        self._mutex = threading.Lock()
        self._readers: list[sqlite3.Connection] = []
        self._idle: deque[sqlite3.Connection] = deque()
        try:
            with contextlib.ExitStack() as opened:
                self._lock = os.open(self.paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
                opened.callback(os.close, self._lock)
                self._generation = Generation(self.paths.generation)
                opened.callback(self._generation.close)
                with self._locked():
                    self._writer = self._open_writer()
                opened.pop_all()
        except (OSError, sqlite3.Error) as error:
            hint = "; the disk is full: make room there, then start again" if self._free() < ROOM_TO_OPEN else ""
            raise StoreUnusable(f"the metadata in {self.paths.metadata} cannot be opened: {error}{hint}") from error
        if sqlite3.sqlite_version_info < FIXED_WAL:
            logger.info(
                "SQLite %s can lose commits when two connections write and checkpoint at once; Portside writes from one at a time, "
                "so leave metadata.db to Portside (3.51.3 has the repair)",
                sqlite3.sqlite_version,
            )

    def close(self) -> None:
        """Close the connections, the writer's under the lock and last: whoever closes a database's last connection checkpoints it."""
        with self._locked():
            for reader in self._readers:
                reader.close()
            self._writer.close()
        self._generation.close()
        os.close(self._lock)

    # -- look-ups

    def find_manifest(self, repository: str, reference: Digest | str) -> StoredManifest | None:
        """One row by a tag (str) or a digest."""
        query = _FIND_BY_TAG if isinstance(reference, str) else _FIND_BY_DIGEST
        row = self._row(query, (repository, str(reference)))
        return None if row is None else StoredManifest(Digest.parse(row[0]), row[1], row[2])

    def find_blob(self, repository: str, digest: Digest) -> int | None:
        """The recorded size, where the link is there."""
        row = self._row(_FIND_BLOB, (repository, str(digest)))
        return None if row is None else int(row[0])

    def list_tags(self, repository: str, limit: int, after: str) -> Page | None:
        """One range of the primary key."""
        row = self._row("SELECT id FROM repositories WHERE name = ?", (repository,))
        if row is None:
            return None
        return self._page(_LIST_TAGS, (row[0], after), limit)

    def list_repositories(self, limit: int, after: str) -> Page:
        """One range of the names' index."""
        return self._page(_LIST_REPOSITORIES, (after,), limit)

    def list_referrers(
        self, repository: str, subject: Digest, artifact_type: str | None, limit: int, after: str
    ) -> ReferrersPage:
        """One range of the referrers' primary key, or of their index by type."""
        query = _LIST_REFERRERS if artifact_type is None else _LIST_REFERRERS_OF_TYPE
        of_type = () if artifact_type is None else (artifact_type,)
        rows = self._rows(query, (repository, str(subject), *of_type, after, limit + 1))
        found = [
            Descriptor(media_type, Digest.parse(digest), size, None, json.loads(annotations), kind)
            for media_type, digest, size, kind, annotations in rows[:limit]
        ]
        return ReferrersPage(found, len(rows) > limit)

    def generation(self) -> int:
        """See `storage.generation`."""
        return self._generation.read()

    def events(self, after: int, limit: int) -> list[Event]:
        """At most ``limit`` events of the outbox above sequence ``after``."""
        rows = self._rows(
            "SELECT sequence, at, kind, repository, subject, detail FROM outbox WHERE sequence > ? ORDER BY sequence LIMIT ?",
            (after, limit),
        )
        return [
            Event(sequence, at, kind, repository, subject, json.loads(detail))
            for sequence, at, kind, repository, subject, detail in rows
        ]

    # -- changes

    def link_blob(self, repository: str, digest: Digest, size: int) -> None:
        """Blob, link and event, in one transaction."""
        with self._transaction() as connection:
            now = time.time()
            blob_id = connection.execute(
                "INSERT INTO blobs (digest, size, created_at) VALUES (?, ?, ?)"
                " ON CONFLICT (digest) DO UPDATE SET size = excluded.size RETURNING id",
                (str(digest), size, now),
            ).fetchone()[0]
            self._link(connection, repository, blob_id, digest, "push", now)

    def mount_blob(self, repository: str, digest: Digest, source: str | None) -> int | None:
        """Link what another repository holds; its size."""
        query = "SELECT b.id, b.size FROM blobs b JOIN repository_blobs l ON l.blob_id = b.id"
        with self._transaction() as connection:
            if source is None:
                row = connection.execute(f"{query} WHERE b.digest = ? LIMIT 1", (str(digest),)).fetchone()
            else:
                row = connection.execute(
                    f"{query} JOIN repositories r ON r.id = l.repository_id WHERE b.digest = ? AND r.name = ?",
                    (str(digest), source),
                ).fetchone()
            if row is None:
                return None
            self._link(connection, repository, row[0], digest, "mount", time.time())
            return int(row[1])

    def unlink_blob(self, repository: str, digest: Digest) -> bool:
        """Drop the link."""
        with self._transaction() as connection:
            gone = connection.execute(
                "DELETE FROM repository_blobs WHERE repository_id = (SELECT id FROM repositories WHERE name = ?)"
                " AND blob_id = (SELECT id FROM blobs WHERE digest = ?)",
                (repository, str(digest)),
            ).rowcount
            if gone:
                self._note(connection, "blob.delete", repository, str(digest), {})
            return gone > 0

    def put_manifest(self, repository: str, manifest: Manifest, tags: Sequence[str]) -> None:
        """Manifest, references, referrer, link, tags and event, in one transaction."""
        digest, now = str(manifest.digest), time.time()
        with self._transaction() as connection:
            repository_id = self._repository(connection, repository, now)
            manifest_id = self._keep_manifest(connection, manifest)
            connection.execute(
                "INSERT INTO repository_manifests (repository_id, manifest_id, media_type, pushed_at) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET media_type = excluded.media_type, pushed_at = excluded.pushed_at",
                (repository_id, manifest_id, manifest.media_type, now),
            )
            if manifest.subject is not None:
                connection.execute(
                    "INSERT INTO referrers (repository_id, subject, digest, artifact_type, manifest_id) VALUES (?, ?, ?, ?, ?)"
                    " ON CONFLICT DO NOTHING",
                    (repository_id, str(manifest.subject.digest), digest, manifest.referrer_type, manifest_id),
                )
            connection.executemany(
                "INSERT INTO tags (repository_id, name, manifest_id, updated_at) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET manifest_id = excluded.manifest_id, updated_at = excluded.updated_at",
                [(repository_id, tag, manifest_id, now) for tag in tags],
            )
            detail = {"media_type": manifest.media_type, "tags": " ".join(tags)}
            self._note(connection, "manifest.push", repository, digest, detail)

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        """Drop the link, its tags and its place among the referrers; the manifest itself when no repository holds it any more."""
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT h.repository_id, h.manifest_id FROM repositories r JOIN manifests m"
                " JOIN repository_manifests h ON h.repository_id = r.id AND h.manifest_id = m.id"
                " WHERE r.name = ? AND m.digest = ?",
                (repository, str(digest)),
            ).fetchone()
            if row is None:
                return False
            connection.execute("DELETE FROM tags WHERE repository_id = ? AND manifest_id = ?", row)
            connection.execute(
                "DELETE FROM referrers WHERE repository_id = ? AND digest = ? AND subject IN"
                " (SELECT digest FROM manifest_references WHERE manifest_id = ? AND kind = 'subject')",
                (row[0], str(digest), row[1]),
            )
            connection.execute("DELETE FROM repository_manifests WHERE repository_id = ? AND manifest_id = ?", row)
            held = "SELECT 1 FROM repository_manifests WHERE manifest_id = ? LIMIT 1"
            if connection.execute(held, row[1:]).fetchone() is None:
                connection.execute("DELETE FROM manifest_references WHERE manifest_id = ?", row[1:])
                connection.execute("DELETE FROM manifests WHERE id = ?", row[1:])
            self._note(connection, "manifest.delete", repository, str(digest), {})
            return True

    def delete_tag(self, repository: str, tag: str) -> bool:
        """Drop the tag."""
        with self._transaction() as connection:
            gone = connection.execute(
                "DELETE FROM tags WHERE repository_id = (SELECT id FROM repositories WHERE name = ?) AND name = ?",
                (repository, tag),
            ).rowcount
            if gone:
                self._note(connection, "tag.delete", repository, tag, {})
            return gone > 0

    def blob_size(self, digest: Digest) -> int | None:
        """A blob's recorded size in bytes, None where it is not recorded."""
        row = self._row("SELECT size FROM blobs WHERE digest = ?", (str(digest),))
        return None if row is None else int(row[0])

    def blob_holders(self, digest: Digest, limit: int = 5) -> list[str]:
        """The names of at most ``limit`` repositories that hold a blob."""
        rows = self._rows(
            "SELECT r.name FROM blobs b JOIN repository_blobs l ON l.blob_id = b.id"
            " JOIN repositories r ON r.id = l.repository_id WHERE b.digest = ? ORDER BY r.name LIMIT ?",
            (str(digest), limit),
        )
        return [str(name) for (name,) in rows]

    def scan(self, query: str, key: int = 0, batch: int = BATCH) -> Iterator[tuple[object, ...]]:
        """Every row of a query for checks and collectors, a batch at a time: it ends in ``> ? ORDER BY key LIMIT ?``, by an integer key.

        No read transaction is held between batches, so that the write-ahead log does not grow while a disk is being read.
        """
        after = -1
        while True:
            rows = self._rows(query, (after, batch))
            yield from rows
            if len(rows) < batch:
                return
            after = rows[-1][key]

    # -- one write

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A write: alone among all threads and processes, durable when it returns. StoreFull."""
        with self._locked():
            connection = self._writer
            self._generation.begin()
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as error:
                if "full" in str(error):
                    raise StoreFull(self._free(), 0) from error
                raise
            finally:
                self._generation.end()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._mutex:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _free(self) -> int:
        status = os.statvfs(self.paths.root)
        return status.f_bavail * status.f_frsize

    @staticmethod
    def _repository(connection: sqlite3.Connection, name: str, now: float) -> int:
        row = connection.execute("SELECT id FROM repositories WHERE name = ?", (name,)).fetchone()
        if row is None:
            row = connection.execute(
                "INSERT INTO repositories (name, created_at) VALUES (?, ?) RETURNING id", (name, now)
            ).fetchone()
        return int(row[0])

    def _link(
        self, connection: sqlite3.Connection, repository: str, blob_id: int, digest: Digest, how: str, now: float
    ) -> None:
        connection.execute(
            "INSERT INTO repository_blobs (repository_id, blob_id, linked_at) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET linked_at = excluded.linked_at",
            (self._repository(connection, repository, now), blob_id, now),
        )
        self._note(connection, f"blob.{how}", repository, str(digest), {})

    @staticmethod
    def _keep_manifest(connection: sqlite3.Connection, manifest: Manifest) -> int:
        """The manifest's row, with its references where it is new. Damaged bytes are replaced: a push heals."""
        digest = str(manifest.digest)
        row = connection.execute("SELECT id, body FROM manifests WHERE digest = ?", (digest,)).fetchone()
        if row is not None:
            if row[1] != manifest.raw:
                connection.execute(
                    "UPDATE manifests SET size = ?, body = ? WHERE id = ?", (len(manifest.raw), manifest.raw, row[0])
                )
            return int(row[0])
        annotations = json.dumps(dict(manifest.annotations))
        manifest_id = int(
            connection.execute(
                "INSERT INTO manifests (digest, artifact_type, annotations, size, body) VALUES (?, ?, ?, ?, ?) RETURNING id",
                (digest, manifest.referrer_type, annotations, len(manifest.raw), manifest.raw),
            ).fetchone()[0]
        )
        references = [("blob", item.digest) for item in manifest.blobs()]
        references += [("manifest", item.digest) for item in manifest.manifests]
        if manifest.subject is not None:
            references.append(("subject", manifest.subject.digest))
        connection.executemany(
            "INSERT INTO manifest_references (manifest_id, kind, digest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            [(manifest_id, kind, str(target)) for kind, target in references],
        )
        return manifest_id

    @staticmethod
    def _note(connection: sqlite3.Connection, kind: str, repository: str, subject: str, detail: dict[str, str]) -> None:
        """Add an event to the outbox, which stays bounded."""
        sequence = connection.execute(
            "INSERT INTO outbox (at, kind, repository, subject, detail) VALUES (?, ?, ?, ?, ?) RETURNING sequence",
            (time.time(), kind, repository, subject, json.dumps(detail)),
        ).fetchone()[0]
        if sequence % OUTBOX_TRIM == 0:
            connection.execute("DELETE FROM outbox WHERE sequence <= ?", (sequence - OUTBOX_KEPT,))

    # -- connections and versions

    def _row(self, query: str, parameters: Sequence[object]) -> Any:
        """A query's first row, None where there is none."""
        connection = self._borrow()
        try:
            return connection.execute(query, parameters).fetchone()
        finally:
            self._idle.append(connection)

    def _rows(self, query: str, parameters: Sequence[object]) -> list[Any]:
        """A query's rows."""
        connection = self._borrow()
        try:
            return connection.execute(query, parameters).fetchall()
        finally:
            self._idle.append(connection)

    def _borrow(self) -> sqlite3.Connection:
        """A connection that no other thread uses now. There are never more than look-ups were under way at once, and all end in `close`.

        (One for each thread would stay open when its thread has ended: Python collects connections late, for they are in a cycle.)
        """
        try:
            return self._idle.pop()
        except IndexError:
            connection = _connect(self.paths)
            self._readers.append(connection)
            return connection

    def _page(self, query: str, parameters: tuple[object, ...], limit: int) -> Page:
        names = [name for (name,) in self._rows(query, (*parameters, limit + 1))]
        return Page(names[:limit], len(names) > limit)

    def _open_writer(self) -> sqlite3.Connection:
        """The connection that writes, of a database that is made and migrated. The lock is held."""
        _make_private(self.paths.metadata)
        connection = _connect(self.paths)
        try:
            self._bring_up_to_date(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _bring_up_to_date(self, connection: sqlite3.Connection) -> None:
        """Make a new database from ``schema.sql``, or migrate an old one."""
        version = _version(connection)
        if version == VERSIONS[-1]:
            return
        if version is None:
            script = resources.files("storage").joinpath("schema.sql").read_text("utf-8")
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\n"
                "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);\n"
                f"INSERT INTO alembic_version VALUES ('{VERSIONS[-1]}');\nCOMMIT;"
            )
            return
        if version and version not in VERSIONS:
            raise StoreTooNew(
                f"the metadata in {self.paths.metadata} are of version {version}, this Portside knows up to {VERSIONS[-1]}: "
                "start a newer Portside, or restore the backup from before the upgrade"
            )
        done = subprocess.run(
            [sys.executable, "-m", "storage.migrate", str(self.paths.metadata)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            pass_fds=[self._lock],  # it keeps the lock to its end, also when this process is killed
        )
        if done.returncode != 0:
            raise StoreUnusable(
                f"the metadata in {self.paths.metadata} could not be migrated from version {version}; nothing was changed. "
                f"The migration said:\n{done.stderr[-2000:]}"
            )


def _make_private(database: Path) -> None:
    """Give a new database its mode, which SQLite gives to the files beside it.

    One that is there is not opened: closing any descriptor of it would drop the locks that SQLite has on it in this process
    (man 2 fcntl_locking).
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE))


def _connect(paths: Paths) -> sqlite3.Connection:
    connection = sqlite3.connect(
        paths.metadata, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=30
    )
    try:
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA mmap_size = 268435456")
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection) -> str | None:
    """The schema's version, "" for the base of the chain, None for an empty database."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone() is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return "" if row is None else str(row[0])
