"""Metadata in SQL: the queries. The database under them is `storage.sqlite` or `storage.postgres`.

On SQLite one writes at a time. On PostgreSQL many do, each statement sees what was committed before it, and this keeps them right:

- Who adds to a repository takes its row FOR KEY SHARE, which adders can at once and no remover can meanwhile.
- Who removes from one takes its row FOR UPDATE first, and looks with a later statement, which sees all that the adders before it left.
- A row that repositories share (a manifest, a blob) is taken FOR UPDATE before the statement that looks whether anybody still holds it. An
  adder that selects it FOR KEY SHARE waits for that; one that does not is stopped by the foreign key, and made again.
- Rows are taken in one order: the repository, then the manifest or blob, then tags by their names.

`storage.database.retried` makes the write again that met another in spite of that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from oci.descriptor import Descriptor
from oci.digest import Digest
from oci.manifest import Manifest
from storage.database import Connection, Database, Topic, repeatable, retried
from storage.metadata import Event, HeldBlob, Page, ReferrersPage, StoredManifest
from storage.people import Actor
from storage.sql_audit import record_change

OUTBOX_KEPT = 100_000
OUTBOX_TRIM = 1000
"""Events that are kept, and after how many new ones the oldest are dropped."""

# The row of a link is found by its whole key, also where PostgreSQL expects few links of a repository, or of a manifest, and finds many: so
# both halves of the key are known before, and "+ 0" keeps it from looking for the repository's half alone.
_FIND_BY_TAG = """
SELECT m.digest, h.media_type, m.body, h.pushed_at FROM tags t JOIN manifests m ON m.id = t.manifest_id
JOIN repository_manifests h ON h.repository_id = t.repository_id + 0 AND h.manifest_id = t.manifest_id
WHERE t.repository_id = (SELECT id FROM repositories WHERE name = ?) AND t.name = ?"""
_FIND_BY_DIGEST = """
SELECT m.digest, h.media_type, m.body, h.pushed_at FROM repository_manifests h JOIN manifests m ON m.id = h.manifest_id
WHERE h.repository_id = (SELECT id FROM repositories WHERE name = ?) AND h.manifest_id = (SELECT id FROM manifests WHERE digest = ?)"""
_FIND_BLOB = """
SELECT b.size, b.id FROM repository_blobs l JOIN blobs b ON b.id = l.blob_id
WHERE l.repository_id = (SELECT id FROM repositories WHERE name = ?) AND l.blob_id = (SELECT id FROM blobs WHERE digest = ?)"""
_FIND_LINK = _FIND_BLOB.replace("b.size, b.id", "b.size, l.linked_at")
_TOUCH_BLOB = """
UPDATE repository_blobs SET linked_at = ?, doomed_at = NULL
WHERE repository_id = ? AND blob_id = (SELECT id FROM blobs WHERE digest = ?)"""
_TOUCH_MANIFEST = """
UPDATE repository_manifests SET pushed_at = ?, doomed_at = NULL
WHERE repository_id = ? AND manifest_id = (SELECT id FROM manifests WHERE digest = ?)"""
_FIND_BLOB_ANYWHERE = (
    "SELECT b.size, b.id FROM blobs b JOIN repository_blobs l ON l.blob_id = b.id WHERE b.digest = ? LIMIT 1"
)
_FIND_REPOSITORY = "SELECT id FROM repositories WHERE name = ?"
_LIST_TAGS = "SELECT name FROM tags WHERE repository_id = ? AND name > ? ORDER BY name LIMIT ?"
_LIST_REPOSITORIES = "SELECT name FROM repositories WHERE name > ? ORDER BY name LIMIT ?"
_LIST_REFERRERS = """
SELECT h.media_type, m.digest, m.size, m.artifact_type, m.annotations FROM referrers f JOIN manifests m ON m.id = f.manifest_id
JOIN repository_manifests h ON h.repository_id = f.repository_id + 0 AND h.manifest_id = f.manifest_id
WHERE f.repository_id = (SELECT id FROM repositories WHERE name = ?) AND f.subject = ? AND f.digest > ? ORDER BY f.digest LIMIT ?"""
_LIST_REFERRERS_OF_TYPE = _LIST_REFERRERS.replace("f.subject = ?", "f.subject = ? AND f.artifact_type = ?")


class SQLMetadata:
    """`storage.metadata.Facts` and `Changes` of one database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def close(self) -> None:
        """Close the database, also for others that use it."""
        self.database.close()

    # -- look-ups

    def find_manifest(self, repository: str, reference: Digest | str) -> StoredManifest | None:
        """One row by a tag (str) or a digest."""
        query = _FIND_BY_TAG if isinstance(reference, str) else _FIND_BY_DIGEST
        row = self.database.row(query, (repository, str(reference)))
        return None if row is None else StoredManifest(Digest.parse(row[0]), *row[1:])

    def find_blob(self, repository: str, digest: Digest) -> int | None:
        """The recorded size, where the link is there."""
        row = self.database.row(_FIND_BLOB, (repository, str(digest)))
        return None if row is None else int(row[0])

    def find_link(self, repository: str, digest: Digest) -> HeldBlob | None:
        """The recorded size and when the link was touched, where it is there."""
        row = self.database.row(_FIND_LINK, (repository, str(digest)))
        return None if row is None else HeldBlob(*row)

    def list_tags(self, repository: str, limit: int, after: str) -> Page | None:
        """One range of the primary key."""
        row = self.database.row(_FIND_REPOSITORY, (repository,))
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
        rows = self.database.rows(query, (repository, str(subject), *of_type, after, limit + 1))
        found = [
            Descriptor(media_type, Digest.parse(digest), size, None, json.loads(annotations), kind)
            for media_type, digest, size, kind, annotations in rows[:limit]
        ]
        return ReferrersPage(found, len(rows) > limit)

    def generation(self) -> int:
        """See `storage.generation`."""
        return self.database.generation.read()

    def events(self, after: int, limit: int) -> list[Event]:
        """At most ``limit`` events of the outbox above sequence ``after``."""
        rows = self.database.rows(
            "SELECT sequence, at, kind, repository, subject, detail FROM outbox"  # nosec B608: words of the database's own
            f" WHERE sequence > ?{self.database.settled} ORDER BY sequence LIMIT ?",
            (after, limit),
        )
        return [
            Event(sequence, at, kind, repository, subject, json.loads(detail))
            for sequence, at, kind, repository, subject, detail in rows
        ]

    # -- changes

    @repeatable
    def link_blob(self, repository: str, digest: Digest, size: int, by: Actor | None = None) -> None:
        """Blob, link, event and record, in one transaction."""
        with self._transaction() as connection:
            now = time.time()
            repository_id = self._repository(connection, repository, now)
            blob_id = connection.execute(
                "INSERT INTO blobs (digest, size, created_at, published_at) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (digest) DO UPDATE SET size = excluded.size, published_at = excluded.published_at RETURNING id",
                (str(digest), size, now, now),
            ).fetchone()[0]
            self._link(connection, repository_id, blob_id, now)
            self._note(connection, by, "blob.push", repository, str(digest), {})

    @repeatable
    def mount_blob(self, repository: str, digest: Digest, source: str | None, by: Actor | None = None) -> int | None:
        """Link what another repository holds; its size."""
        query = _FIND_BLOB_ANYWHERE if source is None else _FIND_BLOB
        named = () if source is None else (source,)
        with self._transaction() as connection:
            row = connection.execute(query, (*named, str(digest))).fetchone()
            if row is None:
                return None
            now = time.time()
            self._link(connection, self._repository(connection, repository, now), row[1], now)
            words = "" if source is None else f" from {source}"
            self._note(connection, by, "blob.mount", repository, str(digest), {}, words)
            return int(row[0])

    @repeatable
    def touch(self, repository: str, digest: Digest, *, is_manifest: bool = False) -> bool:
        """One row, that no generation tells of."""
        query = _TOUCH_MANIFEST if is_manifest else _TOUCH_BLOB
        with self.database.transaction() as connection:
            row = connection.execute(f"{_FIND_REPOSITORY}{self.database.for_share}", (repository,)).fetchone()
            return row is not None and connection.execute(query, (time.time(), row[0], str(digest))).rowcount > 0

    @retried
    def unlink_blob(self, repository: str, digest: Digest, by: Actor | None = None) -> bool:
        """Drop the link."""
        with self._transaction() as connection:
            repository_id = self._shrinking_repository(connection, repository)
            gone = connection.execute(
                "DELETE FROM repository_blobs WHERE repository_id = ? AND blob_id = (SELECT id FROM blobs WHERE digest = ?)",
                (repository_id, str(digest)),
            ).rowcount
            if gone:
                self._note(connection, by, "blob.delete", repository, str(digest), {})
            return gone > 0

    @repeatable
    def put_manifest(self, repository: str, manifest: Manifest, tags: Sequence[str], by: Actor | None = None) -> None:
        """Manifest, references, referrer, link, tags, event and record, in one transaction."""
        digest, now = str(manifest.digest), time.time()
        with self._transaction() as connection:
            repository_id = self._repository(connection, repository, now)
            manifest_id = self._keep_manifest(connection, manifest)
            connection.execute(
                "INSERT INTO repository_manifests (repository_id, manifest_id, media_type, pushed_at) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (repository_id, manifest_id) DO UPDATE SET"
                " media_type = excluded.media_type, pushed_at = excluded.pushed_at, doomed_at = NULL",
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
                " ON CONFLICT (repository_id, name) DO UPDATE SET manifest_id = excluded.manifest_id, updated_at = excluded.updated_at",
                [(repository_id, tag, manifest_id, now) for tag in sorted(tags)],
            )
            detail = {"media_type": manifest.media_type, "tags": " ".join(tags)}
            self._note(connection, by, "manifest.push", repository, digest, detail, _with_tags(tags))

    @retried
    def delete_manifest(self, repository: str, digest: Digest, by: Actor | None = None) -> bool:
        """Drop the link, its tags and its place among the referrers; the manifest itself when no repository holds it any more."""
        with self._transaction() as connection:
            repository_id = self._shrinking_repository(connection, repository)
            row = connection.execute(
                "SELECT h.repository_id, h.manifest_id FROM manifests m"  # nosec B608: as above
                " JOIN repository_manifests h ON h.manifest_id = m.id"
                f" WHERE m.digest = ? AND h.repository_id = ?{self.database.for_update}",
                (str(digest), repository_id),
            ).fetchone()
            if row is None:
                return False
            self.drop_manifest(connection, repository, str(digest), row, by)
            return True

    @retried
    def delete_tag(self, repository: str, tag: str, by: Actor | None = None) -> bool:
        """Drop the tag."""
        with self._transaction() as connection:
            gone = connection.execute(
                "DELETE FROM tags WHERE repository_id = (SELECT id FROM repositories WHERE name = ?) AND name = ?",
                (repository, tag),
            ).rowcount
            if gone:
                self._note(connection, by, "tag.delete", repository, tag, {})
            return gone > 0

    def blob_size(self, digest: Digest) -> int | None:
        """A blob's recorded size in bytes, None where it is not recorded."""
        row = self.database.row("SELECT size FROM blobs WHERE digest = ?", (str(digest),))
        return None if row is None else int(row[0])

    def blob_holders(self, digest: Digest, limit: int = 5, after: str = "") -> list[str]:
        """The names of at most ``limit`` repositories that hold a blob, above ``after``, in byte order."""
        rows = self.database.rows(
            "SELECT r.name FROM blobs b JOIN repository_blobs l ON l.blob_id = b.id"
            " JOIN repositories r ON r.id = l.repository_id WHERE b.digest = ? AND r.name > ? ORDER BY r.name LIMIT ?",
            (str(digest), after, limit),
        )
        return [str(name) for (name,) in rows]

    # -- in a transaction

    def _transaction(self) -> AbstractContextManager[Connection]:
        return self.database.transaction(Topic.METADATA)

    def _repository(self, connection: Connection, name: str, now: float) -> int:
        """The repository to add to, made where it is not there. Who makes it at the same time is waited for, and has made it."""
        row = connection.execute(f"{_FIND_REPOSITORY}{self.database.for_share}", (name,)).fetchone()
        if row is None:
            row = connection.execute(
                "INSERT INTO repositories (name, created_at) VALUES (?, ?)"
                " ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id",
                (name, now),
            ).fetchone()
        return int(row[0])

    def _shrinking_repository(self, connection: Connection, name: str) -> int | None:
        """The repository to remove from, None where there is none: whoever adds to it now waits, or is waited for."""
        row = connection.execute(f"{_FIND_REPOSITORY}{self.database.for_update}", (name,)).fetchone()
        return None if row is None else int(row[0])

    @staticmethod
    def _link(connection: Connection, repository_id: int, blob_id: int, now: float) -> None:
        connection.execute(
            "INSERT INTO repository_blobs (repository_id, blob_id, linked_at) VALUES (?, ?, ?)"
            " ON CONFLICT (repository_id, blob_id) DO UPDATE SET linked_at = excluded.linked_at, doomed_at = NULL",
            (repository_id, blob_id, now),
        )

    def _keep_manifest(self, connection: Connection, manifest: Manifest) -> int:
        """The manifest's row, with its references where it is new. Damaged bytes are replaced: a push heals."""
        digest = str(manifest.digest)
        query = f"SELECT id, body FROM manifests WHERE digest = ?{self.database.for_share}"  # nosec B608: as above
        row = connection.execute(query, (digest,)).fetchone()
        if row is not None:
            if row[1] != manifest.raw:
                connection.execute(
                    "UPDATE manifests SET size = ?, body = ? WHERE id = ?", (len(manifest.raw), manifest.raw, row[0])
                )
            return int(row[0])
        annotations = json.dumps(dict(manifest.annotations))
        manifest_id = int(
            connection.execute(
                "INSERT INTO manifests (digest, artifact_type, annotations, size, body) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (digest) DO UPDATE SET size = excluded.size, body = excluded.body RETURNING id",
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

    @classmethod
    def drop_manifest(
        cls, connection: Connection, repository: str, digest: str, held: tuple[int, int], by: Actor | None
    ) -> None:
        """Take a manifest out of a repository, for a person or for the collector. ``held``: the ids of both."""
        tags = connection.execute(
            "DELETE FROM tags WHERE repository_id = ? AND manifest_id = ? RETURNING name", held
        ).fetchall()
        connection.execute(
            "DELETE FROM referrers WHERE repository_id = ? AND digest = ? AND subject IN"
            " (SELECT digest FROM manifest_references WHERE manifest_id = ? AND kind = 'subject')",
            (held[0], digest, held[1]),
        )
        connection.execute("DELETE FROM repository_manifests WHERE repository_id = ? AND manifest_id = ?", held)
        others = "SELECT 1 FROM repository_manifests WHERE manifest_id = ? LIMIT 1"
        if connection.execute(others, held[1:]).fetchone() is None:
            connection.execute("DELETE FROM manifest_references WHERE manifest_id = ?", held[1:])
            connection.execute("DELETE FROM manifests WHERE id = ?", held[1:])
        words = _with_tags(sorted(tag for (tag,) in tags))
        cls._note(connection, by, "manifest.delete", repository, digest, {}, words)

    @staticmethod
    def _note(
        connection: Connection,
        by: Actor | None,
        kind: str,
        repository: str,
        subject: str,
        detail: dict[str, str],
        words: str = "",
    ) -> None:
        """Add an event to the outbox, which stays bounded, and where it is known who did it a record to the audit trail."""
        sequence = connection.execute(
            "INSERT INTO outbox (at, kind, repository, subject, detail) VALUES (?, ?, ?, ?, ?) RETURNING sequence",
            (time.time(), kind, repository, subject, json.dumps(detail)),
        ).fetchone()[0]
        if sequence % OUTBOX_TRIM == 0:
            connection.execute("DELETE FROM outbox WHERE sequence <= ?", (sequence - OUTBOX_KEPT,))
        if by is not None:
            what, _, change = kind.partition(".")
            mark = ":" if what == "tag" else "@"
            record_change(connection, change, by, f"{repository}{mark}{subject}", what + words)

    def _page(self, query: str, parameters: tuple[object, ...], limit: int) -> Page:
        names = [name for (name,) in self.database.rows(query, (*parameters, limit + 1))]
        return Page(names[:limit], len(names) > limit)


def _with_tags(tags: Sequence[str]) -> str:
    return f", tags {' '.join(tags)}" if tags else ""
